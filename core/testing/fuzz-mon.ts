// cold: fuzzing of decoders
import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import * as control from "../../proto/gen/control_pb.ts";
import { assert } from "../base/assert.ts";
import { ERRORS } from "../base/errors.ts";
import type { LogFields, Logger } from "../base/logger.ts";
import type { Status } from "../base/status.ts";
import { createApi, MemoryMetaStore, Monitor } from "../mon/mon.ts";
import { Simulation, type SimWorld } from "../reactor/reactor.ts";
import {
  type Connection,
  type ConnectionHandler,
  type Frame,
  Method,
  RequestOp,
  Role,
  RpcEndpoint,
  SHARD_NONE,
} from "../rpc/rpc.ts";
import type { FuzzTarget } from "./fuzz.ts";
import type { FuzzPorts, RecordedFrame } from "./fuzz-traffic.ts";

type Input = Uint8Array<ArrayBuffer>;

const MIB = 1_048_576;
const CLUSTER_ID = "11111111-2222-4333-8444-555555555555";
const STORE = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";
const KEY: Uint8Array = new Uint8Array(32).fill(7);
const MON_HOST = "10.0.0.100";
const MON_PORT = 7400;
const ARENA_BYTES = 32 * MIB;
/** A monitor serves this many inputs before another takes its place. */
const PERIOD = 250;
const ANSWER_LIMIT_US = 20_000_000;
const BYTES_MAX = 4 * MIB;
const decoder = new TextDecoder();
const encoder = new TextEncoder();

/** A real monitor with an osd, a pool and an image: its REST, and what peers with the key ask. */
export function monTargets(ports: FuzzPorts, frames: readonly RecordedFrame[]): FuzzTarget[] {
  return [restTarget(ports), requestTarget(ports, frames)];
}

/** One monitor after the other, in the same memory. */
class MonHost {
  monitor: Monitor = null as unknown as Monitor;
  simulation: Simulation = null as unknown as Simulation;
  private failed = "";
  private readonly ports: FuzzPorts;
  private readonly memory = [new ArrayBuffer(ARENA_BYTES), new ArrayBuffer(ARENA_BYTES)];
  private peers: SimWorld = null as unknown as SimWorld;
  private osd: Connection = null as unknown as Connection;
  private client: Connection = null as unknown as Connection;

  constructor(ports: FuzzPorts) {
    this.ports = ports;
  }

  begin(): void {
    const { checksum, drainMicrotasks } = this.ports;
    // Some peers' words are worth an error; that a request failed inside the monitor is a bug.
    this.failed = "";
    const logger = new RequestLogger((text) => {
      this.failed = text;
    });
    this.simulation = new Simulation(1, { checksum, drainMicrotasks, logger, errorsAllowed: true });
    const world = this.world("mon.a", MON_HOST, 0);
    this.peers = this.world("peers", "10.0.0.1", 1);
    this.monitor = new Monitor({
      world,
      logger: world.logger,
      store: new MemoryMetaStore(world.timers),
      clusterId: CLUSTER_ID,
      clusterName: "fuzz",
      clusterKey: KEY,
      name: "mon.a",
      index: 0,
      mons: [],
      version: "fuzz",
      control: { kind: "tcp", host: MON_HOST, port: MON_PORT },
      restored: false,
      formatTime: (ms) => `1970-01-01T00:00:00.${String(Math.floor(ms) % 1000).padStart(3, "0")}Z`,
      onFatal: (error) => {
        throw error;
      },
    });
    this.settle(this.monitor.start());
    this.osd = this.dial(Role.Osd);
    this.client = this.dial(Role.Client);
    const { simulation } = this;
    assert(
      simulation.run(() => this.osd.isOpen && this.client.isOpen),
      "mon: nobody is let in",
    );
    const registered = toBinary(control.OsdRegisterRequestSchema, registration());
    assert(this.ask(this.osd, Method.OsdRegister, registered) === 0, "mon: an osd is refused");
    const pool = { name: "pool", size: 1, pgCount: 4, failureDomain: "osd" as const };
    this.settle(this.monitor.pools.create(pool, false));
    this.settle(this.monitor.images.create("pool", "image", 16 * MIB, false));
  }

  /** Ask as an osd or as a client; the status of the answer's frame. */
  askAs(isOsd: boolean, method: number, body: Uint8Array): Status {
    return this.ask(isOsd ? this.osd : this.client, method, body);
  }

