import { assert } from "../base/assert.ts";
import { FastblockError } from "../base/errors.ts";
import { Status, statusName } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { LatencyHistogram } from "../metrics/metrics.ts";
import { type Address, type Listener, Timer, type World } from "../reactor/world.ts";
import {
  type Connection,
  type ConnectionHandler,
  type Frame,
  Method,
  RequestOp,
  Role,
  RpcEndpoint,
} from "../rpc/rpc.ts";
import {
  decodeWriteRequest,
  encodeWriteReply,
  encodeWriteRequest,
  sizeOfWriteReply,
  sizeOfWriteRequest,
  WriteReply,
  WriteRequest,
} from "../../proto/gen/hot.ts";
import type { MicroRow } from "./bench.ts";
import { latencyReport } from "./latency.ts";

/**
 * Round trips through `core/rpc` between two processes: what frames, tags, codec and sockets cost
 * without raft and store.
 *
 * From one block on a request is a real write request (header of the hot codec, blocks behind it)
 * and the answer a real write reply; below, it is a header of so many bytes, echoed.
 */
export interface RpcBenchServer {
  readonly listener: Listener;
  close(): void;
}

/** Both ends of one benchmark know these; made afresh for each. */
export interface RpcBenchSecret {
  readonly clusterId: string;
  readonly psk: Uint8Array;
}

export interface RpcBenchRun {
  readonly world: World;
  readonly target: Address;
  readonly secret: RpcBenchSecret;
  /** Of the request: below 4096 header only, else a multiple of 4096 up to 256 KiB. */
  readonly blockBytes: number;
  /** Requests kept open. */
  readonly depth: number;
  readonly timeMs: number;
  /** The connection is encrypted. */
  readonly encrypt: boolean;
  /** µs of CPU that client and server have used; null: unknown. */
  readonly cpuUs: () => number | null;
}

/** The share of the run that is not counted, in front of it. */
const RAMP_SHARE = 0.2;
const CONNECT_US_MAX = 5_000_000;

/** Answer benchmark requests. Port 0 lets the system choose. */
export function serveRpcBench(
  world: World,
  address: Address,
  secret: RpcBenchSecret,
): RpcBenchServer {
  const identity = {
    clusterId: secret.clusterId,
    role: Role.Osd,
    id: 0,
    shard: 0,
    name: "bench.0",
  };
  const endpoint = new RpcEndpoint(world, identity, secret.psk);
  const listener = endpoint.listen(address, () => new EchoHandler(world));
  const close = (): void => {
    listener.close();
    endpoint.close("benchmark is over");
  };
  return { listener, close };
}

/** Send requests for `timeMs`; throws FB5001 when the server is lost. */
export function runRpcBench(run: RpcBenchRun): Promise<MicroRow> {
  assert(run.depth >= 1 && run.depth <= 1024, "runRpcBench: depth is outside of 1 to 1024");
  return new Promise((resolve, reject) => {
    const load = new RpcLoad(run, resolve, reject);
    load.start();
  });
}

class EchoHandler implements ConnectionHandler {
  private readonly world: World;
  private readonly request = new WriteRequest();
  private readonly reply = new WriteReply();

  constructor(world: World) {
    this.world = world;
  }

  onOpen(): void {}

  onRequest(connection: Connection, frame: Frame): void {
    if (frame.method === Method.Echo) this.echo(connection, frame);
    else this.write(connection, frame);
  }

  private echo(connection: Connection, frame: Frame): void {
    const size = frame.headerSize;
    const at = connection.beginReply(frame.requestId, frame.method, size, 0);
    // Replies are no larger than what was read: there is space unless the peer stopped reading.
    if (at < 0) return connection.close("no space for a reply");
    const from = frame.headerOffset;
    this.world.arena.bytes.copyWithin(at, from, from + size);
    connection.finish();
  }

  private write(connection: Connection, frame: Frame): void {
    const view = this.world.arena.view;
    const { request, reply } = this;
    if (!decodeWriteRequest(request, view, frame.headerOffset, frame.headerSize)) {
      return connection.close("malformed request");
    }
    reply.status = Status.Ok;
    reply.pg = request.pg;
    reply.version = request.number;
    const size = sizeOfWriteReply(reply);
    const at = connection.beginReply(frame.requestId, frame.method, size, 0);
    if (at < 0) return connection.close("no space for a reply");
    encodeWriteReply(reply, view, at);
    connection.finish();
  }

  onOneway(): void {}
  onWritable(): void {}
  onClose(): void {}
}

class EchoOp extends RequestOp {
  private readonly load: RpcLoad;

  constructor(load: RpcLoad) {
    super();
    this.load = load;
  }

  onReply(_frame: Frame): void {
    this.load.onReply(this);
  }

  onFail(status: Status): void {
    this.load.onFail(status);
  }
}

enum LoadStage {
  Connecting = 0,
  Ramp = 1,
  Measured = 2,
  Over = 3,
}

