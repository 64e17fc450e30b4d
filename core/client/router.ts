// data path
//
// Steps 3 and 4 of the life of a write: a part finds the leader of its group, and stays until it
// is answered, whatever happens to leaders and connections in between.
//
//   part → number → leader known? → link open? → session attached? → frame → reply
//             ↑         no: probe the replicas      no: attach         │
//             └────── same number, whatever was refused or lost ←──────┘
//
// A part that was sent stays with its group. Every end of a connection, every redirect and every
// answer that does not settle it puts it back into `unsent`, under the same number, so that a
// change applies once however often it travels. There is no limit to retries but the operation's
// own: a cluster without a leader is a disk that pauses.
//
// The 300 ms rule: a paused leader does not close its connections. When the oldest part of a group
// is unanswered for 300 ms, the other replicas are asked who leads. As long as they name the silent
// one it keeps its parts; when another one answers as leader, all of them go there. A simpler design that resent to the next replica at each time-out sent every payload to everybody
// on a cluster that was merely busy.
import { assert } from "../base/assert.ts";
import type { PgId } from "../base/ids.ts";
import { Status } from "../base/status.ts";
import { decodeReadReply, decodeWriteReply, ReadReply, WriteReply } from "../../proto/gen/hot.ts";
import { type ClusterMap, holdersOf, type ReplicaInfo } from "../cluster/cluster.ts";
import { Stage, type StageTrace, TraceColumn, TraceKind, TraceSide } from "../metrics/metrics.ts";
import { Timer, type World } from "../reactor/world.ts";
import type { Connection, Frame } from "../rpc/rpc.ts";
import { LEADER } from "./image-op.ts";
import { LeaderCounts, Leaders, type LeadersHost } from "./leaders.ts";
import { type Link, type LinkOwner, LinkTable } from "./link.ts";
import {
  endsOpen,
  isRefusal,
  type Part,
  PartList,
  type PartOwner,
  PartPool,
  type PartReplies,
  PartVerb,
  REFUSALS_MAX,
} from "./part.ts";
import { RequestWriter } from "./requests.ts";
import { Route } from "./route.ts";
import type { ImageSession } from "./session.ts";

/** The oldest request of a group unanswered for this long: ask the others who leads. */
const SILENCE_US = 300_000;
/** Unanswered for this long by a leader that lives: sent once more. */
const RESEND_US = 5_000_000;
/** A link that has been asked, and over which nothing came for this long, is made anew. */
const GIVE_UP_US = 3_000_000;
const SCAN_US = 50_000;
const TICK_US = 10_000;
const REFUSED_PAUSE_US = 100_000;
const STALE_PAUSE_US = 50_000;
const BUSY_PAUSE_US = 2_000;
const BUSY_PAUSE_US_MAX = 20_000;
/** A named replica that can not be reached, or not be asked, is given up after this long. */
const REPLICA_US_MAX = 3_000_000;

/** What the router needs of the client. */
export interface RouterHost {
  readonly world: World;
  readonly map: ClusterMap;
  /** Start the connection of a new link. */
  dial(link: Link): void;
  /** Present the session's grant on a link; `onAttached` or `onAttachFailed` follows. */
  attach(link: Link, session: ImageSession): void;
  /** Somebody says that our map is old: fetch the newest one. */
  wantMap(): void;
  /** An osd tells something unasked: what our map lacks. */
  onLinkMessage(connection: Connection, frame: Frame): void;
  /** Parts came back to the pool. */
  onPartsFree(): void;
}

/** Counters, for metrics and tests. */
export class RouterCounts extends LeaderCounts {
  sends = 0;
  resends = 0;
  mapsWanted = 0;
  damaged = 0;
}

/** Routes parts to leaders. One per client. */
export class Router implements LinkOwner, PartReplies, LeadersHost {
  readonly pool: PartPool = new PartPool();
  readonly counts: RouterCounts = new RouterCounts();
  private readonly host: RouterHost;
  readonly world: World;
  private readonly routes = new Map<PgId, Route>();
  private readonly links: LinkTable;
  private readonly active: Route[] = [];
  private readonly leaders: Leaders;
  /** Parts that are tried again later, and parts with a connection for a named replica. */
  private readonly delayed: PartList = new PartList();
  private readonly direct: PartList = new PartList();
  private readonly timer: RouterTimer;
  /** How often the map has moved. */
  private mapMoves = 0;
  /** Operations with a time limit that are open. */
  private limitedOps = 0;
  private readonly requests: RequestWriter;
  private readonly trace: StageTrace;
  private readonly writeReply: WriteReply = new WriteReply();
  private readonly readReply: ReadReply = new ReadReply();

