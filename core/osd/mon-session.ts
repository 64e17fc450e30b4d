// cold path: registration, maps and reports; a few messages a second.
import { BLOCK_SIZE } from "../base/units.ts";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import type { Logger } from "../base/logger.ts";
import { type ErrorCode, FastblockError } from "../base/errors.ts";
import { uuidBytes, uuidText } from "../base/uuid.ts";
import { ApplyResult, ClusterMap, type MapDelta } from "../cluster/cluster.ts";
import { CallbackTimer, type World } from "../reactor/world.ts";
import {
  type Connection,
  ControlService,
  ID_ANY,
  Method,
  Role,
  RpcEndpoint,
  SHARD_NONE,
} from "../rpc/rpc.ts";
import {
  type MapUpdate,
  MapUpdateSchema,
  OsdCommandSchema,
  OsdRegisterReplySchema,
  OsdRegisterRequestSchema,
  OsdReportReplySchema,
  type OsdReportRequest,
  OsdReportRequestSchema,
} from "../../proto/gen/control_pb.ts";
import type { ShardFigures, ShardReport } from "./report.ts";

/** Between two reports, unless the monitor asks for another pace. */
const REPORT_INTERVAL_MS = 1000;

/** Changes of one moment go into one report; elections of many groups come close together. */
const SOON_US = 50_000;

/** Groups in one message: 110 bytes each at most, of the 1 MiB that a message may have. */
const REPORT_PGS_MAX = 4096;

/** Answers of the monitor that no repetition changes. */
const REFUSALS: readonly ErrorCode[] = ["FB1007", "FB2102", "FB2103", "FB4002", "FB4004"];

/** Another store under our id counts as up for a lease after it died: ask again for twice as long. */
const TWIN_US = 5_000_000;
const TWIN_RETRY_US = 250_000;

/** What the osd tells of itself. */
export interface OsdIdentity {
  readonly osd: number;
  readonly storeUuid: string;
  readonly incarnation: number;
  readonly hostName: string;
  readonly addresses: readonly { readonly host: string; readonly port: number }[];
  readonly capacityBytes: number;
  readonly version: string;
  readonly backend: string;
}

/** What the session asks of its process. */
export interface MonSessionHost {
  /** A newer map: hand it to every shard and keep it on disk. `full` is the whole map. */
  onMap(update: MapUpdate, map: ClusterMap): void;
  /** Collect what changed (`complete`: everything) from all shards. */
  collect(complete: boolean): Promise<readonly ShardReport[]>;
  transferLeader(pg: number, toReplica: number): void;
  /** The monitor refused this osd for good. */
  onRefused(error: FastblockError): void;
}

export interface MonSessionOptions {
  readonly world: World;
  readonly logger: Logger;
  readonly clusterId: string;
  readonly clusterKey: Uint8Array;
  readonly bind: string;
  readonly mons: readonly { readonly host: string; readonly port: number }[];
  readonly identity: OsdIdentity;
  /** The map that was kept on disk, or an empty one. */
  readonly map: ClusterMap;
  readonly host: MonSessionHost;
}

/**
 * The osd's session with the monitor.
 *
 * The osd serves without it, as long as it has a map: the monitor is told who is here, pushes map
 * deltas, and hears every second what the groups do. Losing it stops nothing.
 */
export class MonSession {
  private readonly options: MonSessionOptions;
  private readonly logger: Logger;
  private readonly map: ClusterMap;
  private readonly endpoint: RpcEndpoint;
  private readonly control: ControlService;
  private readonly timer: CallbackTimer;
  private connection: Connection | null = null;
  private monIndex = 0;
  private registered = false;
  private complete = true;
  private reporting = false;
  private stopping = false;
  private intervalUs = REPORT_INTERVAL_MS * 1000;
  private readonly soon: CallbackTimer;
  private readonly again: CallbackTimer;
  /** Until then another store may be in our place; 0: none was seen. */
  private twinUntilUs = 0;
  /** A group changed while a report was under way. */
  private hastened = false;
  /** What each shard told last. */
  private readonly figures = new Map<number, ShardFigures>();

