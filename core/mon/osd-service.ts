import { FastblockError } from "../base/errors.ts";
import type { FormatState } from "../base/formats.ts";
import type { Logger } from "../base/logger.ts";
import { formatSize } from "../base/size-text.ts";
import {
  poolOfPg,
  type Epoch,
  type LogIndex,
  type OsdId,
  type PgId,
  type ReplicaId,
  type Term,
} from "../base/ids.ts";
import {
  compareMapIdentity,
  firstReplicaOf,
  osdWeightOf,
  replicaOf,
  type MapChange,
  type OsdAddress,
  type OsdInfo,
  type PgConfiguration,
  type PgInfo,
} from "../cluster/cluster.ts";
import {
  PgRole,
  type OsdRegisterRequest,
  type OsdReportRequest,
  type OsdUsage,
  type PgReport,
  type ScrubReport,
} from "../../proto/gen/control_pb.ts";
import { type SeenReplica, withAdopted } from "./adopted-replicas.ts";
import type { Catalogue, Change } from "./catalogue.ts";
import type { OldCopy } from "./old-copy.ts";
import type { OsdRecord } from "./records.ts";
import { rememberStart } from "./remembered-starts.ts";
import { LayerSpace } from "./usage.ts";
import { type Told, withRenewals } from "./replica-change.ts";

/** How long after its last report an osd counts as down. */
const OSD_LEASE_US = 2_500_000;
export const REPORT_INTERVAL_MS = 1000;
/** How often leases are looked at between ticks, on the occasion of a report. */
const CHECK_US = 250_000;
/** A peer's complaint about an osd counts this long. */
const COMPLAINT_US = 3_000_000;
/** Complaints from this many hosts mark an osd down before its lease ends. */
const COMPLAINING_HOSTS = 2;

/** What the monitor heard of an osd since it runs. */
export interface OsdLive {
  readonly id: OsdId;
  boot: bigint;
  /** The first map that says where it is since then. */
  readonly registered: { readonly generation: number; readonly epoch: number };
  lastReportUs: number;
  /** The newest order to report at once that its reports answer. */
  asked: number;
  stopping: boolean;
  /** The map that it has. */
  generation: number;
  epoch: number;
  usage: OsdUsage | undefined;
  /** Counters and gauges for `/metrics`, as last reported. */
  counters: OsdReportRequest["counters"];
  /** Blocks that it refuses to show. */
  refused: OsdReportRequest["refused"];
  readonly pgs: Map<PgId, PgReport>;
  /** When it told each of them: one in which nothing is news is not told again. */
  readonly toldUs: Map<PgId, number>;
  /** When each peer that can not reach it said so last. */
  readonly complaints: Map<OsdId, number>;
}

export interface OsdServiceOptions {
  readonly catalogue: Catalogue;
  readonly copies: OldCopy;
  readonly logger: Logger;
  readonly nowUs: () => number;
  readonly wallMs: () => number;
  /** How long an osd may be down before it is taken out. */
  readonly outAfterUs: number;
  /** Something changed that `flush` turns into an epoch. */
  readonly onDirty: () => void;
  /** A leader says how the scrub stands that was ordered last. */
  readonly onScrub: (pg: PgId, report: ScrubReport) => void;
}

/**
 * Registration, liveness and reports of osds, and what follows from them for the map.
 *
 * Registrations are durable before they are answered. Reports only change memory; `flush` turns
 * everything that they changed into one epoch. An osd is up while its lease runs and not enough of
 * its peers complain; after `outAfterUs` of being down it goes out. Nothing here moves data.
 */
export class OsdService {
  readonly live: Map<OsdId, OsdLive> = new Map();
  /** What the layers of images take, on all osds together. */
  readonly space: LayerSpace = new LayerSpace();
  private readonly options: OsdServiceOptions;
  private readonly catalogue: Catalogue;
  private readonly dirtyPgs = new Set<PgId>();
  private readonly downSinceUs = new Map<OsdId, number>();
  private startedUs: number;
  private checkedUs = 0;

