import { failOnBug } from "../base/assert.ts";
import { FastblockError } from "../base/errors.ts";
import { FORMATS, type FormatRange } from "../base/formats.ts";
import type { OsdId } from "../base/ids.ts";
import type { Logger } from "../base/logger.ts";
import type { MapDelta } from "../cluster/cluster.ts";
import { type Address, CallbackTimer, type Listener, sleep, type World } from "../reactor/world.ts";
import { type Connection, Role, RpcEndpoint, type RpcIdentity, SHARD_NONE } from "../rpc/rpc.ts";
import type { OsdCommand } from "../../proto/gen/control_pb.ts";
import { Catalogue, isPassing } from "./catalogue.ts";
import { ControlServer } from "./control-server.ts";
import { FormatService } from "./format-service.ts";
import { FreshReports } from "./fresh-reports.ts";
import { type GroupWriter, RpcGroupWriter } from "./group-writer.ts";
import { ImageService } from "./image-service.ts";
import { LeaderTransfer } from "./leader-transfer.ts";
import { Leadership } from "./leadership.ts";
import type { MetaStore } from "./meta-store.ts";
import { OldCopy } from "./old-copy.ts";
import { OperationEngine } from "./operation-engine.ts";
import { OsdService } from "./osd-service.ts";
import { PoolService } from "./pool-service.ts";
import { RecoveryService } from "./recovery-service.ts";
import { ScrubService } from "./scrub-service.ts";
import { SessionService } from "./session-service.ts";
import { TraceService } from "./trace-service.ts";
import { Views } from "./views.ts";
import { WitnessService } from "./witness-service.ts";

/** Where a monitor is, as every process of the cluster reads it. */
export interface MonPlace {
  readonly name: string;
  readonly control: { readonly host: string; readonly port: number };
  readonly http: { readonly host: string; readonly port: number };
}

export interface MonitorOptions {
  readonly world: World;
  readonly logger: Logger;
  readonly store: MetaStore;
  readonly clusterId: string;
  readonly clusterName: string;
  /** 32 bytes. */
  readonly clusterKey: Uint8Array;
  /** `mon.a`, and its index among the monitors. */
  readonly name: string;
  readonly index: number;
  /** All monitors of the cluster, by index. */
  readonly mons: readonly MonPlace[];
  readonly version: string;
  /** Of this program. Default: what it knows. */
  readonly formats?: FormatRange;
  /** Where control RPC listens; port 0: the system chooses. */
  readonly control: Extract<Address, { kind: "tcp" }>;
  /** Encrypt all connections, or have none. Default: where the other end wants it. */
  readonly encrypt?: boolean;
  /** Raise the generation: the catalogue comes from a backup. */
  readonly restored: boolean;
  /** Whether groups are scrubbed by themselves. Default: they are. */
  readonly scrub?: boolean;
  /** How long an osd may be down before it is taken out. Default 10 min. */
  readonly outAfterUs?: number;
  /** Milliseconds since 1970 as RFC 3339. */
  readonly formatTime: (ms: number) => string;
  /** The monitor can not go on: it lost its leadership or its catalogue. */
  readonly onFatal: (error: Error) => void;
  /** Default: over the data ports of the osds. */
  readonly writer?: GroupWriter;
}

/** The largest message and some more; 256 connections take 640 MiB of address space at most. */
const CONTROL_BUFFER_BYTES = 1_310_720;
const CONNECTIONS_MAX = 256;
/** Leases are looked at when reports come, too: this is for a cluster that has gone quiet. */
const TICK_US = 1_000_000;
/** Reports of one moment become one epoch. */
const FLUSH_US = 20_000;
const CAMPAIGN_US = 500_000;
const PRUNE_TICKS = 600;
/** How often it is told that the catalogue takes nothing. */
const REFUSED_TICKS = 10;
const OUT_AFTER_US = 600_000_000;

/**
 * One monitor: the catalogue, the services on it, control RPC, and the tick that watches osds.
 *
 * `start` returns when it leads and serves. REST stands on `views` and the services (`api.ts`).
 */
export class Monitor {
  readonly options: MonitorOptions;
  readonly catalogue: Catalogue;
  readonly copies: OldCopy;
  readonly formats: FormatService;
  readonly osds: OsdService;
  readonly pools: PoolService;
  readonly images: ImageService;
  readonly sessions: SessionService;
  readonly operations: OperationEngine;
  readonly scrubs: ScrubService;
  readonly witnesses: WitnessService;
  readonly reports: FreshReports;
  readonly transfers: LeaderTransfer;
  readonly recovery: RecoveryService;
  readonly traces: TraceService;
  readonly views: Views;
  private readonly leadership: Leadership;
  private readonly control: ControlServer;
  private readonly tick: CallbackTimer;
  private readonly flushTimer: CallbackTimer;
  private endpoint: RpcEndpoint | undefined;
  private dataEndpoint: RpcEndpoint | undefined;
  private listener: Listener | undefined;
  /** When it began to lead and serve. */
  private started: { readonly us: number; readonly ms: number } | undefined;
  private ticks = 0;
  private isFlushing = false;
  private isStopped = false;