  constructor(options: MonSessionOptions) {
    this.options = options;
    this.logger = options.logger;
    this.map = options.map;
    const { osd, storeUuid } = options.identity;
    this.endpoint = new RpcEndpoint(
      options.world,
      {
        clusterId: options.clusterId,
        role: Role.Osd,
        id: osd,
        shard: SHARD_NONE,
        name: `osd.${String(osd)}`,
        storeUuid,
      },
      options.clusterKey,
      { control: true, bind: options.bind },
    );
    this.control = new ControlService(options.world, {
      onOpen: () => this.onOpen(),
      onClose: (_connection, reason, opened) => this.onClose(reason, opened),
    });
    this.control.take(Method.MapUpdate, MapUpdateSchema, (update) => this.onMapUpdate(update));
    this.control.take(Method.OsdCommand, OsdCommandSchema, (message) => {
      if (message.command.case !== "transferLeader") return;
      const { pg, toReplica } = message.command.value;
      options.host.transferLeader(pg, toReplica);
    });
    this.timer = new CallbackTimer(() => this.tick());
    this.soon = new CallbackTimer(() => this.reportNow());
    this.again = new CallbackTimer(() => this.onOpen());
  }

  /** Begin; it connects again whenever the connection is lost. */
  start(): void {
    const mon = this.options.mons[this.monIndex % this.options.mons.length]!;
    this.connection = this.endpoint.dial(
      { kind: "tcp", host: mon.host, port: mon.port },
      { role: Role.Mon, id: ID_ANY, shard: SHARD_NONE },
      this.control,
    );
    this.options.world.timers.armPeriod(this.timer, this.intervalUs);
  }

  /** Say goodbye, so that peers and the monitor need not wait for a lease to end. */
  async stop(): Promise<void> {
    this.stopping = true;
    this.options.world.timers.disarm(this.timer);
    this.options.world.timers.disarm(this.soon);
    this.options.world.timers.disarm(this.again);
    if (this.registered) {
      try {
        await this.sendReport([], false, true);
      } catch (error) {
        this.logger.info("the monitor did not hear the goodbye", { reason: String(error) });
      }
    }
    this.endpoint.close("stopping");
  }

  private onOpen(): void {
    this.register().catch((error: unknown) => {
      const isFinal = error instanceof FastblockError && REFUSALS.includes(error.code);
      if (isFinal && !this.mayEnd(error)) this.options.host.onRefused(error);
      else this.onFailure("registration", error);
    });
  }

  /** Whether a refusal may end with the lease of the store whose place ours takes; asks again then. */
  private mayEnd(error: FastblockError): boolean {
    const { world } = this.options;
    if (error.code !== "FB2103" || this.stopping) return false;
    const now = world.clock.nowUs();
    if (this.twinUntilUs === 0) this.twinUntilUs = now + TWIN_US;
    if (now >= this.twinUntilUs) return false;
    world.timers.arm(this.again, TWIN_RETRY_US);
    return true;
  }

  private onClose(reason: string, opened: boolean): void {
    this.registered = false;
    if (opened && !this.stopping) this.logger.warn("the monitor is gone", { reason });
  }

  private async register(): Promise<void> {
    const identity = this.options.identity;
    const reply = await this.control.call(
      this.connection!,
      Method.OsdRegister,
      OsdRegisterRequestSchema,
      create(OsdRegisterRequestSchema, {
        osd: identity.osd,
        storeUuid: uuidText(uuidBytes(identity.storeUuid)),
        host: identity.hostName,
        addresses: identity.addresses.map(({ host, port }) => ({ host, port })),
        incarnation: BigInt(identity.incarnation),
        capacityBytes: BigInt(identity.capacityBytes),
        boot: BigInt(this.endpoint.boot),
        version: identity.version,
        backend: identity.backend,
        generation: this.map.generation,
        epoch: this.map.epoch,
      }),
      OsdRegisterReplySchema,
    );
    if (Number(reply.incarnation) >= identity.incarnation) {
      const text = `incarnation ${identity.incarnation}, wanted above ${reply.incarnation}`;
      this.options.host.onRefused(new FastblockError("FB4004", `opening the store: ${text}`));
      return;
    }
    if (reply.update !== undefined) this.onMapUpdate(reply.update);
    if (reply.reportIntervalMs > 0) this.intervalUs = reply.reportIntervalMs * 1000;
    this.registered = true;
    this.twinUntilUs = 0;
    this.complete = true;
    this.logger.info("registered", { epoch: this.map.epoch });
    await this.report();
  }