  constructor(host: RouterHost) {
    this.host = host;
    this.world = host.world;
    this.trace = host.world.trace;
    this.timer = new RouterTimer(this);
    this.links = new LinkTable(this, host.map);
    this.requests = new RequestWriter(host.world, host.map);
    this.leaders = new Leaders(this, host.map, this.links, this.requests);
  }

  /** All connections to osds are encrypted. cold: for reports */
  get isEncrypted(): boolean {
    return this.links.isEncrypted;
  }

  /* ---------------------------------------------------------------- entering */

  /** Begin with a part, or go on with one that `onPartStale` or `onPartDone` gave back. */
  enter(part: Part): void {
    assert(part.list === null, "Router.enter: the part is in a list");
    if (part.startedUs === 0) part.startedUs = this.world.clock.turnUs;
    const session = part.session;
    assert(session !== null, "Router.enter: the part has a session");
    if (part.isChange && part.number < 0) {
      const numbers = session.numbersOf(part.pg);
      if (!numbers.take(part)) {
        numbers.waiting.push(part);
        return;
      }
    }
    const route = this.routeOf(part.pg);
    part.route = route;
    part.replies = this;
    if (part.replica !== LEADER) {
      this.sendDirect(part);
      return;
    }
    this.queue(part, route);
    this.pump(route);
  }

  /** The part is over: give its number back and tell its owner. */
  finish(part: Part, status: Status): void {
    if (part.trace !== 0) this.traceDone(part, status);
    const numbers = part.numbers;
    if (part.number >= 0 && numbers !== null) {
      if (status === Status.Ok) numbers.onTold(part.below);
      numbers.end(part, endsOpen(part, status));
      while (numbers.hasRoom) {
        const waiting = numbers.waiting.shift();
        if (waiting === null) break;
        this.enter(waiting);
      }
    }
    part.owner!.onPartDone(part, status);
  }

  release(part: Part): void {
    this.pool.release(part);
    this.host.onPartsFree();
  }

  /** An operation with a time limit begins (1) or ends (-1). */
  countLimited(change: number): void {
    this.limitedOps += change;
    if (change > 0) this.armTimer();
  }

  /** End every part of an image that is with the router. */
  abandon(owner: PartOwner, status: Status): void {
    for (const part of this.pool.all) {
      if (part.owner === owner) this.abandonPart(part, status);
    }
  }

  private abandonPart(part: Part, status: Status): void {
    if (part.rpcRequestId !== 0) this.cancelSent(part);
    else if (part.list !== null) part.list.remove(part);
    else return;
    this.finish(part, status);
  }

  private queue(part: Part, route: Route): void {
    part.sentUs = this.world.clock.turnUs;
    route.unsent.push(part);
    if (route.activeAt < 0) {
      route.activeAt = this.active.length;
      this.active.push(route);
      this.armTimer();
    }
  }

  /** Enter a part, or go on with it, after a pause. */
  delay(part: Part, pauseUs: number): void {
    part.delayedUntilUs = this.world.clock.turnUs + pauseUs;
    this.delayed.push(part);
    this.armTimer();
  }

  private routeOf(pg: PgId): Route {
    return this.routes.get(pg) ?? this.newRoute(pg);
  }

  // cold: once per group
  private newRoute(pg: PgId): Route {
    const route = new Route(pg);
    route.info = this.host.map.pgs.get(pg) ?? null;
    this.routes.set(pg, route);
    this.leaders.guess(route);
    return route;
  }

  /* ---------------------------------------------------------------- sending */

  /** Send what can be sent of a route's unsent parts, oldest first. */
  pump(route: Route): void {
    for (let part = route.unsent.head; part !== null; part = route.unsent.head) {
      const leader = route.leader;
      const link = route.link;
      if (leader === null) {
        this.leaders.startProbing(route);
        return;
      }
      if (link === null || link.isDown) {
        this.leaders.lose(route, false);
        return;
      }
      if (!this.isReady(link, part.session!) || !this.send(part, link, leader)) {
        link.addWaiting(route);
        return;
      }
      route.unsent.remove(part);
      route.sent.push(part);
    }
  }

