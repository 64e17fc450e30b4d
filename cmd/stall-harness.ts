import { connect, createServer, type Server, type Socket } from "node:net";
import { Status } from "../core/base/status.ts";
import { Method } from "../core/rpc/rpc.ts";
import { decodeWriteReply, WriteReply } from "../proto/gen/hot.ts";

/**
 * A network that stalls: between a client and one port of an osd, frame by frame.
 *
 * What it can do is what a network can: keep what was sent, for any time and also when its sender
 * has long given the connection up, deliver it then, and, by whoever recorded it, twice. It can not
 * make frames of its own, nor move them to another connection: their tags hold there alone.
 */

/** Of a frame: sizes and places of proto/frame.md. */
const PREFIX_SIZE = 64;
const KIND_AT = 5;
const METHOD_AT = 8;
const HEADER_SIZE_AT = 12;
const REQUEST_ID_AT = 16;
const PAYLOAD_SIZE_AT = 24;
const KIND_REQUEST = 1;
const KIND_REPLY = 2;

function padded(size: number): number {
  return Math.ceil(size / 8) * 8;
}

/** Splits a stream into its frames. */
class FrameReader {
  private rest: Buffer = Buffer.alloc(0);

  take(data: Buffer): Buffer[] {
    this.rest = this.rest.length === 0 ? data : Buffer.concat([this.rest, data]);
    const frames: Buffer[] = [];
    while (this.rest.length >= PREFIX_SIZE) {
      const size =
        PREFIX_SIZE +
        padded(this.rest.readUInt32LE(HEADER_SIZE_AT)) +
        padded(this.rest.readUInt32LE(PAYLOAD_SIZE_AT));
      if (this.rest.length < size) break;
      frames.push(this.rest.subarray(0, size));
      this.rest = this.rest.subarray(size);
    }
    return frames;
  }
}

function isWrite(frame: Buffer, kind: number): boolean {
  return frame[KIND_AT] === kind && frame.readUInt16LE(METHOD_AT) === Number(Method.Write);
}

function idOf(frame: Buffer): bigint {
  return frame.readBigUInt64LE(REQUEST_ID_AT);
}

function statusOf(frame: Buffer): Status {
  const reply = new WriteReply();
  const view = new DataView(frame.buffer, frame.byteOffset, frame.length);
  const size = frame.readUInt32LE(HEADER_SIZE_AT);
  if (!decodeWriteReply(reply, view, PREFIX_SIZE, size)) throw new Error("a reply is malformed");
  return reply.status;
}

/** One connection through the proxy. */
export class StalledLine {
  /** Frames of the client that are on their way since the line stalls. */
  private readonly kept: Buffer[] = [];
  private stalls = false;
  private readonly client: Socket;
  private readonly server: Socket;
  /** What writes were told, by the id of their request. */
  private readonly answers = new Map<bigint, Status>();
  /** The osd has ended the connection. */
  ended = false;

  constructor(client: Socket, targetPort: number) {
    this.client = client;
    this.server = connect({ host: "127.0.0.1", port: targetPort, noDelay: true });
    client.setNoDelay(true);
    const asked = new FrameReader();
    const told = new FrameReader();
    client.on("data", (data) => {
      for (const frame of asked.take(data as Buffer)) {
        if (this.stalls) this.kept.push(frame);
        else this.server.write(frame);
      }
    });
    this.server.on("data", (data) => {
      for (const frame of told.take(data as Buffer)) {
        if (isWrite(frame, KIND_REPLY)) this.answers.set(idOf(frame), statusOf(frame));
      }
      if (!client.destroyed) client.write(data);
    });
    // The far end hears of it when the network gets round to it.
    client.on("close", () => {
      if (!this.stalls) this.server.end();
    });
    this.server.on("close", () => {
      this.ended = true;
      client.destroy();
    });
    // `close` follows.
    client.on("error", () => undefined);
    this.server.on("error", () => undefined);
  }

  get keeps(): readonly Buffer[] {
    return this.kept.filter((frame) => isWrite(frame, KIND_REQUEST));
  }

  /** From now on nothing of the client arrives. */
  stall(): void {
    this.stalls = true;
  }

  /** The client loses the connection; the osd does not hear of it. */
  loseClient(): void {
    this.client.destroy();
  }

  /** What was kept arrives now, in its order. */
  deliver(): void {
    for (const frame of this.kept) this.server.write(frame);
  }

  /** One frame once more. */
  repeat(frame: Buffer): void {
    this.server.write(frame);
  }

  /** What the osd has answered a write; undefined while it has not. */
  answerTo(frame: Buffer): Status | undefined {
    return this.answers.get(idOf(frame));
  }

  close(): void {
    this.client.destroy();
    this.server.destroy();
  }
}

/** The way to one port of an osd. */
export class StallingProxy {
  readonly lines: StalledLine[] = [];
  private readonly server: Server;

  private constructor(targetPort: number) {
    this.server = createServer((socket) => this.lines.push(new StalledLine(socket, targetPort)));
  }

  static async to(targetPort: number): Promise<StallingProxy> {
    const proxy = new StallingProxy(targetPort);
    await new Promise<void>((resolve) => proxy.server.listen(0, "127.0.0.1", resolve));
    return proxy;
  }

  get port(): number {
    const address = this.server.address();
    if (address === null || typeof address === "string") throw new Error("the proxy has no port");
    return address.port;
  }

  close(): void {
    for (const line of this.lines) line.close();
    this.server.close();
  }
}
