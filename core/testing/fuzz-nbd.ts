// cold: fuzzing of decoders
import { assert } from "../base/assert.ts";
import type { Prng } from "../base/prng.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { type ImageOp, type ImageTarget, OpKind, STATE_BYTES } from "../client/client.ts";
import { type ExportSource, NbdServer } from "../gateway/nbd/nbd.ts";
import { Simulation } from "../reactor/reactor.ts";
import { type Drain, DrainOrder, type World } from "../reactor/world.ts";
import type { FuzzTarget } from "./fuzz.ts";
import { FeedWorld } from "./fuzz-feed.ts";
import type { FuzzPorts } from "./fuzz-traffic.ts";

type Input = Uint8Array<ArrayBuffer>;

const MIB = 1_048_576;
const IMAGE_BYTES = MIB;
const EXPORT = "demo/disk";
const ROUNDS_MAX = 10_000;
/** Longer than a turn, shorter than any timer. */
const STEP_US = 50;
const OPTION_REPLY = 0x0003_e889;
const OPTION_REPLY_LOW = 0x0455_65a9;
const CHUNK = 0x668e_33ef;
const HELLO_SIZE = 18;

/** A client of the gateway: its whole stream, handshake and requests, in pieces. */
export function nbdTarget(ports: FuzzPorts): FuzzTarget {
  const end = new NbdEnd(ports);
  return {
    name: "nbd",
    seeds: nbdSeeds(),
    sizeMax: 49_152,
    // Replies of READs are no part of it: their memory is the gateway's own, in slots.
    bytesMax: 2 * MIB,
    run: (input, random) => end.run(input, random),
  };
}

class NbdEnd {
  private readonly simulation: Simulation;
  private readonly world: FeedWorld;
  private readonly server: NbdServer;
  private readonly image: FuzzImage;
  private opened = 0;
  private released = 0;

  constructor({ checksum, drainMicrotasks }: FuzzPorts) {
    this.simulation = new Simulation(1, { checksum, drainMicrotasks });
    const world = this.simulation.createWorld("nbd", "10.0.0.1", { arenaBytes: 64 * MIB });
    this.world = new FeedWorld(world);
    this.image = new FuzzImage(this.world);
    const source: ExportSource = {
      list: () => Promise.resolve([EXPORT]),
      open: (name) => {
        if (name !== EXPORT) return Promise.resolve(null);
        this.opened += 1;
        return Promise.resolve({ target: this.image, release: () => void (this.released += 1) });
      },
    };
    this.server = new NbdServer(this.world, source);
    this.server.listen({ kind: "tcp", host: "10.0.0.1", port: 10_809 });
    world.start();
  }

  /** True when the image was attached. */
  run(input: Input, random: Prng): boolean {
    const opened = this.opened;
    const stream = this.world.network.accept();
    const replies = new Replies();
    for (let at = 0; at < input.length && !stream.isClosing; ) {
      const piece = random.below(3) === 0 ? 1 + random.below(64) : input.length - at;
      const count = stream.feed(input.subarray(at, at + piece));
      at += count;
      // Sometimes the client does not read, and sometimes it is ahead of the answers.
      if (count > 0 && random.below(3) === 0) {
        stream.pump();
        continue;
      }
      if (!this.settle(stream, replies) && count === 0) break;
    }
    if (random.below(4) > 0) this.settle(stream, replies);
    stream.end();
    this.settle(stream, replies);
    const counts = this.server.counts;
    assert(counts.connections === 0, "nbd: a connection is left");
    assert(counts.requestsOpen === 0, "nbd: requests are left");
    assert(counts.slotsBytes === 0, "nbd: slots are left");
    assert(this.opened === this.released, "nbd: an export is left");
    return this.opened > opened;
  }

  /** Until nothing happens any more; false when nothing did. */
  private settle(stream: ReturnType<FeedWorld["network"]["accept"]>, replies: Replies): boolean {
    const { simulation } = this;
    let idle = 0;
    let moved = false;
    for (let round = 0; idle < 2; round++) {
      assert(round < ROUNDS_MAX, "nbd: it does not come to rest");
      let isBusy = stream.pump();
      simulation.run(simulation.nowUs + STEP_US);
      const sent = stream.take();
      replies.add(sent);
      isBusy ||= sent.length > 0 || this.image.isBusy;
      moved ||= isBusy;
      idle = isBusy ? 0 : idle + 1;
    }
    return moved;
  }
}

/** Reads what the gateway says, as far as its length is known from itself. */
class Replies {
  private bytes: Uint8Array = new Uint8Array(0);
  private greeted = false;
  /** Simple replies and the answer to EXPORT_NAME need the requests to be understood. */
  private isOver = false;

  add(sent: Uint8Array): void {
    if (this.isOver || sent.length === 0) return;
    const joined = new Uint8Array(this.bytes.length + sent.length);
    joined.set(this.bytes);
    joined.set(sent, this.bytes.length);
    this.bytes = joined;
    while (!this.isOver && this.one());
  }