  constructor(options: OsdServiceOptions) {
    this.options = options;
    this.catalogue = options.catalogue;
    this.startedUs = options.nowUs();
  }

  /** Osds are what the map says, until they had the time to register anew. */
  believeMap(): void {
    this.startedUs = this.options.nowUs();
  }

  /**
   * Look at the starts of a store. Of an osd that is registered they are remembered; of one that is
   * not, nothing is: it may be refused by others yet. Throws FB2103, FB4004, FB1001, FB1015.
   */
  async noteStarts(request: OsdRegisterRequest): Promise<void> {
    checkRegistration(request);
    const id = request.osd as OsdId;
    await this.options.copies.hear(id, request);
    if (this.catalogue.held !== undefined) throw this.catalogue.held;
    this.checkIdentity(request, this.catalogue.map.osds.get(id));
    const record = this.catalogue.osds.get(id);
    rememberStart(record, request, this.options.logger);
    if (record === undefined || this.live.get(id)?.boot !== request.boot) return;
    await this.catalogue.change((change) => {
      const present = this.catalogue.osds.get(id) ?? record;
      change.putOsd({ ...present, starts: rememberStart(present, request, this.options.logger) });
    });
  }

  /** Take an osd in, which announced `formats`. Throws FB2103, FB4004, FB1001. */
  async register(request: OsdRegisterRequest, formats: Readonly<FormatState>): Promise<void> {
    checkRegistration(request);
    const id = request.osd as OsdId;
    await this.options.copies.hear(id, request);
    await this.catalogue.change((change) => this.stageOsd(change, request, formats));
    const now = this.options.nowUs();
    const old = this.live.get(id);
    for (const pg of old?.pgs.keys() ?? []) this.dirtyPgs.add(pg);
    this.noteReplaced(id, request.storeUuid);
    this.live.set(id, {
      id,
      boot: request.boot,
      registered: { generation: this.catalogue.map.generation, epoch: this.catalogue.map.epoch },
      lastReportUs: now,
      asked: 0,
      stopping: false,
      generation: request.generation,
      epoch: request.epoch,
      usage: undefined,
      counters: [],
      refused: [],
      pgs: new Map(),
      toldUs: new Map(),
      complaints: new Map(),
    });
    this.options.logger.info("osd registered", {
      osd: id,
      storeUuid: request.storeUuid,
      incarnation: Number(request.incarnation),
      shards: request.addresses.length,
    });
  }

  /** Take a report. False: register first. */
  report(request: OsdReportRequest): boolean {
    const id = request.osd as OsdId;
    const live = this.live.get(id);
    if (live === undefined || live.boot !== request.boot) return false;
    const now = this.options.nowUs();
    live.lastReportUs = now;
    if (request.asked > 0n) live.asked = Number(request.asked);
    live.generation = request.generation;
    live.epoch = request.epoch;
    if (request.usage !== undefined) {
      live.usage = request.usage;
      live.counters = request.counters;
      live.refused = request.refused;
    }
    if (request.stopping) live.stopping = true;
    if (request.complete) {
      for (const pg of live.pgs.keys()) this.dirtyPgs.add(pg);
      live.pgs.clear();
      live.toldUs.clear();
      this.space.forget(id);
    }
    for (const { shard, layer, usedBytes } of request.layers) {
      this.space.note(id, { shard, layer: Number(layer), bytes: Number(usedBytes) });
    }
    for (const report of request.pgs) this.notePg(live, report);
    this.noteComplaints(live, request.unreachable);
    this.options.copies.note(request);
    if (this.dirtyPgs.size > 0 || request.unreachable.length > 0 || request.stopping) {
      this.options.onDirty();
    } else if (now - this.checkedUs >= CHECK_US) {
      this.checkedUs = now;
      if (this.osdChanges().length > 0) this.options.onDirty();
    }
    return true;
  }

