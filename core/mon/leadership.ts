import { assert } from "../base/assert.ts";
import type { MetaCompare, MetaLease, MetaStore } from "./meta-store.ts";

const KEY = "leader";
const LEASE_MS = 5000;
/** Where nobody else could lead: a process that was stopped, or a machine that slept, leads on. */
const LEASE_ALONE_MS = 7 * 86_400_000;

/**
 * Which monitor leads: the one whose key stands in the store, under a lease.
 *
 * The key's create revision names the term of office. Every write of the leader compares it
 * (`fence`), so a monitor that was paused past its lease changes nothing when it wakes up;
 * `keepAlive` tells it. A store that one process holds alone has no other leader: there the lease
 * outlasts any pause, and ends with the process.
 */
export class Leadership {
  private readonly store: MetaStore;
  private readonly name: string;
  private lease: MetaLease | undefined;
  private createRevision = 0;

  constructor(store: MetaStore, name: string) {
    this.store = store;
    this.name = name;
  }

  /** Try once to become the leader. */
  async campaign(): Promise<boolean> {
    const lease = await this.store.lease(this.store.isShared ? LEASE_MS : LEASE_ALONE_MS);
    const { ok, revision } = await this.store.commit({
      compares: [{ key: KEY, what: "create", revision: 0 }],
      writes: [{ key: KEY, value: this.name, lease: lease.id }],
    });
    if (!ok) {
      await lease.revoke();
      return false;
    }
    this.lease = lease;
    this.createRevision = revision;
    return true;
  }

  /** The compare that every write of the leader carries. */
  fence(): MetaCompare {
    assert(this.createRevision > 0, "Leadership.fence: not elected");
    return { key: KEY, what: "create", revision: this.createRevision };
  }

  /** Prolong; at least every second. False: somebody else may lead now. */
  async keepAlive(): Promise<boolean> {
    return this.lease !== undefined && (await this.lease.keepAlive());
  }

  /** Give the office up, so that another takes over at once. */
  async resign(): Promise<void> {
    await this.lease?.revoke();
    this.lease = undefined;
  }

  /** Who leads now. */
  async leader(): Promise<string | undefined> {
    return (await this.store.get(KEY))?.value;
  }
}
