import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  create,
  type DescMessage,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import {
  ImageChangedSchema,
  type ImageChanged,
  MapUpdateSchema,
  type OsdCommand,
  OsdCommandSchema,
  OsdRegisterReplySchema,
  type OsdRegisterReply,
  OsdRegisterRequestSchema,
  OsdReportReplySchema,
  type OsdReportReply,
  OsdReportRequestSchema,
  type OsdRegisterRequest,
  type OsdReportRequest,
  PgReportSchema,
  PgRole,
  type RecoveryReportSchema,
  SessionAttachReplySchema,
  SessionAttachRequestSchema,
  SessionGrantSchema,
} from "../../proto/gen/control_pb.ts";
import {
  decodeWriteRequest,
  encodeWriteReply,
  sizeOfWriteReply,
  WriteReply,
  WriteRequest,
} from "../../proto/gen/hot.ts";
import { silentLogger } from "../base/logger.ts";
import { Status } from "../base/status.ts";
import { ApplyResult, checkGrant, ClusterMap } from "../cluster/cluster.ts";
import { createBunWorld } from "../reactor/bun-world.ts";
import type { RunnableWorld } from "../reactor/reactor.ts";
import {
  type Connection,
  type ConnectionHandler,
  ControlService,
  type Frame,
  ID_ANY,
  Method,
  Role,
  RpcEndpoint,
  SHARD_NONE,
} from "../rpc/rpc.ts";
import { openBunSqlite } from "./bun-sqlite.ts";
import { createApi, Monitor, type MonitorOptions } from "./mon.ts";
import type { MetaStore } from "./meta-store.ts";

const CLUSTER_ID = "7d0b1f0a-1111-4222-8333-444455556666";
export const CLUSTER_KEY: Uint8Array = new Uint8Array(32).fill(9);
const MIB = 1_048_576;

export interface Answer {
  readonly status: number;
  readonly type: string;
  // Tests read what they expect to be there.
  // biome-ignore lint/suspicious/noExplicitAny: a test fails on a wrong shape by itself
  readonly body: any;
}

/** A real monitor on real sockets and a real catalogue, with stand-ins for osds and clients. */
export class MonHarness {
  readonly folder: string = mkdtempSync(join(tmpdir(), "fastblock mon-"));
  readonly errors: Error[] = [];
  monitor!: Monitor;
  controlPort = 0;
  private world!: RunnableWorld;
  private store!: MetaStore;
  private server: ReturnType<typeof Bun.serve> | undefined;
  private readonly peers: { close(): Promise<void> }[] = [];

  async start(options: Partial<MonitorOptions> = {}): Promise<void> {
    this.world = newWorld(256);
    this.store = openBunSqlite(join(this.folder, "catalogue.db"));
    this.monitor = new Monitor({
      world: this.world,
      logger: silentLogger,
      store: this.store,
      clusterId: CLUSTER_ID,
      clusterName: "test",
      clusterKey: CLUSTER_KEY,
      name: "mon.a",
      index: 0,
      mons: ["mon.a", "mon.b"].map((name, at) => ({
        name,
        control: { host: "127.0.0.1", port: 7400 + at },
        http: { host: "127.0.0.1", port: 7480 + at },
      })),
      version: "1.2.3",
      control: { kind: "tcp", host: "127.0.0.1", port: this.controlPort },
      restored: false,
      formatTime: (ms) => new Date(ms).toISOString(),
      onFatal: (error) => this.errors.push(error),
      ...options,
    });
    this.controlPort = await this.monitor.start();
    const usage = (): { cpuSeconds: number; residentBytes: number; heapBytes: number } => ({
      cpuSeconds: 1.5,
      residentBytes: 2,
      heapBytes: 3,
    });
    const api = createApi({ monitor: this.monitor, page: "<!doctype html>page", usage });
    this.server = Bun.serve({
      hostname: "127.0.0.1",
      port: 0,
      fetch: (request) => api.fetch(request),
    });
  }

  /** Stop the monitor; its catalogue and its control port stay for the next `start`. */
  async stopMonitor(): Promise<void> {
    await this.server?.stop(true);
    await this.monitor.stop();
    await this.world.stop();
    await this.store.close();
  }

  async close(): Promise<void> {
    for (const peer of this.peers.splice(0)) await peer.close();
    await this.stopMonitor();
    rmSync(this.folder, { recursive: true });
  }

  /** A stand-in that registered and leads every group whose first replica it is. */
  async addOsd(id: number, over: Partial<FakeOsdOptions> = {}): Promise<FakeOsd> {
    const osd = new FakeOsd({ id, monPort: this.controlPort, ...over });
    this.peers.push(osd);
    await osd.start();
    return osd;
  }

