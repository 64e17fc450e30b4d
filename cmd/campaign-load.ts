import { Prng } from "../core/base/prng.ts";
import { BLOCK_SIZE } from "../core/base/units.ts";
import type { RegisterHistory } from "../core/testing/testing.ts";
import { NBD_FUA, NbdCommand, NbdLink } from "./campaign-nbd.ts";

/**
 * Clients that write and read an image through gateways, and record all of it.
 *
 * Each client has one connection and one operation at a time. Most operations meet on a few hot
 * blocks in several groups, so that clients race; the others go anywhere in the image, so that a
 * write that gets lost is seen when everything is read at the end. Every written block is unlike
 * all others, zeros on some hot blocks excepted. A client that loses its gateway connects again; a
 * write that was open then is recorded as one without an answer.
 */
export interface LoadOptions {
  readonly gateways: readonly GatewayAddress[];
  /** `POOL/IMAGE` */
  readonly exportName: string;
  readonly sizeBytes: number;
  readonly clientsPerGateway: number;
  readonly history: RegisterHistory;
  readonly seed: number;
}

export interface GatewayAddress {
  readonly name: string;
  readonly host: string;
  readonly port: number;
}

/** An operation that took long enough to be a pause, in milliseconds of `performance.now`. */
interface SlowOperation {
  readonly gateway: string;
  readonly callMs: number;
  readonly returnMs: number;
}

/** Blocks of an object, so that hot blocks lie in several groups. */
const OBJECT_BLOCKS = 1024;
const HOT_OBJECTS = 8;
const HOT_PER_OBJECT = 2;
const HOT_PERCENT = 70;
const WRITE_PERCENT = 50;
const FLUSH_PERCENT = 2;
const BLOCKS_MAX = 4;
/** A client rests this long between two operations, at most. */
const THINK_MS_MAX = 14;
const RECONNECT_MS = 50;
const SLOW_MS = 10;
const READ_BACK_BLOCKS = 64;
const DAMAGE_MAX = 20;

export class CampaignLoad {
  /** Answered well. */
  completed = 0;
  /** Answered with an error, by its number and kind. */
  readonly errors = new Map<string, number>();
  /** Blocks that were no whole write of anybody. */
  readonly damage: string[] = [];
  private readonly options: LoadOptions;
  private readonly clients: LoadClient[] = [];
  private readonly slow: SlowOperation[] = [];
  /** Errno that writes may be refused with now; 0: none. */
  mayRefuse = 0;
  private values = 0;
  private markMs = Infinity;
  private marked = 0;

  constructor(options: LoadOptions) {
    this.options = options;
    for (const gateway of options.gateways) {
      for (let left = options.clientsPerGateway; left > 0; left--) {
        this.clients.push(new LoadClient(this, options, gateway, this.clients.length + 1));
      }
    }
  }

  start(): void {
    for (const client of this.clients) client.start();
  }

  async stop(): Promise<void> {
    await Promise.all(this.clients.map((client) => client.stop()));
  }

  /** Milliseconds between two times that the longest operation took; one gateway's are left out. */
  longestMs(fromMs: number, toMs: number, exceptGateway = ""): number {
    const open = this.clients.flatMap((client) => client.openOperation());
    return [...this.slow, ...open]
      .filter(({ gateway }) => gateway !== exceptGateway)
      .reduce((longest, { callMs, returnMs }) => {
        return Math.max(longest, Math.min(returnMs, toMs) - Math.max(callMs, fromMs));
      }, 0);
  }

  /** Every client has had an answer to what it asked after `ms`; one gateway's are left out. */
  goesOnSince(ms: number, exceptGateway = ""): boolean {
    return this.clients.every(
      ({ gateway, answeredCallMs }) => gateway.name === exceptGateway || answeredCallMs > ms,
    );
  }

  /** From now on count acknowledged writes that begin later. */
  mark(): void {
    this.markMs = performance.now();
    this.marked = 0;
  }

  get acknowledgedSinceMark(): number {
    return this.marked;
  }

