import { formatPgId, type OsdId, type PgId, type PoolId, poolOfPg } from "../base/ids.ts";
import { BLOCK_SIZE, UNIT_SIZE } from "../base/units.ts";
import {
  isUp,
  type PgInfo,
  PgState,
  type PlacementResult,
  type PoolInfo,
  type ReplicaInfo,
} from "../cluster/cluster.ts";
import {
  BeneathState,
  type DeviceState,
  PgRole,
  type SpaceBeneath,
} from "../../proto/gen/control_pb.ts";
import type { Catalogue } from "./catalogue.ts";
import { groupStateOf } from "./group-state.ts";
import { judgeHealth } from "./health.ts";
import type { OldCopy } from "./old-copy.ts";
import type { OperationEngine } from "./operation-engine.ts";
import { leaderOf, type OsdService } from "./osd-service.ts";
import type { PoolService } from "./pool-service.ts";
import type { ImageRecord, OperationRecord } from "./records.ts";
import type { MonPlace } from "./monitor.ts";
import type {
  ImageView,
  MonView,
  OperationView,
  OsdView,
  PgView,
  PlacementView,
} from "./schema.ts";
import type { PoolView, StatusView } from "./schema.ts";
import type { RecoveryService } from "./recovery-service.ts";
import type { ScrubService } from "./scrub-service.ts";
import type { SessionService } from "./session-service.ts";

export interface ViewSources {
  readonly catalogue: Catalogue;
  readonly copies: OldCopy;
  readonly osds: OsdService;
  readonly pools: PoolService;
  readonly sessions: SessionService;
  readonly operations: OperationEngine;
  readonly scrubs: ScrubService;
  readonly recovery: RecoveryService;
  readonly identity: {
    readonly clusterId: string;
    readonly clusterName: string;
    readonly name: string;
    readonly version: string;
    readonly backend: string;
    readonly mons: readonly MonPlace[];
  };
  /** When this mon began to lead, on the monotonic clock and on the wall; undefined: not yet. */
  readonly started: () => { readonly us: number; readonly ms: number } | undefined;
  /** Of each gateway and client that follows the map. */
  readonly clientBackends: () => readonly string[];
  readonly nowUs: () => number;
  /** Milliseconds since 1970 as RFC 3339. */
  readonly formatTime: (ms: number) => string;
}

const STATE_NAMES = {
  [PgState.Creating]: "creating",
  [PgState.Active]: "active",
  [PgState.Degraded]: "degraded",
  [PgState.Down]: "down",
  [PgState.Leaderless]: "leaderless",
} as const;

const ROLE_NAMES = {
  [PgRole.UNSPECIFIED]: "unknown",
  [PgRole.FOLLOWER]: "follower",
  [PgRole.CANDIDATE]: "candidate",
  [PgRole.LEADER]: "leader",
  [PgRole.LEARNER]: "learner",
  [PgRole.FILLING]: "filling",
  [PgRole.REMOVED]: "unknown",
  [PgRole.DISTRUSTED]: "distrusted",
} as const;

const BENEATH_NAMES = {
  [BeneathState.UNSPECIFIED]: "enough",
  [BeneathState.ENOUGH]: "enough",
  [BeneathState.NEAR]: "near",
  [BeneathState.SHORT]: "short",
} as const;

/** What REST shows, made from the catalogue and the newest reports. */
export class Views {
  private readonly from: ViewSources;

  constructor(sources: ViewSources) {
    this.from = sources;
  }

  status(): StatusView {
    const { catalogue, osds, operations, identity } = this.from;
    const map = catalogue.map;
    const byState = { creating: 0, active: 0, degraded: 0, down: 0, leaderless: 0 };
    for (const pg of map.pgs.values()) byState[STATE_NAMES[this.stateOf(pg)]]++;
    const all = [...map.osds.values()];
    const running = [...catalogue.operations.values()].filter((one) => one.state === "running");
    const alive = [...catalogue.sessions.keys()].filter((id) => this.from.sessions.isAlive(id));
    return {
      cluster: { id: identity.clusterId, name: identity.clusterName },
      health: judgeHealth(catalogue, osds, operations, this.from.recovery, this.from.copies),
      version: identity.version,
      backend: this.backend(),
      backends: {
        mons: countsOf([identity.backend]),
        osds: countsOf([...catalogue.osds.values()].map((osd) => osd.backend)),
        clients: countsOf(this.from.clientBackends()),
      },
      map: { generation: map.generation, epoch: map.epoch },
      mons: { total: identity.mons.length, leader: identity.name },
      osds: {
        total: all.length,
        up: all.filter((osd) => osd.up).length,
        in: all.filter((osd) => osd.in).length,
      },
      pgs: { total: map.pgs.size, byState },
      pools: map.pools.size,
      images: catalogue.images.size,
      sessions: alive.length,
      operations: running.length,
      capacity: this.capacity(),
    };
  }