  async addOsds(count: number): Promise<FakeOsd[]> {
    const osds: FakeOsd[] = [];
    for (let id = 0; id < count; id++) osds.push(await this.addOsd(id));
    return osds;
  }

  addClient(): FakeClient {
    const client = new FakeClient(this.controlPort);
    this.peers.push(client);
    return client;
  }

  /** `body`: text as it is, else as JSON; bytes go without a content type. */
  async ask(method: string, path: string, body?: unknown, headers = {}): Promise<Answer> {
    const reply = await fetch(`http://127.0.0.1:${String(this.server!.port)}${path}`, {
      method,
      headers: {
        ...(body === undefined || body instanceof Uint8Array
          ? {}
          : { "content-type": "application/json" }),
        ...headers,
      },
      ...(body === undefined
        ? {}
        : {
            body:
              typeof body === "string" || body instanceof Uint8Array ? body : JSON.stringify(body),
          }),
    });
    const type = reply.headers.get("content-type") ?? "";
    return {
      status: reply.status,
      type,
      body: type.includes("json") ? await reply.json() : await reply.text(),
    };
  }

  get(path: string): Promise<Answer> {
    return this.ask("GET", `/api/v1${path}`);
  }

  post(path: string, body: unknown = {}): Promise<Answer> {
    return this.ask("POST", `/api/v1${path}`, body);
  }
}

/** Wait for a condition; fails loudly when it does not come. */
export async function until(
  what: string,
  condition: () => boolean | Promise<boolean>,
  limitMs = 8000,
): Promise<void> {
  const end = performance.now() + limitMs;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`waited in vain: ${what}`);
    await Bun.sleep(5);
  }
}

function newWorld(mib: number): RunnableWorld {
  const world = createBunWorld({
    arenaBytes: mib * MIB,
    slotsBytes: 4 * MIB,
    logger: silentLogger,
  });
  world.start();
  return world;
}

export interface FakeOsdOptions {
  readonly id: number;
  readonly monPort: number;
  readonly host?: string;
  readonly storeUuid?: string;
  readonly incarnation?: number;
  readonly shards?: number;
  /** Register by itself whenever it is connected. Default true. */
  readonly registers?: boolean;
  readonly key?: Uint8Array;
}

export function uuidOf(id: number): string {
  return `00000000-0000-4000-8000-${String(id).padStart(12, "0")}`;
}

/** An osd's side of control RPC, and a data port that answers writes as it is told. */
export class FakeOsd {
  readonly options: FakeOsdOptions;
  readonly map: ClusterMap = new ClusterMap();
  readonly commands: OsdCommand[] = [];
  readonly gaps: number[] = [];
  /** Writes that arrived, as `pg type session:number layer first+blocks lock`. */
  readonly writes: string[] = [];
  /** What the data port answers; default Ok. */
  answer: (request: WriteRequest, attempt: number) => { status: Status; leaderOsd?: number } =
    () => ({
      status: Status.Ok,
    });
  reply: OsdRegisterReply | undefined;
  refusal: unknown;
  /** Groups that it reports itself the established leader of, term by group id. */
  readonly leads: Map<number, number> = new Map();
  /** What it reports of replicas, by replica id, that do not lead; default: follower. */
  readonly roles: Map<number, PgRole> = new Map();
  /** Replicas that have not heard of a leader. */
  readonly leaderless: Set<number> = new Set();
  /** What it reports of replicas on their way back, by replica id of its own. */
  readonly recovering: Map<number, MessageInitShape<typeof RecoveryReportSchema>[]> = new Map();
  isReporting = true;
  /** What layers take here, on shard 0. */
  readonly layers: Map<number, number> = new Map();
  /** Whether it reports when it is asked to. */
  isAnswering = true;
  private asked = 0n;
  private readonly world: RunnableWorld;
  private readonly endpoint: RpcEndpoint;
  private readonly dataEndpoint: RpcEndpoint;
  private readonly control: ControlService;
  private connection!: Connection;
  private addresses: { host: string; port: number }[] = [];
  private timer: ReturnType<typeof setInterval> | undefined;
  private readonly attached = new WeakMap<Connection, Set<number>>();
  private attempts = 0;

  constructor(options: FakeOsdOptions) {
    this.options = options;
    this.world = newWorld(64);
    const storeUuid = options.storeUuid ?? uuidOf(options.id);
    const identity = { clusterId: CLUSTER_ID, role: Role.Osd, id: options.id, storeUuid };
    const name = `osd.${String(options.id)}`;
    const key = options.key ?? CLUSTER_KEY;
    this.endpoint = new RpcEndpoint(this.world, { ...identity, shard: SHARD_NONE, name }, key, {
      control: true,
    });
    this.dataEndpoint = new RpcEndpoint(this.world, { ...identity, shard: 0, name }, key);
    this.control = new ControlService(this.world, { onOpen: () => this.onOpen() });
    this.control.take(Method.MapUpdate, MapUpdateSchema, (update) => {
      if (this.map.apply(update) === ApplyResult.Gap) this.gaps.push(update.epoch);
      this.onMap();
    });
    this.control.take(Method.OsdCommand, OsdCommandSchema, (command) => {
      this.commands.push(command);
      if (command.command.case !== "reportNow" || !this.isAnswering) return;
      this.asked = command.command.value.order;
      this.report().catch(() => undefined);
    });
  }

