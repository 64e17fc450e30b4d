// cold path: a group is parked or wakes when it has been quiet, or no longer is.
/**
 * Groups that have been quiet for some seconds are parked: their objects go, and what is to be
 * remembered of them lies in rows (`parked-rows.ts`, the store's log, and the bits of links).
 *
 * Whoever finds a group wakes it (`groups.ts`): requests, messages, maps that change it, a link that
 * comes or goes, whatever people ask for. A few look at the rows instead: checkpoints, reports, and
 * maps that say nothing new. What wakes is built as at a start (`recover.ts`), and raft resumes in the
 * same term, leading or following, with the same promises (`raft/parking.ts`).
 *
 * A group is parked only when nothing is under way in it, and when everything that is not in its row
 * follows from it. So there is no case of "parked" anywhere else: all that could happen to it has to
 * find it first. Leases and promises are of links, and go on.
 */
import type { PgInfo } from "../cluster/cluster.ts";
import { encodeConfiguration, mayPark, resume } from "../raft/raft.ts";
import { CallbackTimer } from "../reactor/world.ts";
import { decodeGroupState, encodeGroupState } from "../store/store.ts";
import { assert } from "../base/assert.ts";
import { Group } from "./group.ts";
import type { GroupWaker } from "./groups.ts";
import { GroupHealth, type GroupState } from "./local-store.ts";
import { followInfo } from "./membership.ts";
import { type Parked, ParkedRows } from "./parked-rows.ts";
import type { PgShard } from "./pg.ts";
import { rebuild } from "./recover.ts";

/** Between two looks at the groups that are awake. */
export const PARK_LOOK_US = 2_000_000;
/** A group that nobody found in so many looks is quiet. */
const QUIET_LOOKS = 3;
/** Groups parked at a look: each takes some microseconds. */
const PARKED_MAX = 512;

/** A look that parks fewer ends a wave of groups that fall quiet together. */
const WAVE_MIN = 32;

/** Parks the quiet groups of a shard, and wakes them. */
export class Parking implements GroupWaker {
  readonly rows: ParkedRows = new ParkedRows();
  /** How often a group woke, and one that leads. Grow for ever. */
  woken = 0;
  leadersWoken = 0;
  private readonly shard: PgShard;
  private readonly lookUs: number;
  private readonly timer: CallbackTimer;
  /** Groups parked since the last wave ended. */
  private parked = 0;
  private stopped = false;

  constructor(shard: PgShard, lookUs: number) {
    this.shard = shard;
    this.lookUs = lookUs;
    this.timer = new CallbackTimer(() => this.look());
  }

  /** A group is awake: it is looked at from now on. */
  watch(): void {
    if (this.stopped || this.timer.timerDueUs >= 0) return;
    this.shard.world.timers.arm(this.timer, this.lookUs);
  }

  /** Park nothing any more. */
  stop(): void {
    this.stopped = true;
    this.shard.world.timers.disarm(this.timer);
  }

  /** The timer. */
  look(): void {
    const nowUs = this.shard.world.clock.nowUs();
    const awake = this.shard.groups.awake();
    let parked = 0;
    for (const group of awake) {
      group.quietLooks += 1;
      if (group.quietLooks <= QUIET_LOOKS || parked === PARKED_MAX) continue;
      if (!this.isQuiet(group, nowUs)) continue;
      this.park(group);
      parked += 1;
    }
    this.parked += parked;
    const isRest = parked === awake.length;
    if (!isRest) this.watch();
    if (this.parked === 0 || (parked >= WAVE_MIN && !isRest)) return;
    this.shard.onParked(this.parked);
    this.parked = 0;
  }

  /** Whether nothing is under way, and what is not in a row and not in the store follows from them. */
  private isQuiet(group: Group, nowUs: number): boolean {
    const { shard } = this;
    if (group.creating || group.silent || group.renewedAs > 0 || group.info === null) return false;
    if (group.users > 0 || !group.requests.isQuiet || group.marks.pending) return false;
    if (group.ticking || group.persistBlocked || group.applyQueued || group.leaseQueued) {
      return false;
    }
    if (group.fill !== null || group.beginning !== null || group.deaf) return false;
    if (group.faulty.length > 0 || group.holdIndex !== Number.POSITIVE_INFINITY) return false;
    if (nowUs < Math.max(group.blockedUntilUs, group.transferAfterUs)) return false;
    if (!mayPark(group.node) || !knowsAll(group)) return false;
    if (group.isLeader && !this.isSettled(group)) return false;
    return shard.store.healthOf(group.row) === GroupHealth.Ok;
  }

