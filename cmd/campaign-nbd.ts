import { connect, type Socket } from "node:net";

/** A plain NBD client with one request at a time. */

const OPTION_EXPORT_NAME = 1;
/** The greeting; size, flags and 124 zeros behind the name of the export. */
const HELLO_SIZE = 18;
const EXPORT_SIZE = 134;
const REQUEST_MAGIC = 0x2560_9513;
const REQUEST_SIZE = 28;
const REPLY_MAGIC = 0x6744_6698;
const REPLY_SIZE = 16;
const ATTACH_MS_MAX = 10_000;

export enum NbdCommand {
  Read = 0,
  Write = 1,
  Flush = 3,
  WriteZeroes = 6,
}

export const NBD_FUA = 1;

export interface NbdRequest {
  readonly command: NbdCommand;
  readonly offset: number;
  readonly length: number;
  readonly flags: number;
  /** Of a write. */
  readonly data: Uint8Array | null;
}

export interface NbdReply {
  /** 0, or a number of Linux. */
  readonly error: number;
  /** Of a read. */
  readonly data: Buffer;
}

export class NbdLink {
  private readonly socket: Socket;
  private readonly parts: Buffer[] = [];
  private partsBytes = 0;
  private closed = false;
  private wake: (() => void) | undefined;
  private cookie = 0;

  private constructor(host: string, port: number) {
    this.socket = connect({ host, port, noDelay: true });
    this.socket.on("data", (data) => {
      this.parts.push(data as Buffer);
      this.partsBytes += data.length;
      this.wake?.();
    });
    this.socket.on("close", () => {
      this.closed = true;
      this.wake?.();
    });
    // `close` follows.
    this.socket.on("error", () => undefined);
  }

  /** Connect and attach an export. Throws when the gateway is not there. */
  static async attach(host: string, port: number, name: string): Promise<NbdLink> {
    const link = new NbdLink(host, port);
    const timer = setTimeout(() => link.close(), ATTACH_MS_MAX);
    try {
      await link.take(HELLO_SIZE);
      const option = Buffer.alloc(20);
      option.writeUInt32BE(1, 0);
      option.write("IHAVEOPT", 4, "latin1");
      option.writeUInt32BE(OPTION_EXPORT_NAME, 12);
      option.writeUInt32BE(name.length, 16);
      link.socket.write(Buffer.concat([option, Buffer.from(name)]));
      await link.take(EXPORT_SIZE);
      return link;
    } catch (error) {
      link.close();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Throws when the connection ends before the answer. */
  async ask(request: NbdRequest): Promise<NbdReply> {
    const header = Buffer.alloc(REQUEST_SIZE);
    this.cookie += 1;
    header.writeUInt32BE(REQUEST_MAGIC, 0);
    header.writeUInt16BE(request.flags, 4);
    header.writeUInt16BE(request.command, 6);
    header.writeUInt32BE(this.cookie >>> 0, 12);
    header.writeBigUInt64BE(BigInt(request.offset), 16);
    header.writeUInt32BE(request.length, 24);
    this.socket.write(request.data === null ? header : Buffer.concat([header, request.data]));
    const reply = await this.take(REPLY_SIZE);
    if (reply.readUInt32BE(0) !== REPLY_MAGIC || reply.readUInt32BE(12) !== this.cookie >>> 0) {
      throw new Error(`reply is malformed: ${reply.toString("hex")}`);
    }
    const error = reply.readUInt32BE(4);
    const isRead = request.command === NbdCommand.Read && error === 0;
    return { error, data: isRead ? await this.take(request.length) : Buffer.alloc(0) };
  }

  close(): void {
    this.socket.destroy();
  }

  /** Exactly `count` bytes. */
  private async take(count: number): Promise<Buffer> {
    while (this.partsBytes < count) {
      if (this.closed) throw new Error("the connection ended");
      await new Promise<void>((resolve) => {
        this.wake = resolve;
      });
      this.wake = undefined;
    }
    const all = this.parts.length === 1 ? this.parts[0]! : Buffer.concat(this.parts);
    this.parts.length = 0;
    this.partsBytes -= count;
    if (this.partsBytes > 0) this.parts.push(all.subarray(count));
    return all.subarray(0, count);
  }
}
