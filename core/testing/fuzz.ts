// cold: fuzzing of decoders
import { assert } from "../base/assert.ts";
import type { Prng } from "../base/prng.ts";
import { FuzzMutator } from "./fuzz-mutator.ts";

/**
 * Runs decoders on mutated input (campaign C11).
 *
 * What must hold of every input: the decoder takes it or refuses it in its own way, and throws nothing
 * else; it allocates no more than the target's bound, and takes no more than 16 MiB of heap; all inputs
 * together leave no more than 32 MiB behind; it ends within a second; what it took is the
 * same after encoding and decoding it. `FuzzTarget.run` checks the first and the last, the runner the
 * rest, by a meter that the process supplies.
 */
export interface FuzzTarget {
  /** `rpc-acceptor` */
  readonly name: string;
  /** Well-formed inputs, recorded or encoded: every one of them is taken. */
  readonly seeds: readonly Uint8Array[];
  /** Largest input. */
  readonly sizeMax: number;
  /** Most inputs are rounded up to this size, and to a multiple of `grain`. */
  readonly sizeMin?: number;
  readonly grain?: number;
  /** Of texts: words that mean something, put in the place of others. */
  readonly words?: readonly Uint8Array[];
  /** The most that one input may make the decoder allocate: twice the largest frame at most. */
  readonly bytesMax: number;
  /** Make sizes, checksums and tags right again, in place. */
  repair?(input: Uint8Array<ArrayBuffer>): void;
  /** Inputs that share state: `begin` is called before each `period` of them. */
  readonly period?: number;
  begin?(): void;
  /** True when the input was taken. Throws when a promise is broken. */
  run(input: Uint8Array<ArrayBuffer>, random: Prng): boolean;
}

/** What a process measures for the runner. */
export interface FuzzMeter {
  /** Milliseconds of a clock that never steps. */
  nowMs(): number;
  /** Bytes of typed arrays and buffers that were asked for since the last call. */
  takeAllocated(): number;
  /** Bytes of everything that the last collection left, and of texts and buffers made since. Walks the heap. */
  heapBytes(): number;
  /** Bytes of the process that lie in memory. Costs as much as some inputs. */
  residentBytes(): number;
  /** Leave nothing that is not used. Costs as much as thousands of inputs. */
  collect(): void;
}

export interface FuzzOptions {
  readonly seed: number;
  readonly inputs: number;
  /** Index of the first input. Default 0. */
  readonly first?: number;
  readonly meter: FuzzMeter;
  /** Called about once a second, with the index of the next input. */
  readonly onProgress?: (next: number) => void;
}

export interface FuzzCounts {
  readonly target: string;
  readonly seed: number;
  readonly inputs: number;
  readonly accepted: number;
  readonly refused: number;
  readonly elapsedMs: number;
  readonly inputsPerSecond: number;
  /** The slowest input, and the one that allocated most. */
  readonly inputMsMax: number;
  readonly inputBytesMax: number;
}

/** Longer than this is a hang. */
const INPUT_MS_MAX = 1000;
const PROGRESS_MS = 1000;
/** What an input may add to heap or process beside typed arrays: as much as two of the largest frames. */
const HEAP_BYTES_MAX = 16_777_216;
/** After so many inputs heap and process are looked at: that costs as much as some hundred of them. */
const LOOK_EVERY = 256;
/** What all of them may add, garbage included, before the one that did is looked for. */
const SUSPECT_BYTES = 67_108_864;
/** What inputs that share state may add between two looks: which of them it was can not be told. */
const SHARED_BYTES_MAX = 268_435_456;
/** What all inputs together may leave behind. */
const KEPT_BYTES_MAX = 33_554_432;
/** A stall of the machine is no hang: a slow input is run again this often. */
const SLOW_TRIES = 3;
const MINIMIZE_TRIES = 3000;
const HEX_BYTES_MAX = 4096;

/** A promise that an input broke; the message holds all that is needed to repeat it. */
class FuzzFailure extends Error {
  override readonly name = "FuzzFailure";
}

/** Run `inputs` inputs. Throws `FuzzFailure` at the first that breaks a promise. */
export function runFuzz(target: FuzzTarget, options: FuzzOptions): FuzzCounts {
  return new FuzzRun(target, options).go();
}

