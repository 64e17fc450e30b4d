import { expect, test } from "bun:test";
import { BLOCKS_PER_UNIT } from "../base/units.ts";
import { BlockState, UnitState } from "./local-store.ts";
import { blockOf, judgeUnit, ScrubTally } from "./scrub-tally.ts";

/** A unit whose first block is what is given, and whose others are the same everywhere. */
function unitOf(state: BlockState, version: number, crc: number): UnitState {
  const unit = new UnitState();
  unit.states.fill(BlockState.Data);
  unit.versions.fill(7);
  unit.states[0] = state;
  unit.versions[0] = version;
  unit.crcs[0] = crc;
  return unit;
}

const right = unitOf(BlockState.Data, 9, 1);
const old = unitOf(BlockState.Data, 8, 2);
const other = unitOf(BlockState.Data, 9, 3);
const zero = unitOf(BlockState.Zero, 0, 0);
const lost = unitOf(BlockState.Lost, 9, 0);

function judge(...units: UnitState[]): [number, number] {
  const { differing, undecided } = judgeUnit(units);
  expect(differing.slice(1).every((one) => one === 0)).toBe(true);
  return [differing[0]!, undecided];
}

test("what more than half of all replicas have is right", () => {
  expect(judge(right, right, right)).toEqual([0, 0]);
  expect(judge(right, right, old)).toEqual([0b100, 0]);
  expect(judge(old, right, right)).toEqual([0b001, 0]);
  expect(judge(right, zero, right)).toEqual([0b010, 0]);
  expect(judge(other, right, right)).toEqual([0b001, 0]);
  expect(judge(right, right, right, old, zero)).toEqual([0b11000, 0]);
});

test("without such a majority nobody is right", () => {
  expect(judge(right, old)).toEqual([0b11, 1]);
  expect(judge(right, old, zero)).toEqual([0b111, 1]);
  expect(judge(right, right, old, old)).toEqual([0b1111, 1]);
});

test("a block that one replica gave up has not diverged, unless its version has", () => {
  expect(judge(right, right, lost)).toEqual([0, 0]);
  expect(judge(right, lost)).toEqual([0, 0]);
  expect(judge(old, lost, lost)).toEqual([0b001, 0]);
});

test("what a later pass does not find any more is healed", () => {
  const tally = new ScrubTally();
  const place = blockOf({ layer: 5, unit: 2, snapSeq: 0 }, 3);
  expect(place).toEqual({ layer: 5, block: 2 * BLOCKS_PER_UNIT + 3 });
  tally.addRead({ next: -1, blocks: 40, damaged: 3, healed: 2, left: [{ layer: 5, block: 1 }] });
  expect([tally.blocksRead, tally.found, tally.left]).toEqual([40, 3, 1]);
  tally.beginPass();
  expect(tally.note(place, false)).toBe(true);
  expect([tally.found, tally.left]).toEqual([4, 2]);
  tally.beginPass();
  expect([tally.found, tally.left]).toEqual([4, 1]);
  expect(tally.note(place, true)).toBe(false);
  expect(tally.blocks).toEqual([
    { ...place, undecided: true },
    { layer: 5, block: 1, undecided: false },
  ]);
});
