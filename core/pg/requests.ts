// data path
/**
 * What clients ask of one group.
 *
 * In the life of a write: judges the request (removal, window, fence, snapshot sequence, condition, space),
 * proposes it, and answers it when a majority has it durable. Everything is refused before the
 * proposal; what is in the log is applied unconditionally, the same on every replica.
 *
 * A read waits until the index that was committed when it came in is applied, then for the store,
 * and leaves in the send phase, under the lease or behind a leadership check.
 */
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { type Entry, EntryType } from "../log/log.ts";
import { Stage } from "../metrics/metrics.ts";
import type { Group } from "./group.ts";
import { LOCK_EPOCH_GONE } from "./layer-table.ts";
import { SNAP_SEQ_HEAD } from "./local-store-types.ts";
import type { ReadRequestOp, WriteRequestOp } from "./request.ts";
import { NumberState, WINDOW_SIZE } from "./session-window.ts";

/** The requests of one group, from its judgement to the answer. */
export class Requests {
  private readonly group: Group;
  /* Proposed writes in index order. */
  private writeHead: WriteRequestOp | null = null;
  private writeTail: WriteRequestOp | null = null;
  /* Reads that wait for appliedIndex, in order of arrival (readIndex only grows). */
  private readHead: ReadRequestOp | null = null;
  private readTail: ReadRequestOp | null = null;
  /* Reads that are answered by the store and wait for the lease or a leadership check. */
  private leaseHead: ReadRequestOp | null = null;
  private leaseTail: ReadRequestOp | null = null;
  /** Reads that the store has not answered. */
  private reading = 0;

  constructor(group: Group) {
    this.group = group;
  }

  /** True while nobody waits for anything. */
  get isQuiet(): boolean {
    if (this.writeHead !== null || this.readHead !== null) return false;
    return this.leaseHead === null && this.reading === 0;
  }

  /* --------------------------------------------------------------- writes */

  /** Judge and propose. Ok: `op.onDone` follows. Else the caller answers; the op stays his. */
  write(op: WriteRequestOp): Status {
    const group = this.group;
    const entry = op.entry!;
    if (!group.serving) return Status.NotLeader;
    // A removal is for good: it needs no fence, and may come again.
    if (entry.type !== EntryType.LayerGone) {
      const judged = this.judgeFence(entry.layer, entry.lockEpoch);
      if (judged !== Status.Ok) return judged;
    }
    const layer = group.layers.find(entry.layer);
    if (layer !== undefined && entry.snapSeq < layer.snapSeqProposed) return Status.SnapStale;
    if (entry.session !== 0) {
      const window = this.judgeNumber(op);
      if (window !== Status.Ok) return window;
      if (op.group !== null) return Status.Ok;
    }
    if (entry.ifVersion !== 0) {
      const version = this.versionAhead(entry.layer, entry.firstBlock);
      // Its row of the index is being loaded.
      if (version < 0) return Status.Busy;
      if (version + 1 !== entry.ifVersion) return Status.Conflict;
    }
    return this.propose(op);
  }

  private propose(op: WriteRequestOp): Status {
    const group = this.group;
    const store = group.shard.store;
    const entry = op.entry!;
    const short = group.shard.full || group.node.peerFull;
    const reserved = store.reserve(group.row, entry, short);
    if (reserved !== Status.Ok) return reserved;
    if (short && store.takesSpace(entry)) {
      store.unreserve(entry);
      return store.refuseFull(group.row, group.shard.full);
    }
    const index = group.node.propose(entry.type);
    if (index < 0) {
      store.unreserve(entry);
      return Status.Busy;
    }
    if (entry.type === EntryType.LayerGone) group.layers.proposeRemoval(entry.layer);
    else if (entry.snapSeq > 0) group.layers.of(entry.layer).snapSeqProposed = entry.snapSeq;
    group.keep(entry, index, group.node.term);
    const { session, number, below } = entry;
    if (session !== 0) group.sessions.propose(session, number, below, index, group.appliedIndex);
    if (entry.trace !== 0) group.shard.world.trace.stamp(entry.trace, Stage.Proposed);
    op.group = group;
    op.writeNext = null;
    if (this.writeTail === null) this.writeHead = op;
    else this.writeTail.writeNext = op;
    this.writeTail = op;
    return Status.Ok;
  }