  /** True when requests of this session may go out on the link; otherwise makes it so. */
  isReady(link: Link, session: ImageSession): boolean {
    if (!link.isOpen) return false;
    if (session.isAttached(link.index, link.generation)) return true;
    if (!link.attaching.has(session.id)) {
      link.attaching.add(session.id);
      this.host.attach(link, session);
    }
    return false;
  }

  /** Put a part on the wire. False: no space, `onLinkWritable` follows. */
  private send(part: Part, link: Link, replica: ReplicaInfo): boolean {
    if (!this.requests.part(part, link.connection!, replica.replicaId)) return false;
    part.link = link;
    part.mapMoves = this.mapMoves;
    part.sentUs = this.world.clock.turnUs;
    part.sends++;
    part.sendsOpen++;
    this.counts.sends++;
    if (part.sends > 1) this.counts.resends++;
    if (this.trace.sample !== 0 && part.trace === 0) this.traceSent(part);
    return true;
  }

  // cold: while a trace is taken.
  private traceSent(part: Part): void {
    const { trace } = this;
    const { pg } = part;
    const session = part.session!.id;
    const number = part.isChange ? part.number : part.rpcRequestId;
    const { submittedUs } = part.op!;
    if (part.verb === PartVerb.States || submittedUs === 0) return;
    if (!trace.isSampled(session, pg, number)) return;
    const kind = part.isChange ? TraceKind.Write : TraceKind.Read;
    part.trace = trace.open(TraceSide.Client, kind, session, pg, number);
    trace.stampAt(part.trace, Stage.Submitted, submittedUs);
    trace.stamp(part.trace, Stage.Sent);
  }

  // cold: while a trace is taken.
  private traceDone(part: Part, status: Status): void {
    this.trace.stamp(part.trace, Stage.Done);
    this.trace.note(part.trace, TraceColumn.Status, status);
    part.trace = 0;
  }

  /** A read of a named replica's own store (verification): no retries but for time. */
  private sendDirect(part: Part): void {
    const { info } = part.route!;
    const replica = info === null ? undefined : holdersOf(info)[part.replica];
    if (replica === undefined) {
      this.finish(part, Status.Invalid);
      return;
    }
    const link = this.links.to(replica.osd, replica.shard);
    if (link !== null && this.isReady(link, part.session!) && this.send(part, link, replica)) {
      this.direct.push(part);
      return;
    }
    if (this.isGivenUp(part)) this.finish(part, Status.Unreachable);
    else this.delay(part, TICK_US);
  }

  /** Whether a named replica had its time: a store that was replaced answers for it in vain. */
  private isGivenUp(part: Part): boolean {
    return this.world.clock.turnUs - part.startedUs > REPLICA_US_MAX;
  }

  /* ---------------------------------------------------------------- replies */

  onPartReply(part: Part, frame: Frame): void {
    const link = part.link;
    if (part.trace !== 0) this.trace.stamp(part.trace, Stage.Answered);
    this.takeBack(part);
    const view = this.world.arena.view;
    if (part.isChange) {
      const reply = this.writeReply;
      if (!decodeWriteReply(reply, view, frame.headerOffset, frame.headerSize)) {
        this.onMalformed(part, link);
        return;
      }
      this.onStatus(part, link, reply.status, reply.leaderOsd, reply.leaderShard);
      return;
    }
    const reply = this.readReply;
    if (!decodeReadReply(reply, view, frame.headerOffset, frame.headerSize)) {
      this.onMalformed(part, link);
      return;
    }
    let status: Status = reply.status;
    if (status === Status.Ok) status = part.owner!.onPartData(part, reply, frame);
    this.onStatus(part, link, status, reply.leaderOsd, reply.leaderShard);
  }

  onPartFail(part: Part, status: Status): void {
    const link = part.link;
    // `cancelSent` goes on by itself.
    if (status === Status.Cancelled) return;
    this.takeBack(part);
    this.onStatus(part, link, status, 0, 0);
  }

  takeFromOthers(route: Route, link: Link): void {
    let part = route.sent.head;
    while (part !== null) {
      const next: Part | null = part.next;
      if (part.link !== link) {
        this.cancelSent(part);
        this.queue(part, route);
      }
      part = next;
    }
  }

  wantMap(): void {
    this.counts.mapsWanted++;
    this.host.wantMap();
  }

  /** Take a part back from its connection, which drops the reply when it comes. */
  private cancelSent(part: Part): void {
    const link = part.link;
    assert(link?.connection != null, "Router.cancelSent: the part is with a link");
    link.connection.cancel(part);
    this.takeBack(part);
  }

