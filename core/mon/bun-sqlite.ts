import { Database, SQLiteError, type Statement } from "bun:sqlite";
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { FastblockError } from "../base/errors.ts";
import type {
  MetaCommit,
  MetaCompare,
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
 * The embedded driver of `MetaStore`: one SQLite file, write-ahead log, `synchronous=FULL`.
 *
 * ```
 * row     key text primary key, value text, created integer, modified integer, lease integer
 * change  revision integer, key text, value text or null      what watches read; trimmed
 * meta    name text primary key, value integer                format, revision, floor
 * ```
 *
 * The file is locked exclusively: a second monitor on it is refused (FB4005) instead of becoming
 * a second leader. A lease belongs to the process that holds the lock, so opening ends all of
 * them; while it runs they are numbers and timers in memory, and keeping one alive costs no write.
 */
export interface BunSqliteOptions {
  /** How many changes are kept for watches. */
  readonly changesMax?: number;
}

const FORMAT = 1;
const CHANGES_MAX = 10_000;
/** Trimming at each commit would double its writes. */
const TRIM_EVERY_MAX = 1000;

/** Open or create the file at `path`. Throws FB4005 when another process has it, FB4003, FB4006. */
export function openBunSqlite(path: string, options: BunSqliteOptions = {}): MetaStore {
  mkdirSync(dirname(path), { recursive: true });
  let database: Database | undefined;
  try {
    database = new Database(path, { create: true, strict: true, safeIntegers: true });
    database.run("PRAGMA busy_timeout = 0");
    database.run("PRAGMA locking_mode = EXCLUSIVE");
    database.run("PRAGMA journal_mode = WAL");
    database.run("PRAGMA synchronous = FULL");
    return new BunSqliteStore(database, options.changesMax ?? CHANGES_MAX);
  } catch (error) {
    database?.close();
    throw openingError(path, error);
  }
}

/** A disk that is full is the administrator's to mend; nothing of the transaction happened. */
function commitError(error: unknown): Error {
  if (error instanceof SQLiteError && error.code === "SQLITE_FULL") {
    return new FastblockError("FB4010", "writing the catalogue: the mon's disk is full", {
      hint: "make room on the file system of the mon's --data; nothing needs to be started again",
    });
  }
  return error instanceof Error ? error : new Error(String(error));
}

/** Pages that SQLite can not read are the catalogue's damage, not the program's. */
function readingError(error: unknown): Error {
  if (!(error instanceof SQLiteError))
    return error instanceof Error ? error : new Error(String(error));
  return new FastblockError("FB4006", `reading the catalogue: ${error.message}`, {
    hint: "restore the catalogue from a backup and start with --restored",
  });
}

function openingError(path: string, error: unknown): Error {
  if (error instanceof FastblockError) return error;
  const why = error instanceof Error ? error.message : String(error);
  if (/locked|busy/i.test(why)) {
    return new FastblockError("FB4005", `opening the catalogue ${path}: held by another mon`, {
      why,
      hint: "stop the other mon, or give this one a directory of its own",
    });
  }
  return new FastblockError("FB4006", `opening the catalogue ${path}: ${why}`, {
    hint: "restore the catalogue from a backup and start with --restored",
  });
}

interface StoredRow {
  readonly key: string;
  readonly value: string;
  readonly created: bigint;
  readonly modified: bigint;
  readonly lease: bigint;
}

interface StoredChange {
  readonly revision: bigint;
  readonly key: string;
  readonly value: string | null;
}

class BunSqliteStore implements MetaStore {
  readonly isShared = false;
  private readonly database: Database;
  private readonly changesMax: number;
  private readonly trimEvery: number;
  private readonly selectRow: Statement<StoredRow, [{ key: string }]>;
  private readonly selectRange: Statement<StoredRow, [{ from: string; to: string }]>;
  private readonly selectChanges: Statement<
    StoredChange,
    [{ from: string; to: string; after: number }]
  >;
  private readonly leases = new Map<number, SqliteLease>();
  private readonly watches = new Set<SqliteWatch>();
  private revision: number;
  private floor: number;
  private leaseLast = 0;
  private isClosed = false;

  constructor(database: Database, changesMax: number) {
    this.database = database;
    this.changesMax = changesMax;
    this.trimEvery = Math.min(TRIM_EVERY_MAX, changesMax);
    createTables(database);
    const format = readMeta(database, "format");
    if (format > FORMAT) {
      throw new FastblockError(
        "FB4003",
        `opening the catalogue: format ${String(format)}, this program knows ${String(FORMAT)}`,
      );
    }
    this.revision = readMeta(database, "revision");
    this.floor = readMeta(database, "floor");
    this.selectRow = database.query("SELECT * FROM row WHERE key = $key");
    this.selectRange = database.query(
      "SELECT * FROM row WHERE key >= $from AND key < $to ORDER BY key",
    );
    this.selectChanges = database.query(
      "SELECT revision, key, value FROM change WHERE key >= $from AND key < $to AND revision > $after ORDER BY revision, number",
    );
    this.dropLeasedKeys("lease > 0");
  }

  get(key: string): Promise<MetaRow | undefined> {
    try {
      const row = this.selectRow.get({ key });
      return Promise.resolve(row === null ? undefined : rowOf(row));
    } catch (error) {
      return Promise.reject(readingError(error));
    }
  }

  range(prefix: string): Promise<MetaRange> {
    try {
      const rows = this.selectRange.all({ from: prefix, to: prefixEnd(prefix) });
      return Promise.resolve({ rows: rows.map(rowOf), revision: this.revision });
    } catch (error) {
      return Promise.reject(readingError(error));
    }
  }

  commit(transaction: MetaTransaction): Promise<MetaCommit> {
    if (this.isClosed)
      return Promise.reject(new FastblockError("FB1004", "the catalogue is closed"));
    try {
      return Promise.resolve(this.commitNow(transaction));
    } catch (error) {
      return Promise.reject(commitError(error));
    }
  }

  watch(prefix: string, revision: number, watcher: MetaWatcher): MetaWatch {
    const watch = new SqliteWatch(prefix, revision, watcher, this.watches);
    this.watches.add(watch);
    // What happened before now is delivered in a turn of its own, like everything after it.
    queueMicrotask(() => this.deliver(watch));
    return watch;
  }

  lease(ttlMs: number): Promise<MetaLease> {
    this.leaseLast++;
    const id = this.leaseLast;
    const lease = new SqliteLease(id, ttlMs, () => this.endLease(id));
    this.leases.set(id, lease);
    return Promise.resolve(lease);
  }

  close(): Promise<void> {
    if (this.isClosed) return Promise.resolve();
    this.isClosed = true;
    for (const lease of this.leases.values()) lease.stop();
    this.watches.clear();
    this.database.close();
    return Promise.resolve();
  }

  private commitNow(transaction: MetaTransaction): MetaCommit {
    for (const write of transaction.writes) {
      if (write.lease !== undefined && !this.leases.has(write.lease)) {
        return { ok: false, revision: this.revision };
      }
    }
    let ok = false;
    this.database.transaction(() => {
      ok = transaction.compares.every((compare) => this.holds(compare));
      if (ok && transaction.writes.length > 0) this.writeAll(transaction.writes);
    })();
    if (ok && transaction.writes.length > 0) this.moved();
    return { ok, revision: this.revision };
  }

  private holds(compare: MetaCompare): boolean {
    const row = this.selectRow.get({ key: compare.key });
    const revision = compare.what === "create" ? row?.created : row?.modified;
    return Number(revision ?? 0n) === compare.revision;
  }

  /** Within a transaction. The memory copy of the revision moves in `moved`, after the commit. */
  private writeAll(writes: readonly MetaWrite[]): void {
    const revision = this.revision + 1;
    for (const { key, value, lease } of writes) {
      if (value === undefined) {
        this.database.query("DELETE FROM row WHERE key = $key").run({ key });
      } else {
        this.database
          .query(
            "INSERT INTO row VALUES ($key, $value, $revision, $revision, $lease) ON CONFLICT (key) DO UPDATE SET value = $value, modified = $revision, lease = $lease",
          )
          .run({ key, value, revision, lease: lease ?? 0 });
      }
      this.database
        .query("INSERT INTO change (revision, key, value) VALUES ($revision, $key, $value)")
        .run({ revision, key, value: value ?? null });
    }
    writeMeta(this.database, "revision", revision);
    if (revision % this.trimEvery === 0) this.trim(revision);
  }

  private trim(revision: number): void {
    const floor = Math.max(0, revision - this.changesMax);
    this.database.query("DELETE FROM change WHERE revision <= $floor").run({ floor });
    writeMeta(this.database, "floor", floor);
  }

  private moved(): void {
    this.revision++;
    if (this.revision % this.trimEvery === 0) {
      this.floor = Math.max(0, this.revision - this.changesMax);
    }
    for (const watch of this.watches) queueMicrotask(() => this.deliver(watch));
  }

  private deliver(watch: SqliteWatch): void {
    if (this.isClosed || !this.watches.has(watch)) return;
    if (watch.revision < this.floor) {
      this.watches.delete(watch);
      watch.watcher.onLost();
      return;
    }
    if (watch.revision >= this.revision) return;
    const changes = this.selectChanges.all({
      from: watch.prefix,
      to: prefixEnd(watch.prefix),
      after: watch.revision,
    });
    watch.revision = this.revision;
    for (const events of byRevision(changes)) {
      if (this.watches.has(watch)) watch.watcher.onEvents(events);
    }
  }

  private endLease(id: number): void {
    if (!this.leases.delete(id) || this.isClosed) return;
    this.dropLeasedKeys(`lease = ${String(id)}`);
  }

  /** `condition` is made of constants and numbers alone. */
  private dropLeasedKeys(condition: string): void {
    const rows = this.database.query<StoredRow, []>(`SELECT * FROM row WHERE ${condition}`).all();
    if (rows.length === 0) return;
    const writes = rows.map((row) => ({ key: row.key, value: undefined }));
    this.database.transaction(() => this.writeAll(writes))();
    this.moved();
  }
}

class SqliteWatch implements MetaWatch {
  readonly prefix: string;
  readonly watcher: MetaWatcher;
  revision: number;
  private readonly all: Set<SqliteWatch>;

  constructor(prefix: string, revision: number, watcher: MetaWatcher, all: Set<SqliteWatch>) {
    this.prefix = prefix;
    this.revision = revision;
    this.watcher = watcher;
    this.all = all;
  }

  close(): void {
    this.all.delete(this);
  }
}

class SqliteLease implements MetaLease {
  readonly id: number;
  private readonly ttlMs: number;
  private readonly onEnd: () => void;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(id: number, ttlMs: number, onEnd: () => void) {
    this.id = id;
    this.ttlMs = ttlMs;
    this.onEnd = onEnd;
    this.arm();
  }

  keepAlive(): Promise<boolean> {
    if (this.timer === undefined) return Promise.resolve(false);
    this.arm();
    return Promise.resolve(true);
  }

  revoke(): Promise<void> {
    if (this.timer !== undefined) {
      this.stop();
      this.onEnd();
    }
    return Promise.resolve();
  }

  stop(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
  }

  private arm(): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.timer = undefined;
      this.onEnd();
    }, this.ttlMs);
    this.timer.unref();
  }
}

