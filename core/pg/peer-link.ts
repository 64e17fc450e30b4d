// data path
import type { Group } from "./group.ts";
import { RowSet } from "./row-set.ts";

/** Heartbeats between two shards that share groups go out this often, each way. */
export const HEARTBEAT_INTERVAL_US = 100_000;
/** A promise: no vote against a group that the other shard leads, for this long. */
export const PROMISE_US = 400_000;
/** What the leader counts of a promise: 1 % less, for clocks that run at different speeds. */
export const LEASE_US = 396_000;
/** A link that was silent this long is down: three heartbeats missed. */
export const SILENCE_US = 3 * HEARTBEAT_INTERVAL_US;

/**
 * Leases and liveness between this shard and one shard of another osd.
 *
 * The promise: an echo of the sender's time t, sent at our time s, says "no vote against a group
 * that you lead until s + 400 ms". The sender counts 396 ms from t, which lies before s, so that
 * its lease ends before our promise does, whatever the delay in between.
 *
 * A promise speaks of all groups that the two shards share, but only of those whose leadership we
 * still follow. A simpler design that counted every echo for every group was not enough: C votes
 * for B in a new term after its promise to A ran out; A was paused, wakes up, and C's next echo
 * renews a lease that A must no longer hold. Hence raft counts an echo for a group only behind an
 * acknowledgement in the present term on the same connection (`RaftNode.leaseCounts`), and a
 * follower whose term grows tells the leader that it followed on that connection, before any
 * further heartbeat. Streams keep order; a lost connection makes raft ask anew.
 */
export class PeerLink {
  readonly osd: number;
  readonly shard: number;
  /** Heartbeats with an echo that have arrived; grows for ever. */
  echoes = 0;
  /** True while the peer's connection to us is up and heard within `SILENCE_US`. */
  up = false;
  /** Our clock: when it came up, or was joined anew, last. */
  upSinceUs = 0;
  /** Our clock: last frame of any kind from the peer. */
  heardUs = 0;
  /** Our clock: the promise we gave to the peer. */
  promiseUntilUs = 0;
  /** Our clock: what the peer's promise is worth to groups that we lead. */
  leaseUntilUs = 0;
  /** The peer's clock: `sentUs` of its newest heartbeat that is not echoed yet; 0: none. */
  peerSentUs = 0;
  /** The peer's process start; a change means that it restarted. */
  boot = 0;
  /** Rows of the groups with a member over there, by configuration or by the map (`membership.ts`). */
  readonly groups: RowSet = new RowSet();
  /** Those whose next Append found no room, and the list they are tried from. */
  starved: Group[] = [];
  starvedTried: Group[] = [];

  constructor(osd: number, shard: number) {
    this.osd = osd;
    this.shard = shard;
  }

  /** The peer connected to us: what earlier connections confirmed counts no more. */
  onConnected(nowUs: number): void {
    this.leaseUntilUs = 0;
    this.peerSentUs = 0;
    this.heardUs = nowUs;
    this.up = true;
  }

  /** The peer's connection to us ended. Answers true when the link was up. */
  onDisconnected(): boolean {
    const was = this.up;
    this.up = false;
    this.leaseUntilUs = 0;
    this.peerSentUs = 0;
    return was;
  }

  /** Take a heartbeat in. `echoUs` is one of our own earlier `sentUs`, or 0. */
  onHeartbeat(sentUs: number, echoUs: number, nowUs: number): void {
    this.heardUs = nowUs;
    this.peerSentUs = sentUs;
    // An echo of the future was made of another boot's clock: worth nothing.
    if (echoUs === 0 || echoUs > nowUs) return;
    this.echoes += 1;
    if (echoUs + LEASE_US > this.leaseUntilUs) this.leaseUntilUs = echoUs + LEASE_US;
  }

  /**
   * The echo for a heartbeat that goes out now, and the promise that it makes. Each heartbeat is
   * echoed once: a peer that fell silent gets no new promise, or its groups never elect another.
   */
  echo(nowUs: number): number {
    const echo = this.peerSentUs;
    this.peerSentUs = 0;
    if (echo > 0) this.promiseUntilUs = nowUs + PROMISE_US;
    return echo;
  }

  /** Whether the peer can be reached, and could since `us`, our clock. */
  isUpSince(us: number): boolean {
    return this.up && this.upSinceUs <= us;
  }

  /** True when the peer has been silent for too long. */
  isSilent(nowUs: number): boolean {
    return nowUs - this.heardUs > SILENCE_US;
  }
}