  /** All mons. Only the one that leads answers, so it knows the state of no other. */
  mons(): MonView[] {
    const { identity, started, nowUs, formatTime } = this.from;
    const since = started();
    return identity.mons.map(({ name, control, http }, id) => {
      const place = { id, name, control: { ...control }, http: { ...http } };
      if (name !== identity.name || since === undefined) {
        const none = { started: null, uptimeMs: null, version: null, backend: null };
        return { ...place, state: "unknown" as const, leader: false, ...none };
      }
      return {
        ...place,
        state: "up" as const,
        leader: true,
        started: formatTime(since.ms),
        uptimeMs: Math.round((nowUs() - since.us) / 1000),
        version: identity.version,
        backend: identity.backend,
      };
    });
  }

  pool(pool: PoolInfo, notes: readonly string[] = []): PoolView {
    const { catalogue, pools, osds } = this.from;
    let images = 0;
    let provisioned = 0;
    let used = 0;
    for (const image of catalogue.images.values()) {
      if (image.pool !== pool.id) continue;
      images++;
      provisioned += image.sizeBytes;
      used += osds.space.of(image.layer);
    }
    let active = 0;
    const pgs = pools.pgsOf(pool.id);
    for (const pg of pgs) if (this.stateOf(pg) === PgState.Active) active++;
    return {
      id: pool.id,
      name: pool.name,
      size: pool.size,
      pgCount: pool.pgCount,
      objectBytes: pool.objectBlocks * BLOCK_SIZE,
      failureDomain: pool.failureDomain,
      images,
      provisionedBytes: bytesView(provisioned),
      usedBytes: bytesView(used),
      pgs: { active, other: pgs.length - active },
      notes: [...notes],
    };
  }

  placement(pool: PoolInfo, result: PlacementResult): PlacementView {
    return {
      pool: pool.name,
      ok: result.ok,
      failureDomain: pool.failureDomain,
      domainsUsable: result.domainsUsable,
      domainsWanted: result.domainsWanted,
      rejected: result.rejected.map((one) => ({ osd: one.osd, rule: one.rule })),
      shares: result.shares.map((one) => ({ ...one, osd: one.osd })),
    };
  }

  /** Many images at once. */
  images(images: readonly ImageRecord[]): ImageView[] {
    const ages = this.reportAges();
    return images.map((image) => this.image(image, ages));
  }

  image(image: ImageRecord, ages: ReportAges = this.reportAges()): ImageView {
    const { catalogue, osds, sessions } = this.from;
    const info = catalogue.map.pools.get(image.pool);
    const pool = info?.name ?? "?";
    const used = osds.space.of(image.layer);
    const units = Math.ceil(used / UNIT_SIZE / (info?.size ?? 1));
    return {
      id: image.id,
      name: image.name,
      pool,
      path: `${pool}/${image.name}`,
      sizeBytes: bytesView(image.sizeBytes),
      allocatedBytes: bytesView(Math.min(image.sizeBytes, units * UNIT_SIZE)),
      usedBytes: bytesView(used),
      usedAgeMs: ages.get(image.pool) ?? null,
      objectBytes: image.objectBlocks * BLOCK_SIZE,
      layer: image.layer,
      family: image.family,
      snapSeq: image.snapSeq,
      lockEpoch: image.lockEpoch,
      created: this.from.formatTime(image.createdMs),
      sessions: sessions.sessionsOf(image.id).map((session) => ({
        id: session.id,
        client: session.client,
        mode: session.mode,
        alive: sessions.isAlive(session.id),
        since: this.from.formatTime(session.openedMs),
      })),
    };
  }

  osds(): OsdView[] {
    const ids = [...this.from.catalogue.map.osds.keys()].sort((a, b) => a - b);
    const counts = this.memberCounts();
    return ids.map((id) => this.osd(id, counts));
  }

