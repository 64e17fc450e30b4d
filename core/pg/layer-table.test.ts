import { expect, test } from "bun:test";
import { LAYERS_GONE_MAX, LayerTable, LOCK_EPOCH_GONE } from "./layer-table.ts";

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

test("a removed layer has no state, and gets none by what is applied behind it", () => {
  const table = new LayerTable();
  table.apply(4, 7, 2);
  table.remove(4);
  table.apply(4, 9, 9);
  expect(table.find(4)).toBeUndefined();
  expect(table.isGone(4)).toBe(true);
  expect(table.isGone(3)).toBe(false);
  expect(table.size).toBe(1);
});

test("a proposed removal counts for as long as its leader leads", () => {
  const table = new LayerTable();
  table.proposeRemoval(4);
  expect(table.isGone(4)).toBe(true);
  table.dropProposed();
  expect(table.isGone(4)).toBe(false);
  table.remove(4);
  table.proposeRemoval(4);
  table.dropProposed();
  expect(table.isGone(4)).toBe(true);
});

test("removed layers are listed as fences, and come back from them", () => {
  const table = new LayerTable();
  table.apply(5, 1, 2);
  for (const layer of [9, 2]) table.remove(layer);
  const rows = table.list().map(({ layer, lockEpoch, snapSeq }) => [layer, lockEpoch, snapSeq]);
  expect(rows).toEqual([
    [2, LOCK_EPOCH_GONE, 0],
    [5, 1, 2],
    [9, LOCK_EPOCH_GONE, 0],
  ]);
  const restored = new LayerTable();
  for (const [layer, lockEpoch, snapSeq] of rows) restored.apply(layer!, lockEpoch!, snapSeq!);
  expect(restored.list()).toEqual(table.list());
  expect([2, 5, 9].map((layer) => restored.isGone(layer))).toEqual([true, false, true]);
});

test("of the removed layers, those with the highest ids are known, in whatever order they went", () => {
  const layers = Array.from({ length: LAYERS_GONE_MAX + 9 }, (_, at) => at * 3);
  const tables = [layers, [...layers].reverse()].map((order) => {
    const table = new LayerTable();
    for (const layer of order) table.remove(layer);
    return table;
  });
  for (const table of tables) {
    expect(table.list().map(({ layer }) => layer)).toEqual(layers.slice(9));
    expect([layers[8]!, layers[9]!].map((layer) => table.isGone(layer))).toEqual([false, true]);
  }
});
