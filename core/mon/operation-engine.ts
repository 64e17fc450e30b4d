import { type FatalPath, failOnBug } from "../base/assert.ts";
import { FastblockError } from "../base/errors.ts";
import { formatPgId, type OsdId, type PgId, type SessionId } from "../base/ids.ts";
import type { Logger } from "../base/logger.ts";
import { Status, statusName } from "../base/status.ts";
import { type PgInfo, type ReplicaInfo, replicaOf, replicaOnOsd } from "../cluster/cluster.ts";
import { EntryType } from "../log/log.ts";
import { sleep, Timer, type Timers } from "../reactor/world.ts";
import { type Catalogue, isPassing } from "./catalogue.ts";
import type { GroupAnswer, GroupEntry, GroupWriter } from "./group-writer.ts";
import type { PoolService } from "./pool-service.ts";
import type { OperationRecord } from "./records.ts";
import type { SessionService } from "./session-service.ts";

export interface OperationEngineOptions {
  readonly catalogue: Catalogue;
  readonly pools: PoolService;
  readonly sessions: SessionService;
  readonly writer: GroupWriter;
  readonly timers: Timers;
  readonly logger: Logger;
  readonly wallMs: () => number;
  readonly fatal: FatalPath;
}

/** How far an operation is. */
export interface Progress {
  readonly done: number;
  readonly total: number;
  /** Groups that were asked and have not done it yet, with the reason: `1.4: Unreachable`. */
  readonly waitingFor: readonly string[];
}

/** Groups of one operation that are written at once. */
const PARALLEL_MAX = 16;
const RETRY_US_MIN = 50_000;
const RETRY_US_MAX = 1_600_000;
/** Finished operations that stay listed. */
const FINISHED_MAX = 200;

/**
 * Runs the operations of the catalogue to their end.
 *
 * Each operation is one entry for every group of a pool, written to the group's leader like any
 * client's write: committed by a majority before it counts. Attempts repeat until the group
 * answers, however long its osds are down; after a restart of the monitor the whole operation
 * repeats, and the entries' session and number make each apply once.
 */
export class OperationEngine {
  private readonly options: OperationEngineOptions;
  private readonly catalogue: Catalogue;
  private readonly running = new Map<number, Run>();
  private readonly waiters = new Map<number, Set<Waiter>>();
  private isStopped = false;

  constructor(options: OperationEngineOptions) {
    this.options = options;
    this.catalogue = options.catalogue;
  }

  /** Go on with what was running before a restart. */
  resume(): void {
    for (const operation of this.catalogue.operations.values()) {
      if (operation.state === "running") this.start(operation);
    }
  }

  /** Begin an operation that stands in the catalogue. */
  start(operation: OperationRecord): void {
    if (this.isStopped || this.running.has(operation.id)) return;
    const pgs = this.catalogue.map.pools.has(operation.pool)
      ? this.options.pools.pgsOf(operation.pool).map((pg) => pg.id)
      : [];
    const run = new Run(pgs);
    this.running.set(operation.id, run);
    this.options.logger.info("operation begins", { id: operation.id, title: operation.title });
    const settled = this.runAll(operation, run).then(() => this.settle(operation, run));
    settled.catch((error: unknown) => {
      // Only a bug or a lost catalogue ends up here; the record still says running.
      if (failOnBug(this.options.fatal, error)) return;
      this.options.logger.warn("operation interrupted", {
        id: operation.id,
        error: error instanceof Error ? error.message : String(error),
      });
      this.running.delete(operation.id);
    });
  }

  /** Find an operation. Throws FB6001. */
  operationOf(id: number): OperationRecord {
    const operation = this.catalogue.operations.get(id);
    if (operation !== undefined) return operation;
    throw new FastblockError("FB6001", `operation ${String(id)} does not exist`);
  }

  /**
   * Say why an operation is not taken back: each kind takes effect when it is begun, and only gives
   * space back afterwards, half of which can not be undone. Throws FB6001, FB6002.
   */
  refuseCancel(id: number): never {
    const operation = this.operationOf(id);
    const { done, total, waitingFor } = this.progressOf(operation);
    const isOver = operation.state !== "running";
    const why = isOver
      ? "it has ended"
      : "it took effect when it was begun; what runs on gives the space back";
    const seen = isOver ? operation.state : `running, ${String(done)} of ${String(total)} done`;
    throw new FastblockError("FB6002", `cancelling operation ${String(id)}: ${seen}`, {
      why,
      ...(isOver ? { hint: `look at it: fastblock op info ${String(id)}` } : {}),
      ...(waitingFor.length > 0
        ? { hint: `it waits for ${waitingFor[0]!}: fastblock health` }
        : {}),
    });
  }

