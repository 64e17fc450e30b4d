import { connect, type Socket } from "node:net";

/** Past the 10 s after which a gateway cuts off who holds memory that others wait for. */
const WAIT_MS_MAX = 20_000;

/** A hand-made NBD client: sends any bytes, reads exact counts. For tests. */
export class RawClient {
  isClosed = false;
  private readonly socket: Socket;
  private received: Buffer = Buffer.alloc(0);
  private wake: (() => void) | null = null;

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on("data", (data) => {
      this.received = Buffer.concat([this.received, Buffer.from(data)]);
      this.wake?.();
    });
    socket.on("close", () => {
      this.isClosed = true;
      this.wake?.();
    });
    socket.on("error", () => undefined);
  }

  /** Connect and read the server's greeting. */
  static async open(port: number): Promise<RawClient> {
    const socket = connect(port, "127.0.0.1");
    const client = new RawClient(socket);
    const hello = await client.need(18);
    if (hello.toString("latin1", 0, 16) !== "NBDMAGICIHAVEOPT") throw new Error("bad greeting");
    return client;
  }

  /** Connect and negotiate an export: structured replies, block states, GO. */
  static async attach(port: number, name: string, structured = true): Promise<RawClient> {
    const client = await RawClient.open(port);
    client.flags(3);
    if (structured) {
      client.option(8, Buffer.alloc(0));
      await client.expectReply(8, 1);
      client.option(10, metaRequest(name, "base:allocation"));
      await client.expectReply(10, 4);
      await client.expectReply(10, 1);
    }
    client.option(7, infoRequest(name));
    await client.expectReply(7, 3);
    await client.expectReply(7, 3);
    await client.expectReply(7, 1);
    return client;
  }

  send(data: Uint8Array): void {
    this.socket.write(data);
  }

  flags(value: number): void {
    const data = Buffer.alloc(4);
    data.writeUInt32BE(value);
    this.send(data);
  }

  option(option: number, data: Uint8Array, length: number = data.length): void {
    const header = Buffer.alloc(16);
    header.write("IHAVEOPT", "latin1");
    header.writeUInt32BE(option, 8);
    header.writeUInt32BE(length, 12);
    this.send(Buffer.concat([header, data]));
  }

  /** The type and data of the next option reply. */
  async reply(): Promise<{ option: number; type: number; data: Buffer }> {
    const header = await this.need(20);
    if (header.readBigUInt64BE(0) !== 0x3e889045565a9n) throw new Error("bad option reply magic");
    const data = await this.need(header.readUInt32BE(16));
    return { option: header.readUInt32BE(8), type: header.readUInt32BE(12), data };
  }

  async expectReply(option: number, type: number): Promise<Buffer> {
    const reply = await this.reply();
    if (reply.option !== option || reply.type !== type) {
      throw new Error(`reply ${reply.type} to option ${reply.option}, wanted ${type} to ${option}`);
    }
    return reply.data;
  }

  request(
    command: number,
    cookie: number,
    offset: bigint | number,
    length: number,
    flags = 0,
    data: Uint8Array = Buffer.alloc(0),
  ): void {
    const header = Buffer.alloc(28);
    header.writeUInt32BE(0x25609513, 0);
    header.writeUInt16BE(flags, 4);
    header.writeUInt16BE(command, 6);
    header.writeBigUInt64BE(BigInt(cookie), 8);
    header.writeBigUInt64BE(BigInt(offset), 16);
    header.writeUInt32BE(length, 24);
    this.send(Buffer.concat([header, data]));
  }

  async simpleReply(): Promise<{ error: number; cookie: number }> {
    const header = await this.need(16);
    if (header.readUInt32BE(0) !== 0x67446698) throw new Error("bad simple reply magic");
    return { error: header.readUInt32BE(4), cookie: Number(header.readBigUInt64BE(8)) };
  }

  async chunk(): Promise<{ isDone: boolean; type: number; cookie: number; data: Buffer }> {
    const header = await this.need(20);
    if (header.readUInt32BE(0) !== 0x668e33ef) throw new Error("bad chunk magic");
    const data = await this.need(header.readUInt32BE(16));
    return {
      isDone: (header.readUInt16BE(4) & 1) === 1,
      type: header.readUInt16BE(6),
      cookie: Number(header.readBigUInt64BE(8)),
      data,
    };
  }

  /** Exactly `count` bytes, or an error when the connection ends before. */
  async need(count: number): Promise<Buffer> {
    await this.until(() => this.received.length >= count || this.isClosed);
    if (this.received.length < count) throw new Error("the connection ended");
    const data = this.received.subarray(0, count);
    this.received = this.received.subarray(count);
    return data;
  }

  async whenClosed(): Promise<void> {
    await this.until(() => this.isClosed);
  }

  /** Bytes received and not asked for. */
  get surplus(): number {
    return this.received.length;
  }

  pause(): void {
    this.socket.pause();
  }

  resume(): void {
    this.socket.resume();
  }

  close(): void {
    this.socket.destroy();
  }

  private async until(condition: () => boolean): Promise<void> {
    const end = Date.now() + WAIT_MS_MAX;
    while (!condition()) {
      if (Date.now() > end) throw new Error("nothing came for 20 s");
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 50);
        this.wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      this.wake = null;
    }
  }
}

/** Data of INFO and GO. */
export function infoRequest(name: string | Uint8Array, infos: readonly number[] = []): Buffer {
  const bytes = Buffer.from(name as string);
  const data = Buffer.alloc(4 + bytes.length + 2 + 2 * infos.length);
  data.writeUInt32BE(bytes.length, 0);
  bytes.copy(data, 4);
  data.writeUInt16BE(infos.length, 4 + bytes.length);
  infos.forEach((info, index) => data.writeUInt16BE(info, 6 + bytes.length + 2 * index));
  return data;
}

/** Data of LIST_META_CONTEXT and SET_META_CONTEXT. */
export function metaRequest(name: string, ...queries: string[]): Buffer {
  const parts = [u32(name.length), Buffer.from(name), u32(queries.length)];
  for (const query of queries) parts.push(u32(query.length), Buffer.from(query));
  return Buffer.concat(parts);
}

export function u32(value: number): Buffer {
  const data = Buffer.alloc(4);
  data.writeUInt32BE(value >>> 0);
  return data;
}
