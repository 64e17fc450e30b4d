import { expect, test } from "bun:test";
import { Prng } from "../base/prng.ts";
import {
  bootstrapConfiguration,
  freshRestore,
  MessageFlag,
  MessageType,
  RAFT_OPTIONS_DEFAULT,
  RaftGroups,
  RaftMessage,
  RaftNode,
  type RaftOptions,
  Ready,
  Refusal,
  Role,
  StepResult,
} from "./raft.ts";
import { Cluster, KIND_WRITE } from "./testdata/raft-cluster.ts";

const conf3 = bootstrapConfiguration([1, 2, 3].map((osd) => ({ osd, storeUuid: "0".repeat(32) })));
const onForgotten = (): void => undefined;
const openHost = { voteBlocked: () => false, echoCount: () => 0, onForgotten };

function cluster(options: RaftOptions = RAFT_OPTIONS_DEFAULT): Cluster {
  const result = new Cluster(1, options);
  result.tracing = false;
  for (const id of [1, 2, 3]) result.add(id, conf3);
  result.node(1).campaign();
  result.stabilize();
  return result;
}

/** A follower of replica 1 in term 1 that has (index, 1) for index ≤ `last`. */
function follower(last: number): RaftNode {
  const node = new RaftNode(new RaftGroups(new Prng(1), openHost), 0, 1, 2, freshRestore(conf3));
  node.restored();
  for (let index = 1; index <= last; index++) {
    expect(node.step(append({ index: index - 1, logTerm: index > 1 ? 1 : 0 }))).toBe(
      StepResult.Appended,
    );
  }
  return node;
}

function append(fields: Partial<RaftMessage>): RaftMessage {
  const message = new RaftMessage();
  return Object.assign(
    message,
    { from: 1, to: 2, type: MessageType.Append, term: 1, entryTerm: 1, entryKind: KIND_WRITE },
    fields,
  );
}

test("the window bounds entries and bytes in flight", () => {
  for (const [windowEntries, windowBytes, sent] of [
    [4, 1_000_000, 4],
    [64, 3 * 4096, 3],
  ] as const) {
    const group = cluster({ ...RAFT_OPTIONS_DEFAULT, windowEntries, windowBytes });
    for (let n = 0; n < 20; n++) group.propose(1, String(n));
    group.process(1);
    expect(group.network.filter((frame) => frame.message.to === 2)).toHaveLength(sent);
    group.stabilize();
    expect(group.node(2).log.lastIndex).toBe(21);
    expect(group.node(1).progress[1]!.bytesInFlight).toBe(0);
  }
});

test("peekAppend changes nothing until appendSent", () => {
  const group = cluster();
  group.propose(1, "a");
  const node = group.node(1);
  const message = new RaftMessage();
  for (let n = 0; n < 3; n++) {
    expect(node.peekAppend(1, message)).toBe(true);
    expect([message.index, message.entryKind, message.to]).toEqual([1, KIND_WRITE, 2]);
  }
  node.appendSent(1, 4096);
  expect(node.peekAppend(1, message)).toBe(false);
  expect(node.peekAppend(0, message)).toBe(false);
});

test("step tells what became of an entry", () => {
  const node = follower(3);
  expect(node.step(append({ index: 2, logTerm: 1 }))).toBe(StepResult.Duplicate);
  expect(node.step(append({ index: 9, logTerm: 1 }))).toBe(StepResult.None);
  const rival = append({ from: 3, term: 2, entryTerm: 2, index: 1, logTerm: 1 });
  expect(node.step(rival)).toBe(StepResult.Replaced);
  expect(node.log.lastIndex).toBe(2);
  expect(node.step(append({ index: 2, logTerm: 1 }))).toBe(StepResult.None);
  expect(node.term).toBe(2);
});

test("an entry that contradicts its message is dropped and counted", () => {
  const node = follower(1);
  for (const fields of [{ entryTerm: 2 }, { entryTerm: 0 }, { entryKind: 300 }]) {
    expect(node.step(append({ index: 1, logTerm: 1, ...fields }))).toBe(StepResult.None);
  }
  expect(node.shared.malformed).toBe(3);
  expect(node.log.lastIndex).toBe(1);
});

test("a follower commits only what it knows to be its leader's", () => {
  const node = follower(3);
  // A new leader whose entry 2 is not known to be here.
  node.step(append({ from: 3, term: 2, index: 1, logTerm: 1, entryKind: 0, commit: 3 }));
  expect(node.commitIndex).toBe(1);
});

test("committed entries are never cut: a leader that tries stops the process", () => {
  const node = follower(2);
  node.step(append({ index: 2, logTerm: 1, entryKind: 0, commit: 2 }));
  const rival = append({ from: 3, term: 2, entryTerm: 2, index: 1, logTerm: 1 });
  // Taken for a duplicate: index 2 is committed, hence the same at every honest leader.
  expect(node.step(rival)).toBe(StepResult.Duplicate);
  expect(node.log.termAt(2)).toBe(1);
});

test("two leaders in one term stop the process", () => {
  const node = follower(1);
  expect(() => node.step(append({ from: 3, index: 1, logTerm: 1 }))).toThrow("two leaders");
});

