// cold path: what a power cut may leave of a device at every moment of a run, for tests.
import { Status } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import type { DiskWatcher, SimDiskFile } from "../reactor/reactor.ts";
import { type DiskOp, DiskVerb } from "../reactor/world.ts";

const SECTOR_SIZE = 512;
const SECTORS_PER_BLOCK = BLOCK_SIZE / SECTOR_SIZE;
/** Cuts through the middle of a long write. */
const CUTS_INSIDE = 8;
const ZERO_BLOCK = new Uint8Array(BLOCK_SIZE);

/** Content by block; a block that is not in it is zero. */
export type Image = ReadonlyMap<number, Uint8Array>;

/** Numbers everything that happens in a run, calls of the device and facts of the model alike. */
export class Timeline {
  now = 0;

  next(): number {
    this.now += 1;
    return this.now;
  }
}

/** One call of the device. */
export interface Call {
  readonly verb: DiskVerb;
  readonly first: number;
  readonly contents: readonly Uint8Array[];
  readonly submitted: number;
  /** Infinity: it never came back. */
  done: number;
  failed: boolean;
}

/** How a call fails. */
export enum FailWay {
  /** An error; nothing is done. */
  Eio = 0,
  /** No space beneath; nothing is done. */
  NoSpace = 1,
  /** A transfer ends early: half of it is done, and the seam answers EIO. Of a flush: as Eio. */
  Short = 2,
}

const ENOSPC = 28;

/** Writes down every call of a device; may fail one of them. */
export class CallRecorder implements DiskWatcher {
  readonly calls: Call[] = [];
  readonly base: Image;
  private readonly file: SimDiskFile;
  private readonly timeline: Timeline;
  private readonly failCall: number;
  private readonly way: FailWay;
  private readonly open = new Map<DiskOp, Call>();

  /** `failCall`: this call fails, in this way; -1: none does. */
  constructor(file: SimDiskFile, timeline: Timeline, failCall = -1, way: FailWay = FailWay.Eio) {
    this.base = file.image();
    this.file = file;
    this.timeline = timeline;
    this.failCall = failCall;
    this.way = way;
    file.watcher = this;
  }

  /** No call is under way. */
  get rests(): boolean {
    return this.open.size === 0;
  }

  onSubmit(op: DiskOp, contents: readonly Uint8Array[]): void {
    const call = {
      verb: op.verb,
      first: op.offsetBytes / BLOCK_SIZE,
      contents,
      submitted: this.timeline.next(),
      done: Number.POSITIVE_INFINITY,
      failed: false,
    };
    this.calls.push(call);
    this.open.set(op, call);
  }

  onLand(op: DiskOp): boolean {
    const call = this.open.get(op)!;
    this.open.delete(op);
    call.failed = this.calls[this.failCall] === call;
    call.done = this.timeline.next();
    if (!call.failed || this.way === FailWay.Eio) return call.failed;
    if (this.way === FailWay.NoSpace) answerNoSpace(op);
    else return this.cutShort(op, call);
    return true;
  }

  /** Half of the transfer: a read meets the end of the file, a write leaves the first half. */
  private cutShort(op: DiskOp, { verb, contents }: Call): boolean {
    if (verb === DiskVerb.Flush || verb === DiskVerb.Discard) return true;
    const { file } = this;
    if (verb === DiskVerb.Read) {
      const { endBytes } = file;
      file.endBytes = op.offsetBytes + op.lengthBytes / 2;
      onceDone(op, () => (file.endBytes = endBytes));
      return false;
    }
    let left = op.lengthBytes / 2;
    contents.forEach((content, at) => {
      const bytes = content.subarray(0, Math.min(BLOCK_SIZE, Math.max(0, left)));
      if (bytes.length > 0) file.poke(op.offsetBytes + at * BLOCK_SIZE, bytes);
      left -= BLOCK_SIZE;
    });
    return true;
  }
}

/** The seam says ENOSPC where the simulated device said EIO; of a discard: a hint that is refused. */
function answerNoSpace(op: DiskOp): void {
  onceDone(op, () => {
    op.errno = ENOSPC;
    if (op.verb === DiskVerb.Discard) op.status = Status.Ok;
  });
}

/** Do something between the outcome of an operation and its owner, once. */
function onceDone(op: DiskOp, action: () => void): void {
  op.onDone = () => {
    Reflect.deleteProperty(op, "onDone");
    action();
    op.onDone();
  };
}

