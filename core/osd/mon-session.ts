// cold path: registration, maps and reports; a few messages a second.
import { failOnBug } from "../base/assert.ts";
import { create, fromBinary, type MessageInitShape } from "@bufbuild/protobuf";
import type { Logger } from "../base/logger.ts";
import { FORMATS, type FormatState } from "../base/formats.ts";
import { type ErrorCode, FastblockError } from "../base/errors.ts";
import { uuidBytes, uuidText } from "../base/uuid.ts";
import { ApplyResult, ClusterMap, type MapDelta } from "../cluster/cluster.ts";
import { ROW_WIDTH, TRACE_ROWS_TOLD_MAX, type TraceOrder } from "../metrics/metrics.ts";
import { CallbackTimer, type World } from "../reactor/world.ts";
import {
  type Connection,
  ControlService,
  ID_ANY,
  Method,
  Role,
  RpcEndpoint,
  SHARD_NONE,
  type StoreCredentials,
  refusalCode,
} from "../rpc/rpc.ts";
import {
  MapGetReplySchema,
  MapGetRequestSchema,
  type MapUpdate,
  MapUpdateSchema,
  OsdCommandSchema,
  type OsdRegisterReply,
  OsdRegisterReplySchema,
  OsdRegisterRequestSchema,
  OsdReportReplySchema,
  type OsdReportRequest,
  OsdReportRequestSchema,
  TraceTellReplySchema,
  type TraceTellRequest,
  TraceTellRequestSchema,
} from "../../proto/gen/control_pb.ts";
import type { Verdict } from "./asking.ts";
import type { ShardFigures, ShardReport } from "./report.ts";
import { countersOf, recoveryMessage, scrubMessage, usageOf } from "./report-message.ts";

/** Between two reports, unless the monitor asks for another pace. */
const TELL_CELLS_MAX = TRACE_ROWS_TOLD_MAX * ROW_WIDTH;
const REPORT_INTERVAL_MS = 1000;

/** Who says that there is a newer map is heard at most once in this time. */
const MAP_ASK_US = 100_000;
/** A monitor that has not told the map by then is not waited for. */
const MAP_ASK_MS = 2000;

/** Changes of one moment go into one report; elections of many groups come close together. */
const SOON_US = 50_000;

/** Groups in one message: 110 bytes each at most, 200 while a replica is brought back, of the 1 MiB that a message may have. */
const REPORT_PGS_MAX = 4096;

/** Answers of the monitor that no repetition changes. */
const REFUSALS: readonly ErrorCode[] = ["FB1007", "FB1016", "FB2102", "FB2103", "FB4002", "FB4004"];

/** One refused handshake may be a bit that flipped on its way: nothing of it is proved yet. */
const REFUSALS_FINAL = 3;

/**
 * Another store under our id counts as up for a lease after it died, and for two when the monitor has
 * just started: ask again for three.
 */
const TWIN_US = 8_000_000;
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
  /** A newer map, or a part of one: keep what lasts of it, then hand it to every shard. */
  onMap(update: MapUpdate): void;
  /** The monitor can not tell a newer map: ask a peer for it; `hear` what it tells. */
  askPeer(): void;
  /** Collect what changed (`complete`: everything) from all shards. */
  collect(complete: boolean): Promise<readonly ShardReport[]>;
  transferLeader(pg: number, toReplica: number): void;
  scrub(pg: number, order: number, isDeep: boolean): void;
  /** Where the time of operations goes is wanted, or no more. */
  trace(order: TraceOrder): void;
  /** The monitor refused this osd for good. */
  onRefused(error: FastblockError): void;
  /** A store that asks whether it is an old copy heard something: nothing against it, or nothing. */
  onVerdict(verdict: Verdict): void;
}

export interface MonSessionOptions {
  readonly world: World;
  readonly logger: Logger;
  readonly clusterId: string;
  readonly clusterKey: Uint8Array;
  readonly bind: string;
  /** Encrypt all connections, or have none. Default: where the other end wants it. */
  readonly encrypt?: boolean;
  readonly mons: readonly { readonly host: string; readonly port: number }[];
  readonly identity: OsdIdentity;
  /** The map that was kept on disk, or an empty one. */
  readonly map: ClusterMap;
  /** What the store shows; while it asks, the session does not register. */
  readonly store: StoreCredentials;
  /** Of the store, raised with the map. Default: of this program. */
  readonly formats?: FormatState;
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
  private registering = false;
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
  /** Handshakes in a row that were refused. */
  private refusals = 0;
  /** The newest order to report at once. */
  private asked = 0n;
  private mapAskedUs = -MAP_ASK_US;
  /** What each shard told last. */
  private readonly figures = new Map<number, ShardFigures>();
  /** Ends with what is told of a trace now. */
  private tellings: Promise<void> = Promise.resolve();