  progressOf(operation: OperationRecord): Progress {
    const total = operation.groups;
    const run = this.running.get(operation.id);
    if (run === undefined) {
      return { done: operation.state === "done" ? total : 0, total, waitingFor: [] };
    }
    const waitingFor = [...run.waiting].map(([pg, why]) => `${formatPgId(pg)}: ${why}`);
    return { done: run.done, total, waitingFor };
  }

  /** Wait until the operation has ended, at most `limitUs`. Throws FB6001. */
  async wait(id: number, limitUs: number): Promise<OperationRecord> {
    if (this.operationOf(id).state === "running" && limitUs > 0) {
      await new Promise<void>((resolve) => {
        const set = this.waiters.get(id) ?? new Set<Waiter>();
        const waiter = new Waiter(resolve);
        set.add(waiter);
        this.waiters.set(id, set);
        this.options.timers.arm(waiter, limitUs);
      });
    }
    return this.operationOf(id);
  }

  get runningCount(): number {
    return this.running.size;
  }

  /** Begin nothing more, and let go of what runs: it goes on after the next start. */
  stop(): void {
    this.isStopped = true;
    for (const id of [...this.waiters.keys()]) this.wake(id);
    this.options.writer.rest();
  }

  private async runAll(operation: OperationRecord, run: Run): Promise<void> {
    const lanes: Promise<void>[] = [];
    for (let lane = 0; lane < Math.min(PARALLEL_MAX, run.pgs.length); lane++) {
      lanes.push(this.runLane(operation, run));
    }
    await Promise.all(lanes);
  }

  private async runLane(operation: OperationRecord, run: Run): Promise<void> {
    for (let pg = run.take(); pg !== undefined; pg = run.take()) {
      await this.runGroup(operation, run, pg);
      if (!this.goesOn(run)) return;
    }
  }

  /** Write the operation's entry to one group, however long it takes. */
  private async runGroup(operation: OperationRecord, run: Run, id: PgId): Promise<void> {
    let retryUs = RETRY_US_MIN;
    let leaderOsd = -1;
    for (let attempt = 0; this.goesOn(run); attempt++) {
      const pg = this.catalogue.map.pgs.get(id);
      if (pg === undefined) break; // The pool was removed, and with it everything in the group.
      const answer = await this.attempt(operation, pg, leaderOsd, attempt);
      // What would be zeroed is freed: the image was removed meanwhile.
      if (answer.status === Status.Ok || answer.status === Status.Removed) break;
      run.waiting.set(id, statusName(answer.status));
      if (answer.status === Status.SessionExpired) {
        run.isExpired = true;
        return;
      }
      if (isFinal(answer.status)) {
        run.error = `group ${formatPgId(id)} answered ${statusName(answer.status)}`;
        return;
      }
      leaderOsd = answer.leaderOsd;
      if (answer.status === Status.NotLeader && leaderOsd >= 0 && attempt < 2) continue;
      await sleep(this.options.timers, retryUs);
      retryUs = Math.min(retryUs * 2, RETRY_US_MAX);
    }
    if (!this.goesOn(run)) return;
    run.waiting.delete(id);
    run.done++;
  }

  private goesOn(run: Run): boolean {
    return !this.isStopped && run.error === undefined && !run.isExpired;
  }

  private async attempt(
    operation: OperationRecord,
    pg: PgInfo,
    leaderOsd: number,
    attempt: number,
  ): Promise<GroupAnswer> {
    const replica = targetOf(pg, leaderOsd, attempt);
    const osd = replica === undefined ? undefined : this.catalogue.map.osds.get(replica.osd);
    if (replica === undefined || osd === undefined) {
      return { status: Status.Unreachable, leaderOsd: -1 };
    }
    return this.options.writer.write(osd, replica, this.entryFor(operation, pg));
  }

