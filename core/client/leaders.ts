// data path
import type { ReplicaId } from "../base/ids.ts";
import { Status } from "../base/status.ts";
import { decodeReadReply, ReadReply } from "../../proto/gen/hot.ts";
import type { ClusterMap, ReplicaInfo } from "../cluster/cluster.ts";
import type { World } from "../reactor/world.ts";
import type { Frame } from "../rpc/rpc.ts";
import type { Link, LinkTable } from "./link.ts";
import type { Part } from "./part.ts";
import type { RequestWriter } from "./requests.ts";
import { Probe, type ProbeOwner, type Route } from "./route.ts";
import type { ImageSession } from "./session.ts";

/** Pauses between two rounds of probes grow from here with the time that they have taken. */
const PROBE_US_MIN = 10_000;
const PROBE_US_MAX = 500_000;
/** A silent leader that still leads is not doubted again for this long at least. */
const QUIET_US_MIN = 50_000;
/** A silent leader is asked as well when nobody else has shown to lead within this time. */
const OTHERS_US = 300_000;
/** Hints followed in a row before a round of probes is asked instead. */
const REDIRECTS_MAX = 3;

/** What the search for leaders needs of the router. */
export interface LeadersHost {
  readonly world: World;
  readonly counts: LeaderCounts;
  /** Send what is queued for the route. */
  pump(route: Route): void;
  /** Queue again what other links than this one have not answered. */
  takeFromOthers(route: Route, link: Link): void;
  /** True when requests of this session may go out on the link; otherwise makes it so. */
  isReady(link: Link, session: ImageSession): boolean;
  wantMap(): void;
  armTimer(): void;
}

/** Counters, for metrics and tests. */
export class LeaderCounts {
  redirects = 0;
  probeRounds = 0;
}

/**
 * Who leads which group, as far as the client knows, and how it finds out.
 *
 * Sources, best first: the leader's own good answer; a `NotLeader` reply's hint; the map's. When
 * none is left, every replica is asked for the state of a block (a probe): only a leader answers
 * that with `Ok`.
 */
export class Leaders implements ProbeOwner {
  /** Routes that are probing. */
  probing = 0;
  private readonly host: LeadersHost;
  private readonly world: World;
  private readonly map: ClusterMap;
  private readonly links: LinkTable;
  private readonly requests: RequestWriter;
  private readonly readReply: ReadReply = new ReadReply();

  constructor(host: LeadersHost, map: ClusterMap, links: LinkTable, requests: RequestWriter) {
    this.host = host;
    this.world = host.world;
    this.map = map;
    this.links = links;
    this.requests = requests;
  }

  /** The map's hint, or its preferred leader. */
  guess(route: Route): void {
    const info = route.info;
    if (info === null || info.replicas.length === 0) return;
    let leader = info.replicas[0]!;
    for (const replica of info.replicas) if (replica.replicaId === info.leader) leader = replica;
    this.point(route, leader);
  }

  /** Make a replica the leader that we know. */
  private point(route: Route, leader: ReplicaInfo): void {
    route.leader = leader;
    route.link = this.links.to(leader.osd, leader.shard);
    if (route.isProbing) {
      route.isProbing = false;
      this.probing--;
    }
  }

  /** A request was answered `Ok` over this link. */
  onServed(route: Route, link: Link): void {
    route.redirects = 0;
    if (route.link === link && !route.isProbing) return;
    // The suspect answers after all.
    const leader = replicaAt(route, link.osd, link.shard);
    if (leader === null || (route.leader !== null && !route.isProbing)) return;
    this.adopt(route, leader);
  }

  /** Who was asked over this link does not lead. */
  onRedirect(route: Route, link: Link | null, leaderOsd: number, leaderShard: number): void {
    if (route.link !== link) {
      // Others know better already.
      this.host.pump(route);
      return;
    }
    this.host.counts.redirects++;
    const hinted = leaderOsd > 0 ? replicaAt(route, leaderOsd - 1, leaderShard) : null;
    if (hinted === null || hinted === route.leader || route.redirects >= REDIRECTS_MAX) {
      this.lose(route, false);
      return;
    }
    route.redirects++;
    this.adopt(route, hinted);
  }

