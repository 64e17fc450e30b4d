import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { Prng } from "../base/prng.ts";
import {
  decodeStarts,
  encodeStarts,
  isNewer,
  judgeStarts,
  STARTS_MAX,
  type StoreStart,
  withMark,
  withStart,
} from "./store.ts";

/** A disk as far as this page goes: copying one is copying these two. */
interface Disk {
  readonly starts: readonly StoreStart[];
  readonly incarnation: number;
}

const NEW: Disk = { starts: [], incarnation: 0 };

/** Somebody who remembers stores: the monitor, or a peer. */
class Witness {
  remembered: StoreStart | undefined;

  /** As in `PeerStarts.meet`. */
  meet(disk: Disk): boolean {
    if (judgeStarts(disk.starts, this.remembered) !== "") return false;
    const newest = disk.starts.at(-1);
    if (newest !== undefined && isNewer(newest, this.remembered)) this.remembered = newest;
    return true;
  }
}

const random = new Prng(5);

/** A start, as `Admission` carries it out. Every start raises the incarnation; one that serves is told. */
function start(disk: Disk, asked: readonly Witness[], told = asked): { disk: Disk; ok: boolean } {
  const claimed = { ...disk, incarnation: disk.incarnation + 1 };
  if (!asked.every((one) => one.meet(claimed))) return { disk: claimed, ok: false };
  const serving = {
    ...claimed,
    starts: withStart(claimed.starts, claimed.incarnation, random),
  };
  for (const one of told) expect(one.meet(serving)).toBe(true);
  return { disk: serving, ok: true };
}

describe("starts of a store", () => {
  test("an old copy is refused however often it is started, and locks nobody out", () => {
    const witness = new Witness();
    let good = start(NEW, [witness]).disk;
    let copy = good;
    good = start(good, [witness]).disk;
    for (let times = 0; times < 3 * STARTS_MAX; times++) {
      const refused = start(copy, [witness]);
      expect(refused.ok).toBe(false);
      copy = refused.disk;
    }
    expect(start(good, [witness]).ok).toBe(true);
  });

  test("a copy of a running store is known by its mark", () => {
    const witness = new Witness();
    const running = start(NEW, [witness]).disk;
    const marked = { ...running, starts: withMark(running.starts) };
    expect(witness.meet(marked)).toBe(true);
    expect(start(running, [witness]).ok).toBe(false);
    expect(start(marked, [witness]).ok).toBe(true);
  });

  test("who was told before a crash, or was away for long, takes the disk again", () => {
    const near = new Witness();
    const far = new Witness();
    let disk = start(NEW, [near, far]).disk;
    // Killed right after one of them heard of the start, again and again.
    for (let times = 0; times < 2 * STARTS_MAX; times++) disk = start(disk, [near], [near]).disk;
    expect(start(disk, [far, near]).ok).toBe(true);
  });

  test("a witness that took a copy, in ignorance, does not make others take it", () => {
    const knows = new Witness();
    const ignorant = new Witness();
    const old = start(NEW, [knows, ignorant]).disk;
    start(old, [knows]);
    const copy = start(start(old, [ignorant]).disk, [ignorant]).disk;
    expect(knows.meet(copy)).toBe(false);
  });

  test("a store without any start is an old copy for who remembers one", () => {
    const witness = new Witness();
    start(NEW, [witness]);
    expect(start(NEW, [witness]).ok).toBe(false);
    expect(start(NEW, [new Witness()]).ok).toBe(true);
  });

  test("any course of starts, crashes and copies: the newest disk always serves", () => {
    const step = fc.record({
      asked: fc.subarray([0, 1, 2], { minLength: 1 }),
      told: fc.subarray([0, 1, 2]),
      copies: fc.boolean(),
      startsCopy: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const witnesses = [new Witness(), new Witness(), new Witness()];
        const pick = (which: readonly number[]): Witness[] => which.map((at) => witnesses[at]!);
        let good = NEW;
        let copy: Disk | undefined;
        for (const { asked, told, copies, startsCopy } of steps) {
          if (copies) copy = good;
          // Everybody knows the newest start by now: the copy is old from here on.
          const started = start(good, pick(asked), pick(told));
          expect(started.ok).toBe(true);
          good = started.disk;
          if (copy === undefined || !startsCopy) continue;
          for (const one of witnesses) one.meet(good);
          const refused = start(copy, pick(asked));
          expect(refused.ok).toBe(false);
          copy = refused.disk;
        }
      }),
    );
  });

  test("a history reads back; what is none does not", () => {
    let starts: readonly StoreStart[] = [];
    for (let incarnation = 1; incarnation < 50; incarnation++) {
      starts = withStart(starts, incarnation, random);
      expect(decodeStarts(encodeStarts(starts))).toEqual(starts);
    }
    const bytes = encodeStarts(starts);
    expect(starts.length).toBe(STARTS_MAX);
    expect(decodeStarts(bytes.subarray(1))).toBeUndefined();
    expect(decodeStarts(new Uint8Array(16))).toBeUndefined();
    expect(decodeStarts(new Uint8Array([...bytes, ...bytes]))).toBeUndefined();
    expect(decodeStarts(encodeStarts([...starts].reverse()))).toBeUndefined();
  });
});