  constructor(options: MonitorOptions) {
    this.options = options;
    const { world, store, logger } = options;
    const nowUs = (): number => world.clock.nowUs();
    const wallMs = (): number => world.clock.wallMs();
    this.leadership = new Leadership(store, options.name);
    this.catalogue = new Catalogue(
      store,
      () => this.leadership.fence(),
      (delta) => this.onMap(delta),
      this.formatRange,
    );
    const catalogue = this.catalogue;
    this.pools = new PoolService(catalogue, (pg) => this.osds.reportsOf(pg));
    this.sessions = new SessionService({
      catalogue,
      checksum: world.checksum,
      clusterKey: options.clusterKey,
      nowUs,
      wallMs,
    });
    const onRaised = (): void => this.osds.believeMap();
    this.copies = new OldCopy({ catalogue, logger, nowUs, onRaised });
    this.osds = new OsdService({
      catalogue,
      copies: this.copies,
      logger,
      nowUs,
      wallMs,
      outAfterUs: options.outAfterUs ?? OUT_AFTER_US,
      onDirty: () => this.flushSoon(),
      onScrub: (pg, report) => this.scrubs.note(pg, report),
    });
    this.scrubs = this.newScrubs();
    this.witnesses = new WitnessService({ catalogue, pools: this.pools, logger });
    this.recovery = new RecoveryService(catalogue, this.osds);
    this.operations = new OperationEngine({
      catalogue,
      pools: this.pools,
      sessions: this.sessions,
      writer: options.writer ?? new RpcGroupWriter(world, () => this.dial()),
      timers: world.timers,
      logger,
      wallMs,
      fatal: world,
    });
    this.images = new ImageService({
      catalogue,
      pools: this.pools,
      sessions: this.sessions,
      wallMs,
      onOperation: (operation) => this.operations.start(operation),
    });
    this.formats = this.newFormats();
    this.traces = new TraceService({
      nowUs,
      wallMs,
      formatTime: options.formatTime,
      order: (order) => this.control.orderTrace(order),
    });
    this.control = this.newControl();
    const command = (osd: OsdId, words: OsdCommand["command"]): boolean =>
      this.control.command(osd, words);
    const { osds, pools } = this;
    this.reports = new FreshReports({ timers: world.timers, live: osds.live, command });
    this.transfers = new LeaderTransfer({ timers: world.timers, catalogue, pools, osds, command });
    this.views = this.newViews();
    this.tick = new CallbackTimer(() => this.onTick());
    this.flushTimer = new CallbackTimer(() => this.flush());
  }

  private newViews(): Views {
    const { options } = this;
    const { world } = options;
    return new Views({
      catalogue: this.catalogue,
      copies: this.copies,
      osds: this.osds,
      pools: this.pools,
      sessions: this.sessions,
      operations: this.operations,
      scrubs: this.scrubs,
      recovery: this.recovery,
      identity: { ...options, backend: world.backend },
      started: () => this.started,
      clientBackends: () => this.control.clientBackends(),
      nowUs: () => world.clock.nowUs(),
      formatTime: options.formatTime,
    });
  }

  /** Formats that this program writes and knows. */
  get formatRange(): FormatRange {
    return this.options.formats ?? FORMATS;
  }

  private newFormats(): FormatService {
    const { catalogue, formatRange: formats } = this;
    return new FormatService({ catalogue, formats, clients: () => this.control.clientFormats() });
  }

  private newControl(): ControlServer {
    const { catalogue, copies, formats, osds, pools, images, sessions, traces } = this;
    const { world } = this.options;
    const services = { osds, pools, images, sessions, traces };
    return new ControlServer({ world, catalogue, copies, formats, ...services });
  }

  private newScrubs(): ScrubService {
    const { clock } = this.options.world;
    return new ScrubService({
      catalogue: this.catalogue,
      osds: this.osds,
      nowUs: () => clock.nowUs(),
      wallMs: () => clock.wallMs(),
      isScheduled: this.options.scrub ?? true,
      command: (osd, command) => this.control.command(osd, command),
      onFailed: (error) => this.failUnlessPassing(error),
    });
  }

