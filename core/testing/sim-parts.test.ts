import { expect, test } from "bun:test";
import { SimPart, SimParts } from "./sim-parts.ts";

test("a run has the parts that its seed draws, less those that are left out", () => {
  const parts = new SimParts(new Set([SimPart.Versions]));
  expect(parts.has(SimPart.Versions, true)).toBe(false);
  expect(parts.has(SimPart.Operators, true)).toBe(true);
  expect(parts.has(SimPart.Tunables, false)).toBe(false);
  expect(parts.notes).toEqual([
    { number: SimPart.Operators, atUs: 0, name: "operators at work", osd: -1 },
  ]);
});
