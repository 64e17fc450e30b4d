import { describe, expect, test } from "bun:test";
import { Prng } from "../base/prng.ts";
import { LinearArena } from "./arena.ts";
import { SLAB_SIZE, SlotPool } from "./slots.ts";

const SIZES = [4096, 16_384, 65_536, 262_144, 1_048_576];

function make(slabs: number): { arena: LinearArena; pool: SlotPool } {
  const arena = new LinearArena(new ArrayBuffer((slabs + 1) * SLAB_SIZE));
  arena.allocate(4096);
  return { arena, pool: new SlotPool(arena, slabs * SLAB_SIZE) };
}

describe("slots", () => {
  test("never overlap, are aligned, and all come back", () => {
    for (let seed = 1; seed <= 10; seed++) {
      const random = new Prng(seed);
      const { pool } = make(6);
      const taken: { at: number; size: number }[] = [];
      let used = 0;
      for (let round = 0; round < 3000; round++) {
        if (random.below(2) === 0 && taken.length > 0) {
          const at = random.below(taken.length);
          const [slot] = taken.splice(at, 1);
          pool.release(slot!.at);
          used -= slot!.size;
        } else {
          const size = SIZES[random.below(5)]!;
          const wanted = size - random.below(size / 2);
          const at = pool.take(wanted);
          if (at < 0) continue;
          expect(at % 4096).toBe(0);
          for (const other of taken) {
            expect(at + size <= other.at || other.at + other.size <= at).toBe(true);
          }
          taken.push({ at, size });
          used += size;
        }
        expect(pool.usedBytes).toBe(used);
      }
      for (const slot of taken) pool.release(slot.at);
      expect(pool.usedBytes).toBe(0);
      const all: number[] = [];
      for (let at = pool.take(1_048_576); at >= 0; at = pool.take(1_048_576)) all.push(at);
      expect(all.length).toBe(6);
    }
  });

  test("exhausted: -1; released: there again", () => {
    const { pool } = make(2);
    const first = pool.take(1_048_576);
    const second = pool.take(600_000);
    expect(first).toBeGreaterThanOrEqual(0);
    expect(second).toBeGreaterThanOrEqual(0);
    expect(pool.take(4096)).toBe(-1);
    pool.release(first);
    expect(pool.take(4096)).toBeGreaterThanOrEqual(0);
  });

  test("double release, release within a slot and outside are bugs; content is poisoned", () => {
    const { arena, pool } = make(2);
    const at = pool.take(16_384);
    arena.bytes.fill(1, at, at + 16_384);
    expect(() => pool.release(at + 4096)).toThrow("start of a slot");
    pool.release(at);
    expect(arena.bytes[at]).toBe(0xdb);
    expect(() => pool.release(at)).toThrow("not taken");
    expect(() => pool.release(0)).toThrow("not in the slots");
  });

  test("only what holds no slot is vacated, once after each use; it is there again", () => {
    const { pool } = make(3);
    const kept = pool.take(4096);
    const gone = [pool.take(16_384), pool.take(1_048_576)];
    expect(pool.vacate()).toBe(-1);
    for (const at of gone) pool.release(at);
    const vacated = [pool.vacate(), pool.vacate()];
    expect(vacated.toSorted((left, right) => left - right)).toEqual(
      gone.toSorted((left, right) => left - right),
    );
    expect(pool.vacate()).toBe(-1);
    pool.release(pool.take(65_536));
    expect(vacated).toContain(pool.vacate());
    for (let count = 0; count < 2; count++) expect(vacated).toContain(pool.take(1_048_576));
    expect(pool.take(1_048_576)).toBe(-1);
    expect(pool.vacate()).toBe(-1);
    pool.release(kept);
    expect(pool.vacate()).toBe(kept);
  });
});