  private takeBack(part: Part): void {
    part.link = null;
    assert(part.list !== null, "Router.takeBack: the part is in a list");
    part.list.remove(part);
  }

  private onMalformed(part: Part, link: Link | null): void {
    this.world.logger.error("malformed reply of an osd", { osd: link?.osd ?? -1 });
    this.counts.damaged++;
    this.retryRefused(part, Status.Damaged);
  }

  private onStatus(
    part: Part,
    link: Link | null,
    status: Status,
    leaderOsd: number,
    leaderShard: number,
  ): void {
    const route = part.route!;
    if (isRefusal(status)) part.sendsOpen--;
    if (status === Status.Ok) {
      if (part.replica === LEADER && link !== null) this.leaders.onServed(route, link);
      this.finish(part, status);
      return;
    }
    if (part.replica !== LEADER && (!isPassing(status) || this.isGivenUp(part))) {
      this.finish(part, status);
      return;
    }
    switch (status) {
      case Status.NotLeader:
        this.queue(part, route);
        this.leaders.onRedirect(route, link, leaderOsd, leaderShard);
        return;
      case Status.MapStale:
      case Status.WrongReceiver:
        if (part.mapMoves !== this.mapMoves) {
          this.enter(part);
          return;
        }
        this.wantMap();
        this.delay(part, STALE_PAUSE_US);
        return;
      case Status.Busy:
        part.busies++;
        this.delay(part, Math.min(BUSY_PAUSE_US * part.busies, BUSY_PAUSE_US_MAX));
        return;
      case Status.Unknown:
      case Status.DeviceFailed:
      case Status.Unreachable:
      case Status.TimedOut:
      case Status.Stopping:
        this.onLost(part, route, link);
        return;
      case Status.Damaged:
        this.retryRefused(part, status);
        return;
      case Status.Denied:
        if (link !== null) part.session!.clearAttached(link.index);
        this.retryRefused(part, status);
        return;
      case Status.Fenced:
      case Status.SnapStale:
      case Status.SessionExpired:
        part.owner!.onPartStale(part, status);
        return;
      default:
        this.finish(part, status);
    }
  }

  private retryRefused(part: Part, status: Status): void {
    part.refusals++;
    if (part.refusals > REFUSALS_MAX) this.finish(part, status);
    else this.delay(part, REFUSED_PAUSE_US);
  }

  private onLost(part: Part, route: Route, link: Link | null): void {
    if (part.replica !== LEADER) {
      this.delay(part, TICK_US);
      return;
    }
    this.queue(part, route);
    if (route.link === link || route.leader === null) this.leaders.lose(route, false);
    else this.pump(route);
  }

  /* ---------------------------------------------------------------- links and maps */

  onLinkOpen(link: Link): void {
    this.onLinkReady(link);
  }

  onLinkWritable(link: Link): void {
    this.pumpWaiting(link);
  }

  /** The osd knows the session on this connection. */
  onAttached(link: Link, session: ImageSession, generation: number, grantVersion: number): void {
    link.attaching.delete(session.id);
    session.setAttached(link.index, generation, grantVersion);
    this.onLinkReady(link);
  }

  /** It could not be asked, or does not accept the grant (`isRefused`). */
  onAttachFailed(link: Link, session: ImageSession, isRefused: boolean): void {
    link.attaching.delete(session.id);
    // Parts that wait for it are tried again by the timer; a refused grant ends them.
    if (isRefused) this.endRefused(link, session);
    else this.armTimer();
  }

  private endRefused(link: Link, session: ImageSession): void {
    for (const part of this.pool.all) {
      if (part.session !== session || part.op === null || part.list === null) continue;
      if (part.route?.link === link && part.list === part.route.unsent) {
        part.route.unsent.remove(part);
        part.owner!.onPartStale(part, Status.Denied);
      }
    }
    this.pumpWaiting(link);
  }

  private onLinkReady(link: Link): void {
    this.pumpWaiting(link);
    if (this.leaders.probing === 0) return;
    for (const route of this.active) if (route.isProbing) this.leaders.probe(route);
  }

  private pumpWaiting(link: Link): void {
    let route = link.takeWaiting();
    while (route !== null) {
      const next: Route | null = route.linkNext;
      route.linkNext = null;
      this.pump(route);
      route = next;
    }
  }

  onLinkClosed(link: Link): void {
    link.takeWaiting();
    for (const route of this.active) if (route.link === link) this.leaders.lose(route, false);
  }