  osd(id: OsdId, counts: MemberCounts = this.memberCounts()): OsdView {
    const { catalogue, osds } = this.from;
    const osd = catalogue.osdOf(id);
    const record = catalogue.osds.get(id);
    const live = osds.live.get(id);
    const usage = live?.usage;
    return {
      id,
      host: osd.host,
      up: osd.up,
      in: osd.in,
      weight: osd.weight,
      storeUuid: osd.storeUuid,
      shards: osd.addresses.map(({ host, port }) => ({ host, port })),
      backend: record?.backend ?? "",
      version: record?.version ?? "",
      incarnation: record?.incarnation ?? 0,
      capacityBytes: bytesView(record?.capacityBytes ?? 0),
      usedBytes: bytesView(Number(usage?.usedBytes ?? 0n)),
      logCapacityBytes: bytesView(Number(usage?.logCapacityBytes ?? 0n)),
      logUsedBytes: bytesView(Number(usage?.logUsedBytes ?? 0n)),
      beneath: beneathView(usage?.beneath),
      device: deviceView(usage?.device),
      ...(counts.get(id) ?? newCount()),
      epoch: live?.epoch ?? 0,
      reportAgeMs: this.reportAge(id),
    };
  }

  pg(pg: PgInfo): PgView {
    const { catalogue, osds } = this.from;
    const reports = osds.reportsOf(pg);
    const leader = leaderOf(catalogue, pg);
    return {
      id: formatPgId(pg.id),
      pool: catalogue.map.pools.get(poolOfPg(pg.id))?.name ?? "?",
      state: STATE_NAMES[groupStateOf(pg, catalogue.map.osds, reports)],
      leaderOsd: leader?.osd ?? null,
      leaderReplica: pg.leader,
      term: pg.leaderTerm,
      lastChangeEpoch: pg.lastChangeEpoch,
      osds: pg.replicas.filter((one) => !one.leaving && !one.witness).map((one) => one.osd),
      witnesses: pg.replicas.filter((one) => !one.leaving && one.witness).map((one) => one.osd),
      joining: pg.replicas.filter((one) => isJoining(pg, one)).map((one) => one.osd),
      leaving: pg.replicas.filter((one) => one.leaving).map((one) => one.osd),
      filling: pg.replicas
        .filter((one) => reports.get(one.replicaId)?.role === PgRole.FILLING)
        .map((one) => one.osd),
      replicas: pg.replicas.map((replica) => {
        const report = reports.get(replica.replicaId);
        return {
          replicaId: replica.replicaId,
          osd: replica.osd,
          shard: replica.shard,
          storeUuid: replica.storeUuid,
          leaving: replica.leaving,
          witness: replica.witness,
          osdUp: isUp(replica, catalogue.map.osds),
          reportAgeMs: report === undefined ? null : this.reportAge(replica.osd),
          toldAgeMs: report === undefined ? null : this.toldAge(replica.osd, pg.id),
          role: ROLE_NAMES[report?.role ?? PgRole.UNSPECIFIED],
          term: Number(report?.term ?? 0n),
          commitIndex: Number(report?.commitIndex ?? 0n),
          appliedIndex: Number(report?.appliedIndex ?? 0n),
          usedBytes: bytesView(Number(report?.usedBytes ?? 0n)),
        };
      }),
      configuration:
        pg.configuration === undefined
          ? null
          : {
              index: pg.configuration.index,
              voters: [...pg.configuration.voters],
              outgoing: [...pg.configuration.outgoing],
              learners: [...pg.configuration.learners],
            },
      scrub: this.scrub(pg),
    };
  }

  private stateOf(pg: PgInfo): PgState {
    const { catalogue, osds } = this.from;
    return groupStateOf(pg, catalogue.map.osds, osds.reportsOf(pg));
  }

  /** How long ago an osd was heard, in milliseconds; null: never since the mon runs. */
  private reportAge(id: OsdId): number | null {
    return this.ageOf(this.from.osds.live.get(id)?.lastReportUs);
  }

  /** How long ago an osd told of its replica of a group, in milliseconds; null: never. */
  private toldAge(id: OsdId, pg: PgId): number | null {
    return this.ageOf(this.from.osds.live.get(id)?.toldUs.get(pg));
  }

  private ageOf(atUs: number | undefined): number | null {
    return atUs === undefined ? null : Math.round((this.from.nowUs() - atUs) / 1000);
  }

  private scrub(pg: PgInfo): PgView["scrub"] {
    const { catalogue, scrubs, formatTime } = this.from;
    const running = scrubs.runningOf(pg.id);
    const last = catalogue.pgs.get(pg.id)?.scrub;
    const timeOf = (ms: number | undefined): string | null =>
      ms === undefined || ms === 0 ? null : formatTime(ms);
    return {
      running: running === undefined ? null : running.deep ? "deep" : "light",
      last: timeOf(last?.lightMs),
      lastDeep: timeOf(last?.deepMs),
      found: last?.found ?? 0,
      healed: last?.healed ?? 0,
      left: last?.left ?? 0,
    };
  }