/** Every seed must be taken as it is: otherwise the campaign would test a refusal only. */
export function checkSeeds(target: FuzzTarget, random: Prng): void {
  target.seeds.forEach((seed, at) => {
    if (target.period !== undefined) target.begin?.();
    const taken = target.run(seed.slice() as Uint8Array<ArrayBuffer>, random);
    assert(taken, `fuzz ${target.name}: seed ${at} is refused, wanted it to be taken`);
  });
}

class FuzzRun {
  private readonly target: FuzzTarget;
  private readonly options: FuzzOptions;
  private readonly mutator: FuzzMutator;
  private accepted = 0;
  private slowestMs = 0;
  private mostBytes = 0;
  private held = { heap: 0, resident: 0 };
  private lookedAt = 0;
  private suspectBytes = SUSPECT_BYTES;

  constructor(target: FuzzTarget, options: FuzzOptions) {
    this.target = target;
    this.options = options;
    this.mutator = new FuzzMutator(target, options.seed);
  }

  go(): FuzzCounts {
    const { target } = this;
    const { meter, seed, inputs, first = 0, onProgress } = this.options;
    const startMs = meter.nowMs();
    let toldMs = startMs;
    let nowMs = startMs;
    // Inputs that share state begin where their period does.
    const period = target.period ?? 1;
    target.begin?.();
    meter.collect();
    const heldBytes = meter.heapBytes();
    this.held = this.holds();
    this.lookedAt = first;
    for (let index = first - (first % period); index < first + inputs; index++) {
      if (index % period === 0) target.begin?.();
      nowMs = this.one(index, nowMs);
      if (index + 1 - this.lookedAt >= LOOK_EVERY) this.look(index + 1);
      if (nowMs - toldMs < PROGRESS_MS) continue;
      toldMs = nowMs;
      onProgress?.(index + 1);
    }
    const elapsedMs = meter.nowMs() - startMs;
    this.look(first + inputs);
    this.checkKept(heldBytes);
    return {
      target: target.name,
      seed,
      inputs,
      accepted: this.accepted,
      refused: inputs - this.accepted,
      elapsedMs,
      inputsPerSecond: elapsedMs > 0 ? Math.round((inputs / elapsedMs) * 1000) : 0,
      inputMsMax: this.slowestMs,
      inputBytesMax: this.mostBytes,
    };
  }

  /** Run one input; answers the time behind it. */
  private one(index: number, beforeMs: number): number {
    const { meter } = this.options;
    const { bytes, random } = this.mutator.input(index);
    const kept = bytes.slice();
    meter.takeAllocated();
    let taken = false;
    try {
      taken = this.target.run(bytes, random);
    } catch (error) {
      this.fail(index, kept, error);
    }
    const allocated = meter.takeAllocated();
    const nowMs = meter.nowMs();
    if (taken && index >= (this.options.first ?? 0)) this.accepted += 1;
    this.mostBytes = Math.max(this.mostBytes, allocated);
    this.slowestMs = Math.max(this.slowestMs, nowMs - beforeMs);
    if (allocated > this.target.bytesMax) {
      const wanted = `at most ${this.target.bytesMax}`;
      this.fail(index, kept, new Error(`it allocates ${allocated} bytes, ${wanted} wanted`));
    }
    if (nowMs - beforeMs > INPUT_MS_MAX && this.isSlow(index)) {
      const ms = Math.round(nowMs - beforeMs);
      this.fail(index, kept, new Error(`it takes ${ms} ms, at most ${INPUT_MS_MAX} wanted`));
    }
    return nowMs;
  }

  /** Look at all other memory; when much was taken, find the input that did. */
  private look(next: number): void {
    const { target } = this;
    const { heap, resident } = this.held;
    this.held = this.holds();
    const grown = Math.max(this.held.heap - heap, this.held.resident - resident);
    if (grown <= this.suspectBytes) {
      this.lookedAt = next;
      return;
    }
    if (target.period === undefined) {
      for (let index = this.lookedAt; index < next; index++) this.checkHeavy(index);
      // None did: as much as that is ordinary here.
      this.suspectBytes = 2 * grown;
      this.held = this.holds();
    } else if (grown > SHARED_BYTES_MAX) {
      const what = `the process grows by ${grown} bytes, at most ${SHARED_BYTES_MAX} wanted`;
      this.fail(next - 1, this.mutator.input(next - 1).bytes, new Error(what));
    }
    this.lookedAt = next;
  }