  constructor(options: MonSessionOptions) {
    this.options = options;
    this.logger = options.logger;
    this.map = options.map;
    const { osd, storeUuid } = options.identity;
    const formats = options.formats ?? { range: FORMATS, wanted: 0 };
    this.endpoint = new RpcEndpoint(
      options.world,
      {
        clusterId: options.clusterId,
        role: Role.Osd,
        id: osd,
        shard: SHARD_NONE,
        name: `osd.${String(osd)}`,
        storeUuid,
        formats,
      },
      options.clusterKey,
      { control: true, bind: options.bind, encrypt: options.encrypt === true },
    );
    this.control = new ControlService(options.world, {
      onOpen: () => this.onOpen(),
      onClose: (connection, reason, opened) => this.onClose(connection, reason, opened),
    });
    this.control.take(Method.MapUpdate, MapUpdateSchema, (update) => this.onMapUpdate(update));
    this.control.take(Method.OsdCommand, OsdCommandSchema, (message) => {
      const { command } = message;
      if (command.case === "transferLeader") {
        options.host.transferLeader(command.value.pg, command.value.toReplica);
      } else if (command.case === "scrub") {
        const { pg, order, deep } = command.value;
        options.host.scrub(pg, Number(order), deep);
      } else if (command.case === "trace") {
        const { id, sample, leftMs } = command.value;
        options.host.trace({ id: Number(id), sample, leftMs });
      } else if (command.case === "reportNow") {
        this.asked = command.value.order;
        if (this.reporting) this.hastened = true;
        else this.reportNow();
      }
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
        await this.sendReport([], { complete: false, asked: 0n, stopping: true });
      } catch (error) {
        if (failOnBug(this.options.world, error)) throw error;
        this.logger.info("the mon did not hear the goodbye", { reason: String(error) });
      }
    }
    this.endpoint.close("stopping");
  }