  /** Read every block of the image, through all gateways by turns, into the history. */
  async readBack(): Promise<void> {
    await Promise.all(
      this.options.gateways.map(async (gateway, at) => {
        const client = new LoadClient(this, this.options, gateway, this.clients.length + 1 + at);
        await client.readAll(READ_BACK_BLOCKS, at, this.options.gateways.length);
      }),
    );
  }

  /* ------------------------------------------------------------ for clients */

  newValue(): number {
    this.values += 1;
    return this.values;
  }

  onAnswered(gateway: string, isWrite: boolean, callMs: number, returnMs: number): void {
    this.completed += 1;
    if (isWrite && callMs > this.markMs) this.marked += 1;
    if (returnMs - callMs >= SLOW_MS) this.slow.push({ gateway, callMs, returnMs });
  }

  onError(errno: number, command: string): void {
    const what = `errno ${errno} of ${command}`;
    this.errors.set(what, (this.errors.get(what) ?? 0) + 1);
  }

  onDamage(text: string): void {
    if (this.damage.length < DAMAGE_MAX) this.damage.push(text);
  }
}

class LoadClient {
  readonly gateway: GatewayAddress;
  /** When the last operation that was answered had been asked. */
  answeredCallMs = 0;
  private readonly load: CampaignLoad;
  private readonly options: LoadOptions;
  private readonly id: number;
  private readonly random: Prng;
  private link: NbdLink | undefined;
  private callMs = Infinity;
  private stopping = false;
  private ended: Promise<void> = Promise.resolve();

  constructor(load: CampaignLoad, options: LoadOptions, gateway: GatewayAddress, id: number) {
    this.load = load;
    this.options = options;
    this.gateway = gateway;
    this.id = id;
    this.random = new Prng(options.seed * 1009 + id);
  }

  start(): void {
    this.ended = this.run();
  }

  async stop(): Promise<void> {
    this.stopping = true;
    await this.ended;
  }

  /** What waits for its answer now. */
  openOperation(): SlowOperation[] {
    if (this.callMs === Infinity) return [];
    return [{ gateway: this.gateway.name, callMs: this.callMs, returnMs: Infinity }];
  }

  async readAll(blocks: number, turn: number, turns: number): Promise<void> {
    const count = this.options.sizeBytes / BLOCK_SIZE;
    for (let first = turn * blocks; first < count; first += turns * blocks) {
      await this.operate(NbdCommand.Read, first, blocks);
      if (this.link === undefined) throw new Error(`${this.gateway.name} ended during a read`);
    }
    this.link?.close();
  }

  private async run(): Promise<void> {
    while (!this.stopping) {
      const { command, first, blocks } = this.draw();
      await this.operate(command, first, blocks);
      await Bun.sleep(this.link === undefined ? RECONNECT_MS : this.random.below(THINK_MS_MAX));
    }
    this.link?.close();
  }

  private draw(): { command: NbdCommand; first: number; blocks: number } {
    const { random } = this;
    const chance = random.below(100);
    const isWrite = chance < WRITE_PERCENT;
    let command = isWrite ? NbdCommand.Write : NbdCommand.Read;
    if (chance >= 100 - FLUSH_PERCENT) command = NbdCommand.Flush;
    if (random.below(100) >= HOT_PERCENT) {
      const blocks = 1 + random.below(BLOCKS_MAX);
      const first = random.below(this.options.sizeBytes / BLOCK_SIZE - blocks);
      return { command, first, blocks };
    }
    const object = random.below(HOT_OBJECTS);
    const within = random.below(HOT_PER_OBJECT);
    const blocks = within === 0 && random.below(6) === 0 ? HOT_PER_OBJECT : 1;
    if (isWrite && object % 4 === 3 && random.below(8) === 0) command = NbdCommand.WriteZeroes;
    return { command, first: object * OBJECT_BLOCKS + within, blocks };
  }