  private ask(connection: Connection, method: number, body: Uint8Array): Status {
    const op = new AskOp();
    const at = connection.beginRequest(op, method, body.length, 0, 0);
    assert(at >= 0, "mon: a request can not be sent");
    this.peers.arena.bytes.set(body, at);
    connection.finish();
    this.peers.turns.again();
    assert(
      this.simulation.run(() => op.isDone, ANSWER_LIMIT_US),
      "mon: no answer comes",
    );
    assert(this.failed === "", `mon: a request fails inside: ${this.failed}`);
    assert(connection.isOpen, "mon: it ends the connection of a peer that asks");
    return op.status;
  }

  settle<Value>(promise: Promise<Value>): Value {
    let outcome: { value: Value } | { error: unknown } | undefined;
    promise.then(
      (value) => {
        outcome = { value };
      },
      (error: unknown) => {
        outcome = { error };
      },
    );
    const isDone = this.simulation.run(() => outcome !== undefined, 2 * ANSWER_LIMIT_US);
    assert(isDone && outcome !== undefined, "mon: it does not answer");
    if ("error" in outcome) throw outcome.error;
    return outcome.value;
  }

  private world(name: string, address: string, at: number): SimWorld {
    const memory = this.memory[at]!;
    const world = this.simulation.createWorld(name, address, { arenaBytes: ARENA_BYTES, memory });
    world.start();
    return world;
  }

  private dial(role: Role): Connection {
    const own = { clusterId: CLUSTER_ID, role, id: 0, shard: SHARD_NONE, name: `fuzz.${role}` };
    const endpoint = new RpcEndpoint(this.peers, own, KEY, {
      control: true,
      receiveBytes: 1_310_720,
      sendBytes: 1_310_720,
    });
    const to = { role: Role.Mon, id: 0, shard: SHARD_NONE };
    return endpoint.dial({ kind: "tcp", host: MON_HOST, port: MON_PORT }, to, DEAF);
  }
}

class RequestLogger implements Logger {
  private readonly onFailed: (text: string) => void;

  constructor(onFailed: (text: string) => void) {
    this.onFailed = onFailed;
  }

  debug(): void {}
  info(): void {}
  warn(): void {}

  error(message: string, fields?: LogFields): void {
    const isRequest = message === "request failed" || message === "message failed";
    if (isRequest) this.onFailed(JSON.stringify(fields ?? {}));
  }

  child(): Logger {
    return this;
  }
}

class AskOp extends RequestOp {
  isDone = false;
  status: Status = 0 as Status;

  onReply(): void {
    this.isDone = true;
  }

  override onRefused(frame: Frame): void {
    this.onFail(frame.status);
  }

  onFail(status: Status): void {
    this.status = status;
    this.isDone = true;
  }
}

const DEAF: ConnectionHandler = {
  onOpen() {},
  onRequest() {},
  onOneway() {},
  onWritable() {},
  onClose() {},
};

function registration(): control.OsdRegisterRequest {
  const init: MessageInitShape<typeof control.OsdRegisterRequestSchema> = {
    osd: 0,
    storeUuid: STORE,
    incarnation: 1n,
    boot: 1n,
    host: "host-0",
    addresses: [{ host: "10.0.0.1", port: 7500 }],
    capacityBytes: 1n << 30n,
    version: "fuzz",
    backend: "memory",
  };
  return create(control.OsdRegisterRequestSchema, init);
}

/* ---------------------------------------------------------------- requests */

const ASKED: readonly Method[] = [
  Method.OsdRegister,
  Method.OsdReport,
  Method.MapSubscribe,
  Method.MapGet,
  Method.ImageOpen,
  Method.ImageRefresh,
  Method.ImageClose,
  Method.ImageList,
];

/** The first byte chooses the method, the second who asks. */
function requestTarget(ports: FuzzPorts, frames: readonly RecordedFrame[]): FuzzTarget {
  const host = new MonHost(ports);
  const open = create(control.ImageOpenRequestSchema, {
    pool: "pool",
    image: "image",
    mode: control.ImageOpenMode.EXCLUSIVE,
    client: "fuzz",
  });
  const seeds = [
    row(Method.OsdRegister, 0, toBinary(control.OsdRegisterRequestSchema, registration())),
    row(Method.ImageOpen, 1, toBinary(control.ImageOpenRequestSchema, open)),
    ...ASKED.filter((method) => method >= Method.MapSubscribe && method !== Method.ImageOpen)
      .filter((method) => method !== Method.ImageRefresh)
      .map((method) => row(method, 1, new Uint8Array(0))),
  ];
  for (const { kind, method, header } of frames) {
    if (kind !== 1 || method !== Method.OsdReport) continue;
    const report = fromBinary(control.OsdReportRequestSchema, header);
    Object.assign(report, { osd: 0, boot: 1n, generation: 0, epoch: 0 });
    seeds.push(row(method, 0, toBinary(control.OsdReportRequestSchema, report)));
  }
  return {
    name: "mon-requests",
    seeds,
    sizeMin: 2,
    sizeMax: 4096,
    bytesMax: BYTES_MAX,
    period: PERIOD,
    begin: () => host.begin(),
    run: (input) => {
      if (input.length < 2) return false;
      const method = ASKED[input[0]! % ASKED.length]!;
      return host.askAs(input[1]! % 2 === 0, method, input.subarray(2)) === 0;
    },
  };
}