test("proposals are refused with a reason", () => {
  const group = cluster();
  expect(group.node(2).propose(KIND_WRITE)).toBe(Refusal.NotLeader);
  expect(group.node(1).transferLeadership(2)).toBe(true);
  expect(group.node(1).transferLeadership(2)).toBe(false);
  expect(group.node(1).propose(KIND_WRITE)).toBe(Refusal.Transferring);
  expect(group.node(2).transferLeadership(1)).toBe(false);
});

test("a new leader takes no proposal before its Noop has an index", () => {
  const groups = new RaftGroups(new Prng(1), openHost);
  const conf = bootstrapConfiguration([{ osd: 1, storeUuid: "0".repeat(32) }]);
  const node = new RaftNode(groups, 0, 1, 1, freshRestore(conf));
  node.restored();
  const out = new Ready();
  node.campaign();
  node.ready(out);
  expect([out.hardState, out.term, out.vote, out.persist]).toEqual([true, 1, 1, true]);
  node.onDurable(out.version, out.lastIndex);
  expect(node.role).toBe(Role.Leader);
  expect(node.propose(KIND_WRITE)).toBe(Refusal.NotReady);
  node.ready(out);
  expect([out.noopIndex, out.hardState, out.persist, out.lastIndex]).toEqual([1, false, true, 1]);
  expect(node.propose(KIND_WRITE)).toBe(2);
  expect(node.readIndex()).toBe(0);
  node.onDurable(out.version, out.lastIndex);
  node.ready(out);
  expect([out.committed, out.commitIndex, out.applyIndex, out.lastIndex]).toEqual([true, 1, 1, 2]);
  node.onApplied(1);
  expect(node.readIndex()).toBe(1);
  node.onDurable(out.version, out.lastIndex);
  node.ready(out);
  expect([out.commitIndex, out.readConfirmed, node.needsTick]).toEqual([2, 1, false]);
});

test("a group of one replica needs no promise to elect itself", () => {
  const host = { voteBlocked: () => true, echoCount: () => 0, onForgotten };
  const conf = bootstrapConfiguration([{ osd: 1, storeUuid: "0".repeat(32) }]);
  const node = new RaftNode(new RaftGroups(new Prng(1), host), 0, 1, 1, freshRestore(conf));
  node.restored();
  for (let tick = 0; tick < 40; tick++) node.tick();
  expect(node.role).toBe(Role.Candidate);
});

test("what is committed may be applied only when it is durable here", () => {
  const group = cluster();
  group.held.add(1);
  group.propose(1, "a");
  group.stabilize();
  const node = group.node(1);
  // Both followers have it on disk: the client may be answered.
  expect([node.commitIndex, node.durableIndex, node.appliedIndex]).toEqual([2, 1, 1]);
  group.flush(1);
  group.stabilize();
  expect(node.appliedIndex).toBe(2);
});

test("the entries of a restart prove a term that the hard state lost", () => {
  const node = new RaftNode(new RaftGroups(new Prng(1), openHost), 0, 1, 2, freshRestore(conf3));
  node.restoreEntry(4, KIND_WRITE);
  node.restored();
  expect(node.term).toBe(4);
});

test("a commitIndex beyond the log on disk is cut to it", () => {
  const restore = { ...freshRestore(conf3), term: 1, commitIndex: 9 };
  const node = new RaftNode(new RaftGroups(new Prng(1), openHost), 0, 1, 2, restore);
  node.restoreEntry(1, KIND_WRITE);
  node.restored();
  expect(node.commitIndex).toBe(1);
});

test("messages come from the pool and go back to it", () => {
  const group = cluster();
  for (let n = 0; n < 50; n++) {
    group.propose(1, String(n));
    group.stabilize();
  }
  for (const replica of group.replicas.values()) {
    expect(replica.groups.pool.taken).toBe(0);
    expect(replica.groups.outbox.empty).toBe(true);
  }
  const pool = group.replica(1).groups.pool;
  const message = pool.take();
  expect([message.flags, message.term, message.index]).toEqual([0, 0, 0]);
  message.flags = MessageFlag.Reject;
  pool.release(message);
  expect(pool.take()).toBe(message);
  expect(message.flags).toBe(0);
  pool.release(message);
  expect(() => pool.release(message)).toThrow("released twice");
});

test("one acknowledgement covers a durable batch", () => {
  const group = cluster();
  for (let n = 0; n < 30; n++) group.propose(1, String(n));
  group.process(1);
  for (const frame of group.network) group.deliver(frame);
  group.network = [];
  group.process(2);
  group.flush(2);
  group.process(2);
  expect(group.network.map((frame) => frame.message.index)).toEqual([31]);
});

test("a follower that lost what it had acknowledged gets it again", () => {
  const group = cluster();
  for (const text of ["a", "b", "c"]) group.propose(1, text);
  group.stabilize();
  const { disk } = group.replica(3);
  expect([disk.lastIndex, group.node(1).progress[2]!.match]).toEqual([4, 4]);
  // As after a flush that lied: the last two writes are not there.
  group.crash(3);
  for (const index of [3, 4]) disk.entries.delete(index);
  disk.lastIndex = 2;
  disk.commit = 2;
  disk.applied = Math.min(disk.applied, 2);
  group.start(3);
  group.node(1).peerReset(3);
  group.stabilize();
  expect(group.node(3).log.lastIndex).toBe(4);
  expect(group.node(1).progress[2]!.match).toBe(4);
});
