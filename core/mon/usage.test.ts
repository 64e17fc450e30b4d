import { expect, test } from "bun:test";
import type { OsdId } from "../base/ids.ts";
import { LayerSpace } from "./usage.ts";

const [A, B] = [0 as OsdId, 1 as OsdId];

test("a layer's space is what all shards of all osds told last", () => {
  const space = new LayerSpace();
  space.note(A, { shard: 0, layer: 7, bytes: 100 });
  space.note(A, { shard: 1, layer: 7, bytes: 10 });
  space.note(B, { shard: 0, layer: 7, bytes: 1 });
  space.note(B, { shard: 0, layer: 8, bytes: 5 });
  expect([space.of(7), space.of(8), space.of(9)]).toEqual([111, 5, 0]);
  space.note(A, { shard: 0, layer: 7, bytes: 50 });
  expect(space.of(7)).toBe(61);
  space.note(A, { shard: 1, layer: 7, bytes: 0 });
  expect(space.of(7)).toBe(51);
});

test("an osd that tells everything anew counts once", () => {
  const space = new LayerSpace();
  space.note(A, { shard: 0, layer: 7, bytes: 100 });
  space.note(B, { shard: 0, layer: 7, bytes: 1 });
  space.forget(A);
  expect(space.of(7)).toBe(1);
  space.note(A, { shard: 0, layer: 7, bytes: 40 });
  expect(space.of(7)).toBe(41);
  space.forget(A);
  space.forget(B);
  space.forget(B);
  expect(space.of(7)).toBe(0);
});
