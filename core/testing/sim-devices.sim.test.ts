/** What goes wrong with devices (`sim-devices.ts`) stays within the fault budget. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import type { SimWatch } from "./sim-check.ts";
import { groupsOf, isServing, type SimCluster, type SimOsd } from "./sim-cluster.ts";
import type { SimFaults } from "./sim-faults.ts";
import { NEVER_US, startFaultBench } from "./sim-faults-harness.ts";

/** Longer than a device lies before its power is cut, when all others have all. */
const LIE_US = 700_000;
/** Longer than the peace beside a device that lies. */
const PEACE_US = 4_500_000;

let cluster: SimCluster;
let faults: SimFaults;
let watch: SimWatch;
let liar: SimOsd;
let behind: SimOsd;

beforeEach(() => {
  ({ cluster, watch, faults } = startFaultBench({ lies: true }));
  faults.begin(cluster.simulation.nowUs + NEVER_US);
  liar = faults.victim;
  behind = cluster.osds.find((osd) => osd !== liar)!;
});

afterEach(() => cluster.simulation.dispose());

function committedAt(osd: SimOsd): number {
  return groupsOf(osd)[0]!.commitIndex;
}

/** One of three stands still, and the two others commit without it; then the device of one of them lies. */
function lieWhileOneIsBehind(): void {
  const { simulation } = cluster;
  expect(simulation.run(() => cluster.serving)).toBe(true);
  behind.world!.pause();
  expect(simulation.run(() => committedAt(liar) > committedAt(behind) + 20)).toBe(true);
  expect(faults.devices.lie()).toBe(true);
}

test("the power of a liar is cut once everybody else has what it has", () => {
  const { simulation } = cluster;
  const { world } = liar;
  lieWhileOneIsBehind();
  simulation.run(simulation.nowUs + LIE_US);
  expect(world!.alive).toBe(true);
  behind.world!.resume();
  let had = 0;
  const isCut = (): boolean => {
    if (!world!.alive) return true;
    had = groupsOf(liar)[0]!.shard.store.durableIndex(groupsOf(liar)[0]!.row);
    return false;
  };
  expect(simulation.run(isCut)).toBe(true);
  for (const osd of cluster.osds.filter((one) => one !== liar)) {
    const group = groupsOf(osd)[0]!;
    expect(group.shard.store.durableIndex(group.row)).toBeGreaterThanOrEqual(had);
  }
  expect(faults.isPeace).toBe(true);
  expect(simulation.run(() => cluster.osds.every(isServing) && cluster.serving)).toBe(true);
  watch.look();
});

test("a liar goes on when somebody else stays behind, and its device lies no more", () => {
  const { simulation } = cluster;
  const { world } = liar;
  lieWhileOneIsBehind();
  expect(faults.kill(liar, true)).toBe(false);
  expect(faults.kill(liar, false)).toBe(false);
  simulation.run(simulation.nowUs + PEACE_US);
  expect(world!.alive).toBe(true);
  expect(liar.world).toBe(world);
  expect(faults.devices.isLying(liar)).toBe(false);
  expect(faults.devices.isWell(liar)).toBe(true);
});