/** Keeps `depth` requests open, and moves from stage to stage by its timer. */
class RpcLoad extends Timer implements ConnectionHandler {
  private readonly run: RpcBenchRun;
  private readonly resolve: (row: MicroRow) => void;
  private readonly reject: (error: Error) => void;
  private readonly endpoint: RpcEndpoint;
  private connection: Connection | null = null;
  private stage = LoadStage.Connecting;
  private readonly histogram = new LatencyHistogram();
  private readonly request = new WriteRequest();
  private readonly headerBytes: number;
  private readonly payloadBytes: number;
  private readonly method: Method;
  private readonly idle: EchoOp[] = [];
  private startedUs = 0;
  private startedCpuUs: number | null = null;

  constructor(run: RpcBenchRun, resolve: (row: MicroRow) => void, reject: (error: Error) => void) {
    super();
    this.run = run;
    this.resolve = resolve;
    this.reject = reject;
    const id = run.world.random.u32();
    const identity = {
      clusterId: run.secret.clusterId,
      role: Role.Client,
      id,
      shard: 0,
      name: "bench",
    };
    const { encrypt } = run;
    this.endpoint = new RpcEndpoint(run.world, identity, run.secret.psk, { encrypt });
    const blocks = Math.floor(run.blockBytes / BLOCK_SIZE);
    this.request.blocks = blocks;
    this.request.crcsCount = blocks;
    this.payloadBytes = blocks * BLOCK_SIZE;
    this.method = blocks > 0 ? Method.Write : Method.Echo;
    this.headerBytes = blocks > 0 ? sizeOfWriteRequest(this.request) : run.blockBytes;
  }

  start(): void {
    const receiver = { role: Role.Osd, id: 0, shard: 0 };
    this.run.world.timers.arm(this, CONNECT_US_MAX);
    this.connection = this.endpoint.dial(this.run.target, receiver, this);
  }

  onOpen(): void {
    this.stage = LoadStage.Ramp;
    this.run.world.timers.arm(this, this.run.timeMs * 1000 * RAMP_SHARE);
    for (let number = 0; number < this.run.depth; number++) this.issue(new EchoOp(this));
  }

  onReply(op: EchoOp): void {
    if (this.stage === LoadStage.Over) return;
    if (this.stage === LoadStage.Measured) {
      this.histogram.record(this.run.world.clock.turnUs - op.rpcSentUs);
    }
    this.issue(op);
  }

  onFail(status: Status): void {
    this.fail(`request failed: ${statusName(status)}, wanted Ok`);
  }

  private issue(op: EchoOp): void {
    const connection = this.connection!;
    const { headerBytes, payloadBytes } = this;
    const at = connection.beginRequest(op, this.method, headerBytes, payloadBytes, 0);
    if (at < 0) {
      this.idle.push(op);
      return;
    }
    if (payloadBytes > 0) {
      this.request.number += 1;
      encodeWriteRequest(this.request, this.run.world.arena.view, at);
    }
    connection.finish();
  }

  onWritable(): void {
    let op = this.idle.pop();
    while (op !== undefined) {
      const left = this.idle.length;
      this.issue(op);
      if (this.idle.length > left) return;
      op = this.idle.pop();
    }
  }

  onTimer(): void {
    switch (this.stage) {
      case LoadStage.Connecting:
        return this.fail("no connection within 5 s, wanted one");
      case LoadStage.Ramp:
        this.stage = LoadStage.Measured;
        this.startedUs = this.run.world.clock.nowUs();
        this.startedCpuUs = this.run.cpuUs();
        this.run.world.timers.arm(this, this.run.timeMs * 1000);
        return;
      case LoadStage.Measured:
        return this.report();
      case LoadStage.Over:
        return;
    }
  }

  private report(): void {
    const seconds = (this.run.world.clock.nowUs() - this.startedUs) / 1_000_000;
    const cpuUs = this.run.cpuUs();
    const count = this.histogram.count;
    const known = cpuUs !== null && this.startedCpuUs !== null && count > 0;
    const encrypted = this.connection?.isEncrypted === true ? " encrypted" : "";
    this.end();
    this.resolve({
      name: `rpc ${this.run.blockBytes} B depth ${this.run.depth}${encrypted}`,
      iops: Math.round(count / seconds),
      bytesPerSec: Math.round((count * this.run.blockBytes) / seconds),
      latencyUs: latencyReport(this.histogram),
      cpuUsPerIo: known ? Math.round(((cpuUs - this.startedCpuUs!) / count) * 100) / 100 : null,
      backend: this.run.world.backend,
    });
  }

  private fail(message: string): void {
    if (this.stage === LoadStage.Over) return;
    this.end();
    this.reject(new FastblockError("FB5001", message));
  }

  private end(): void {
    this.stage = LoadStage.Over;
    this.run.world.timers.disarm(this);
    this.connection?.close("benchmark is over");
  }

  onRequest(connection: Connection, frame: Frame): void {
    connection.refuse(frame.requestId, frame.method, Status.Denied);
  }

  onOneway(): void {}

  onClose(_connection: Connection, reason: string, opened: boolean): void {
    if (opened) this.fail(`connection lost: ${reason}, wanted one until the end`);
  }
}
