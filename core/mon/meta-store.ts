/**
 * Where the control plane keeps what must survive: one ordered key space with revisions.
 *
 * The model is that of etcd, so that the embedded driver (`bun-sqlite.ts`) and etcd stand behind
 * the same interface: every transaction that writes raises one store-wide revision, each key
 * remembers the revisions that created and last changed it, a transaction is a list of compares
 * and a list of writes that happen together or not at all. One contract suite
 * (`meta-store-contract.ts`) runs on every driver.
 *
 * Keys are printable text with `/` between parts; values are text. Only the monitor's leader
 * writes; each of its transactions compares its own election key.
 */
export interface MetaStore {
  /** False: nobody but the process that opened it can write, for as long as that lives. */
  readonly isShared: boolean;
  /** Read one key. */
  get(key: string): Promise<MetaRow | undefined>;
  /** Read every key that begins with `prefix`, in key order, as of one revision. */
  range(prefix: string): Promise<MetaRange>;
  /** Compare and write, durable before it answers. Throws when the store can not be reached: the outcome is unknown then. */
  commit(transaction: MetaTransaction): Promise<MetaCommit>;
  /**
   * Follow the keys that begin with `prefix`: every change after `revision`, in order, none left
   * out. `onEvents` is called with the changes of one revision at a time, never before `watch`
   * returned. `onLost` is called once when the store no longer remembers `revision`: read anew.
   */
  watch(prefix: string, revision: number, watcher: MetaWatcher): MetaWatch;
  /** Begin a lease: keys written under it vanish `ttlMs` after the last `keepAlive`. */
  lease(ttlMs: number): Promise<MetaLease>;
  /** Release files, sockets and timers. Leases that are not revoked end by themselves. */
  close(): Promise<void>;
}

export interface MetaRow {
  readonly key: string;
  readonly value: string;
  readonly createRevision: number;
  readonly modRevision: number;
}

export interface MetaRange {
  readonly rows: readonly MetaRow[];
  /** The store's revision when they were read: where a watch goes on without a gap. */
  readonly revision: number;
}

/** A condition on one key; `revision` 0 with `create`: the key does not exist. */
export interface MetaCompare {
  readonly key: string;
  readonly what: "create" | "mod";
  readonly revision: number;
}

/** `value` undefined: remove the key. A key stands at most once in a transaction. */
export interface MetaWrite {
  readonly key: string;
  readonly value: string | undefined;
  /** The key vanishes with this lease. */
  readonly lease?: number;
}

export interface MetaTransaction {
  readonly compares: readonly MetaCompare[];
  readonly writes: readonly MetaWrite[];
}

export interface MetaCommit {
  /** False: a compare failed, nothing was written. */
  readonly ok: boolean;
  /** The store's revision afterwards. */
  readonly revision: number;
}

export interface MetaEvent {
  readonly key: string;
  /** undefined: removed. */
  readonly value: string | undefined;
  readonly revision: number;
}

export interface MetaWatcher {
  onEvents(events: readonly MetaEvent[]): void;
  onLost(): void;
}

export interface MetaWatch {
  close(): void;
}

export interface MetaLease {
  readonly id: number;
  /** Prolong by the whole ttl. False: it has ended, its keys are gone. */
  keepAlive(): Promise<boolean>;
  /** End it now. */
  revoke(): Promise<void>;
}