  /**
   * Exactly once: an applied number is answered again, a proposed one gets the newer request as
   * its waiter, and one that is committed or given up comes again when that is applied. Sets
   * `op.group` when the op was taken over.
   */
  private judgeNumber(op: WriteRequestOp): Status {
    const group = this.group;
    const entry = op.entry!;
    if (!group.sessions.accepts(entry.session)) return Status.SessionExpired;
    // No client has as many open; the window of a session that nobody knows yet begins at `below`.
    if (entry.number - entry.below >= WINDOW_SIZE) return Status.Invalid;
    const window = group.sessions.find(entry.session);
    const state =
      window === undefined ? NumberState.Fresh : window.stateOf(entry.number, entry.below);
    if (state === NumberState.TooFar) return Status.Busy;
    if (state === NumberState.Applied) {
      group.shard.finishDuplicate(op);
      op.group = group;
      return Status.Ok;
    }
    const { appliedIndex } = group;
    if (!group.sessions.isProposed(entry.session, entry.number, entry.below, appliedIndex)) {
      return Status.Ok;
    }
    for (let other = this.writeHead; other !== null; other = other.writeNext) {
      const pending = other.entry!;
      if (pending.session !== entry.session || pending.number !== entry.number) continue;
      this.replaceWaiter(other, op);
      return Status.Ok;
    }
    // It is committed and waits for this leader's disk, or a later one of the session is in the log
    // whose client does not wait for this one any more. The window of what is applied will know;
    // behind what is in the log the request would undo what came since.
    return Status.Busy;
  }

  // cold: for `verifying` runs.
  /** Check that what is proposed and not applied is known as such, of a group that serves. */
  invariants(): void {
    const { ring, node, sessions, appliedIndex } = this.group;
    for (let index = appliedIndex + 1; index <= node.log.lastIndex; index++) {
      const entry = ring.get(index);
      if (entry === null || entry.session === 0 || !sessions.accepts(entry.session)) continue;
      const { session, number, below } = entry;
      const isKnown = sessions.isProposed(session, number, below, appliedIndex);
      assert(isKnown, "Requests: what is in the log is not known as proposed");
    }
  }

  /** The same request came again: the newer op waits for the entry that is in the log. */
  private replaceWaiter(older: WriteRequestOp, newer: WriteRequestOp): void {
    this.group.shard.duplicates += 1;
    this.group.shard.store.entries.release(newer.entry!);
    newer.entry = older.entry;
    newer.group = this.group;
    newer.writeNext = older.writeNext;
    if (this.writeHead === older) {
      this.writeHead = newer;
    } else {
      let before = this.writeHead!;
      while (before.writeNext !== older) before = before.writeNext!;
      before.writeNext = newer;
    }
    if (this.writeTail === older) this.writeTail = newer;
    older.entry = null;
    older.writeNext = null;
    older.group = null;
    older.version = 0;
    older.status = Status.Unknown;
    older.onDone();
  }

  /** Version of a block once everything in this leader's log is applied; -1: not known at once. */
  private versionAhead(layer: number, block: number): number {
    const group = this.group;
    let version = -1;
    for (let op = this.writeHead; op !== null; op = op.writeNext) {
      const entry = op.entry!;
      if (entry.layer !== layer || block < entry.firstBlock) continue;
      if (block < entry.firstBlock + entry.blocks) version = entry.index;
    }
    if (version >= 0) return version;
    // What is committed here and not applied yet has no waiter any more.
    for (let index = group.commitIndex; index > group.appliedIndex; index--) {
      const entry = group.ring.get(index);
      if (entry === null || entry.layer !== layer || block < entry.firstBlock) continue;
      if (block < entry.firstBlock + entry.blocks) return index;
    }
    return group.shard.store.versionOf(layer, block, SNAP_SEQ_HEAD);
  }

  /** Answer the writes that the commit covers. */
  onCommit(commitIndex: number): void {
    while (this.writeHead !== null && this.writeHead.entry!.index <= commitIndex) {
      const op: WriteRequestOp = this.writeHead;
      this.writeHead = op.writeNext;
      if (this.writeHead === null) this.writeTail = null;
      op.writeNext = null;
      op.group = null;
      const { index, trace } = op.entry!;
      if (trace !== 0) this.group.shard.world.trace.stamp(trace, Stage.Committed);
      op.version = index;
      op.entry = null;
      op.status = Status.Ok;
      op.onDone();
      this.group.shard.noteClient();
    }
  }

  private failWrites(status: Status): void {
    while (this.writeHead !== null) {
      const op: WriteRequestOp = this.writeHead;
      this.writeHead = op.writeNext;
      op.writeNext = null;
      op.group = null;
      op.entry = null;
      op.version = 0;
      op.status = status;
      op.onDone();
    }
    this.writeTail = null;
  }

  /* ---------------------------------------------------------------- reads */

