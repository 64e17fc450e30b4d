// cold path: once per checkpoint; every long step is sliced over turns.
import { assert, verifying } from "../base/assert.ts";
import { FastblockError } from "../base/errors.ts";
import { DeviceRegion, runOnce } from "../device/device.ts";
import { type Entry, StoreLoadOp } from "../log/log.ts";
import { DiskVerb } from "../reactor/world.ts";
import { type CheckpointGroup, type LayerParent, NONE } from "../store/store.ts";
import type { StoreMachines, StoreParts, StoreState } from "./local-store-parts.ts";
import { CHECKPOINT_WRITE_BYTES, type CheckpointFacts, writeCheckpoint } from "./store-device.ts";
import { Status } from "../base/status.ts";
import { checkStore } from "./store-invariants.ts";

/** Groups captured in one turn. */
const CAPTURE_SLICE = 16;
/** Rounds of page writes before new entries have to wait for the next ones. */
const ROUNDS_MAX = 8;
/** Share of the room for entries and their second copies from which the latter are made. */
const AGAIN_SHARE = 0.5;

interface Captured {
  readonly row: number;
  readonly group: CheckpointGroup;
  /** First batch with a fill that waits for its index, or an entry dropped behind a new position. */
  readonly heldSeq: number;
  /** It says that the group takes another position; that its replica is to be renewed. */
  readonly begins: boolean;
  readonly renews: boolean;
}

/** What the checkpointer asks of the store: to be woken in every turn while it waits. */
export interface TurnWaiter {
  /** Resolve in the first drain in which `ready` answers true; reject when the device has failed. */
  waitUntil(ready: () => boolean): Promise<void>;
  /** Keep the mover and the page writer from starting anything new. */
  holdBackground(hold: boolean): void;
  /** Leave the page writer to the checkpoint, until the background is let go. */
  holdPages(): void;
  /** A checkpoint has the group's new position. */
  onBeginningDurable(row: number): void;
  /** A checkpoint has all that is the old replica's. */
  onRenewable(row: number): void;
  /** Move home until nothing is left that lies before log block `position`, or nothing moves. */
  drainOverlay(position: number): Promise<void>;
}

/**
 * Writes checkpoints (`store.md`, R3 to R5).
 *
 * capture each group's state at its applied index c → move everything before the head of that moment
 * home, fills under way among it → write the index pages → make the commit index durable up to everything applied → hold
 * background writes, one flush → wait for the tombstones of replicas that were removed meanwhile →
 * checkpoint A or B, body first, header last → wait for the reads that began before → tail moves,
 * quarantine is released.
 *
 * The log goes on all the time: entries behind the captured head stay in the log and are redone.
 *
 * A group that takes another position (`beginFill`) does so by a checkpoint: one that captured it
 * before begins anew, and the first one behind it tells the owner.
 */
export class Checkpointer {
  running = false;
  private readonly parts: StoreParts;
  private readonly machines: StoreMachines;
  private readonly state: StoreState;
  private readonly waiter: TurnWaiter;

  constructor(parts: StoreParts, machines: StoreMachines, state: StoreState, waiter: TurnWaiter) {
    this.parts = parts;
    this.machines = machines;
    this.state = state;
    this.waiter = waiter;
  }

  /** One checkpoint. Rejects only when the device has failed. */
  async run(): Promise<void> {
    this.running = true;
    try {
      await this.steps();
      this.state.checkpoints += 1;
    } finally {
      this.waiter.holdBackground(false);
      this.running = false;
    }
  }