  private onMapUpdate(update: MapUpdate): void {
    const delta: MapDelta = update;
    const result = this.map.apply(delta);
    if (result === ApplyResult.Applied) this.options.host.onMap(update, this.map);
    else if (result === ApplyResult.Partial) this.options.host.onMap(update, this.map);
    else if (result === ApplyResult.Gap) this.fetchMap();
    else if (result === ApplyResult.Older) {
      this.logger.warn("older map refused", { generation: update.generation, epoch: update.epoch });
    }
  }

  private fetchMap(): void {
    // The next report names our epoch; a registration brings all that is missing.
    if (this.registered) {
      this.register().catch((error: unknown) => this.onFailure("map fetch", error));
    }
  }

  /** A group changed: the mon hears it in a moment, with what changes until then. */
  hasten(): void {
    if (this.stopping || !this.registered) return;
    this.hastened = true;
    if (this.reporting || this.soon.timerDueUs >= 0) return;
    this.options.world.timers.arm(this.soon, SOON_US);
  }

  /** The moment is over. */
  reportNow(): void {
    if (this.stopping || !this.registered || this.reporting) return;
    this.report().catch((error: unknown) => this.onFailure("report", error));
  }

  /** The timer: report, unless one is under way. */
  tick(): void {
    if (this.stopping) return;
    this.options.world.timers.armPeriod(this.timer, this.intervalUs);
    this.reportNow();
  }

  private async report(): Promise<void> {
    this.reporting = true;
    this.hastened = false;
    try {
      const complete = this.complete;
      const reports = await this.options.host.collect(complete);
      await this.sendReport(reports, complete, false);
      if (complete) this.complete = false;
    } catch (error) {
      // What changed was taken from the shards and did not arrive.
      this.complete = true;
      throw error;
    } finally {
      this.reporting = false;
      if (this.hastened) this.hasten();
    }
  }

  private async sendReport(
    reports: readonly ShardReport[],
    complete: boolean,
    stopping: boolean,
  ): Promise<void> {
    const first = this.reportMessage(reports, complete, stopping);
    for (const part of splitReport(create(OsdReportRequestSchema, first))) {
      const reply = await this.control.call(
        this.connection!,
        Method.OsdReport,
        OsdReportRequestSchema,
        part,
        OsdReportReplySchema,
        { timeoutMs: stopping ? 500 : 2000 },
      );
      if (stopping) return;
      if (reply.register) return this.register();
    }
  }

  private reportMessage(
    reports: readonly ShardReport[],
    complete: boolean,
    stopping: boolean,
  ): MessageInitShape<typeof OsdReportRequestSchema> {
    return {
      osd: this.options.identity.osd,
      boot: BigInt(this.endpoint.boot),
      generation: this.map.generation,
      epoch: this.map.epoch,
      pgs: reports.flatMap((shard) =>
        shard.pgs.map((pg) => ({
          ...pg,
          term: BigInt(pg.term),
          commitIndex: BigInt(pg.commitIndex),
          appliedIndex: BigInt(pg.appliedIndex),
          usedBytes: BigInt(pg.usedBytes),
          ...(pg.configuration === undefined ? {} : { configuration: { ...pg.configuration } }),
        })),
      ),
      unreachable: [...new Set(reports.flatMap((shard) => shard.unreachable))],
      layers: reports.flatMap(({ shard, layers }) =>
        layers.map(({ layer, usedBytes }) => ({
          shard,
          layer: BigInt(layer),
          usedBytes: BigInt(usedBytes),
        })),
      ),
      ...this.figuresOf(reports),
      stopping,
      complete,
    };
  }

  /** Figures of all shards as soon as those of one are news. */
  private figuresOf(
    reports: readonly ShardReport[],
  ): Pick<MessageInitShape<typeof OsdReportRequestSchema>, "usage" | "counters" | "refused"> {
    let isNews = false;
    for (const { shard, figures } of reports) {
      if (figures === undefined) continue;
      this.figures.set(shard, figures);
      isNews = true;
    }
    if (!isNews) return {};
    const all = [...this.figures];
    return {
      usage: usageOf(all.map(([, figures]) => figures)),
      counters: all.flatMap(([shard, figures]) => countersOf(shard, figures)),
      refused: all.flatMap(([, { damage }]) =>
        damage.refused.map((one) => ({
          ...one,
          layer: BigInt(one.layer),
          block: BigInt(one.block),
        })),
      ),
    };
  }

