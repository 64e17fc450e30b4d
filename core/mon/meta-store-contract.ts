import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import type { MetaEvent, MetaStore, MetaWrite } from "./meta-store.ts";

/** What a driver gives to the contract suite. */
export interface MetaStoreDriver {
  /** A store on fresh ground that keeps at least the last 100 changes and at most 300. */
  open(): Promise<MetaStore>;
  /** Close the store and open the same data again. */
  reopen(store: MetaStore): Promise<MetaStore>;
  /** Let time pass for leases. */
  pass(ms: number): Promise<void>;
  /** Remove what `open` made. */
  clean(): Promise<void>;
}

const LEASE_MS = 40;

/** What every driver of `MetaStore` must do. */
export function testMetaStore(name: string, driver: MetaStoreDriver): void {
  describe(`MetaStore ${name}`, () => {
    let store: MetaStore;
    beforeEach(async () => {
      store = await driver.open();
    });
    afterEach(async () => {
      await store.close();
      await driver.clean();
    });

    const put = (key: string, value: string): Promise<{ ok: boolean; revision: number }> =>
      store.commit({ compares: [], writes: [{ key, value }] });
    const keysOf = async (prefix: string): Promise<string[]> =>
      (await store.range(prefix)).rows.map((row) => row.key);

    test("a missing key is undefined, a written one has its revisions", async () => {
      expect(await store.get("a")).toBeUndefined();
      const first = await put("a", "1");
      const second = await put("a", "2");
      expect(second.revision).toBeGreaterThan(first.revision);
      const { createRevision, modRevision, value } = (await store.get("a"))!;
      expect({ createRevision, modRevision, value }).toEqual({
        createRevision: first.revision,
        modRevision: second.revision,
        value: "2",
      });
    });

    test("a range holds the prefix alone, in key order, values of any text", async () => {
      for (const key of ["b/2", "b/10", "b", "a/z", "b0", "c"]) await put(key, `'";-- ${key} ü\n`);
      expect(await keysOf("b/")).toEqual(["b/10", "b/2"]);
      expect(await keysOf("b")).toEqual(["b", "b/10", "b/2", "b0"]);
      expect((await keysOf("")).length).toBe(6);
      expect((await store.get("b/2"))!.value).toBe(`'";-- b/2 ü\n`);
    });

    test("compares decide: all or nothing", async () => {
      const { revision } = await put("a", "1");
      const writes: MetaWrite[] = [
        { key: "a", value: undefined },
        { key: "b", value: "new" },
      ];
      const attempt = async (what: "create" | "mod", key: string, at: number): Promise<boolean> =>
        (await store.commit({ compares: [{ key, what, revision: at }], writes })).ok;
      expect(await attempt("create", "a", 0)).toBe(false);
      expect(await attempt("mod", "a", revision + 1)).toBe(false);
      expect(await attempt("create", "absent", revision)).toBe(false);
      expect(await keysOf("")).toEqual(["a"]);
      expect(await attempt("mod", "a", revision)).toBe(true);
      expect(await keysOf("")).toEqual(["b"]);
      // A key that was removed and made again is another one.
      await put("a", "2");
      expect(await attempt("create", "a", revision)).toBe(false);
    });

    test("of many writers that compare one key, one wins", async () => {
      const tries = await Promise.all(
        Array.from({ length: 20 }, (_, at) =>
          store.commit({
            compares: [{ key: "leader", what: "create", revision: 0 }],
            writes: [{ key: "leader", value: String(at) }],
          }),
        ),
      );
      expect(tries.filter((one) => one.ok).length).toBe(1);
    });

    test("a transaction without writes only compares", async () => {
      const { revision } = await put("a", "1");
      const compares = [{ key: "a", what: "mod" as const, revision }];
      expect(await store.commit({ compares, writes: [] })).toEqual({ ok: true, revision });
    });

    test("a watch sees every change after its revision, once, in order", async () => {
      await put("w/0", "before");
      const { revision } = await put("w/1", "1");
      await put("w/2", "2");
      const watcher = new Recorder();
      const watch = store.watch("w/", revision, watcher);
      await put("other", "x");
      await store.commit({
        compares: [],
        writes: [
          { key: "w/1", value: undefined },
          { key: "w/3", value: "3" },
        ],
      });
      for (let at = 4; at < 54; at++) await put(`w/${String(at)}`, String(at));
      await watcher.until(53);
      const seen = watcher.events.map((event) => `${event.key}=${String(event.value)}`);
      expect(seen.slice(0, 3)).toEqual(["w/2=2", "w/1=undefined", "w/3=3"]);
      expect(new Set(seen).size).toBe(53);
      const revisions = watcher.events.map((event) => event.revision);
      expect(revisions).toEqual([...revisions].sort((a, b) => a - b));
      expect(watcher.events[1]!.revision).toBe(watcher.events[2]!.revision);
      watch.close();
      await put("w/99", "late");
      await put("w/99", "later");
      expect(watcher.events.length).toBe(53);
    });

    test("a watch from a forgotten revision is told so", async () => {
      for (let at = 0; at < 400; at++) await put("k", String(at));
      const watcher = new Recorder();
      store.watch("k", 1, watcher);
      await watcher.untilLost();
      expect(watcher.events).toEqual([]);
    });

    test("keys vanish with their lease, and a watch sees it", async () => {
      const lease = await store.lease(LEASE_MS);
      const watcher = new Recorder();
      store.watch("", 0, watcher);
      const writes = [{ key: "mine", value: "1", lease: lease.id }];
      expect((await store.commit({ compares: [], writes })).ok).toBe(true);
      await put("plain", "1");
      for (let at = 0; at < 4; at++) {
        await driver.pass(LEASE_MS / 4);
        expect(await lease.keepAlive()).toBe(true);
      }
      expect(await keysOf("")).toEqual(["mine", "plain"]);
      await driver.pass(LEASE_MS * 3);
      await watcher.until(3);
      expect(await keysOf("")).toEqual(["plain"]);
      expect(await lease.keepAlive()).toBe(false);
      expect((await store.commit({ compares: [], writes })).ok).toBe(false);
      expect(await keysOf("")).toEqual(["plain"]);
    });

    test("a revoked lease ends at once", async () => {
      const lease = await store.lease(60_000);
      await store.commit({ compares: [], writes: [{ key: "a", value: "1", lease: lease.id }] });
      await lease.revoke();
      expect(await store.get("a")).toBeUndefined();
    });

    test("what was committed is there after a restart, leases are not", async () => {
      await put("kept", "1");
      await put("gone", "1");
      await store.commit({ compares: [], writes: [{ key: "gone", value: undefined }] });
      const lease = await store.lease(60_000);
      const writes = [{ key: "leased", value: "1", lease: lease.id }];
      const { revision } = await store.commit({ compares: [], writes });
      store = await driver.reopen(store);
      expect(await keysOf("")).toEqual(["kept"]);
      expect((await put("next", "1")).revision).toBeGreaterThan(revision);
      expect((await store.get("kept"))!.createRevision).toBeLessThan(revision);
    });
  });
}

class Recorder {
  readonly events: MetaEvent[] = [];
  private readonly waiters: (() => void)[] = [];
  private isLost = false;

  onEvents(events: readonly MetaEvent[]): void {
    this.events.push(...events);
    this.wake();
  }

  onLost(): void {
    this.isLost = true;
    this.wake();
  }

  async until(count: number): Promise<void> {
    while (this.events.length < count) await this.next();
  }

  async untilLost(): Promise<void> {
    while (!this.isLost) await this.next();
  }

  private next(): Promise<void> {
    return new Promise((resolve) => this.waiters.push(resolve));
  }

  private wake(): void {
    for (const waiter of this.waiters.splice(0)) waiter();
  }
}
