import type { Timers } from "../reactor/world.ts";
import { Timer } from "../reactor/world.ts";
import type {
  MetaCommit,
  MetaEvent,
  MetaLease,
  MetaRange,
  MetaRow,
  MetaStore,
  MetaTransaction,
  MetaWatch,
  MetaWatcher,
  MetaWrite,
} from "./meta-store.ts";

/**
 * `MetaStore` in memory, on the timers of a world: for the simulator, where a monitor dies and
 * comes back with the same object: what was committed stays in it, as on a disk.
 */
export class MemoryMetaStore implements MetaStore {
  readonly isShared = false;
  private readonly timers: Timers;
  private readonly rows = new Map<string, MetaRow & { readonly lease: number }>();
  private readonly changes: MetaEvent[] = [];
  private readonly changesMax: number;
  private readonly leases = new Map<number, MemoryLease>();
  private readonly watches = new Set<MemoryWatch>();
  private revision = 0;
  private floor = 0;
  private leaseLast = 0;
  private isDead = false;

  constructor(timers: Timers, changesMax = 10_000) {
    this.timers = timers;
    this.changesMax = changesMax;
  }

  /**
   * Its process died: what was committed is in the store that this answers, for the next one. This one
   * answers nothing any more.
   */
  reopen(timers: Timers): MemoryMetaStore {
    void this.close(); // cannot fail
    this.isDead = true;
    const next = this.copy(timers);
    next.changes.push(...this.changes);
    next.floor = this.floor;
    return next;
  }

  /** What is in it now, as a backup has it: nothing under a lease, and no changes to be followed. */
  copy(timers: Timers): MemoryMetaStore {
    const next = new MemoryMetaStore(timers, this.changesMax);
    for (const [key, row] of this.rows) if (row.lease === 0) next.rows.set(key, row);
    next.revision = this.revision;
    next.floor = this.revision;
    return next;
  }

  get(key: string): Promise<MetaRow | undefined> {
    if (this.isDead) return never();
    return Promise.resolve(this.rows.get(key));
  }

  range(prefix: string): Promise<MetaRange> {
    if (this.isDead) return never();
    const rows = [...this.rows.values()]
      .filter((row) => row.key.startsWith(prefix))
      .sort((a, b) => (a.key < b.key ? -1 : 1));
    return Promise.resolve({ rows, revision: this.revision });
  }

  commit(transaction: MetaTransaction): Promise<MetaCommit> {
    if (this.isDead) return never();
    const ok =
      transaction.compares.every(({ key, what, revision }) => {
        const row = this.rows.get(key);
        return (
          (what === "create" ? row?.createRevision : row?.modRevision) === (revision || undefined)
        );
      }) && transaction.writes.every(({ lease }) => lease === undefined || this.leases.has(lease));
    if (ok && transaction.writes.length > 0) this.writeAll(transaction.writes);
    return Promise.resolve({ ok, revision: this.revision });
  }

  watch(prefix: string, revision: number, watcher: MetaWatcher): MetaWatch {
    const watch = new MemoryWatch(prefix, revision, watcher, this.watches);
    this.watches.add(watch);
    void Promise.resolve().then(() => this.deliver(watch)); // cannot fail
    return watch;
  }

  lease(ttlMs: number): Promise<MetaLease> {
    if (this.isDead) return never();
    this.leaseLast++;
    const id = this.leaseLast;
    const lease = new MemoryLease(id, ttlMs, this.timers, () => {
      this.leases.delete(id);
      this.dropLeasedKeys((of) => of === id);
    });
    this.leases.set(id, lease);
    return Promise.resolve(lease);
  }

  /** Ends leases and watches, as a closed file does; what was committed stays for the next user. */
  close(): Promise<void> {
    for (const lease of this.leases.values()) lease.stop();
    this.leases.clear();
    this.watches.clear();
    this.dropLeasedKeys((of) => of > 0);
    return Promise.resolve();
  }

  private writeAll(writes: readonly MetaWrite[]): void {
    this.revision++;
    const revision = this.revision;
    for (const { key, value, lease } of writes) {
      if (value === undefined) {
        this.rows.delete(key);
      } else {
        const createRevision = this.rows.get(key)?.createRevision ?? revision;
        this.rows.set(key, {
          key,
          value,
          createRevision,
          modRevision: revision,
          lease: lease ?? 0,
        });
      }
      this.changes.push({ key, value, revision });
    }
    while (this.changes.length > this.changesMax) this.floor = this.changes.shift()!.revision;
    for (const watch of this.watches) void Promise.resolve().then(() => this.deliver(watch)); // cannot fail
  }

  private deliver(watch: MemoryWatch): void {
    if (!this.watches.has(watch)) return;
    if (watch.revision < this.floor) {
      this.watches.delete(watch);
      watch.watcher.onLost();
      return;
    }
    const after = watch.revision;
    watch.revision = this.revision;
    let group: MetaEvent[] = [];
    for (const event of this.changes) {
      if (event.revision <= after || !event.key.startsWith(watch.prefix)) continue;
      if (group.length > 0 && group[0]!.revision !== event.revision) {
        if (this.watches.has(watch)) watch.watcher.onEvents(group);
        group = [];
      }
      group.push(event);
    }
    if (group.length > 0 && this.watches.has(watch)) watch.watcher.onEvents(group);
  }

  private dropLeasedKeys(matches: (lease: number) => boolean): void {
    const writes: MetaWrite[] = [];
    for (const row of this.rows.values()) {
      if (row.lease > 0 && matches(row.lease)) writes.push({ key: row.key, value: undefined });
    }
    if (writes.length > 0) this.writeAll(writes);
  }
}

function never<Value>(): Promise<Value> {
  return new Promise(() => {});
}

class MemoryWatch implements MetaWatch {
  readonly prefix: string;
  readonly watcher: MetaWatcher;
  revision: number;
  private readonly all: Set<MemoryWatch>;

  constructor(prefix: string, revision: number, watcher: MetaWatcher, all: Set<MemoryWatch>) {
    this.prefix = prefix;
    this.revision = revision;
    this.watcher = watcher;
    this.all = all;
  }

  close(): void {
    this.all.delete(this);
  }
}

class MemoryLease extends Timer implements MetaLease {
  readonly id: number;
  private readonly ttlMs: number;
  private readonly timers: Timers;
  private readonly onEnd: () => void;
  private isOver = false;

  constructor(id: number, ttlMs: number, timers: Timers, onEnd: () => void) {
    super();
    this.id = id;
    this.ttlMs = ttlMs;
    this.timers = timers;
    this.onEnd = onEnd;
    timers.arm(this, ttlMs * 1000);
  }

  onTimer(): void {
    this.isOver = true;
    this.onEnd();
  }

  keepAlive(): Promise<boolean> {
    if (!this.isOver) this.timers.arm(this, this.ttlMs * 1000);
    return Promise.resolve(!this.isOver);
  }

  revoke(): Promise<void> {
    if (!this.isOver) {
      this.stop();
      this.onEnd();
    }
    return Promise.resolve();
  }

  stop(): void {
    this.isOver = true;
    this.timers.disarm(this);
  }
}