  /** Once per tick, and after `onDirty`: turn what changed into the next epoch. */
  async flush(): Promise<void> {
    if (this.osdChanges().length === 0 && this.dirtyPgs.size === 0) return;
    const dirty = [...this.dirtyPgs];
    this.dirtyPgs.clear();
    try {
      await this.catalogue.change((change) => {
        const osds = this.osdChanges();
        for (const osd of osds) this.noteAutoOut(change, osd);
        const pgs: PgInfo[] = [];
        for (const id of dirty) {
          const row = this.pgChange(change, id);
          if (row !== undefined) pgs.push(row);
        }
        const mapChange: MapChange = { osds, pgs };
        if (osds.length + pgs.length > 0) change.changeMap(mapChange);
      });
    } catch (error) {
      for (const id of dirty) this.dirtyPgs.add(id);
      throw error;
    }
  }

  /** People take an osd in or out. `out` stops new placement only. Throws FB2101. */
  async setIn(id: OsdId, isIn: boolean, dryRun: boolean): Promise<OsdInfo> {
    return this.catalogue.change((change) => {
      const osd = this.catalogue.osdOf(id);
      const record = this.catalogue.osds.get(id);
      if (record !== undefined) change.putOsd({ ...record, autoOut: false });
      const next = { ...osd, in: isIn };
      if (osd.in !== isIn) change.changeMap({ osds: [next] });
      return next;
    }, dryRun);
  }

  /** The newest report of each replica of a group, by replica id. */
  reportsOf(pg: PgInfo): Map<ReplicaId, PgReport> {
    const reports = new Map<ReplicaId, PgReport>();
    for (const replica of pg.replicas) {
      const report = this.live.get(replica.osd)?.pgs.get(pg.id);
      if (report !== undefined && report.replica === replica.replicaId) {
        reports.set(replica.replicaId, report);
      }
    }
    return reports;
  }

  /** Every replica of a group that an osd has, known to the map or not. */
  private seenOf(id: PgId): SeenReplica[] {
    const seen: SeenReplica[] = [];
    for (const live of this.live.values()) {
      const report = live.pgs.get(id);
      const osd = this.catalogue.map.osds.get(live.id);
      if (report !== undefined && osd !== undefined) seen.push({ osd, report });
    }
    return seen;
  }

  private stageOsd(
    change: Change,
    request: OsdRegisterRequest,
    formats: Readonly<FormatState>,
  ): void {
    const id = request.osd as OsdId;
    const known = this.catalogue.map.osds.get(id);
    const record = this.catalogue.osds.get(id);
    this.checkIdentity(request, known);
    const isSameStore = known?.storeUuid === request.storeUuid;
    const capacityBytes = Number(request.capacityBytes);
    const next: OsdRecord = {
      id,
      capacityBytes,
      incarnation: Number(request.incarnation),
      starts: rememberStart(record, request, this.options.logger),
      version: request.version,
      backend: request.backend,
      formatMax: formats.range.max,
      autoOut: false,
      firstSeenMs: record?.firstSeenMs ?? this.options.wallMs(),
    };
    change.putOsd(next);
    const row: OsdInfo = {
      id,
      storeUuid: request.storeUuid,
      host: request.host,
      up: true,
      in: known === undefined || known.in || record?.autoOut === true,
      weight:
        known === undefined || !isSameStore || record?.capacityBytes !== capacityBytes
          ? osdWeightOf(capacityBytes)
          : known.weight,
      addresses: request.addresses.map(({ host, port }) => ({ host, port })),
      changeEpoch: 0 as Epoch,
    };
    const isNew = known === undefined || !sameOsd(known, row);
    // A restored catalogue learns of the cluster's format from the stores.
    const isAhead = formats.wanted > this.catalogue.map.format;
    if (!isNew && !isAhead) return;
    change.changeMap({
      osds: isNew ? [row] : [],
      ...(isAhead ? { format: formats.wanted } : {}),
    });
  }

