import { expect, test } from "bun:test";
import { Prng } from "../base/prng.ts";
import { Overlay, OverlayKind } from "./overlay.ts";

type Known = readonly [kind: OverlayKind, position: number, version: number, crc: number];

const SLOTS = 600;
const STEPS = 40_000;

function entryAt(overlay: Overlay, at: number): Known {
  return [overlay.kind(at), overlay.position(at), overlay.version(at), overlay.crc(at)];
}

test("entries that come, are replaced and go are those of a map, at any size", () => {
  const random = new Prng(20);
  const overlay = new Overlay(0);
  const known = new Map<number, Known>();
  let most = 0;
  for (let step = 0; step < STEPS; step++) {
    // Slots beyond 2^28: a key is beyond 32 bits then.
    const slot = random.below(SLOTS) + (random.below(2) === 0 ? 0 : 2 ** 29);
    const bit = random.below(16);
    const key = slot * 16 + bit;
    // Rather more for a while, then rather less.
    const grows = (step >>> 13) % 2 === 0;
    if (random.below(10) < (grows ? 9 : 2)) {
      const crc = random.below(2) === 0 ? 0xffff_ffff - random.below(4) : random.below(2 ** 31);
      const entry: Known = [random.below(3), random.below(2 ** 31) * 1024, step + 2 ** 40, crc];
      overlay.put(slot, bit, ...entry);
      known.set(key, entry);
    } else if (known.delete(key)) overlay.remove(slot, bit);
    else expect(overlay.find(slot, bit)).toBe(-1);
    most = Math.max(most, overlay.count);
  }
  expect(most).toBeGreaterThan(4096);
  expect(overlay.count).toBe(known.size);
  for (const [key, entry] of known) {
    const at = overlay.find(Math.floor(key / 16), key % 16);
    expect(entryAt(overlay, at)).toEqual(entry);
    expect(overlay.keyAt(at)).toBe(key);
  }
  let lowest = Number.POSITIVE_INFINITY;
  for (const [, position] of known.values()) lowest = Math.min(lowest, position);
  expect(overlay.lowestPosition()).toBe(lowest);
});