  operation(operation: OperationRecord): OperationView {
    const progress = this.from.operations.progressOf(operation);
    return {
      id: operation.id,
      kind: operation.kind,
      title: operation.title,
      state: operation.state,
      done: progress.done,
      total: progress.total,
      waitingFor: [...progress.waitingFor],
      started: this.from.formatTime(operation.startedMs),
      ended: operation.endedMs === undefined ? null : this.from.formatTime(operation.endedMs),
      error: operation.error ?? null,
    };
  }

  private backend(): string {
    const kinds = new Set<string>();
    for (const osd of this.from.catalogue.osds.values()) kinds.add(osd.backend);
    if (kinds.size === 0) return "none";
    return kinds.size === 1 ? [...kinds][0]! : "mixed";
  }

  private capacity(): StatusView["capacity"] {
    let total = 0;
    let used = 0;
    let beneath = Number.POSITIVE_INFINITY;
    for (const osd of this.from.catalogue.map.osds.values()) {
      if (!osd.in) continue;
      total += this.from.catalogue.osds.get(osd.id)?.capacityBytes ?? 0;
      const usage = this.from.osds.live.get(osd.id)?.usage;
      used += Number(usage?.usedBytes ?? 0n);
      if (usage?.beneath !== undefined)
        beneath = Math.min(beneath, Number(usage.beneath.freeBytes));
    }
    return {
      totalBytes: bytesView(total),
      usedBytes: bytesView(used),
      freeBytesBeneath: Number.isFinite(beneath) ? bytesView(beneath) : null,
    };
  }

  /** By pool: how old the oldest report of an osd is that holds a replica of it; null: unknown. */
  private reportAges(): ReportAges {
    const { catalogue } = this.from;
    const ages = new Map<PoolId, number | null>();
    for (const pg of catalogue.map.pgs.values()) {
      const pool = poolOfPg(pg.id);
      for (const { osd } of pg.replicas) {
        const age = this.reportAge(osd);
        const before = ages.get(pool);
        ages.set(pool, age === null || before === null ? null : Math.max(before ?? 0, age));
      }
    }
    return ages;
  }

  private memberCounts(): MemberCounts {
    const { catalogue } = this.from;
    const counts: MemberCounts = new Map();
    for (const pg of catalogue.map.pgs.values()) {
      const leader = leaderOf(catalogue, pg);
      for (const replica of pg.replicas) {
        const count = counts.get(replica.osd) ?? newCount();
        count.pgs++;
        if (replica.witness) count.witnesses++;
        else count.replicas++;
        if (replica === leader) count.leaders++;
        counts.set(replica.osd, count);
      }
    }
    return counts;
  }
}

/** Wanted, and not a voter yet. */
function isJoining(pg: PgInfo, replica: ReplicaInfo): boolean {
  if (replica.leaving || pg.configuration === undefined) return false;
  return !pg.configuration.voters.includes(replica.replicaId);
}

type ReportAges = ReadonlyMap<PoolId, number | null>;

/** By osd: the members of groups that it holds by the map. pgs = replicas + witnesses. */
type MemberCounts = Map<OsdId, MemberCount>;
type MemberCount = Pick<OsdView, "pgs" | "replicas" | "witnesses" | "leaders">;

function newCount(): MemberCount {
  return { pgs: 0, replicas: 0, witnesses: 0, leaders: 0 };
}

/** How often each word stands there. */
function countsOf(words: readonly string[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const word of words) counts[word] = (counts[word] ?? 0) + 1;
  return counts;
}

function deviceView(device: DeviceState | undefined): OsdView["device"] {
  if (device === undefined) return null;
  const { readErrors, writeErrors, flushErrors, readsFail, slow, latencyMs } = device;
  return {
    readErrors: Number(readErrors),
    writeErrors: Number(writeErrors),
    flushErrors: Number(flushErrors),
    ...{ readsFail, slow, latencyMs },
  };
}

function beneathView(beneath: SpaceBeneath | undefined): OsdView["beneath"] {
  if (beneath === undefined) return null;
  const { state, freeBytes, path } = beneath;
  return { state: BENEATH_NAMES[state], freeBytes: bytesView(Number(freeBytes)), path };
}

/** A number while it is exact, decimal text above. */
function bytesView(bytes: number): number | string {
  return Number.isSafeInteger(bytes) ? bytes : BigInt(bytes).toString();
}