  private checkIdentity(request: OsdRegisterRequest, known: OsdInfo | undefined): void {
    for (const other of this.catalogue.map.osds.values()) {
      if (other.id === request.osd || other.storeUuid !== request.storeUuid) continue;
      throw new FastblockError(
        "FB2103",
        `registering osd ${String(request.osd)}: its store ${request.storeUuid} is known as osd ${String(other.id)}`,
        { hint: `start it as osd ${String(other.id)}, or format the device` },
      );
    }
    if (known === undefined || known.storeUuid === request.storeUuid || !known.up) return;
    throw new FastblockError(
      "FB2103",
      `registering osd ${String(request.osd)}: another store, ${known.storeUuid}, is up under this id`,
    );
  }

  private notePg(live: OsdLive, report: PgReport): void {
    const id = report.pg as PgId;
    // Another replica of the group may have come in its place before the word of its end.
    if (report.role !== PgRole.REMOVED) {
      live.pgs.set(id, report);
      live.toldUs.set(id, live.lastReportUs);
    } else if (live.pgs.get(id)?.replica === report.replica) {
      live.pgs.delete(id);
      live.toldUs.delete(id);
    }
    this.dirtyPgs.add(id);
    if (report.scrub !== undefined) this.options.onScrub(id, report.scrub);
  }

  /** Groups with replicas on an earlier store of the osd may put them on its new one. */
  private noteReplaced(id: OsdId, storeUuid: string): void {
    for (const pg of this.catalogue.map.pgs.values()) {
      if (pg.replicas.some((one) => one.osd === id && one.storeUuid !== storeUuid)) {
        this.dirtyPgs.add(pg.id);
      }
    }
  }

  /** What an osd says of its peers stands in the place of what it said before. */
  private noteComplaints(from: OsdLive, unreachable: readonly number[]): void {
    for (const peer of this.live.values()) {
      // Who has an older map looks for the peer where it no longer is.
      const isInformed = compareMapIdentity(from, peer.registered) >= 0;
      if (isInformed && unreachable.includes(peer.id)) {
        peer.complaints.set(from.id, from.lastReportUs);
      } else {
        peer.complaints.delete(from.id);
      }
    }
  }

  /** Rows of osds whose condition differs from the map. Also starts and ends the out timers. */
  private osdChanges(): OsdInfo[] {
    const now = this.options.nowUs();
    const changes: OsdInfo[] = [];
    for (const osd of this.catalogue.map.osds.values()) {
      const isUp = this.isUp(osd, now);
      if (isUp) this.downSinceUs.delete(osd.id);
      else if (!this.downSinceUs.has(osd.id)) this.downSinceUs.set(osd.id, now);
      const downUs = isUp ? 0 : now - this.downSinceUs.get(osd.id)!;
      const isOut = osd.in && downUs >= this.options.outAfterUs;
      if (isUp !== osd.up || isOut) changes.push({ ...osd, up: isUp, in: osd.in && !isOut });
    }
    return changes;
  }

  private isUp(osd: OsdInfo, now: number): boolean {
    const live = this.live.get(osd.id);
    // A monitor that has just started has heard of nobody yet: believe the map for one lease.
    if (live === undefined) return osd.up && now - this.startedUs < OSD_LEASE_US * 2;
    if (live.stopping || now - live.lastReportUs >= OSD_LEASE_US) return false;
    return !this.isShunned(osd, live, now);
  }