function row(method: Method, who: number, body: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(2 + body.length);
  bytes[0] = ASKED.indexOf(method);
  bytes[1] = who;
  bytes.set(body, 2);
  return bytes;
}

/* -------------------------------------------------------------------- rest */

const JSON_TYPE = "application/json";
const REQUESTS = [
  ["POST /api/v1/pools", '{"name":"p2","size":1,"pgCount":8,"objectBytes":65536}'],
  ["POST /api/v1/pools?dryRun=true", '{"name":"p3","size":1,"failureDomain":"host"}'],
  ["GET /api/v1/pools/pool:explain", ""],
  ["POST /api/v1/pools/pool/images", '{"name":"i2","sizeBytes":1048576}'],
  ["POST /api/v1/pools/pool/images/image:resize?dryRun=true", '{"sizeBytes":"33554432"}'],
  ["PATCH /api/v1/pools/pool/images/image?dryRun=true", '{"name":"i3"}'],
  ["GET /api/v1/images?pool=pool", ""],
  ["POST /api/v1/osds/0:in", ""],
  ["GET /api/v1/osds/0", ""],
  ["GET /api/v1/pgs/1.0", ""],
  ["DELETE /api/v1/pools/pool/images/image?dryRun=true", ""],
  ["GET /api/v1/operations", ""],
  ["GET /api/v1/status", ""],
] as const;
const WORDS = [
  "null",
  "true",
  "[]",
  "{}",
  '""',
  "-1",
  "0",
  "1e999",
  "1.5",
  "9007199254740993",
  "4294967296",
  '"__proto__"',
  '"name"',
  '"size"',
  '"sizeBytes"',
  '"../x"',
  "..",
  "%00",
  "%2e%2e",
  "%",
  "pool",
  "image",
  "pgs/1.0:replaceReplica",
  "pgs/1.0:transferLeader",
  "operations/1",
  '{"osd":0}',
  "GET",
  "POST",
  "DELETE",
  "PATCH",
  "PUT",
  "HEAD",
  "OPTIONS",
  "api",
  "v1",
  "dryRun=true",
] as const;

/** `METHOD PATH`, content type and body, a line each. */
function restTarget(ports: FuzzPorts): FuzzTarget {
  const host = new MonHost(ports);
  let api: ReturnType<typeof createApi> | undefined;
  const seeds = REQUESTS.map(([head, body]) => encoder.encode(`${head}\n${JSON_TYPE}\n${body}`));
  return {
    name: "rest",
    seeds,
    sizeMax: 4096,
    words: WORDS.map((word) => encoder.encode(word)),
    bytesMax: BYTES_MAX,
    period: PERIOD,
    begin: () => {
      host.begin();
      api = createApi({ monitor: host.monitor, page: "", usage });
    },
    run: (input) => {
      const request = requestOf(input);
      if (request === undefined) return false;
      const response = host.settle(api!.fetch(request));
      const { status } = response;
      assert(status >= 200 && status < 600 && status !== 500, `rest: it answers ${status}`);
      if (status < 400) return true;
      if (request.method === "HEAD") return false;
      const problem = JSON.parse(host.settle(response.text())) as { code?: string };
      assert(Object.hasOwn(ERRORS, problem.code ?? ""), "rest: an error without a code");
      return false;
    },
  };
}

function usage(): { cpuSeconds: number; residentBytes: number; heapBytes: number } {
  return { cpuSeconds: 1, residentBytes: 1, heapBytes: 1 };
}

/** Undefined when no HTTP server would hand it on. */
function requestOf(input: Input): Request | undefined {
  const text = decoder.decode(input);
  const [head = "", type = "", ...rest] = text.split("\n");
  const [method = "", path = ""] = head.split(" ");
  const body = rest.join("\n");
  const hasBody = method !== "GET" && method !== "HEAD" && body !== "";
  try {
    return new Request(`http://127.0.0.1:7480${path.startsWith("/") ? path : `/${path}`}`, {
      method,
      headers: { host: "127.0.0.1:7480", "content-type": type },
      ...(hasBody ? { body } : {}),
    });
  } catch {
    return undefined;
  }
}