  private async steps(): Promise<void> {
    const { log, objects } = this.machines;
    for (;;) {
      this.state.changed = false;
      // Asked before the wait: the tombstones that ended it are durable behind the wait.
      const { forgetful } = this.state;
      // What start-up cut is durable before the checkpoint hides its cause.
      await this.waiter.waitUntil(() => !log.hasControls);
      const rebases = this.state.rebases;
      // Local facts of a group that was captured already, logged while others are, stay in the log.
      const headSeq = this.parts.batches.nextSeq;
      const { quarantined } = this.parts.slots;
      const emptied = objects.emptied.count;
      const captured = await this.capture();
      await this.settle(headSeq);
      // The turn in which a wait ends may begin with another one.
      while (this.hasLeaving) await this.waiter.waitUntil(() => !this.hasLeaving);
      // A group that took another position meanwhile is not what was captured.
      if (this.state.rebases !== rebases) continue;
      const tailSeq = this.tailFor(captured, headSeq);
      await this.write(captured, tailSeq, headSeq, forgetful);
      this.waiter.holdBackground(false);
      // Their holes are in this checkpoint; that they are gone is for the next one.
      if (objects.freeEmptied(emptied)) this.state.changed = true;
      this.parts.eras.flip();
      await this.waiter.waitUntil(() => this.parts.eras.quiet);
      log.moveTail(tailSeq);
      while (this.parts.quarantine.release(tailSeq, 4096) === 4096) await this.nextTurn();
      const waiting = this.parts.quarantine.size;
      assert(
        waiting === this.parts.slots.quarantined,
        "Checkpointer: a unit is stuck in quarantine",
      );
      if (verifying) checkStore(this.parts, this.machines, this.state);
      // There are units to be discarded now.
      this.parts.world.turns.again();
      this.state.usedAfter = log.usedBlocks;
      // What was freed meanwhile is for the next one.
      this.state.quarantinedAfter = Math.min(quarantined, this.parts.slots.quarantined);
      this.tellPositions(captured);
      return;
    }
  }

  /** Bring home all that was applied when the groups were captured, and flush it. */
  private async settle(headSeq: number): Promise<void> {
    const { log, objects } = this.machines;
    const headPosition = log.headPosition;
    this.waiter.holdBackground(false);
    // A fill before the head is applied when it is durable; only then it can be moved home.
    await this.waiter.waitUntil(() => log.completedSeq >= headSeq - 1);
    await this.waiter.drainOverlay(headPosition);
    await this.waiter.waitUntil(() => objects.gone.count === 0);
    await this.writePages();
    await this.commitBarrier();
    await this.appendAgain(headSeq);
    this.waiter.holdBackground(true);
    await this.waiter.waitUntil(() => this.machines.mover.idle && !this.machines.pages.running);
    // A sweep that was under way may have dirtied pages; they are newer than what is captured.
    await runOnce(this.parts.device, { verb: DiskVerb.Flush, region: DeviceRegion.Meta });
  }

  private tellPositions(captured: readonly Captured[]): void {
    for (const { row, group, begins, renews } of captured) {
      if (!this.isHere(row, group)) continue;
      if (begins) this.waiter.onBeginningDurable(row);
      if (renews) this.waiter.onRenewable(row);
    }
  }

  /**
   * Whether a replica was removed and that is not durable yet. It has no place in a checkpoint any more,
   * and no tombstone: were that all that a power cut leaves, nobody would know that it was ever here.
   */
  private get hasLeaving(): boolean {
    const { rows } = this.state;
    return this.machines.log.groups.some(({ alive, row }) => !alive && rows[row] !== undefined);
  }

  /** Whether a row is still that of the replica that was captured there: rows are used again. */
  private isHere(row: number, group: CheckpointGroup): boolean {
    const { alive, pg, replicaId } = this.machines.log.groups[row]!;
    return alive && pg === group.pg && replicaId === group.replicaId;
  }

  private nextTurn(): Promise<void> {
    return this.waiter.waitUntil(() => true);
  }

  /** State of every group, each at its own applied index. */
  private async capture(): Promise<Captured[]> {
    const captured: Captured[] = [];
    const groups = this.machines.log.groups;
    for (let row = 0; row < groups.length; row++) {
      const group = groups[row]!;
      const facts = this.state.rows[row];
      if (!group.alive || facts === undefined) continue;
      const state = facts.beginning ?? this.parts.owner.encodeState(row);
      if (state.applied !== group.applied) {
        throw new FastblockError(
          "FB4006",
          `The state of pg ${String(group.pg)} does not match its log: applied ${String(state.applied)}, ${String(group.applied)} wanted`,
        );
      }
      captured.push({
        row,
        group: {
          pg: group.pg,
          replicaId: group.replicaId,
          health: facts.health,
          term: group.term,
          vote: group.vote,
          commit: group.applied,
          baseIndex: group.base,
          baseTerm: group.baseTerm,
          fillIndex: facts.fillIndex,
          state,
        },
        heldSeq: facts.fills.reduce((seq, fill) => Math.min(seq, fill.seq), facts.droppedSeq),
        begins: facts.beginning !== null,
        renews: facts.renewal !== null,
      });
      if (captured.length % CAPTURE_SLICE === 0) await this.nextTurn();
    }
    return captured;
  }

