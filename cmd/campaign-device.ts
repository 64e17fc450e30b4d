import { type Subprocess, spawn, spawnSync, which } from "bun";
import { closeSync, existsSync, fstatSync, openSync, readSync, renameSync } from "node:fs";
import { rmSync, symlinkSync, writeFileSync, writeSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { waitUntil } from "./campaign-cluster.ts";

/**
 * A disk for one osd whose requests fail or take their time, one by one: a file that `nbdfuse` makes
 * of a small NBD server in this process. What an osd asks of it with io_uring comes here.
 *
 * Nobody may touch the file synchronously from this process: it would wait for itself.
 */

const OPTION_MAGIC = 0x4948_4156_454f_5054n;
const OPTION_REPLY_MAGIC = 0x3_e889_0455_65a9n;
const OPTION_EXPORT_NAME = 1;
const OPTION_UNSUPPORTED = 0x8000_0001;
/** Fixed newstyle, no zeros behind the export. */
const HANDSHAKE_FLAGS = 3;
const HANDSHAKE_SIZE = 4;
const OPTION_SIZE = 16;
const REQUEST_SIZE = 28;
const REQUEST_MAGIC = 0x2560_9513;
const REPLY_MAGIC = 0x6744_6698;
const EIO = 5;
/** Flags, FLUSH, FUA, TRIM, WRITE_ZEROES. */
const EXPORT_FLAGS = 1 | 4 | 8 | 32 | 64;

enum Command {
  Read = 0,
  Write = 1,
  End = 2,
  Flush = 3,
  Trim = 4,
  Zero = 6,
}

/** What is wrong with the disk; what is not named is well. */
interface Defect {
  /** Of reads and of writes, the share that fails with EIO. */
  readonly reads?: number;
  readonly writes?: number;
  /** So many flushes fail with EIO. */
  readonly flushes?: number;
  /** How long each request takes longer. */
  readonly delayMs?: number;
}

export class CampaignDevice {
  /** Requests that have failed or were late since the defect was set. */
  struck = 0;
  private readonly folder: string;
  private readonly server: Server;
  private file = -1;
  private child: Subprocess | undefined;
  private defect: Defect = {};
  private flushesLeft = 0;

  private constructor(folder: string) {
    this.folder = folder;
    this.server = createServer((socket) => new Session(this, socket));
  }

  /** Answers why there is none, where there can be none. */
  static open(folder: string): CampaignDevice | string {
    if (process.getuid?.() !== 0) return "disks that fail need root";
    if (which("nbdfuse") === null) return "disks that fail need nbdfuse, of the package libnbd-bin";
    if (!existsSync("/dev/fuse")) return "disks that fail need /dev/fuse";
    return new CampaignDevice(folder);
  }

  /** Serve the file of a stopped osd from here on. */
  async take(path: string): Promise<void> {
    renameSync(path, this.image);
    this.file = openSync(this.image, "r+");
    await new Promise<void>((resolve) => this.server.listen(this.socket, resolve));
    writeFileSync(this.mount, "");
    this.child = spawn(["nbdfuse", this.mount, "--unix", this.socket], {
      stdin: "ignore",
      stdout: "ignore",
      stderr: "ignore",
    });
    const look = ["stat", "-c", "%s", this.mount];
    await waitUntil("nbdfuse to serve", async () => {
      const child = spawn(look, { stdout: "pipe", stderr: "ignore" });
      return Number(await new Response(child.stdout).text()) === this.sizeBytes;
    });
    symlinkSync(this.mount, path);
  }

  set(defect: Defect): void {
    this.defect = defect;
    this.flushesLeft = defect.flushes ?? 0;
    this.struck = 0;
  }

  async close(keep: boolean): Promise<void> {
    this.set({});
    if (this.child !== undefined) {
      spawnSync(["umount", this.mount]);
      await this.child.exited;
    }
    this.server.close();
    if (this.file >= 0) closeSync(this.file);
    if (!keep) rmSync(this.image, { force: true });
  }

  get sizeBytes(): number {
    return fstatSync(this.file).size;
  }

  /** Carry out one request, `answer` when it is time. */
  run(command: Command, at: number, data: Buffer, answer: (error: number) => void): void {
    const error = this.fails(command) ? EIO : 0;
    if (error === 0 && command === Command.Read) readSync(this.file, data, 0, data.length, at);
    if (error === 0 && command !== Command.Read) writeSync(this.file, data, 0, data.length, at);
    const { delayMs = 0 } = this.defect;
    if (error !== 0 || delayMs > 0) this.struck += 1;
    if (delayMs === 0) answer(error);
    else setTimeout(() => answer(error), delayMs);
  }

  private fails(command: Command): boolean {
    const { reads = 0, writes = 0 } = this.defect;
    if (command === Command.Read) return Math.random() < reads;
    if (command !== Command.Flush) return Math.random() < writes;
    this.flushesLeft -= 1;
    return this.flushesLeft >= 0;
  }

  private get image(): string {
    return join(this.folder, "device.img");
  }

  private get mount(): string {
    return join(this.folder, "device");
  }

  private get socket(): string {
    return join(this.folder, "device.sock");
  }
}

/** A connection of an NBD client: options are refused until it takes the export, then requests. */
class Session {
  private readonly device: CampaignDevice;
  private readonly socket: Socket;
  private rest: Buffer = Buffer.alloc(0);
  private next: (bytes: Buffer) => void;
  private wanted = HANDSHAKE_SIZE;

  constructor(device: CampaignDevice, socket: Socket) {
    this.device = device;
    this.socket = socket;
    this.next = () => this.want(OPTION_SIZE, (head) => this.option(head));
    const hello = Buffer.alloc(18);
    hello.write("NBDMAGIC", "latin1");
    hello.writeBigUInt64BE(OPTION_MAGIC, 8);
    hello.writeUInt16BE(HANDSHAKE_FLAGS, 16);
    socket.write(hello);
    // `close` follows: nobody waits here.
    socket.on("error", () => undefined);
    socket.on("data", (data) => this.take(data as Buffer));
  }

  private take(data: Buffer): void {
    this.rest = this.rest.length === 0 ? data : Buffer.concat([this.rest, data]);
    while (this.rest.length >= this.wanted) {
      const bytes = this.rest.subarray(0, this.wanted);
      this.rest = this.rest.subarray(this.wanted);
      this.next(bytes);
    }
  }

  private want(count: number, next: (bytes: Buffer) => void): void {
    this.wanted = count;
    this.next = next;
  }

  private option(head: Buffer): void {
    const option = head.readUInt32BE(8);
    this.want(head.readUInt32BE(12), () => {
      if (option === OPTION_EXPORT_NAME) {
        const reply = Buffer.alloc(10);
        reply.writeBigUInt64BE(BigInt(this.device.sizeBytes), 0);
        reply.writeUInt16BE(EXPORT_FLAGS, 8);
        this.socket.write(reply);
        this.awaitRequest();
        return;
      }
      const reply = Buffer.alloc(20);
      reply.writeBigUInt64BE(OPTION_REPLY_MAGIC, 0);
      reply.writeUInt32BE(option, 8);
      reply.writeUInt32BE(OPTION_UNSUPPORTED, 12);
      this.socket.write(reply);
      this.want(OPTION_SIZE, (next) => this.option(next));
    });
  }

  private awaitRequest(): void {
    this.want(REQUEST_SIZE, (head) => this.request(head));
  }

  private request(head: Buffer): void {
    const command = head.readUInt16BE(6) as Command;
    if (head.readUInt32BE(0) !== REQUEST_MAGIC || command === Command.End) {
      this.socket.end();
      return;
    }
    // Copied: what holds it is gone when the answer is.
    const cookie = Buffer.from(head.subarray(8, 16));
    const at = Number(head.readBigUInt64BE(16));
    const length = head.readUInt32BE(24);
    this.want(command === Command.Write ? length : 0, (bytes) => {
      const isZero = command === Command.Zero || command === Command.Trim;
      const isRead = command === Command.Read;
      const data = isRead || isZero ? Buffer.alloc(length) : bytes;
      this.device.run(command, at, data, (error) => {
        const reply = Buffer.alloc(16);
        reply.writeUInt32BE(REPLY_MAGIC, 0);
        reply.writeUInt32BE(error, 4);
        cookie.copy(reply, 8);
        this.socket.write(isRead && error === 0 ? Buffer.concat([reply, data]) : reply);
      });
      this.awaitRequest();
    });
  }
}