  /** Become the leader, load, listen. Throws FB1018, FB4002, FB4003, FB4005, FB4006. Answers the control port. */
  async start(): Promise<number> {
    const { world, logger, clusterId, clusterKey } = this.options;
    while (!(await this.leadership.campaign())) {
      logger.info("another mon leads", { leader: (await this.leadership.leader()) ?? "?" });
      await sleep(world.timers, CAMPAIGN_US);
    }
    await this.catalogue.load(clusterId);
    await this.copies.begin(this.options.restored);
    const { control } = this.options;
    this.endpoint = new RpcEndpoint(world, this.newIdentity(), clusterKey, {
      control: true,
      encrypt: this.options.encrypt === true,
      bind: control.host,
      receiveBytes: CONTROL_BUFFER_BYTES,
      sendBytes: CONTROL_BUFFER_BYTES,
      connectionsMax: CONNECTIONS_MAX,
    });
    this.listener = this.endpoint.listen(control, (connection) => this.admit(connection));
    this.started = { us: world.clock.nowUs(), ms: world.clock.wallMs() };
    this.operations.resume();
    world.timers.armPeriod(this.tick, TICK_US);
    const { address } = this.listener;
    return address.kind === "tcp" ? address.port : 0;
  }

  /** Stop serving and give the office up. The store is closed by its owner. */
  async stop(): Promise<void> {
    if (this.isStopped) return;
    this.isStopped = true;
    const { timers } = this.options.world;
    timers.disarm(this.tick);
    timers.disarm(this.flushTimer);
    this.operations.stop();
    this.listener?.close();
    this.endpoint?.close("the mon stops");
    this.dataEndpoint?.close("the mon stops");
    await this.catalogue.idle();
    await this.leadership.resign();
  }

  /** Turn what reports changed into an epoch now (tests; otherwise it happens by itself). */
  async flushNow(): Promise<void> {
    await this.osds.flush();
  }

  private admit(connection: Connection): ControlServer["service"] {
    this.options.logger.debug("peer connected", { peer: connection.peer?.name ?? "?" });
    return this.control.service;
  }

  private dial(): RpcEndpoint {
    const { world, clusterKey, control } = this.options;
    this.dataEndpoint ??= new RpcEndpoint(world, this.newIdentity(), clusterKey, {
      bind: control.host,
      encrypt: this.options.encrypt === true,
    });
    return this.dataEndpoint;
  }

  /** Of one endpoint: what it wants of formats is its own. */
  private newIdentity(): RpcIdentity {
    const { clusterId, name, index } = this.options;
    const formats = { range: this.formatRange, wanted: 0 };
    return { clusterId, role: Role.Mon, id: index, shard: SHARD_NONE, name, formats };
  }

  private onMap(delta: MapDelta): void {
    this.options.logger.debug("map", { epoch: delta.epoch, pgs: delta.pgs.length });
    this.control.onMap(delta);
  }

  private flushSoon(): void {
    if (this.isStopped || this.flushTimer.timerDueUs >= 0) return;
    this.options.world.timers.arm(this.flushTimer, FLUSH_US);
  }

  private onTick(): void {
    if (this.isStopped) return;
    if (this.catalogue.failure !== undefined) {
      this.fail(this.catalogue.failure);
      return;
    }
    this.options.world.timers.armPeriod(this.tick, TICK_US);
    this.ticks++;
    this.flush();
    this.scrubs.tick();
    for (const one of [this.copies, this.witnesses]) {
      one.tick().catch((error: unknown) => this.failUnlessPassing(error));
    }
    this.leadership.keepAlive().then(
      (holds) => {
        if (!holds) this.fail(new FastblockError("FB1004", "this mon no longer leads"));
      },
      (error: unknown) => this.fail(error),
    );
    if (this.ticks % PRUNE_TICKS !== 0) return;
    this.sessions.prune().catch((error: unknown) => this.failUnlessPassing(error));
  }

  /** One flush at a time; what comes meanwhile is taken by the next tick at the latest. */
  private flush(): void {
    if (this.isStopped) return;
    if (this.isFlushing) {
      this.flushSoon();
      return;
    }
    this.isFlushing = true;
    this.osds.flush().then(
      () => {
        this.isFlushing = false;
      },
      (error: unknown) => {
        this.isFlushing = false;
        this.failUnlessPassing(error);
      },
    );
  }

  /** While the catalogue has no space, or is held, nothing changes, and everything else goes on. */
  private failUnlessPassing(error: unknown): void {
    if (!isPassing(error)) this.fail(error);
    else if (this.ticks % REFUSED_TICKS === 0) {
      this.options.logger.warn("the catalogue takes no change", { reason: String(error) });
    }
  }

  private fail(error: unknown): void {
    if (failOnBug(this.options.world, error) || this.isStopped) return;
    this.options.onFatal(error instanceof Error ? error : new Error(String(error)));
  }
}
