import { expect, test } from "bun:test";
import { makesGarbage } from "../base/bun-garbage-harness.ts";
import { assert } from "../base/assert.ts";
import { Prng } from "../base/prng.ts";
import {
  bootstrapConfiguration,
  freshRestore,
  RaftGroups,
  RaftMessage,
  RaftNode,
  Ready,
} from "./raft.ts";
import { KIND_WRITE } from "./testdata/raft-cluster.ts";

/** Entries of one turn, and turns of one measurement. */
const TURN_ENTRIES = 8;
const TURNS = 40_000;
/** The log forgets a quarter of its rows whenever it has more: its memory keeps its size. */
const KEPT_ENTRIES = 4096;

const conf = bootstrapConfiguration([1, 2, 3].map((osd) => ({ osd, storeUuid: "0".repeat(32) })));
const host = { voteBlocked: () => false, echoCount: () => 0, onForgotten: (): void => undefined };

/** Three replicas, each on a shard of its own, whose disks are done at once. */
class Trio {
  readonly shards = [1, 2, 3].map((id) => new RaftGroups(new Prng(id), host));
  readonly nodes = this.shards.map(
    (groups, at) => new RaftNode(groups, 0, 1, at + 1, freshRestore(conf)),
  );
  private readonly outs = this.shards.map(() => new Ready());
  private readonly append = new RaftMessage();

  constructor() {
    for (const node of this.nodes) node.restored();
    this.nodes[0]!.campaign();
    for (let turn = 0; turn < 20; turn++) this.settle();
    assert(this.nodes[0]!.leaderReady, "Trio: nobody leads");
  }

  /** Propose, and go on until all have applied it. */
  turn(): void {
    const leader = this.nodes[0]!;
    for (let at = 0; at < TURN_ENTRIES; at++) leader.propose(KIND_WRITE);
    for (let pass = 0; pass < 4; pass++) this.settle();
  }

  private settle(): void {
    for (let at = 0; at < 3; at++) this.act(at);
    for (let at = 0; at < 3; at++) this.send(at);
  }

  private act(at: number): void {
    const node = this.nodes[at]!;
    const out = this.outs[at]!;
    const dirty = this.shards[at]!.takeDirty();
    assert(dirty === null || dirty === node, "Trio: another group");
    node.ready(out);
    if (out.persist) node.onDurable(out.version, out.lastIndex);
    const applied = Math.min(node.commitIndex, node.durableIndex);
    if (applied > node.appliedIndex) node.onApplied(applied);
    if (applied - node.log.baseIndex > KEPT_ENTRIES) node.compact(applied - KEPT_ENTRIES * 0.75);
    for (let slot = 0; slot < node.peerSlots; slot++) {
      while (node.peekAppend(slot, this.append)) {
        node.appendSent(slot, 4096);
        this.nodes[this.append.to - 1]!.step(this.append);
      }
    }
  }

  private send(at: number): void {
    const { outbox, pool } = this.shards[at]!;
    for (let message = outbox.shift(); message !== null; message = outbox.shift()) {
      this.nodes[message.to - 1]!.step(message);
      pool.release(message);
    }
  }
}

test("entries are appended, acknowledged, committed and applied without garbage", () => {
  const trio = new Trio();
  const first = trio.nodes[0]!.commitIndex;
  const place: unknown[] = [null];
  const control = (): void => {
    trio.turn();
    for (let at = 0; at < TURN_ENTRIES; at++) place[0] = { at, before: at, next: null, place };
  };
  expect(makesGarbage(TURNS, () => trio.turn(), control)).toBe(false);
  const last = trio.nodes[0]!.log.lastIndex;
  expect(last).toBeGreaterThanOrEqual(first + 2 * TURNS * TURN_ENTRIES);
  for (const node of trio.nodes) {
    expect([node.term, node.log.lastIndex]).toEqual([1, last]);
    // A follower hears of the last commits with what comes next.
    expect(node.appliedIndex).toBeGreaterThanOrEqual(last - TURN_ENTRIES);
  }
}, 120_000);