  /** A leader that has nothing to do about its group. */
  private isSettled(group: Group): boolean {
    const { shard } = this;
    if (!group.serving || group.settledTold !== group.confIndex) return false;
    return !shard.reconfigurer.minds(group) && !shard.scrubs.isUnderWay(group);
  }

  private park(group: Group): void {
    const { pg, replica, node, confIndex, stayUntilUs, sessions, layers } = group;
    const { term, vote, leader, ownIndex, conf } = node;
    const { expiredBelow } = sessions;
    const isBare = sessions.size === 0 && layers.size === 0;
    const tables = isBare ? null : encodeGroupState(group.encodeState());
    const { info } = group;
    assert(info !== null, "Parking.park: a group that no map names");
    this.rows.put(group.row, {
      ...{ pg, replica, term, vote, leader, ownIndex },
      ...{ confIndex, expiredBelow, stayUntilUs, conf, info, tables },
    });
    group.park();
    this.shard.groups.park(group);
  }

  /** Make objects of the group in a row again: it is what it was. */
  wake(row: number): Group {
    const { shard } = this;
    const group = this.build(row, this.rows.get(row));
    const { info } = this.rows.take(row);
    shard.groups.put(group);
    for (const link of shard.peers.links.values()) link.groups.delete(row);
    followInfo(shard, shard.followed(), group, info);
    group.wake();
    this.woken += 1;
    if (group.isLeader) this.leadersWoken += 1;
    this.watch();
    return group;
  }

  private build(row: number, parked: Parked): Group {
    const { shard } = this;
    const { store } = shard;
    const state = this.stateOf(row);
    const group = new Group(shard, parked.pg, parked.replica, row);
    rebuild(group, state, {
      term: parked.term,
      vote: parked.vote,
      commitIndex: state.applied,
      appliedIndex: state.applied,
      conf: parked.conf,
      baseIndex: store.firstIndex(row) - 1,
      baseTerm: store.termAt(row, store.firstIndex(row) - 1),
    });
    resume(group.node, parked.leader, parked.ownIndex);
    group.stayUntilUs = parked.stayUntilUs;
    return group;
  }

  /** State for a checkpoint of the group that is parked in a row. */
  stateOf(row: number): GroupState {
    const parked = this.rows.get(row);
    if (parked.tables !== null) {
      const state = decodeGroupState(parked.tables);
      assert(state !== undefined, "Parking.stateOf: a state that can not be read");
      return state;
    }
    return {
      applied: this.shard.store.appliedIndex(row),
      conf: encodeConfiguration(parked.conf),
      confIndex: parked.confIndex,
      expiredBelow: parked.expiredBelow,
      sessions: [],
      fences: [],
    };
  }

  /** What the map wanted of a group when it was parked; null: it is awake, or not here. */
  infoOf(pg: number): PgInfo | null {
    const row = this.shard.groups.parkedRowOf(pg);
    return row < 0 ? null : this.rows.infoOf(row);
  }
}

/** All is durable and applied here, and the way to every member is in the map. */
function knowsAll(group: Group): boolean {
  const { node, peers, named, row } = group;
  const { store } = group.shard;
  const last = node.log.lastIndex;
  if (group.appliedIndex !== last || group.commitIndex !== last) return false;
  if (group.appendedIndex !== last || store.durableIndex(row) !== last) return false;
  if (store.lastIndex(row) !== last || store.appliedIndex(row) !== last) return false;
  if (named.length !== peers.length - 1) return false;
  return peers.every((peer, slot) => {
    if (slot === node.selfSlot) return true;
    if (peer === null || peer.starved || !peer.link.up || !named.includes(peer)) return false;
    return peer.ahead === null || peer.ahead.isQuiet;
  });
}