  /** Queue a read. Ok: `op.onAnswer` follows. Else the caller answers. */
  read(op: ReadRequestOp): Status {
    const group = this.group;
    op.row = group.row;
    op.group = group;
    op.ticket = 0;
    op.readNext = null;
    if (op.own) {
      if (group.witness) return Status.WrongReceiver;
      op.readIndex = group.appliedIndex;
      this.startRead(op);
      return Status.Ok;
    }
    if (!group.serving) return Status.NotLeader;
    const judged = this.judgeFence(op.layer, op.lockEpoch);
    if (judged !== Status.Ok) return judged;
    const fence = group.layers.find(op.layer);
    const fenceOpen = fence !== undefined && fence.lockEpochProposed > fence.lockEpoch;
    op.readIndex = fenceOpen ? group.node.log.lastIndex : group.commitIndex;
    if (op.readIndex <= group.appliedIndex) {
      this.startRead(op);
      return Status.Ok;
    }
    if (this.readTail === null) this.readHead = op;
    else this.readTail.readNext = op;
    this.readTail = op;
    return Status.Ok;
  }

  private startRead(op: ReadRequestOp): void {
    this.reading += 1;
    if (this.group.shard.store.read(op)) this.onStoreRead(op);
  }

  /** Start the reads that waited for what is applied now. */
  onApplied(): void {
    const group = this.group;
    while (this.readHead !== null && this.readHead.readIndex <= group.appliedIndex) {
      const op: ReadRequestOp = this.readHead;
      this.readHead = op.readNext;
      if (this.readHead === null) this.readTail = null;
      this.startRead(op);
    }
  }

  /** The store answered: the reply may leave while the lease holds, else after a check. */
  onStoreRead(op: ReadRequestOp): void {
    this.reading -= 1;
    if (op.trace !== 0) this.group.shard.world.trace.stamp(op.trace, Stage.Looked);
    if (op.own || op.status !== Status.Ok) {
      op.onAnswer();
      return;
    }
    op.readNext = null;
    if (this.leaseTail === null) this.leaseHead = op;
    else this.leaseTail.readNext = op;
    this.leaseTail = op;
    this.group.shard.queueLease(this.group);
  }

  /**
   * Answer what the lease, or a leadership check that began after the read, allows. Called in the
   * send phase, with the clock read again. Answers true when reads are left.
   */
  answerReads(nowUs: number): boolean {
    const group = this.group;
    if (this.leaseHead === null) return false;
    const holds = group.isLeader && group.leaseHolds(nowUs);
    while (this.leaseHead !== null) {
      const op: ReadRequestOp = this.leaseHead;
      if (!group.isLeader) {
        op.status = Status.NotLeader;
      } else if (!holds) {
        if (op.ticket === 0) op.ticket = group.node.readIndex();
        if (op.ticket === 0 || op.ticket > group.node.readConfirmed) return true;
      }
      this.leaseHead = op.readNext;
      if (this.leaseHead === null) this.leaseTail = null;
      op.readNext = null;
      op.onAnswer();
      group.shard.noteClient();
    }
    return false;
  }

  private failReads(status: Status): void {
    while (this.readHead !== null) {
      const op: ReadRequestOp = this.readHead;
      this.readHead = op.readNext;
      op.readNext = null;
      op.status = status;
      op.onAnswer();
    }
    this.readTail = null;
  }

  /* ----------------------------------------------------------------- both */

  /**
   * A higher lock epoch goes into the log before anything that carries it; a lower one is out, and
   * every one behind the layer's removal: nothing of the layer is in the log behind that.
   */
  private judgeFence(layer: number, lockEpoch: number): Status {
    const group = this.group;
    if (group.layers.isGone(layer)) return Status.Removed;
    const state = group.layers.find(layer);
    const proposed = state === undefined ? 0 : state.lockEpochProposed;
    if (lockEpoch === proposed) return Status.Ok;
    if (lockEpoch < proposed) return Status.Fenced;
    if (lockEpoch >= LOCK_EPOCH_GONE) return Status.Invalid;
    const entry = group.shard.store.entries.take();
    entry.type = EntryType.Fence;
    entry.layer = layer;
    entry.lockEpoch = lockEpoch;
    const status = this.proposeOwn(entry);
    if (status === Status.Ok) group.layers.of(layer).lockEpochProposed = lockEpoch;
    return status;
  }

  /** Propose an entry of the osd's own making; takes the caller's reference. */
  private proposeOwn(entry: Entry): Status {
    const group = this.group;
    const store = group.shard.store;
    const reserved = store.reserve(group.row, entry);
    if (reserved !== Status.Ok) {
      store.entries.release(entry);
      return reserved;
    }
    const index = group.node.propose(entry.type);
    if (index < 0) {
      store.unreserve(entry);
      store.entries.release(entry);
      return Status.Busy;
    }
    group.keep(entry, index, group.node.term);
    return Status.Ok;
  }

  /** Answer everybody who waits; reads that the store has answered, in the send phase. */
  fail(status: Status): void {
    this.failWrites(status);
    this.failReads(status);
    if (this.leaseHead !== null) this.group.shard.queueLease(this.group);
  }
}