  async start(): Promise<void> {
    const handler = new DataHandler(this);
    for (let shard = 0; shard < (this.options.shards ?? 1); shard++) {
      const listener = this.dataEndpoint.listen(
        { kind: "tcp", host: "127.0.0.1", port: 0 },
        () => handler,
      );
      if (listener.address.kind === "tcp")
        this.addresses.push({ host: "127.0.0.1", port: listener.address.port });
    }
    this.connection = this.endpoint.dial(
      { kind: "tcp", host: "127.0.0.1", port: this.options.monPort },
      { role: Role.Mon, id: ID_ANY, shard: SHARD_NONE },
      this.control,
    );
    if (this.options.registers === false) return;
    await until(`osd ${String(this.options.id)} registers`, () => this.reply !== undefined);
    this.timer = setInterval(() => {
      if (this.isReporting) this.report().catch(() => undefined);
    }, 200);
  }

  register(over: Partial<OsdRegisterRequest> = {}): Promise<OsdRegisterReply> {
    const { id, storeUuid, host, incarnation } = this.options;
    return this.control.call(
      this.connection,
      Method.OsdRegister,
      OsdRegisterRequestSchema,
      merged(over, OsdRegisterRequestSchema, {
        osd: id,
        storeUuid: storeUuid ?? uuidOf(id),
        host: host ?? "this-host",
        addresses: this.addresses,
        incarnation: BigInt(incarnation ?? 1),
        capacityBytes: BigInt(4 * 1024 * MIB),
        boot: BigInt(this.endpoint.boot),
        version: "1.2.3",
        backend: "file",
        generation: this.map.generation,
        epoch: this.map.epoch,
      }),
      OsdRegisterReplySchema,
    );
  }

  report(over: Partial<OsdReportRequest> = {}): Promise<OsdReportReply> {
    return this.control.call(
      this.connection,
      Method.OsdReport,
      OsdReportRequestSchema,
      merged(over, OsdReportRequestSchema, {
        osd: this.options.id,
        boot: BigInt(this.endpoint.boot),
        generation: this.map.generation,
        epoch: this.map.epoch,
        pgs: this.pgReports(),
        complete: true,
        asked: this.asked,
        layers: [...this.layers].map(([layer, bytes]) => {
          return { shard: 0, layer: BigInt(layer), usedBytes: BigInt(bytes) };
        }),
        usage: { capacityBytes: BigInt(4 * 1024 * MIB), usedBytes: BigInt(MIB) },
        counters: [{ name: "fastblock_osd_ops_total", labels: ["op=write"], value: 7 }],
      }),
      OsdReportReplySchema,
    );
  }

  /** Lose the control connection and make it again. */
  reconnect(): void {
    this.reply = undefined;
    this.connection.close("test");
    this.connection = this.endpoint.dial(
      { kind: "tcp", host: "127.0.0.1", port: this.options.monPort },
      { role: Role.Mon, id: ID_ANY, shard: SHARD_NONE },
      this.control,
    );
  }

  async close(): Promise<void> {
    clearInterval(this.timer);
    this.endpoint.close("test ends");
    this.dataEndpoint.close("test ends");
    await this.world.stop();
  }

  /** By the data port. */
  onData(connection: Connection, frame: Frame): void {
    const { bytes, view } = this.world.arena;
    const from = frame.headerOffset;
    if (frame.method === Method.SessionAttach) {
      const request = fromBinary(
        SessionAttachRequestSchema,
        bytes.slice(from, from + frame.headerSize),
      );
      const isGood = checkGrant(this.world.checksum, CLUSTER_KEY, request.grant, request.mac);
      const grant = fromBinary(SessionGrantSchema, request.grant);
      const sessions = this.attached.get(connection) ?? new Set<number>();
      if (isGood) sessions.add(Number(grant.session));
      this.attached.set(connection, sessions);
      const status = isGood ? Status.Ok : Status.Denied;
      const body = toBinary(SessionAttachReplySchema, create(SessionAttachReplySchema, { status }));
      const at = connection.beginReply(frame.requestId, frame.method, body.length, 0);
      bytes.set(body, at);
      connection.finish();
      return;
    }
    const request = new WriteRequest();
    if (!decodeWriteRequest(request, view, from, frame.headerSize))
      throw new Error("malformed write");
    const isAttached = this.attached.get(connection)?.has(request.session) === true;
    this.attempts++;
    const answer = isAttached ? this.answer(request, this.attempts) : { status: Status.Denied };
    this.writes.push(
      `${String(request.pg)} ${String(request.type)} ${String(request.session)}:${String(request.number)} ` +
        `${String(request.layer)} ${String(request.firstBlock)}+${String(request.blocks)} ` +
        `lock${String(request.lockEpoch)} ${Status[answer.status]}`,
    );
    const reply = new WriteReply();
    reply.status = answer.status;
    reply.pg = request.pg;
    reply.leaderOsd = (answer.leaderOsd ?? -1) + 1;
    const at = connection.beginReply(frame.requestId, frame.method, sizeOfWriteReply(reply), 0);
    encodeWriteReply(reply, view, at);
    connection.finish();
  }