  private onOpen(): void {
    this.registering = true;
    this.register()
      .catch((error: unknown) => {
        const isFinal = error instanceof FastblockError && REFUSALS.includes(error.code);
        if (isFinal && !this.mayEnd(error)) this.options.host.onRefused(error);
        else this.onFailure("registration", error);
      })
      .finally(() => {
        this.registering = false;
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

  private onClose(connection: Connection, reason: string, opened: boolean): void {
    this.registered = false;
    const isRefused = connection.handshakeRefusal !== "";
    this.refusals = isRefused ? this.refusals + 1 : 0;
    if (isRefused && this.options.store.asking) {
      if (this.refusals >= REFUSALS_FINAL) this.options.host.onRefused(refusedBy(connection));
      return;
    }
    if (this.options.store.asking) this.options.host.onVerdict({ kind: "absent" });
    if (opened && !this.stopping) this.logger.warn("the mon is gone", { reason });
  }

  /** The store serves from now on, or shows another mark: tell the monitor, if it is there. */
  tellStarts(): void {
    if (this.stopping || this.connection?.isOpen !== true) return;
    if (!this.registered) this.onOpen();
    else {
      this.sendRegister(true).catch((error: unknown) => {
        if (error instanceof FastblockError && error.code === "FB4004") {
          this.options.host.onRefused(error);
        } else this.onFailure("telling of a mark", error);
      });
    }
  }

  private async register(): Promise<void> {
    const { store, host } = this.options;
    const isAsking = store.asking;
    const reply = await this.sendRegister(isAsking);
    if (isAsking) {
      host.onVerdict({ kind: "fine" });
      return;
    }
    if (reply.update !== undefined) this.onMapUpdate(reply.update);
    if (reply.reportIntervalMs > 0) this.intervalUs = reply.reportIntervalMs * 1000;
    this.registered = true;
    this.asked = 0n;
    this.twinUntilUs = 0;
    this.complete = true;
    this.logger.info("registered", { epoch: this.map.epoch });
    await this.report();
  }

  private sendRegister(startsOnly: boolean): Promise<OsdRegisterReply> {
    const identity = this.options.identity;
    return this.control.call(
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
        starts: this.options.store.starts,
        startsOnly,
      }),
      OsdRegisterReplySchema,
    );
  }

  private onMapUpdate(update: MapUpdate): void {
    const delta: MapDelta = update;
    const result = this.map.apply(delta);
    if (result === ApplyResult.Applied) {
      this.endpoint.wantFormat(this.map.format);
      this.options.host.onMap(update);
    } else if (result === ApplyResult.Partial) this.options.host.onMap(update);
    else if (result === ApplyResult.Gap) this.fetchMap();
    else if (result === ApplyResult.Older && update.generation < this.map.generation) {
      // Of our own generation it is what somebody else has told before.
      this.logger.warn("older map refused", { generation: update.generation, epoch: update.epoch });
    }
  }

  /** A peer told what it has of the map: an encoded MapUpdate. */
  hear(update: Uint8Array): void {
    if (this.stopping) return;
    try {
      this.onMapUpdate(fromBinary(MapUpdateSchema, update));
    } catch (error) {
      if (failOnBug(this.options.world, error)) return;
      this.logger.error("a peer's map is refused", { reason: String(error) });
    }
  }

  /** Somebody has a newer map: ask for it, now. */
  wantMap(): void {
    const now = this.options.world.clock.nowUs();
    if (now - this.mapAskedUs < MAP_ASK_US) return;
    this.fetchMap();
  }

  private fetchMap(): void {
    if (this.stopping) return;
    this.mapAskedUs = this.options.world.clock.nowUs();
    if (!this.registered) {
      this.options.host.askPeer();
      return;
    }
    const { generation, epoch } = this.map;
    const request = create(MapGetRequestSchema, { generation, epoch });
    this.control
      .call(this.connection!, Method.MapGet, MapGetRequestSchema, request, MapGetReplySchema, {
        timeoutMs: MAP_ASK_MS,
      })
      .then(({ update }) => {
        if (update !== undefined) this.onMapUpdate(update);
      })
      .catch((error: unknown) => {
        this.onFailure("map fetch", error);
        if (!this.stopping) this.options.host.askPeer();
      });
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

  /** The timer: report, unless one is under way; register, if that failed. */
  tick(): void {
    if (this.stopping) return;
    this.options.world.timers.armPeriod(this.timer, this.intervalUs);
    if (!this.registered && !this.registering && this.connection?.isOpen === true) this.onOpen();
    if (!this.registered) this.wantMap();
    this.reportNow();
  }

  private async report(): Promise<void> {
    this.reporting = true;
    this.hastened = false;
    try {
      const { complete, asked } = this;
      const reports = await this.options.host.collect(complete);
      await this.sendReport(reports, { complete, asked, stopping: false });
      if (complete) this.complete = false;
      // Nothing waits for that, and it handles every error.
      this.tellings = this.tellings.then(() => this.tellTraces(reports));
    } catch (error) {
      // What changed was taken from the shards and did not arrive.
      this.complete = true;
      throw error;
    } finally {
      this.reporting = false;
      if (this.hastened) this.hasten();
    }
  }

  private async sendReport(reports: readonly ShardReport[], facts: ReportFacts): Promise<void> {
    const { stopping } = facts;
    const first = this.reportMessage(reports, facts);
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

  /** Rows that can not be told are lost: a report is worth more than they are. */
  private async tellTraces(reports: readonly ShardReport[]): Promise<void> {
    for (const { shard, trace } of reports) {
      if (trace === undefined || !this.registered) continue;
      for (let from = 0; from < Math.max(1, trace.rows.length); from += TELL_CELLS_MAX) {
        const rows = trace.rows.slice(from, from + TELL_CELLS_MAX);
        const lost = from === 0 ? BigInt(trace.lost) : 0n;
        const id = BigInt(trace.id);
        const request = create(TraceTellRequestSchema, { id, shard, width: ROW_WIDTH, rows, lost });
        if (!(await this.tellTrace(request))) break;
      }
    }
  }

  /** False: nobody takes it. */
  private async tellTrace(request: TraceTellRequest): Promise<boolean> {
    try {
      const { known } = await this.control.call(
        this.connection!,
        Method.TraceTell,
        TraceTellRequestSchema,
        request,
        TraceTellReplySchema,
        { timeoutMs: 2000 },
      );
      if (!known) this.options.host.trace({ id: Number(request.id), sample: 0, leftMs: 0 });
      return known;
    } catch (error) {
      this.onFailure("telling of a trace", error);
      return false;
    }
  }

  private reportMessage(
    reports: readonly ShardReport[],
    facts: ReportFacts,
  ): MessageInitShape<typeof OsdReportRequestSchema> {
    return {
      osd: this.options.identity.osd,
      boot: BigInt(this.endpoint.boot),
      generation: this.map.generation,
      epoch: this.map.epoch,
      pgs: reports.flatMap((shard) =>
        shard.pgs.map(({ configuration, scrub, recovery, ...pg }) => ({
          ...pg,
          shard: shard.shard,
          term: BigInt(pg.term),
          commitIndex: BigInt(pg.commitIndex),
          appliedIndex: BigInt(pg.appliedIndex),
          usedBytes: BigInt(pg.usedBytes),
          ...(configuration === undefined ? {} : { configuration: { ...configuration } }),
          ...(scrub === undefined ? {} : { scrub: scrubMessage(scrub) }),
          ...(recovery === undefined ? {} : { recovery: recovery.map(recoveryMessage) }),
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
      ...facts,
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
    if (failOnBug(this.options.world, error)) return;
    if (this.stopping) return;
    this.logger.warn(`${what} failed`, { reason: String(error) });
  }
}

/** What a report tells beside what the shards told. */
interface ReportFacts {
  readonly complete: boolean;
  readonly asked: bigint;
  readonly stopping: boolean;
}

/**
 * The monitor does not take this process for one of its cluster. Final for an osd that starts: with
 * this key nobody else would talk to it either. One that serves goes on, and is heard by its peers.
 */
function refusedBy(connection: Connection): FastblockError {
  const text = `connecting to the mon: ${connection.address} refused this osd`;
  const { handshakeRefusal: why } = connection;
  return new FastblockError(refusalCode(why), text, { why });
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