  /** One operation; `link` is undefined afterwards when the gateway went away. */
  private async operate(command: NbdCommand, first: number, blocks: number): Promise<void> {
    const { host, port } = this.gateway;
    try {
      this.link ??= await NbdLink.attach(host, port, this.options.exportName);
    } catch {
      return;
    }
    const values: number[] = [];
    const data = command === NbdCommand.Write ? Buffer.alloc(blocks * BLOCK_SIZE) : null;
    for (let at = 0; at < blocks; at++) {
      values.push(data === null ? 0 : this.load.newValue());
      if (data !== null) stampBlock(wordsOf(data, at), first + at, values[at]!);
    }
    const isFlush = command === NbdCommand.Flush;
    const request = {
      command,
      offset: isFlush ? 0 : first * BLOCK_SIZE,
      length: isFlush ? 0 : blocks * BLOCK_SIZE,
      flags: data !== null && this.random.below(4) === 0 ? NBD_FUA : 0,
      data,
    };
    const callMs = performance.now();
    this.callMs = callMs;
    let error = -1;
    let seen: Buffer = Buffer.alloc(0);
    try {
      ({ error, data: seen } = await this.link.ask(request));
    } catch {
      this.link.close();
      this.link = undefined;
    }
    const returnMs = performance.now();
    this.callMs = Infinity;
    const isRefusal = error === this.load.mayRefuse && command !== NbdCommand.Read && !isFlush;
    if (error > 0 && !isRefusal) this.load.onError(error, NbdCommand[command]);
    if (error === 0) {
      const isWrite = command === NbdCommand.Write || command === NbdCommand.WriteZeroes;
      this.load.onAnswered(this.gateway.name, isWrite, callMs, returnMs);
      this.answeredCallMs = callMs;
    }
    if (isFlush) return;
    if (command === NbdCommand.Read) {
      if (error !== 0) return;
      for (let at = 0; at < blocks; at++) values[at] = this.judge(wordsOf(seen, at), first + at);
    }
    this.record(command !== NbdCommand.Read, first, values, callMs, error === 0 ? returnMs : -1);
  }

  private record(
    isWrite: boolean,
    first: number,
    values: readonly number[],
    callMs: number,
    returnMs: number,
  ): void {
    const callNs = Math.round(callMs * 1e6);
    const returnNs = returnMs < 0 ? Infinity : Math.round(returnMs * 1e6);
    values.forEach((value, at) => {
      const operation = { key: first + at, client: this.id, isWrite, value, callNs, returnNs };
      this.options.history.add(operation);
    });
  }

  /** The value that a block holds. A block that is none whole is told and counts as no value. */
  private judge(words: Uint32Array, block: number): number {
    const value = words[0]!;
    if (value === 0 ? words.every((word) => word === 0) : isWhole(words, block, value)) {
      return value;
    }
    const shown = [...words.subarray(0, 4)].map((word) => word.toString(16)).join(" ");
    this.load.onDamage(`client ${this.id} read block ${block}: no whole write, it begins ${shown}`);
    return -1;
  }
}

function wordsOf(data: Buffer, block: number): Uint32Array {
  const start = data.byteOffset + block * BLOCK_SIZE;
  if (start % 4 === 0) return new Uint32Array(data.buffer, start, BLOCK_SIZE / 4);
  const copy = Buffer.from(data.subarray(block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE));
  return new Uint32Array(Uint8Array.from(copy).buffer);
}

/** Fill a block with what only this value in this place makes. */
function stampBlock(words: Uint32Array, block: number, value: number): void {
  const salt = Math.imul(value, 0x9e37_79b1) ^ block;
  for (let at = 0; at < words.length; at += 2) {
    words[at] = value;
    words[at + 1] = salt ^ at;
  }
}

function isWhole(words: Uint32Array, block: number, value: number): boolean {
  const salt = Math.imul(value, 0x9e37_79b1) ^ block;
  for (let at = 0; at < words.length; at += 2) {
    if (words[at] !== value || words[at + 1] !== (salt ^ at) >>> 0) return false;
  }
  return true;
}