  onLinkNew(link: Link): void {
    this.host.dial(link);
  }

  onLinkMessage(connection: Connection, frame: Frame): void {
    this.host.onLinkMessage(connection, frame);
  }

  /** The cluster map has changed: drop links to other places, follow moved replicas. */
  onMapChanged(): void {
    this.mapMoves++;
    this.links.followMap();
    for (const route of this.routes.values()) this.leaders.followMap(route);
    this.retryDelayed(Number.POSITIVE_INFINITY);
  }

  /** End all connections. */
  stop(): void {
    this.world.timers.disarm(this.timer);
    this.links.closeAll();
  }

  /* ---------------------------------------------------------------- time */

  armTimer(): void {
    if (this.timer.timerDueUs >= 0 && this.timer.isFast) return;
    const isFast = this.leaders.probing > 0 || this.delayed.count > 0;
    if (this.timer.timerDueUs >= 0 && !isFast) return;
    this.timer.isFast = isFast;
    this.world.timers.arm(this.timer, isFast ? TICK_US : SCAN_US);
  }

  onTimer(): void {
    const nowUs = this.world.clock.turnUs;
    if (this.limitedOps > 0) this.endOverdue(nowUs);
    this.retryDelayed(nowUs);
    for (let at = this.active.length - 1; at >= 0; at--) {
      const route = this.active[at]!;
      if (route.isIdle) this.deactivate(route);
      else this.look(route, nowUs);
    }
    if (this.active.length > 0 || this.delayed.count > 0 || this.limitedOps > 0) this.armTimer();
  }

  private deactivate(route: Route): void {
    const last = this.active.pop()!;
    if (last !== route) {
      this.active[route.activeAt] = last;
      last.activeAt = route.activeAt;
    }
    route.activeAt = -1;
    this.leaders.rest(route);
  }

  private look(route: Route, nowUs: number): void {
    const asked = route.sent.head;
    const connection = asked?.link?.connection;
    if (connection != null && nowUs - asked!.sentUs > GIVE_UP_US) {
      if (connection.silentUs > GIVE_UP_US) connection.renew("the osd is silent");
    }
    if (route.isProbing) {
      if (nowUs >= route.probeDueUs) this.leaders.probe(route);
      return;
    }
    if (route.leader === null) {
      this.leaders.startProbing(route);
      return;
    }
    const oldest = route.sent.head ?? route.unsent.head;
    const waitedUs = oldest === null ? 0 : nowUs - oldest.sentUs;
    if (waitedUs > SILENCE_US && nowUs >= route.quietUntilUs) {
      if (waitedUs > RESEND_US) this.resendOldest(route, nowUs);
      this.leaders.lose(route, route.link?.isOpen === true);
      return;
    }
    // A safety net for whoever waits for a link that has nothing to tell any more.
    if (route.unsent.count > 0) this.pump(route);
  }

  /**
   * Answers do not get lost on a connection that lives. But an image must not hang for ever on a
   * leader that forgot one: what is very old is sent again, to whoever leads then.
   */
  private resendOldest(route: Route, nowUs: number): void {
    for (let part = route.sent.head; part !== null; part = route.sent.head) {
      if (nowUs - part.sentUs <= RESEND_US) return;
      this.cancelSent(part);
      this.queue(part, route);
    }
  }

  private retryDelayed(nowUs: number): void {
    // A part that can not be sent yet goes back to the end of this list: look at each once.
    let left = this.delayed.count;
    let part = this.delayed.head;
    while (part !== null && left > 0) {
      left -= 1;
      const next: Part | null = part.next;
      if (part.delayedUntilUs <= nowUs) {
        this.delayed.remove(part);
        this.enter(part);
      }
      part = next !== null && next.list === this.delayed ? next : null;
    }
  }

  private endOverdue(nowUs: number): void {
    for (const part of this.pool.all) {
      const op = part.op;
      if (op !== null && op.dueUs > 0 && op.dueUs <= nowUs) {
        this.abandonPart(part, Status.TimedOut);
      }
    }
  }
}

/** Statuses that pass by themselves also for a named replica. */
function isPassing(status: Status): boolean {
  return (
    status === Status.Busy ||
    status === Status.MapStale ||
    status === Status.WrongReceiver ||
    status === Status.Damaged
  );
}

class RouterTimer extends Timer {
  isFast = false;
  private readonly router: Router;

  constructor(router: Router) {
    super();
    this.router = router;
  }

  override onTimer(): void {
    this.router.onTimer();
  }
}
