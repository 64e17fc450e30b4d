/**
 * Raft defects of the original fastblock (`peers.md` §1, 8 to 12): each must never return.
 *
 * 11 (a clean stop deletes the checkpoint of the hard state) is the store's.
 */
import { expect, test } from "bun:test";
import {
  bootstrapConfiguration,
  type Configuration,
  MessageFlag,
  MessageType,
  RaftMessage,
  type RaftNode,
  Role,
} from "./raft.ts";
import { Cluster, type Frame } from "./testdata/raft-cluster.ts";

function conf(count: number): Configuration {
  return bootstrapConfiguration(
    Array.from({ length: count }, (_, osd) => ({ osd, storeUuid: "0".repeat(32) })),
  );
}

function cluster(count = 3): Cluster {
  const group = new Cluster(1);
  for (let id = 1; id <= count; id++) group.add(id, conf(count));
  return group;
}

function led(count = 3): Cluster {
  const group = cluster(count);
  group.node(1).campaign();
  group.stabilize();
  return group;
}

function reply(node: RaftNode, from: number, fields: Partial<RaftMessage>): RaftMessage {
  return Object.assign(new RaftMessage(), { from, to: node.id, term: node.term }, fields);
}

function turn(group: Cluster, id: number): Frame[] {
  group.process(id);
  const frames = group.network;
  group.network = [];
  return frames;
}

const defects: [defect: string, title: string, run: () => void][] = [
  [
    "8",
    "an election commits nothing: commitIndex is not set to the last index",
    () => {
      const group = led();
      group.cuts = new Set(["1>2", "1>3"]);
      group.propose(1, "alone");
      group.stabilize();
      group.cuts.clear();
      group.crash(1);
      group.start(1);
      for (const id of [2, 3]) group.node(id).setPeerActive(1, false);
      group.elect(1);
      expect(group.node(1).commitIndex).toBe(1);
      expect(group.node(1).log.lastIndex).toBe(3);
    },
  ],
  [
    "8",
    "a restart commits nothing: entries behind the recorded commitIndex wait for a leader",
    () => {
      const group = led();
      group.propose(1, "a");
      group.process(1);
      group.flush(1);
      group.crash(1);
      group.start(1);
      expect([group.node(1).commitIndex, group.node(1).log.lastIndex]).toEqual([1, 2]);
    },
  ],
  [
    "9",
    "a follower that answers with an error is no vote",
    () => {
      const group = cluster(5);
      const node = group.node(1);
      node.campaign();
      turn(group, 1);
      for (const from of [2, 3]) {
        node.step(reply(node, from, { type: MessageType.PreVoteReply, term: 1 }));
      }
      turn(group, 1);
      group.flush(1);
      expect(node.role).toBe(Role.Candidate);
      const refusal = { type: MessageType.VoteReply, flags: MessageFlag.Reject };
      node.step(reply(node, 2, refusal));
      node.step(reply(node, 3, { type: MessageType.VoteReply }));
      node.step(reply(node, 3, { type: MessageType.VoteReply }));
      expect(node.role).toBe(Role.Candidate);
      node.step(reply(node, 9, { type: MessageType.VoteReply }));
      expect(node.role).toBe(Role.Candidate);
    },
  ],
  [
    "9",
    "a refused Append is no acknowledgement",
    () => {
      const group = led();
      group.propose(1, "a");
      group.process(1);
      group.flush(1);
      const node = group.node(1);
      const refusal = { type: MessageType.AppendReply, index: 2, flags: MessageFlag.Reject };
      node.step(reply(node, 2, refusal));
      node.step(reply(node, 3, refusal));
      expect(node.commitIndex).toBe(1);
    },
  ],
  [
    "9",
    "the leader counts itself only for what its own disk confirmed",
    () => {
      const group = led();
      group.propose(1, "a");
      group.process(1);
      const node = group.node(1);
      node.step(reply(node, 2, { type: MessageType.AppendReply, index: 2 }));
      expect(node.commitIndex).toBe(1);
      group.flush(1);
      expect(node.commitIndex).toBe(2);
    },
  ],
  [
    "9",
    "a follower acknowledges nothing before its disk confirmed it",
    () => {
      const group = led();
      group.propose(1, "a");
      for (const frame of turn(group, 1)) group.deliver(frame);
      expect(turn(group, 2)).toEqual([]);
      group.flush(2);
      expect(turn(group, 2).map((frame) => frame.message.index)).toEqual([2]);
    },
  ],
  [
    "10",
    "a vote leaves after term and vote are durable, and survives a crash",
    () => {
      const group = cluster();
      group.node(1).campaign();
      for (const frame of turn(group, 1)) group.deliver(frame);
      for (const frame of turn(group, 2)) group.deliver(frame);
      expect(turn(group, 1).map((frame) => frame.message.type)).toEqual([]);
      group.flush(1);
      for (const frame of turn(group, 1)) group.deliver(frame);
      expect(turn(group, 2)).toEqual([]);
      group.flush(2);
      expect(turn(group, 2).map((frame) => frame.message.type)).toEqual([MessageType.VoteReply]);
      group.crash(2);
      group.start(2);
      expect([group.node(2).term, group.node(2).vote]).toEqual([1, 1]);
    },
  ],
  [
    "12",
    "a new leader answers no read before it committed an entry of its own term",
    () => {
      const group = led();
      group.crash(1);
      for (const id of [2, 3]) group.node(id).setPeerActive(1, false);
      group.elect(2);
      expect([group.node(2).leaderReady, group.node(2).readIndex()]).toEqual([false, 0]);
      group.node(2).peerReset(3);
      group.stabilize();
      expect([group.node(2).leaderReady, group.node(2).readIndex()]).toEqual([true, 1]);
    },
  ],
  [
    "12",
    "a lease counts promises that were made to this leadership, not clocks of two hosts",
    () => {
      const group = led();
      const node = group.node(1);
      expect([node.leaseCounts(1), node.leaseCounts(2)]).toEqual([false, false]);
      group.replica(1).echoes.set(2, 1);
      expect([node.leaseCounts(1), node.leaseCounts(2)]).toEqual([true, false]);
      expect(node.quorumValue(Float64Array.of(Number.POSITIVE_INFINITY, 700, 0))).toBe(700);
    },
  ],
];

for (const [defect, title, run] of defects) test(`defect ${defect}: ${title}`, run);