function createTables(database: Database): void {
  database.transaction(() => {
    database.run(
      "CREATE TABLE IF NOT EXISTS row (key TEXT PRIMARY KEY, value TEXT NOT NULL, created INTEGER NOT NULL, modified INTEGER NOT NULL, lease INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    );
    database.run(
      "CREATE TABLE IF NOT EXISTS change (number INTEGER PRIMARY KEY, revision INTEGER NOT NULL, key TEXT NOT NULL, value TEXT) STRICT",
    );
    database.run("CREATE INDEX IF NOT EXISTS change_revision ON change (revision)");
    database.run(
      "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT",
    );
    database.run(
      `INSERT OR IGNORE INTO meta VALUES ('format', ${String(FORMAT)}), ('revision', 0), ('floor', 0)`,
    );
  })();
}

function readMeta(database: Database, name: string): number {
  const row = database
    .query<{ value: bigint }, [{ name: string }]>("SELECT value FROM meta WHERE name = $name")
    .get({ name });
  return Number(row?.value ?? 0n);
}

function writeMeta(database: Database, name: string, value: number): void {
  database.query("UPDATE meta SET value = $value WHERE name = $name").run({ name, value });
}

function rowOf(row: StoredRow): MetaRow {
  return {
    key: row.key,
    value: row.value,
    createRevision: Number(row.created),
    modRevision: Number(row.modified),
  };
}

/** The first key after all that begin with `prefix`: SQLite compares text by bytes. */
function prefixEnd(prefix: string): string {
  return `${prefix}\u{10ffff}`;
}

function byRevision(changes: readonly StoredChange[]): MetaEvent[][] {
  const groups: MetaEvent[][] = [];
  let last = -1;
  for (const change of changes) {
    const revision = Number(change.revision);
    if (revision !== last) groups.push([]);
    last = revision;
    groups[groups.length - 1]!.push({
      key: change.key,
      value: change.value ?? undefined,
      revision,
    });
  }
  return groups;
}