/** A moment between two calls that change the device. */
export interface Moment {
  /** Of the run's moments. */
  readonly number: number;
  /** Last time at which the device is as it is here. */
  readonly until: number;
  /** Stable then. */
  readonly stable: Image;
  readonly stableHash: number;
  readonly hasher: BlockHasher;
  /** Writes that a power cut may take: completed and not flushed, then those under way. */
  readonly loose: readonly Call[];
  /** The write that was submitted last, if that is what began this moment. */
  readonly submitted: Call | null;
  /** It began with a flush or a durable write that was completed. */
  readonly settled: boolean;
}

/** All moments of a run, in order. Each is used before the next is asked for: `stable` is shared. */
export function* momentsOf(recorder: CallRecorder, end: number): Generator<Moment> {
  const stable = new Map(recorder.base);
  const hasher = new BlockHasher();
  let stableHash = 0;
  for (const [block, content] of stable) stableHash ^= hasher.of(block, content);
  const settle = (call: Call): void => {
    call.contents.forEach((content, at) => {
      const block = call.first + at;
      const before = stable.get(block);
      if (before !== undefined) stableHash ^= hasher.of(block, before);
      stable.set(block, content);
      stableHash ^= hasher.of(block, content);
    });
  };
  let loose: Call[] = [];
  const flying = new Set<Call>();
  const turns = turningPoints(recorder.calls);
  let submitted: Call | null = null;
  let settled = false;
  for (let number = 0; number <= turns.length; number++) {
    const until = number === turns.length ? end : turns[number]!.at - 1;
    const all = [...loose, ...flying];
    yield { number, until, stable, stableHash, hasher, loose: all, submitted, settled };
    if (number === turns.length) return;
    const { call, at } = turns[number]!;
    submitted = null;
    settled = false;
    if (at === call.submitted) {
      if (call.verb === DiskVerb.Flush) continue;
      flying.add(call);
      submitted = call;
      continue;
    }
    flying.delete(call);
    settled = !call.failed && (call.verb === DiskVerb.Flush || call.verb === DiskVerb.WriteDurable);
    if (call.verb === DiskVerb.Flush) {
      if (call.failed) continue;
      // What was completed before the flush was submitted, in the order of completing.
      for (const one of loose) if (one.done < call.submitted) settle(one);
      loose = loose.filter((one) => one.done >= call.submitted);
    } else if (call.verb === DiskVerb.WriteDurable && !call.failed) {
      settle(call);
      loose = loose.flatMap((one) => without(one, call));
    } else loose.push(call);
  }
}

/** Submissions and completions of what changes the device, in order. */
function turningPoints(calls: readonly Call[]): { readonly at: number; readonly call: Call }[] {
  return calls
    .filter((call) => call.verb !== DiskVerb.Read)
    .flatMap((call) => [
      { at: call.submitted, call },
      { at: call.done, call },
    ])
    .filter(({ at }) => Number.isFinite(at))
    .sort((one, other) => one.at - other.at);
}

/** What is left of an older loose write once `over` is stable. */
function without(call: Call, over: Call): Call[] {
  const end = over.first + over.contents.length;
  if (call.first >= end || call.first + call.contents.length <= over.first) return [call];
  const pieces: Call[] = [];
  const before = over.first - call.first;
  if (before > 0) pieces.push({ ...call, contents: call.contents.slice(0, before) });
  const behind = end - call.first;
  if (behind < call.contents.length) {
    pieces.push({ ...call, first: end, contents: call.contents.slice(behind) });
  }
  return pieces;
}

/** What a power cut leaves. */
export interface Remains {
  /** Names it within its moment. */
  readonly name: string;
  /** Numbers of loose writes that survive whole. */
  readonly kept: readonly number[];
  /** One that survives in part: sectors [from, to) of it. */
  readonly torn?: { readonly loose: number; readonly from: number; readonly to: number };
}

/** Everything that a power cut may leave at a moment, as far as it is looked at. */
export function* remainsOf(moment: Moment): Generator<Remains> {
  const count = moment.loose.length;
  const all = Array.from({ length: count }, (_, at) => at);
  yield { name: "none", kept: [] };
  if (count === 0) return;
  yield { name: "all", kept: all };
  yield* subsetsOf(all);
  if (moment.submitted !== null) yield* tornOf(moment, moment.loose.indexOf(moment.submitted));
  // Writes that are complete in the cache are torn as well; the first sectors matter most.
  else if (moment.settled) for (const loose of all) yield* firstCutsOf(moment, loose);
}

/** Each subset of up to three that survives, each of up to two that does not. */
function* subsetsOf(all: readonly number[]): Generator<Remains> {
  const count = all.length;
  for (let a = 0; a < count; a++) {
    yield { name: `keep:${a}`, kept: [a] };
    yield { name: `lose:${a}`, kept: all.filter((at) => at !== a) };
    for (let b = a + 1; b < count; b++) {
      yield { name: `keep:${a},${b}`, kept: [a, b] };
      yield { name: `lose:${a},${b}`, kept: all.filter((at) => at !== a && at !== b) };
      for (let c = b + 1; c < count; c++) yield { name: `keep:${a},${b},${c}`, kept: [a, b, c] };
    }
  }
}

