/** What an osd keeps of its map, and when: what lasts before shards follow it, hints some seconds later. */
import { beforeEach, expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { FORMAT_FIRST } from "../base/formats.ts";
import type { Epoch, OsdId, PgId, ReplicaId, ShardIndex, Term } from "../base/ids.ts";
import { ApplyResult, ClusterMap, type MapChange, type PgInfo } from "../cluster/cluster.ts";
import { Simulation, type SimWorld } from "../reactor/reactor.ts";
import type { Logger } from "../base/logger.ts";
import { type KeptMap, MapKeeper } from "./osd.ts";

const SECOND_US = 1_000_000;
const PG = 65_536 as PgId;

/** The file: it outlives the process. */
class File implements KeptMap {
  bytes: Uint8Array | null = null;
  saves = 0;
  isFull = false;

  load(): Uint8Array | null {
    return this.bytes;
  }

  save(bytes: Uint8Array): void {
    if (this.isFull) throw new Error("no space left");
    this.bytes = bytes;
    this.saves += 1;
  }
}

let simulation: Simulation;
let file: File;
let warnings: string[];
let world: SimWorld;
let map: ClusterMap;
let keeper: MapKeeper;

const note = (): void => {};
const logger: Logger = {
  debug: note,
  info: note,
  warn: (message) => warnings.push(message),
  error: (message) => warnings.push(message),
  child: () => logger,
};

function begin(name: string): Uint8Array | null {
  world = simulation.createWorld(name, `10.0.0.${name.length}`);
  map = new ClusterMap();
  keeper = new MapKeeper(world, logger, map, file);
  world.start();
  return keeper.load();
}

/** The monitor tells a change; answers what shards find kept when they are told. */
function tell(change: MapChange): ClusterMap {
  expect(map.apply(map.next(change))).toBe(ApplyResult.Applied);
  keeper.keep();
  return keptMap();
}

function keptMap(): ClusterMap {
  const kept = new ClusterMap();
  if (file.bytes !== null) {
    const keeps = new MapKeeper(world, logger, kept, { load: () => file.bytes, save: note });
    expect(keeps.load()).not.toBeNull();
  }
  return kept;
}

function pass(us: number): void {
  simulation.run(simulation.nowUs + us);
}

function group(over: Partial<PgInfo> = {}): PgInfo {
  return {
    id: PG,
    lastChangeEpoch: 0 as Epoch,
    changeEpoch: 0 as Epoch,
    creating: false,
    replicas: [1, 2, 3].map((id) => ({
      replicaId: id as ReplicaId,
      osd: (id - 1) as OsdId,
      storeUuid: `store-${id}`,
      shard: 0 as ShardIndex,
      leaving: false,
      witness: false,
    })),
    leader: 1 as ReplicaId,
    leaderTerm: 1 as Term,
    configuration: undefined,
    ...over,
  };
}

/** Another leader, and nothing else. */
function hint(term: number): MapChange {
  const leader = ((term % 3) + 1) as ReplicaId;
  return { pgs: [{ ...map.pgs.get(PG)!, leader, leaderTerm: term as Term }] };
}

beforeEach(() => {
  simulation = new Simulation(5, { drainMicrotasks });
  file = new File();
  warnings = [];
  expect(begin("a")).toBeNull();
  map.apply({ ...map.next({ pgs: [group()] }), generation: 1, full: true });
  keeper.keep();
  expect(file.saves).toBe(1);
});

test("what lasts is kept before shards are told of it", () => {
  const [, second, third] = group().replicas;
  const moved = { ...second!, replicaId: 4 as ReplicaId };
  const replicas = [moved, third!];
  expect(tell({ pgs: [group({ replicas })] }).pgs.get(PG)?.replicas).toEqual(replicas);
  expect(tell({ pgs: [group({ id: 65_537 as PgId, creating: true })] }).pgs.size).toBe(2);
  const established = group({ id: 65_537 as PgId });
  expect(tell({ pgs: [established] }).pgs.get(established.id)?.creating).toBe(false);
  const configuration = { index: 7, voters: [1, 4], outgoing: [], learners: [] } as never;
  const reported = group({ replicas, configuration });
  expect(tell({ pgs: [reported] }).pgs.get(PG)?.configuration).toEqual(configuration);
  const recovery = { speed: 3, paused: true, changeEpoch: 0 as Epoch };
  expect(tell({ recovery }).recovery.paused).toBe(true);
  const format = FORMAT_FIRST + 1;
  expect(tell({ format }).format).toBe(format);
  const host = { id: 1 as OsdId, storeUuid: "s", host: "h", up: true, in: true, weight: 1 };
  const osds = [{ ...host, addresses: [], changeEpoch: 0 as Epoch }];
  expect(tell({ osds }).osds.size).toBe(1);
  expect(tell({ removedPools: [1 as never] }).pgs.size).toBe(0);
  expect([file.saves, warnings]).toEqual([9, []]);
});

test("a row lasts that differs in more than its leader, whichever epochs it tells", () => {
  const [first, second] = group().replicas;
  const rows = [group({ creating: true }), group({ creating: true, replicas: [first!, second!] })];
  rows.forEach((row, at) => {
    const delta = map.next({ pgs: [row] });
    const pgs = delta.pgs.map((told) => ({ ...told, lastChangeEpoch: 1 }));
    expect(map.apply({ ...delta, pgs })).toBe(ApplyResult.Applied);
    keeper.keep();
    expect([file.saves, keptMap().pgs.get(PG)?.replicas.length]).toEqual([at + 2, 3 - at]);
  });
  const { epoch } = tell({ pgs: [group({ creating: true })] });
  expect(epoch).toBe(map.epoch);
});

test("hints are kept together within 5 s, also when more of them come all the time", () => {
  for (let term = 2; term < 72; term++) {
    const { epoch } = tell(hint(term));
    if (term < 50) expect(epoch as number).toBe(1);
    if (term > 55) expect(epoch as number).toBeGreaterThanOrEqual(50);
    pass(SECOND_US / 10);
  }
  expect(file.saves).toBe(2);
  pass(6 * SECOND_US);
  expect([file.saves, keptMap().pgs.get(PG)?.leaderTerm]).toEqual([3, 71 as Term]);
  pass(60 * SECOND_US);
  expect(file.saves).toBe(3);
});

test("what lasts takes the hints along that wait", () => {
  tell(hint(2));
  const kept = tell({ pgs: [group({ id: 65_537 as PgId, creating: true })] });
  expect([kept.pgs.size, kept.pgs.get(PG)?.leaderTerm]).toEqual([2, 2 as Term]);
  pass(60 * SECOND_US);
  expect(file.saves).toBe(2);
});

test("an osd that dies before hints are kept begins with all that lasts, and can be told the rest", () => {
  tell({ pgs: [group({ id: 65_537 as PgId, creating: true })] });
  const { epoch } = map;
  tell(hint(2));
  tell(hint(3));
  pass(SECOND_US);
  const monitors = map;
  world.crash();
  pass(60 * SECOND_US);
  expect(begin("bb")).not.toBeNull();
  expect([map.generation, map.epoch, map.pgs.size] as number[]).toEqual([1, epoch, 2]);
  expect(map.pgs.get(PG)?.leaderTerm).toBe(1 as Term);
  // What it took over is kept already.
  keeper.keep();
  expect(file.saves).toBe(2);
  const delta = monitors.deltaFrom(map.generation, map.epoch)!;
  expect([delta.full, delta.pgs.length]).toEqual([false, 1]);
  expect(map.apply(delta)).toBe(ApplyResult.Applied);
  keeper.keep();
  expect(map.pgs.get(PG)?.leaderTerm).toBe(3 as Term);
  pass(6 * SECOND_US);
  expect([file.saves, keptMap().epoch]).toEqual([3, monitors.epoch]);
});

test("an osd that stops keeps the hints that wait, and none behind that", () => {
  tell(hint(2));
  keeper.stop();
  expect([file.saves, keptMap().epoch]).toEqual([2, map.epoch]);
  pass(60 * SECOND_US);
  keeper.stop();
  expect(file.saves).toBe(2);
});

test("a map that could not be kept is told of, and kept with the next change", () => {
  file.isFull = true;
  expect(tell({ pgs: [group({ creating: true })] }).epoch).toBe(1 as Epoch);
  expect(warnings).toEqual(["the map can not be kept"]);
  file.isFull = false;
  expect(tell(hint(2)).epoch).toBe(map.epoch);
});

test("another generation is kept at once, whatever its epoch", () => {
  for (let term = 2; term < 9; term++) tell(hint(term));
  const next = { ...map.deltaFrom(0, 0)!, generation: 2, epoch: 3 };
  expect(map.apply(next)).toBe(ApplyResult.Applied);
  keeper.keep();
  expect([keptMap().generation, keptMap().epoch] as number[]).toEqual([2, 3]);
});

test("a kept map that is damaged is told of and left", () => {
  file.bytes = new Uint8Array([0xff, 0xff, 0xff]);
  expect(begin("ccc")).toBeNull();
  expect([map.epoch as number, warnings]).toEqual([0, ["the kept map can not be read"]]);
});