  private one(): boolean {
    const { bytes } = this;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    if (!this.greeted) {
      if (bytes.length < HELLO_SIZE) return false;
      assert(view.getUint32(0) === 0x4e42_444d, "nbd: the greeting is malformed");
      this.greeted = true;
      return this.drop(HELLO_SIZE);
    }
    if (bytes.length < 20) return false;
    const isOption = view.getUint32(0) === OPTION_REPLY && view.getUint32(4) === OPTION_REPLY_LOW;
    if (!isOption && view.getUint32(0) !== CHUNK) {
      this.isOver = true;
      return false;
    }
    const size = 20 + view.getUint32(16);
    assert(size <= 2 * MIB, "nbd: a reply is larger than any");
    return bytes.length >= size && this.drop(size);
  }

  private drop(count: number): boolean {
    this.bytes = this.bytes.subarray(count);
    return true;
  }
}

/** An image that trusts the gateway's checks, and makes sure that they were made. */
class FuzzImage implements ImageTarget, Drain {
  readonly readOnly: boolean = false;
  readonly sizeBytes: number = IMAGE_BYTES;
  private readonly world: World;
  private open: ImageOp[] = [];

  constructor(world: World) {
    this.world = world;
    world.turns.addDrain(DrainOrder.Apply, this);
  }

  get isBusy(): boolean {
    return this.open.length > 0;
  }

  submit(op: ImageOp): void {
    const end = op.offsetBytes + op.lengthBytes;
    assert(op.kind === OpKind.Flush || end <= IMAGE_BYTES, "nbd: a request beyond the end");
    assert(Number.isSafeInteger(op.offsetBytes) && op.offsetBytes >= 0, "nbd: an odd offset");
    this.open.push(op);
    this.world.turns.again();
  }

  drain(): void {
    const open = this.open;
    this.open = [];
    for (let at = open.length - 1; at >= 0; at--) this.finish(open[at]!);
  }

  private finish(op: ImageOp): void {
    const { bytes } = this.world.arena;
    op.status = op.offsetBytes === 5 * BLOCK_SIZE ? Status.Damaged : Status.Ok;
    op.isZero = op.offsetBytes % 3 === 0;
    if (op.kind === OpKind.Read) bytes.fill(0, op.arenaOffset, op.arenaOffset + op.lengthBytes);
    if (op.kind === OpKind.States) {
      const blocks =
        Math.ceil((op.offsetBytes + op.lengthBytes) / BLOCK_SIZE) -
        Math.floor(op.offsetBytes / BLOCK_SIZE);
      bytes.fill(0, op.arenaOffset, op.arenaOffset + blocks * STATE_BYTES);
    }
    op.onDone();
  }
}

/* ------------------------------------------------------------------- seeds */

function nbdSeeds(): Uint8Array[] {
  const name = ascii(EXPORT);
  const info = join(u32(name.length), name, [0, 2, 0, 1, 0, 3]);
  const context = ascii("base:allocation");
  const meta = join(u32(name.length), name, u32(1), u32(context.length), context);
  const block = new Uint8Array(BLOCK_SIZE).fill(0xaa);
  const requests = join(
    request(1, 0, 0, BLOCK_SIZE, block),
    request(0, 0, 0, BLOCK_SIZE),
    request(1, 1, 300, 100, block.subarray(0, 100)),
    request(3, 0, 0, 0),
    request(4, 0, 8192, 65_536),
    request(6, 2, 4096, 12_288),
    request(0, 4, 100, 5000),
    request(5, 0, 0, 4096),
    request(7, 8, 0, 65_536),
  );
  const bye = request(2, 0, 0, 0);
  const structured = [u32(3), option(8, []), option(10, meta), option(7, info)];
  return [
    join(...structured, requests, bye),
    join(...structured, requests, request(0, 0, 0, 300_000), request(0, 0, 0, 700_000)),
    join(u32(1), option(3, []), option(6, info), option(9, meta), option(1, name), requests),
    join(u32(3), option(1, name), request(0, 0, 0, 300_000), requests, bye),
    join(u32(3), option(3, []), option(5, []), option(99, name), option(7, info), requests),
  ];
}

function option(number: number, data: Uint8Array | readonly number[]): Uint8Array {
  return join(ascii("IHAVEOPT"), u32(number), u32(data.length), data);
}

function request(
  command: number,
  flags: number,
  offset: number,
  length: number,
  data: Uint8Array = new Uint8Array(0),
): Uint8Array {
  const head = [u32(0x2560_9513), [0, flags, 0, command], u32(0), u32(command)];
  return join(...head, u32(0), u32(offset), u32(length), data);
}

function join(...parts: readonly (Uint8Array | readonly number[])[]): Uint8Array {
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

function ascii(text: string): Uint8Array {
  return Uint8Array.from(text, (letter) => letter.charCodeAt(0));
}

function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value);
  return bytes;
}