function* tornOf(moment: Moment, loose: number): Generator<Remains> {
  const sectors = moment.loose[loose]!.contents.length * SECTORS_PER_BLOCK;
  for (const cut of cutsOf(sectors)) {
    yield* tornAt(moment, loose, 0, cut);
    yield* tornAt(moment, loose, cut, sectors);
  }
}

function* firstCutsOf(moment: Moment, loose: number): Generator<Remains> {
  const sectors = moment.loose[loose]!.contents.length * SECTORS_PER_BLOCK;
  yield* tornAt(moment, loose, 0, 1);
  yield* tornAt(moment, loose, 1, sectors);
}

/** With none of the other loose writes, and with all of them. */
function* tornAt(moment: Moment, loose: number, from: number, to: number): Generator<Remains> {
  const others = moment.loose.map((_, at) => at).filter((at) => at !== loose);
  const name = `torn:${loose}:${from}-${to}`;
  yield { name: `${name}:alone`, kept: [], torn: { loose, from, to } };
  if (others.length > 0) yield { name: `${name}:rest`, kept: others, torn: { loose, from, to } };
}

/** Every sector of the first and the last block, some borders of blocks between. */
function cutsOf(sectors: number): number[] {
  const cuts = new Set<number>();
  for (let cut = 1; cut <= SECTORS_PER_BLOCK; cut++) {
    cuts.add(cut);
    cuts.add(sectors - cut);
  }
  const blocks = sectors / SECTORS_PER_BLOCK;
  for (let at = 1; at <= CUTS_INSIDE; at++) {
    cuts.add(Math.floor((blocks * at) / (CUTS_INSIDE + 1)) * SECTORS_PER_BLOCK);
  }
  return [...cuts].filter((cut) => cut > 0 && cut < sectors).sort((one, other) => one - other);
}

/** The device as it is after the power cut, and a number that equal ones share. */
export function imageOf(
  moment: Moment,
  remains: Remains,
): { readonly image: Map<number, Uint8Array>; readonly hash: number } {
  const image = new Map(moment.stable);
  const { hasher } = moment;
  let hash = moment.stableHash;
  const put = (block: number, content: Uint8Array): void => {
    const before = image.get(block);
    if (before !== undefined) hash ^= hasher.of(block, before);
    image.set(block, content);
    hash ^= hasher.of(block, content);
  };
  const kept = new Set(remains.kept);
  moment.loose.forEach((call, number) => {
    const { torn } = remains;
    if (torn?.loose === number) {
      call.contents.forEach((content, at) => {
        const from = Math.max(0, torn.from - at * SECTORS_PER_BLOCK);
        const to = Math.min(SECTORS_PER_BLOCK, torn.to - at * SECTORS_PER_BLOCK);
        if (from >= to) return;
        const block = call.first + at;
        const mixed = (image.get(block) ?? ZERO_BLOCK).slice();
        const start = from * SECTOR_SIZE;
        mixed.set(content.subarray(start, to * SECTOR_SIZE), start);
        put(block, mixed);
      });
    } else if (kept.has(number)) {
      call.contents.forEach((content, at) => put(call.first + at, content));
    }
  });
  return { image, hash };
}

/** Numbers of 32 bits for blocks with their content: enough to tell the images of one run apart. */
export class BlockHasher {
  private readonly known = new WeakMap<Uint8Array, number>();

  /** 0 for a block of zeros, whether an image has it or not. */
  of(block: number, content: Uint8Array): number {
    let hash = this.known.get(content);
    if (hash === undefined) {
      hash = contentHash(content);
      this.known.set(content, hash);
    }
    if (hash === 0) return 0;
    let mixed = Math.imul(hash ^ Math.imul(block + 1, 0x9e37_79b1), 0x85eb_ca6b);
    mixed ^= mixed >>> 15;
    return Math.imul(mixed, 0xc2b2_ae35) ^ (mixed >>> 13);
  }
}

/** 0 for zeros alone. */
function contentHash(content: Uint8Array): number {
  const words = new Int32Array(content.buffer, content.byteOffset, content.byteLength / 4);
  let hash = 0;
  let any = 0;
  for (const word of words) {
    any |= word;
    hash = Math.imul(hash ^ word, 0x0100_0193) ^ (hash >>> 17);
  }
  return any === 0 ? 0 : hash | 1;
}