  /** Enough of its peers, on different hosts, miss its heartbeats. */
  private isShunned(osd: OsdInfo, live: OsdLive, now: number): boolean {
    const hosts = new Set<string>();
    const osds = new Set<OsdId>();
    for (const [id, atUs] of live.complaints) {
      if (now - atUs >= COMPLAINT_US) {
        live.complaints.delete(id);
        continue;
      }
      const peer = this.catalogue.map.osds.get(id);
      if (peer === undefined || !peer.up) continue;
      osds.add(id);
      hosts.add(peer.host);
    }
    if (hosts.size >= COMPLAINING_HOSTS) return true;
    // With fewer hosts to ask, at least two osds must agree, and be all but this one.
    let peers = 0;
    for (const peer of this.catalogue.map.osds.values()) {
      if (peer.up && peer.id !== osd.id) peers++;
    }
    return osds.size >= 2 && osds.size === peers && !this.hasManyHosts(osd);
  }

  private hasManyHosts(osd: OsdInfo): boolean {
    const hosts = new Set<string>();
    for (const peer of this.catalogue.map.osds.values()) {
      if (peer.up && peer.host !== osd.host) hosts.add(peer.host);
    }
    return hosts.size >= COMPLAINING_HOSTS;
  }

  private noteAutoOut(change: Change, osd: OsdInfo): void {
    const before = this.catalogue.map.osds.get(osd.id);
    const record = this.catalogue.osds.get(osd.id);
    if (before?.up !== osd.up) {
      this.options.logger.warn(osd.up ? "osd is up" : "osd is down", { osd: osd.id });
    }
    if (before?.in !== true || osd.in || record === undefined) return;
    change.putOsd({ ...record, autoOut: true });
    this.options.logger.warn("osd is out after a long absence", { osd: osd.id });
  }

  /** The row of a group after its leader's newest report; undefined when nothing changes. */
  private pgChange(change: Change, id: PgId): PgInfo | undefined {
    const known = this.catalogue.map.pgs.get(id);
    if (known === undefined) return undefined;
    const adopted = this.adopted(known);
    const next = this.ledOf(adopted ?? known);
    const { logger } = this.options;
    const renewed =
      adopted !== undefined && next.told !== undefined
        ? withRenewals(next.pg, next.told, this.catalogue, change, logger)
        : next.pg;
    return samePg(known, renewed) ? undefined : renewed;
  }

  /** The row with what its leader told last; without one nothing is renewed. */
  private ledOf(pg: PgInfo): {
    readonly pg: PgInfo;
    readonly told: Told | undefined;
  } {
    let best: PgReport | undefined;
    const reports = this.reportsOf(pg);
    for (const report of reports.values()) {
      if (report.role !== PgRole.LEADER || !report.established) continue;
      if (best === undefined || report.term > best.term) best = report;
    }
    if (best === undefined || Number(best.term) < pg.leaderTerm) {
      return { pg, told: undefined };
    }
    const configuration = newerConfiguration(pg, best);
    // An osd that died before its replica was durable makes it when it is back: the group is
    // created when every replica was seen, not when a majority of them serves.
    const isMissing = pg.replicas.some((one) => !one.leaving && !reports.has(one.replicaId));
    const next: PgInfo = {
      ...pg,
      creating: pg.creating && isMissing,
      leader: best.replica as ReplicaId,
      leaderTerm: Number(best.term) as Term,
      configuration,
      replicas: withoutLeft(pg, configuration),
    };
    // Behind a restore the map may name who left: the leader has to say who is there.
    const mayRenew =
      firstReplicaOf(this.catalogue.map.generation) === 1 || best.configuration !== undefined;
    return { pg: next, told: mayRenew ? { reports, led: best } : undefined };
  }

  /** The row as its members are, where a restored catalogue has forgotten it; undefined: not known yet. */
  private adopted(pg: PgInfo): PgInfo | undefined {
    const firstId = firstReplicaOf(this.catalogue.map.generation);
    if (firstId === 1) return pg;
    const size = this.catalogue.map.pools.get(poolOfPg(pg.id))?.size ?? 0;
    return withAdopted(pg, {
      seen: this.seenOf(pg.id),
      firstId,
      size,
      logger: this.options.logger,
    });
  }
}