  /** A replica leads: it gets everything, also what another one has not answered. */
  private adopt(route: Route, leader: ReplicaInfo): void {
    this.point(route, leader);
    route.suspect = 0 as ReplicaId;
    if (route.link === null) {
      this.host.wantMap();
      this.lose(route, false);
      return;
    }
    this.host.takeFromOthers(route, route.link);
    this.host.pump(route);
  }

  /** The leader is not known any more: it fell silent, or its connection ended. */
  lose(route: Route, isSilent: boolean): void {
    if (route.leader !== null) route.suspect = route.leader.replicaId;
    route.isSuspectSilent = isSilent;
    route.leader = null;
    route.link = null;
    if (!route.isIdle) this.startProbing(route);
  }

  startProbing(route: Route): void {
    if (route.isProbing) return;
    route.isProbing = true;
    route.redirects = 0;
    route.probingSinceUs = this.world.clock.turnUs;
    route.probeDueUs = route.probingSinceUs;
    this.probing++;
    this.probe(route);
    this.host.armTimer();
  }

  /**
   * Ask the replicas who leads; those that can be reached, and have answered the last question.
   *
   * A leader that fell silent comes last: the others know whether it leads. But there may be no
   * others, or none that can be reached from here; and nothing of ours may be with it that it could
   * still answer: it was silent because what we have to send waited for that to other groups.
   */
  probe(route: Route): void {
    const nowUs = this.world.clock.turnUs;
    const passedUs = nowUs - route.probingSinceUs;
    route.probeDueUs = nowUs + pauseAfter(passedUs, PROBE_US_MIN);
    this.host.counts.probeRounds++;
    const sample = route.sent.head ?? route.unsent.head;
    const info = route.info;
    if (sample === null) return;
    if (info === null) {
      this.host.wantMap();
      return;
    }
    const isSpared = info.replicas.length > 1 && passedUs < OTHERS_US;
    for (const replica of info.replicas) {
      if (isSpared && this.isSilentOne(route, replica)) continue;
      const link = this.links.to(replica.osd, replica.shard);
      if (link === null) this.host.wantMap();
      else if (this.host.isReady(link, sample.session!)) this.ask(route, replica, link, sample);
      // The answer could have come before: it is asked again at once when the link is ready.
      if (!route.isProbing) return;
    }
  }

  private ask(route: Route, replica: ReplicaInfo, link: Link, sample: Part): void {
    let probe: Probe | null = null;
    for (const one of route.probes) if (one.replica === replica) probe = one;
    probe ??= this.newProbe(route, replica);
    if (probe.rpcRequestId !== 0) return;
    this.requests.question(probe, sample, link.connection!, replica.replicaId);
  }

  // cold: once per replica
  private newProbe(route: Route, replica: ReplicaInfo): Probe {
    const probe = new Probe(this, route, replica);
    route.probes.push(probe);
    return probe;
  }

  onProbeReply(probe: Probe, frame: Frame): void {
    const route = probe.route;
    const reply = this.readReply;
    const view = this.world.arena.view;
    if (!route.probes.includes(probe)) return;
    if (!decodeReadReply(reply, view, frame.headerOffset, frame.headerSize)) return;
    switch (reply.status as Status) {
      case Status.Ok:
      case Status.Fenced:
      case Status.SnapStale:
      case Status.Damaged:
      case Status.Removed:
        // Also when another answer came first and we went back to the suspect.
        if (route.isProbing && this.isSilentOne(route, probe.replica)) {
          this.goBack(route, probe.replica);
        } else if (route.isProbing || route.leader !== probe.replica) {
          this.adopt(route, probe.replica);
        }
        return;
      case Status.NotLeader: {
        if (!route.isProbing) return;
        const osd = reply.leaderOsd - 1;
        const hinted = osd >= 0 ? replicaAt(route, osd, reply.leaderShard) : null;
        this.onHint(route, hinted, probe.replica);
        return;
      }
      case Status.MapStale:
      case Status.WrongReceiver:
        this.host.wantMap();
        return;
      case Status.Denied: {
        const link = this.links.to(probe.replica.osd, probe.replica.shard);
        const sample = route.sent.head ?? route.unsent.head;
        if (link !== null) sample?.session?.clearAttached(link.index);
        return;
      }
      default:
    }
  }

