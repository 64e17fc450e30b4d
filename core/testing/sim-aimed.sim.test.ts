/** Faults that are aimed at a moment (`sim-aimed.ts`), and others that come just then. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { awakeOf, isServing, type SimCluster } from "./sim-cluster.ts";
import type { SimFaults } from "./sim-faults.ts";
import { NEVER_US, startFaultBench } from "./sim-faults-harness.ts";
import type { SimProbes } from "./sim-probes.ts";
import { SimWeather } from "./sim-weather.ts";

const STRIKES = 6;
const DOWN_US = 50_000;
/** The whole story of a restart beside a cut. */
const STORY_US = 2_000_000;
/** A first aimed fault is under way when such a round ends; some follow each other in a long one. */
const ROUND_US = 300_000;
const LONG_US = 6_000_000;
/** In this time a batch is made stale. */
const STALE_LIMIT_US = 60_000_000;
const FAST_US = 30;

let cluster: SimCluster;
let faults: SimFaults;
let probes: SimProbes;

beforeEach(() => {
  ({ cluster, probes, faults } = startFaultBench({ aimed: true }));
});

afterEach(() => cluster.simulation.dispose());

test("who led a group when the moment was found may be gone when it is used", () => {
  const { osds, simulation } = cluster;
  faults.begin(simulation.nowUs + NEVER_US);
  for (let strike = 0; strike < STRIKES; strike++) {
    expect(simulation.run(() => osds.every(isServing) && cluster.serving)).toBe(true);
    expect(simulation.run(() => faults.isPeace)).toBe(true);
    const leader = osds.find((osd) => awakeOf(osd).some((group) => group.serving))!;
    expect(faults.kill(leader, true)).toBe(true);
    simulation.after(DOWN_US, () => faults.start(leader));
    expect(simulation.run(() => !faults.isPeace)).toBe(true);
  }
});

test("nobody is killed beside a cut once there is peace", () => {
  const { osds, simulation } = cluster;
  const weather = new SimWeather(cluster, faults);
  const kind = weather.kinds.find(({ name }) => name === "restart beside a cut")!;
  expect(simulation.run(() => cluster.serving)).toBe(true);
  const processes = osds.map(({ world }) => world);
  expect(kind.run(osds[0]!)).toBe(true);
  simulation.heal();
  expect(faults.makePeace(STORY_US)).toBe(true);
  simulation.run(simulation.nowUs + STORY_US);
  expect(osds.every(isServing)).toBe(true);
  expect(osds.map(({ world }, at) => world === processes[at])).toEqual([true, true, true]);
});

test("an aimed fault that a round ends leaves none behind beside those of the next round", () => {
  const { simulation } = cluster;
  const errand = faults.errand.bind(faults);
  let running = 0;
  let most = 0;
  faults.errand = (what) =>
    errand(async () => {
      running += 1;
      most = Math.max(most, running);
      await what();
      running -= 1;
    });
  expect(simulation.run(() => cluster.serving)).toBe(true);
  for (const us of [ROUND_US, LONG_US]) {
    const endUs = simulation.nowUs + us;
    faults.begin(endUs);
    simulation.run(() => simulation.nowUs >= endUs);
    if (us === ROUND_US) expect(running).toBe(1);
    faults.end();
    expect(simulation.run(() => faults.idle)).toBe(true);
  }
  expect(most).toBe(1);
});

test("the batch in the place of a stale one is seen on a device that is fast again", () => {
  const { osds, simulation } = cluster;
  expect(simulation.run(() => cluster.serving)).toBe(true);
  faults.begin(simulation.nowUs + NEVER_US);
  const isStale = (): boolean => faults.counts["stale batch"] !== undefined;
  expect(simulation.run(isStale, STALE_LIMIT_US)).toBe(true);
  for (const { path } of osds) {
    Object.assign(simulation.disk(path).faults, { latencyUsMin: FAST_US, latencyUsMax: FAST_US });
  }
  expect(simulation.run(() => !faults.isPeace)).toBe(true);
  expect(probes.counts["stale batch refused"]).toBe(1);
});
