// cold path: for `verifying` runs, once per checkpoint.
import { assert } from "../base/assert.ts";
import type { BatchTable } from "./batch-table.ts";
import type { StoreFillOp } from "./fill-op.ts";
import type { GroupLog } from "./group-log.ts";
import type { LogQueue } from "./log-queue.ts";
import type { LogRoom } from "./log-room.ts";

/** What is looked at. */
export interface LogParts {
  readonly room: LogRoom;
  readonly queue: LogQueue;
  readonly batches: BatchTable;
  readonly groups: readonly GroupLog[];
  /** Of the batches under way. */
  readonly fills: readonly (StoreFillOp | null)[];
}

/**
 * Check what `LogRoom`, `BatchTable` and `GroupLog` promise. `unitsBeside`: set aside for fills that
 * were found at start.
 */
export function checkLog(parts: LogParts, unitsBeside: number): void {
  checkBatches(parts);
  checkQueue(parts);
  let unapplied = 0;
  let reserved = unitsBeside + fillUnits(parts);
  for (const group of parts.groups) {
    if (!group.alive) continue;
    checkGroup(group, parts);
    unapplied += group.unappliedBlocks;
    for (let at = group.applied + 1; at <= group.last; at++) reserved += group.reservedAt(at);
  }
  const { room } = parts;
  assert(unapplied === room.unapplied.blocks, "LogRoom: blocks that are not applied, wrong sum");
  assert(reserved <= room.reservedUnits, "LogRoom: more units are promised than set aside");
  // What was set aside for an entry that is not appended is known to its proposer alone.
  if (room.reservedBlocks > 0) return;
  assert(reserved === room.reservedUnits, "LogRoom: units are set aside for nobody");
}

/** Batches follow each other from the tail to the head, and the ring holds them. */
function checkBatches({ room, batches }: LogParts): void {
  const { headPosition, tailPosition } = room;
  let end = tailPosition;
  for (let seq = batches.tailSeq; seq < batches.nextSeq; seq++) {
    const position = batches.positionOf(seq);
    assert(seq > batches.tailSeq || position === tailPosition, "LogRoom: the tail is no batch's");
    assert(position >= end, "BatchTable: batches overlap");
    end = position + 1;
  }
  assert(end <= headPosition || batches.tailSeq === batches.nextSeq, "LogRoom: a batch past head");
  assert(tailPosition <= headPosition, "LogRoom: the tail passed the head");
  assert(room.fits, "LogRoom: more blocks in use than the ring has");
}

function checkQueue({ room, queue }: LogParts): void {
  let queued = 0;
  for (let at = 0; at < queue.entryCount; at++) queued += queue.entryAt(at).reservedLogBlocks;
  for (let op = queue.fillHead; op !== null; op = op.fillNext) queued += op.reservedLogBlocks;
  assert(queued === room.queuedBlocks, "LogRoom: the count of queued blocks is wrong");
}

function fillUnits({ queue, fills }: LogParts): number {
  let units = 0;
  for (const chain of [queue.fillHead, ...fills]) {
    for (let op = chain; op !== null; op = op.fillNext) units += op.reservedUnits;
  }
  return units;
}

function checkGroup(group: GroupLog, { room, batches }: LogParts): void {
  const { base, applied, durable, last } = group;
  assert(base <= applied, "GroupLog: the base passed what is applied");
  assert(applied <= durable, "GroupLog: applied, and not durable");
  assert(durable <= last, "GroupLog: durable, and not there");
  assert(group.commitDurable <= group.commitLogged, "GroupLog: durable, and never logged");
  assert(group.commitLogged <= group.commit, "GroupLog: logged, and not committed");
  let unapplied = 0;
  for (let index = base + 1; index <= last; index++) {
    if (index > applied) unapplied += group.inlineCountAt(index);
    const seq = group.seqAt(index);
    if (seq === 0) {
      assert(index > durable, "GroupLog: durable, and in no batch");
      continue;
    }
    assert(batches.has(seq), "GroupLog: the batch of an entry is gone");
    if (group.inlineCountAt(index) === 0) continue;
    const from = group.inlineAt(index);
    const next = seq + 1 < batches.nextSeq ? batches.positionOf(seq + 1) : room.headPosition;
    assert(from > batches.positionOf(seq), "GroupLog: payload before its batch");
    assert(from + group.inlineCountAt(index) <= next, "GroupLog: payload behind its batch");
  }
  assert(unapplied === group.unappliedBlocks, "GroupLog: blocks that are not applied, wrong sum");
}