  private entryFor(operation: OperationRecord, pg: PgInfo): GroupEntry {
    const image = this.catalogue.images.get(operation.image);
    const isShrink = operation.kind === "image.shrink";
    return {
      pg: pg.id,
      type: isShrink ? EntryType.Zero : EntryType.LayerGone,
      session: operation.session,
      layer: operation.layer,
      firstBlock: operation.firstBlock,
      blocks: operation.blocks,
      snapSeq: Math.max(operation.snapSeq, image?.snapSeq ?? 0),
      lockEpoch: Math.max(operation.lockEpoch, image?.lockEpoch ?? 0),
      generation: this.catalogue.map.generation,
      epoch: this.catalogue.map.epoch,
      ...this.options.sessions.signOperation(operation),
    };
  }

  private async settle(operation: OperationRecord, run: Run): Promise<void> {
    if (this.isStopped) return;
    if (run.isExpired) {
      await this.renew(operation);
      return;
    }
    const endedMs = this.options.wallMs();
    const state = run.error === undefined ? "done" : "failed";
    try {
      await this.record({ ...operation, state, endedMs, error: run.error });
      this.options.logger.info("operation ended", { id: operation.id, state });
    } catch (error) {
      if (failOnBug(this.options.fatal, error)) return;
      this.options.logger.warn("operation not recorded", {
        id: operation.id,
        error: error instanceof Error ? error.message : String(error),
      });
    }
    this.running.delete(operation.id);
    this.wake(operation.id);
    if (this.running.size === 0) this.options.writer.rest();
  }

  /** Write down how an operation ended; waits while the catalogue takes nothing. */
  private async record(operation: OperationRecord): Promise<void> {
    for (;;) {
      try {
        await this.catalogue.change((change) => {
          change.putOperation(operation);
          for (const old of this.surplus()) change.removeOperation(old);
        });
        return;
      } catch (error) {
        if (!isPassing(error) || this.isStopped) throw error;
      }
      await sleep(this.options.timers, RETRY_US_MAX);
    }
  }

  /**
   * A group forgot the operation's session (a thousand newer ones came by while it waited): begin
   * again under a new one. Both kinds of entries may be applied twice: the image can not grow meanwhile.
   */
  private async renew(operation: OperationRecord): Promise<void> {
    const next = await this.catalogue.change((change) => {
      const renewed = { ...operation, session: change.allocate("session") as SessionId };
      change.putOperation(renewed);
      return renewed;
    });
    this.running.delete(operation.id);
    this.start(next);
  }

  private surplus(): number[] {
    const ended = [...this.catalogue.operations.values()].filter((one) => one.state !== "running");
    return ended
      .sort((a, b) => a.id - b.id)
      .slice(0, Math.max(0, ended.length + 1 - FINISHED_MAX))
      .map((one) => one.id);
  }

  private wake(id: number): void {
    const set = this.waiters.get(id);
    this.waiters.delete(id);
    for (const waiter of set ?? []) waiter.wake();
  }
}

/** The groups of one operation, and how far they are. */
class Run {
  readonly pgs: readonly PgId[];
  readonly waiting = new Map<PgId, string>();
  done = 0;
  error: string | undefined;
  isExpired = false;
  private next = 0;

  constructor(pgs: readonly PgId[]) {
    this.pgs = pgs;
  }

  take(): PgId | undefined {
    const pg = this.pgs[this.next];
    this.next++;
    return pg;
  }
}

class Waiter extends Timer {
  readonly wake: () => void;

  constructor(wake: () => void) {
    super();
    this.wake = wake;
  }

  onTimer(): void {
    this.wake();
  }
}

/** Whom to ask: who is said to lead, then one replica after the other. */
function targetOf(pg: PgInfo, leaderOsd: number, attempt: number): ReplicaInfo | undefined {
  if (leaderOsd >= 0) {
    const hinted = replicaOnOsd(pg, leaderOsd as OsdId);
    if (hinted !== undefined) return hinted;
  }
  if (attempt === 0) {
    const leader = replicaOf(pg, pg.leader);
    if (leader !== undefined) return leader;
  }
  return pg.replicas[attempt % pg.replicas.length];
}

/** Answers that no repetition changes. */
function isFinal(status: Status): boolean {
  switch (status) {
    case Status.Invalid:
    case Status.Conflict:
    case Status.SnapStale:
      return true;
    default:
      return false;
  }
}