  private holds(): { readonly heap: number; readonly resident: number } {
    const { meter } = this.options;
    return { heap: meter.heapBytes(), resident: meter.residentBytes() };
  }

  private checkHeavy(index: number): void {
    const { bytes, random } = this.mutator.input(index);
    const kept = bytes.slice();
    const { heap, resident } = this.holds();
    this.target.run(bytes, random);
    const after = this.holds();
    const grown = Math.max(after.heap - heap, after.resident - resident);
    if (grown <= HEAP_BYTES_MAX) return;
    const what = `it takes ${grown} bytes of heap, at most ${HEAP_BYTES_MAX} wanted`;
    this.fail(index, kept, new Error(what));
  }

  private checkKept(heldBytes: number): void {
    const { target } = this;
    const { meter, seed, inputs } = this.options;
    // As at the beginning: what the last inputs share is made anew.
    target.begin?.();
    meter.collect();
    const kept = meter.heapBytes() - heldBytes;
    if (kept <= KEPT_BYTES_MAX) return;
    throw new FuzzFailure(
      `fuzz ${target.name}: ${inputs} inputs of seed ${seed} leave ${kept} bytes behind, at most ${KEPT_BYTES_MAX} wanted`,
    );
  }

  private isSlow(index: number): boolean {
    const { meter } = this.options;
    if (this.target.period !== undefined) return true;
    for (let tries = 0; tries < SLOW_TRIES; tries++) {
      const { bytes, random } = this.mutator.input(index);
      const startMs = meter.nowMs();
      this.target.run(bytes, random);
      if (meter.nowMs() - startMs < INPUT_MS_MAX) return false;
    }
    return true;
  }

  private fail(index: number, input: Uint8Array<ArrayBuffer>, error: unknown): never {
    const { target } = this;
    const { seed } = this.options;
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    const small = target.period === undefined ? this.minimize(index, input, error) : input;
    const hex = small.subarray(0, HEX_BYTES_MAX).toHex();
    throw new FuzzFailure(
      [
        `fuzz ${target.name}: input ${index} of seed ${seed} breaks a promise: ${text}`,
        `  input   ${input.length} bytes, minimized to ${small.length}: ${hex}`,
        `  repeat  fastblock fuzz --target ${target.name} --seed ${seed} --first ${index} --inputs 1`,
      ].join("\n"),
    );
  }

  /**
   * Remove ever smaller pieces, and clear bytes, while it fails in the same way; with checksums
   * repaired, when it fails with them.
   */
  private minimize(
    index: number,
    input: Uint8Array<ArrayBuffer>,
    error: unknown,
  ): Uint8Array<ArrayBuffer> {
    const wanted = firstLine(error);
    let best = input;
    let tries = MINIMIZE_TRIES;
    let repairs = false;
    const fails = (candidate: Uint8Array<ArrayBuffer>): boolean => {
      tries -= 1;
      if (repairs) this.target.repair?.(candidate);
      try {
        this.target.run(candidate.slice(), this.mutator.input(index).random);
      } catch (other) {
        return firstLine(other) === wanted;
      }
      return false;
    };
    if (!fails(best)) return best;
    repairs = true;
    repairs = fails(best.slice());
    for (let piece = best.length >>> 1; piece >= 1 && tries > 0; piece >>>= 1) {
      for (let at = 0; at < best.length && tries > 0; ) {
        const candidate = without(best, at, piece);
        if (fails(candidate)) best = candidate;
        else at += piece;
      }
    }
    for (let at = 0; at < best.length && tries > 0; at++) {
      if (best[at] === 0) continue;
      const candidate = best.slice();
      candidate[at] = 0;
      if (fails(candidate)) best = candidate;
    }
    return best;
  }
}

function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split("\n")[0]!;
}

function without(
  bytes: Uint8Array<ArrayBuffer>,
  at: number,
  count: number,
): Uint8Array<ArrayBuffer> {
  const rest = bytes.subarray(Math.min(bytes.length, at + count));
  const out = new Uint8Array(at + rest.length);
  out.set(bytes.subarray(0, at));
  out.set(rest, at);
  return out;
}