  /** A replica names another one as leader. */
  private onHint(route: Route, hinted: ReplicaInfo | null, by: ReplicaInfo): void {
    if (hinted === null || hinted === by) return;
    if (hinted.replicaId === route.suspect) {
      // Its connection is gone, and the others do not know yet. Or it leads, and is slow or paused:
      // it keeps its requests, and the others are asked again in a while.
      if (route.isSuspectSilent) this.goBack(route, hinted);
      return;
    }
    const link = this.links.to(hinted.osd, hinted.shard);
    if (link === null || link.isDown || route.redirects >= REDIRECTS_MAX) return;
    route.redirects++;
    this.adopt(route, hinted);
  }

  private isSilentOne(route: Route, replica: ReplicaInfo): boolean {
    return route.isSuspectSilent && replica.replicaId === route.suspect;
  }

  /** The one that was doubted leads after all, and is slow: leave it in peace for a while. */
  private goBack(route: Route, leader: ReplicaInfo): void {
    const oldest = route.sent.head ?? route.unsent.head;
    const nowUs = this.world.clock.turnUs;
    const waitedUs = oldest === null ? 0 : nowUs - oldest.sentUs;
    route.quietUntilUs = nowUs + pauseAfter(waitedUs, QUIET_US_MIN);
    this.adopt(route, leader);
    // Or its end of the connection is gone, and ours was not told: whoever sends hears of that.
    const link = route.link;
    if (link === null || oldest?.session == null || !this.host.isReady(link, oldest.session))
      return;
    this.ask(route, leader, link, oldest);
  }

  /** The map has changed: follow moved replicas. */
  followMap(route: Route): void {
    const info = this.map.pgs.get(route.pg) ?? null;
    const isNew = info !== route.info;
    route.info = info;
    if (isNew) route.probes.length = 0;
    const leader = route.leader === null ? null : replicaOfRoute(route, route.leader.replicaId);
    if (leader !== null && info !== null) {
      const isHinted = info.leader !== 0 && info.leader !== leader.replicaId;
      if (isHinted && route.isIdle) this.guess(route);
      else this.point(route, leader);
      this.host.pump(route);
      return;
    }
    const isHopeful = info !== null && info.leader !== 0 && info.leader !== route.suspect;
    route.leader = null;
    route.link = null;
    if (isHopeful || route.isIdle) this.guess(route);
    this.host.pump(route);
  }

  /** Nobody waits for the route any more. */
  rest(route: Route): void {
    if (!route.isProbing) return;
    route.isProbing = false;
    this.probing--;
  }
}

/** An eighth of the time that something has taken, within bounds. */
function pauseAfter(passedUs: number, minUs: number): number {
  const pauseUs = Math.floor(passedUs / 8);
  if (pauseUs < minUs) return minUs;
  return pauseUs < PROBE_US_MAX ? pauseUs : PROBE_US_MAX;
}

function replicaAt(route: Route, osd: number, shard: number): ReplicaInfo | null {
  const replicas = route.info?.replicas ?? NO_REPLICAS;
  for (const replica of replicas) {
    if (replica.osd === osd && replica.shard === shard) return replica;
  }
  return null;
}

function replicaOfRoute(route: Route, replicaId: ReplicaId): ReplicaInfo | null {
  const replicas = route.info?.replicas ?? NO_REPLICAS;
  for (const replica of replicas) if (replica.replicaId === replicaId) return replica;
  return null;
}

const NO_REPLICAS: readonly ReplicaInfo[] = [];
