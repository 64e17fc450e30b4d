import { expect, test } from "bun:test";
import { Prng } from "../base/prng.ts";
import { hasQuorum, popCount, QuorumScratch, quorumLost, quorumValue } from "./quorum.ts";

function count(mask: number): number {
  let bits = 0;
  for (let bit = 0; bit < 32; bit++) if ((mask & (1 << bit)) !== 0) bits++;
  return bits;
}

test("popCount counts bits", () => {
  const random = new Prng(1);
  for (const mask of [0, 1, -1, 0x8000_0000, 0xffff]) expect(popCount(mask)).toBe(count(mask));
  for (let n = 0; n < 500; n++) {
    const mask = random.u32();
    expect(popCount(mask)).toBe(count(mask));
  }
});

for (const [voters, majority] of [
  [0b1, 1],
  [0b11, 2],
  [0b111, 2],
  [0b1111, 3],
  [0b11111, 3],
  [0b111111, 4],
] as const) {
  test(`a quorum of ${count(voters)} voters is ${majority}`, () => {
    for (let mask = 0; mask <= voters; mask++) {
      expect(hasQuorum(mask, voters, 0)).toBe(count(mask) >= majority);
      expect(quorumLost(mask, voters, 0)).toBe(count(voters) - count(mask) < majority);
    }
  });
}

test("a joint quorum needs both halves, and nothing is a quorum of no voters", () => {
  expect(hasQuorum(0b00111, 0b00111, 0b11100)).toBe(false);
  expect(hasQuorum(0b01110, 0b00111, 0b11100)).toBe(true);
  expect(hasQuorum(0b11100, 0b00111, 0b11100)).toBe(false);
  expect(quorumLost(0b00011, 0b00111, 0b11100)).toBe(true);
  expect(hasQuorum(-1, 0, 0)).toBe(false);
});

test("quorumValue is the largest value that a quorum reaches", () => {
  const random = new Prng(2);
  const scratch = new QuorumScratch();
  for (let n = 0; n < 2000; n++) {
    const values = new Float64Array(16).map(() => random.below(6));
    const voters = 1 + random.below(255);
    const outgoing = random.below(2) === 0 ? 0 : 1 + random.below(255);
    const reached = (value: number): number =>
      values.reduce((mask, other, slot) => (other >= value ? mask | (1 << slot) : mask), 0);
    const best = quorumValue(values, voters, outgoing, scratch);
    expect(hasQuorum(reached(best), voters, outgoing)).toBe(true);
    expect(hasQuorum(reached(best + 1), voters, outgoing)).toBe(false);
  }
});