  /**
   * Write the pages that are dirty now; those whose changes are not durably committed are tried again,
   * and they alone: others that change meanwhile are for the next checkpoint. A page that changes in
   * every such moment would be tried for ever, so at last nothing new is accepted until it is written.
   */
  private async writePages(): Promise<void> {
    const { pages } = this.machines;
    this.waiter.holdPages();
    await this.waiter.waitUntil(() => !pages.running);
    pages.start();
    try {
      for (let rounds = 1; ; rounds++) {
        pages.advance();
        await this.waiter.waitUntil(() => !pages.running);
        if (pages.postponed === 0) return;
        this.state.settling = rounds >= ROUNDS_MAX;
        await this.commitBarrier();
        pages.startPostponed();
      }
    } finally {
      this.state.settling = false;
    }
  }

  /**
   * A block that was overwritten before it was moved is not home at its captured version; redo must
   * reach the overwriting entry. So every commit index applied by now is made durable first.
   */
  private async commitBarrier(): Promise<void> {
    const { log } = this.machines;
    const wanted = new Map<number, number>();
    for (const group of log.groups) {
      // The position that a frozen group takes is committed by this very checkpoint.
      if (!group.alive || group.commit < group.applied) continue;
      if (group.applied > group.commitDurable) wanted.set(group.row, group.applied);
    }
    if (wanted.size === 0) return;
    for (const row of wanted.keys()) log.wantCommit(log.groups[row]!);
    await this.waiter.waitUntil(() => {
      for (const [row, index] of wanted) {
        const group = log.groups[row]!;
        if (group.alive && group.commit >= index && group.commitDurable < index) {
          log.wantCommit(group);
          return false;
        }
        wanted.delete(row);
      }
      return true;
    });
  }

  /** R4: entries that can not be applied are appended again when they hold the tail. */
  private async appendAgain(headSeq: number): Promise<void> {
    const { log } = this.machines;
    if (log.usedBlocks < log.roomAgain * AGAIN_SHARE) return;
    for (const group of log.groups) {
      if (!group.alive || group.last <= group.applied) continue;
      if (!this.holdsTail(group.row, headSeq, group.last)) continue;
      await this.appendGroupAgain(group.row);
    }
  }

  /** Is there an entry up to `last`, not applied, in a batch before `headSeq`? */
  private holdsTail(row: number, headSeq: number, last: number): boolean {
    const group = this.machines.log.groups[row]!;
    for (let index = group.applied + 1; index <= last && index <= group.last; index++) {
      const seq = group.seqAt(index);
      if (seq > 0 && seq < headSeq) return true;
    }
    return false;
  }

  private async appendGroupAgain(row: number): Promise<void> {
    const { log } = this.machines;
    const group = log.groups[row]!;
    const last = group.last;
    const startSeq = this.parts.batches.nextSeq;
    for (let index = group.applied + 1; index <= last; index++) {
      const entry = this.parts.entries.take();
      const status = await this.load(row, index, entry);
      const holds = group.alive && group.holds(index) && index > group.applied;
      if (status === Status.Ok && holds && group.termAt(index) === entry.term) {
        log.appendAgain(row, entry);
      }
      this.parts.entries.release(entry);
      if (status !== Status.Ok) return;
    }
    this.parts.world.turns.again();
    await this.waiter.waitUntil(() => !group.alive || !this.holdsTail(row, startSeq, last));
  }

  private load(row: number, index: number, entry: Entry): Promise<Status> {
    return new Promise((resolve) => {
      const op = new AwaitedLoad(resolve);
      op.row = row;
      op.index = index;
      op.entry = entry;
      this.machines.loader.load(op);
    });
  }

  /** R4: the oldest batch that anything still needs. */
  private tailFor(captured: readonly Captured[], headSeq: number): number {
    const { log, objects } = this.machines;
    let tail = headSeq;
    const retained = (log.space.ringBlocks * this.parts.tuning.retentionPercent) / 100;
    const keepFrom = log.headPosition - retained;
    const crowded = this.quarantineCrowded();
    for (const { row, group, heldSeq } of captured) {
      if (!this.isHere(row, group)) continue;
      const rows = log.groups[row]!;
      tail = Math.min(tail, heldSeq);
      for (let index = group.state.applied + 1; index <= rows.last; index++) {
        const seq = rows.holds(index) ? rows.seqAt(index) : 0;
        if (seq > 0 && seq < tail) tail = seq;
      }
      if (crowded) continue;
      const needed = this.parts.owner.neededFrom(row);
      for (let index = Math.max(needed, rows.base + 1); index <= rows.last; index++) {
        const seq = rows.seqAt(index);
        if (seq === 0) break;
        // Behind what is kept, or one that was appended again: those that follow may lie before.
        if (seq >= tail || this.parts.batches.positionOf(seq) < keepFrom) continue;
        tail = seq;
        break;
      }
    }
    assert(objects.overlay.lowestPosition() >= this.startOf(tail), "Checkpointer: blocks are left");
    return tail;
  }

