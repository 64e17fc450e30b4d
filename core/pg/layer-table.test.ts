import { expect, test } from "bun:test";
import { LayerTable } from "./layer-table.ts";

test("fence and snapshot sequence only grow", () => {
  const table = new LayerTable();
  table.apply(4, 7, 2);
  table.apply(4, 3, 5);
  expect(table.find(4)!.lockEpoch).toBe(7);
  expect(table.find(4)!.snapSeq).toBe(5);
});

test("a layer without fence or snapshot costs nothing", () => {
  const table = new LayerTable();
  table.apply(4, 0, 0);
  expect(table.find(4)).toBeUndefined();
});

test("what a leader proposed is dropped with its leadership", () => {
  const table = new LayerTable();
  table.apply(4, 1, 1);
  table.of(4).lockEpochProposed = 9;
  table.of(4).snapSeqProposed = 9;
  table.dropProposed();
  expect(table.find(4)!.lockEpochProposed).toBe(1);
  expect(table.find(4)!.snapSeqProposed).toBe(1);
});

test("checkpoints list layers in order", () => {
  const table = new LayerTable();
  for (const layer of [9, 2, 5]) table.apply(layer, 1, 0);
  expect(table.list().map((state) => state.layer)).toEqual([2, 5, 9]);
});
