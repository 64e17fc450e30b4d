import { expect, test } from "bun:test";
import fc from "fast-check";
import { hashObject } from "./hash.ts";

const MASK = (1n << 64n) - 1n;
const G = 0x9e37_79b9_7f4a_7c15n;

function mix(value: bigint): bigint {
  let z = value & MASK;
  z ^= z >> 30n;
  z = (z * 0xbf58_476d_1ce4_e5b9n) & MASK;
  z ^= z >> 27n;
  z = (z * 0x94d0_49bb_1331_11ebn) & MASK;
  return z ^ (z >> 31n);
}

function reference(family: number, object: number): number {
  const hash = mix(mix(BigInt(family) + G) + BigInt(object) + G);
  return Number(hash & 0xffff_ffffn);
}

test("the hash equals its definition in 64-bit arithmetic", () => {
  const id = fc.oneof(
    fc.maxSafeNat(),
    fc.nat(1000),
    fc.constantFrom(0, 0xffff_ffff, 2 ** 32, Number.MAX_SAFE_INTEGER),
  );
  fc.assert(
    fc.property(id, id, (family, object) => {
      expect(hashObject(family, object)).toBe(reference(family, object));
    }),
    { numRuns: 2000 },
  );
});

test("the hash never changes: golden values", () => {
  // Computed from the definition with arbitrary-precision integers, outside of this program.
  const golden: readonly (readonly [family: number, object: number, hash: number])[] = [
    [0, 0, 1293516399],
    [1, 0, 1949917470],
    [1, 1, 840412675],
    [11, 1, 2769012890],
    [1, 11, 651602018],
    [4503599627370496, 4194303, 2263365360],
    [9007199254740991, 9007199254740991, 2321879959],
  ];
  for (const [family, object, hash] of golden) expect(hashObject(family, object)).toBe(hash);
});

test("consecutive objects fill groups evenly", () => {
  const groups = 128;
  const objects = 64 * groups;
  for (const family of [1, 2, 3, 1_000_003]) {
    const counts = new Uint32Array(groups);
    for (let object = 0; object < objects; object++) {
      counts[hashObject(family, object) & (groups - 1)]!++;
    }
    // 64 expected, standard deviation 8: six of them hold with odds of a billion to one.
    for (const count of counts) expect(Math.abs(count - 64)).toBeLessThan(48);
  }
});