  private onFailure(what: string, error: unknown): void {
    if (this.stopping) return;
    this.logger.warn(`${what} failed`, { reason: String(error) });
  }
}

/** As many messages as the groups of a report need; all else is in the first. */
export function splitReport(report: OsdReportRequest): OsdReportRequest[] {
  const { osd, boot, generation, epoch, pgs } = report;
  const parts = [report];
  report.pgs = pgs.slice(0, REPORT_PGS_MAX);
  for (let at = REPORT_PGS_MAX; at < pgs.length; at += REPORT_PGS_MAX) {
    const rest = { osd, boot, generation, epoch, pgs: pgs.slice(at, at + REPORT_PGS_MAX) };
    parts.push(create(OsdReportRequestSchema, rest));
  }
  return parts;
}

function usageOf(shards: readonly ShardFigures[]): {
  capacityBytes: bigint;
  usedBytes: bigint;
  logCapacityBytes: bigint;
  logUsedBytes: bigint;
} {
  const sum = (pick: (figures: ShardFigures) => number): bigint =>
    BigInt(shards.reduce((total, figures) => total + pick(figures), 0));
  return {
    capacityBytes: sum(({ usage }) => usage.bytesTotal),
    usedBytes: sum(({ usage }) => usage.bytesUsed),
    logCapacityBytes: sum(({ usage }) => usage.logBytesTotal),
    logUsedBytes: sum(({ usage }) => usage.logBytesUsed),
  };
}

interface CounterRow {
  readonly name: string;
  readonly labels: string[];
  readonly value: number;
}

/** The shard's figures under the names of the metrics page. */
function countersOf(index: number, figures: ShardFigures): CounterRow[] {
  const shard = `shard=${String(index)}`;
  const rows: CounterRow[] = [];
  const add = (name: string, value: number, ...labels: string[]): void => {
    rows.push({ name: `fastblock_${name}`, labels: [shard, ...labels], value });
  };
  const { counters, damage, requests, raft, usage } = figures;
  const at = (row: Readonly<Record<string, number>>, key: string): number => row[key] ?? 0;
  for (const [key, region] of REGIONS) {
    add("device_write_bytes_total", at(counters, key), `region=${region}`);
  }
  add("device_read_bytes_total", at(counters, "bytesRead"));
  add("device_flushes_total", at(counters, "flushes"));
  add("log_batches_total", at(counters, "batches"));
  add("log_entries_total", at(counters, "entries"));
  add("checksum_failures_total", at(counters, "checksumFailures"));
  add("blocks_healed_total", at(counters, "blocksHealed"));
  add("osd_blocks_lost", damage.blocksLost);
  add("osd_blocks_damaged", damage.blocksWaiting);
  add("osd_entries_damaged", damage.entriesFaulty);
  add("checkpoints_total", at(counters, "checkpoints"));
  add("recovery_fills_total", at(counters, "fillsBegun"), "stage=begun");
  add("recovery_fills_total", at(counters, "fillsEnded"), "stage=ended");
  add("recovery_units_compared_total", at(counters, "fillUnitsCompared"));
  add("recovery_bytes_total", at(counters, "fillBlocksCopied") * BLOCK_SIZE);
  add("recovery_differing_bytes_total", at(counters, "fillBlocksDiffering") * BLOCK_SIZE);
  add("osd_writes_acknowledged_total", at(requests, "writes"));
  add("osd_ops_total", at(requests, "writes"), "op=write", "result=ok");
  add("osd_ops_total", at(requests, "reads"), "op=read", "result=ok");
  add("osd_ops_total", at(requests, "refused"), "op=any", "result=refused");
  add("osd_fenced_requests_total", at(requests, "fenced"));
  add("raft_elections_total", raft.elections);
  add("raft_groups", raft.leaders, "role=leader");
  add("raft_groups", raft.groups - raft.leaders, "role=follower");
  add("raft_heartbeats_total", raft.heartbeats, "merged=true");
  add("raft_log_bytes", usage.logBytesUsed);
  return rows;
}

const REGIONS: readonly (readonly [string, string])[] = [
  ["bytesLog", "log"],
  ["bytesDirect", "direct"],
  ["bytesHome", "home"],
  ["bytesIndex", "index"],
  ["bytesCheckpoint", "checkpoint"],
];