  private onOpen(): void {
    if (this.options.registers === false) return;
    this.register().then(
      (reply) => {
        this.reply = reply;
        if (reply.update !== undefined) this.map.apply(reply.update);
        this.onMap();
      },
      (error: unknown) => {
        this.refusal = error;
      },
    );
  }

  /** Lead what it should lead by the map. */
  private onMap(): void {
    let changed = false;
    for (const pg of this.map.pgs.values()) {
      if (pg.replicas[0]?.osd !== this.options.id || this.leads.has(pg.id) || pg.leader !== 0)
        continue;
      this.leads.set(pg.id, 1);
      changed = true;
    }
    if (changed && this.isReporting) this.report().catch(() => undefined);
  }

  private pgReports(): MessageInitShape<typeof PgReportSchema>[] {
    const reports: MessageInitShape<typeof PgReportSchema>[] = [];
    for (const pg of this.map.pgs.values()) {
      const own = pg.replicas.find((one) => one.osd === this.options.id);
      if (own === undefined) continue;
      const term = this.leads.get(pg.id);
      reports.push({
        pg: pg.id,
        replica: own.replicaId,
        role:
          term === undefined ? (this.roles.get(own.replicaId) ?? PgRole.FOLLOWER) : PgRole.LEADER,
        term: BigInt(term ?? 1),
        leader: this.leaderless.has(own.replicaId) ? 0 : (pg.replicas[0]?.replicaId ?? 0),
        established: term !== undefined,
        appliedIndex: 5n,
        usedBytes: 65_536n,
        recovery: this.recovering.get(own.replicaId) ?? [],
        ...(term === undefined
          ? {}
          : {
              configuration: {
                index: 1,
                voters: pg.replicas.filter((one) => !one.leaving).map((one) => one.replicaId),
                outgoing: [],
                learners: [],
              },
            }),
      });
    }
    return reports;
  }
}

function merged<Schema extends DescMessage>(
  over: Partial<MessageShape<Schema>>,
  schema: Schema,
  init: MessageInitShape<Schema>,
): MessageShape<Schema> {
  return Object.assign(create(schema, init), over);
}

class DataHandler implements ConnectionHandler {
  private readonly osd: FakeOsd;

  constructor(osd: FakeOsd) {
    this.osd = osd;
  }

  onOpen(): void {}
  onRequest(connection: Connection, frame: Frame): void {
    this.osd.onData(connection, frame);
  }
  onOneway(): void {}
  onWritable(): void {}
  onClose(): void {}
}

/** A client's side of control RPC. */
export class FakeClient {
  readonly control: ControlService;
  readonly connection: Connection;
  readonly map: ClusterMap = new ClusterMap();
  readonly results: ApplyResult[] = [];
  readonly changes: ImageChanged[] = [];
  private readonly world: RunnableWorld;
  private readonly endpoint: RpcEndpoint;

  constructor(monPort: number) {
    this.world = newWorld(32);
    const identity = {
      clusterId: CLUSTER_ID,
      role: Role.Client,
      id: 7,
      shard: SHARD_NONE,
      name: "nbd.0",
    };
    this.endpoint = new RpcEndpoint(this.world, identity, CLUSTER_KEY, { control: true });
    this.control = new ControlService(this.world);
    this.control.take(Method.MapUpdate, MapUpdateSchema, (update) => {
      this.results.push(this.map.apply(update));
    });
    this.control.take(Method.ImageChanged, ImageChangedSchema, (change) => {
      this.changes.push(change);
    });
    this.connection = this.endpoint.dial(
      { kind: "tcp", host: "127.0.0.1", port: monPort },
      { role: Role.Mon, id: ID_ANY, shard: SHARD_NONE },
      this.control,
    );
  }

  async connected(): Promise<this> {
    await until("the client connects", () => this.connection.isOpen);
    return this;
  }

  async close(): Promise<void> {
    this.endpoint.close("test ends");
    await this.world.stop();
  }
}