  private startOf(seq: number): number {
    const { batches } = this.parts;
    return seq < batches.nextSeq ? batches.positionOf(seq) : this.machines.log.headPosition;
  }

  /**
   * R4: what followers keep may hold 1 % of the device in freed units. Another 1 % is what gathers
   * between two checkpoints (R5). On a full device all of it is wanted: writes wait for it.
   */
  private quarantineCrowded(): boolean {
    const { quarantined, freeUnits, unitsTotal } = this.parts.slots;
    const share = unitsTotal / 50;
    return quarantined > share || (quarantined > 0 && freeUnits < share);
  }

  private async write(
    captured: readonly Captured[],
    tailSeq: number,
    headSeq: number,
    forgetful: boolean,
  ): Promise<void> {
    const { batches } = this.parts;
    const { pages } = this.machines;
    const groups = captured
      .filter(({ row, group }) => this.isHere(row, group))
      .map(({ row, group }) => this.withBase(row, group, tailSeq));
    const parents = this.parents();
    const body = { groups, tombstones: this.parts.tombstones, parents, pageCrcs: this.pageCrcs() };
    const { world, meta, device, shard, seed } = this.parts;
    const hasPrevious = batches.has(tailSeq - 1);
    const facts: CheckpointFacts = {
      incarnation: this.parts.claim.incarnation,
      seq: this.state.checkpointSeq + 1,
      tailPosition: this.startOf(tailSeq),
      tailSeq,
      tailPrevCrc: hasPrevious ? batches.crcOf(tailSeq - 1) : this.tailCrc,
      tailIncarnation: hasPrevious ? batches.incarnationOf(tailSeq - 1) : this.tailIncarnation,
      pageStamp: pages.stamp,
      headSeq,
      distrustedBelow: 0,
      forgetful,
    };
    const buffer = await this.slot();
    try {
      const places = { meta, shard, seed, buffer };
      this.state.checkpointBytes += await writeCheckpoint(world, device, places, facts, body);
      this.state.checkpointSeq = facts.seq;
      this.tailCrc = facts.tailPrevCrc;
      this.tailIncarnation = facts.tailIncarnation;
    } finally {
      world.slots.release(buffer);
    }
  }

  /** crc and incarnation of the batch before the tail, as the last checkpoint knew them. */
  tailCrc = 0;
  tailIncarnation = 0;

  private async slot(): Promise<number> {
    let buffer = this.parts.world.slots.take(CHECKPOINT_WRITE_BYTES);
    while (buffer < 0) {
      await this.nextTurn();
      buffer = this.parts.world.slots.take(CHECKPOINT_WRITE_BYTES);
    }
    return buffer;
  }

  /** The log base that the group has once the tail stands at `tailSeq`. */
  private withBase(row: number, group: CheckpointGroup, tailSeq: number): CheckpointGroup {
    const rows = this.machines.log.groups[row]!;
    const base = rows.baseFor(tailSeq, group.state.applied);
    // Home writes went as far as commitDurable: redo must reach it, though its record may be passed.
    const commit = Math.max(group.state.applied, rows.commitDurable);
    return { ...group, commit, baseIndex: base, baseTerm: rows.termAt(base) };
  }

  private parents(): LayerParent[] {
    const layers = this.parts.slots.layers;
    const parents: LayerParent[] = [];
    for (const handle of layers.list()) {
      const parent = layers.parentOf(handle);
      if (parent === NONE) continue;
      const snapSeq = layers.parentSnapSeqOf(handle);
      parents.push({ layer: layers.idOf(handle), parent: layers.idOf(parent), snapSeq });
    }
    return parents;
  }

  private pageCrcs(): Uint32Array {
    const perZone = this.parts.geometry.pagesPerZone;
    const crcs = new Uint32Array(this.parts.slots.zones.length * perZone);
    this.parts.slots.zones.forEach((zone, number) => crcs.set(zone.pageCrc, number * perZone));
    return crcs;
  }
}

class AwaitedLoad extends StoreLoadOp {
  private readonly settle: (status: Status) => void;

  constructor(settle: (status: Status) => void) {
    super();
    this.settle = settle;
  }

  onDone(): void {
    this.settle(this.status);
  }
}