function newerConfiguration(pg: PgInfo, report: PgReport): PgConfiguration | undefined {
  const reported = report.configuration;
  if (reported === undefined) return pg.configuration;
  if (pg.configuration !== undefined && reported.index < pg.configuration.index) {
    return pg.configuration;
  }
  return {
    index: reported.index as LogIndex,
    voters: reported.voters.map((id) => id as ReplicaId),
    outgoing: reported.outgoing.map((id) => id as ReplicaId),
    learners: reported.learners.map((id) => id as ReplicaId),
  };
}

/** Replicas that were to leave and that the applied configuration no longer names are gone. */
function withoutLeft(pg: PgInfo, configuration: PgConfiguration | undefined): PgInfo["replicas"] {
  if (configuration === undefined) return pg.replicas;
  const named = new Set([
    ...configuration.voters,
    ...configuration.outgoing,
    ...configuration.learners,
  ]);
  const kept = pg.replicas.filter((replica) => !replica.leaving || named.has(replica.replicaId));
  return kept.length === pg.replicas.length ? pg.replicas : kept;
}

function samePg(a: PgInfo, b: PgInfo): boolean {
  return (
    a.creating === b.creating &&
    a.leader === b.leader &&
    a.leaderTerm === b.leaderTerm &&
    a.replicas === b.replicas &&
    sameConfiguration(a.configuration, b.configuration)
  );
}

function sameConfiguration(
  a: PgConfiguration | undefined,
  b: PgConfiguration | undefined,
): boolean {
  if (a === undefined || b === undefined) return a === b;
  return (
    a.index === b.index &&
    String(a.voters) === String(b.voters) &&
    String(a.outgoing) === String(b.outgoing) &&
    String(a.learners) === String(b.learners)
  );
}

function sameOsd(a: OsdInfo, b: OsdInfo): boolean {
  return (
    a.storeUuid === b.storeUuid &&
    a.host === b.host &&
    a.up === b.up &&
    a.in === b.in &&
    a.weight === b.weight &&
    sameAddresses(a.addresses, b.addresses)
  );
}

function sameAddresses(a: readonly OsdAddress[], b: readonly OsdAddress[]): boolean {
  if (a.length !== b.length) return false;
  return a.every((one, at) => one.host === b[at]!.host && one.port === b[at]!.port);
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const SHARDS_MAX = 1024;
/** 1 PiB. */
const CAPACITY_BYTES_MAX = 1_125_899_906_842_624n;

function checkRegistration(request: OsdRegisterRequest): void {
  const refuse = (what: string): FastblockError =>
    new FastblockError("FB1001", `registering osd ${String(request.osd)}: ${what}`);
  if (!UUID.test(request.storeUuid)) throw refuse("its storeUuid is not a uuid");
  if (request.addresses.length < 1 || request.addresses.length > SHARDS_MAX) {
    throw refuse(
      `it has ${String(request.addresses.length)} shards, wanted 1 to ${String(SHARDS_MAX)}`,
    );
  }
  for (const { host, port } of request.addresses) {
    if (host === "" || port < 1 || port > 65_535) throw refuse("an address is malformed");
  }
  if (request.host === "") throw refuse("its host has no name");
  // Its weight goes into the map, as a u32: a larger one could not be told to anybody.
  if (request.capacityBytes > CAPACITY_BYTES_MAX) {
    throw refuse(`it has ${formatSize(Number(request.capacityBytes))}, wanted at most 1 PiB`);
  }
}

/** The replica of a group that leads it by the map, if its osd is up. */
export function leaderOf(catalogue: Catalogue, pg: PgInfo): PgInfo["replicas"][number] | undefined {
  const leader = replicaOf(pg, pg.leader);
  if (leader === undefined) return undefined;
  return catalogue.map.osds.get(leader.osd)?.up === true ? leader : undefined;
}
