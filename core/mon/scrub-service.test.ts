import { create } from "@bufbuild/protobuf";
import { beforeEach, describe, expect, test } from "bun:test";
import {
  type Epoch,
  type OsdId,
  type PgId,
  pgIdOf,
  type Generation,
  type PoolId,
  type ReplicaId,
  type ShardIndex,
  type Term,
} from "../base/ids.ts";
import type { OsdInfo, PgInfo, PoolInfo } from "../cluster/cluster.ts";
import {
  PgReportSchema,
  PgRole,
  type ScrubGroup,
  ScrubReportSchema,
} from "../../proto/gen/control_pb.ts";
import { Catalogue } from "./catalogue.ts";
import { Leadership } from "./leadership.ts";
import { MemoryMetaStore } from "./memory-store.ts";
import { ScrubService } from "./scrub-service.ts";

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const GROUPS = 8;
const FIRST_MS = 1_000_000_000;
const POOL: PoolInfo = {
  id: 1 as PoolId,
  name: "pool",
  size: 2,
  pgCount: GROUPS,
  objectBlocks: 1024,
  failureDomain: "osd",
  generation: 1 as Generation,
  changeEpoch: 0 as Epoch,
};

function osdOf(id: number): OsdInfo {
  return {
    id: id as OsdId,
    storeUuid: `store-${String(id)}`,
    host: `host-${String(id)}`,
    up: true,
    in: true,
    weight: 1,
    addresses: [],
    changeEpoch: 0 as Epoch,
  };
}

/** Led by osd 0 and 1 in turn. */
function pgOf(index: number): PgInfo {
  return {
    id: pgIdOf(1 as PoolId, index),
    lastChangeEpoch: 0 as Epoch,
    changeEpoch: 0 as Epoch,
    creating: false,
    replicas: [0, 1].map((osd) => ({
      replicaId: (osd + 1) as ReplicaId,
      osd: osd as OsdId,
      storeUuid: `store-${String(osd)}`,
      shard: 0 as ShardIndex,
      leaving: false,
      witness: false,
    })),
    leader: ((index % 2) + 1) as ReplicaId,
    leaderTerm: 1 as Term,
    configuration: undefined,
  };
}

class Bench {
  catalogue!: Catalogue;
  scrubs!: ScrubService;
  nowMs = FIRST_MS;
  readonly orders: ScrubGroup[] = [];
  readonly osds: OsdId[] = [];
  readonly filling = new Set<PgId>();
  private readonly store = new MemoryMetaStore(TIMERS);
  private leadership: Leadership | undefined;

  async begin(isScheduled = true): Promise<void> {
    await this.leadership?.resign();
    const leadership = new Leadership(this.store, "a");
    this.leadership = leadership;
    expect(await leadership.campaign()).toBe(true);
    this.catalogue = new Catalogue(
      this.store,
      () => leadership.fence(),
      () => undefined,
    );
    await this.catalogue.load("7d0b1f0a-1111-4222-8333-444455556666");
    this.scrubs = new ScrubService({
      catalogue: this.catalogue,
      osds: { reportsOf: (pg) => this.reportsOf(pg) },
      nowUs: () => this.nowMs * 1000,
      wallMs: () => this.nowMs,
      isScheduled,
      command: (osd, command) => {
        if (command.case === "scrub") this.orders.push(command.value);
        this.osds.push(osd);
        return true;
      },
      onFailed: (error) => {
        throw error;
      },
    });
    if (this.catalogue.map.pgs.size > 0) return;
    await this.catalogue.change((change) => {
      const pgs = Array.from({ length: GROUPS }, (_, index) => pgOf(index));
      for (const { id } of pgs) change.putPg({ id, nextReplicaId: 3 });
      for (const id of [0, 1]) {
        change.putOsd({
          id: id as OsdId,
          capacityBytes: 0,
          incarnation: 1,
          version: "",
          backend: "",
          autoOut: false,
          firstSeenMs: FIRST_MS,
        });
      }
      change.changeMap({ osds: [osdOf(0), osdOf(1)], pools: [POOL], pgs });
    });
  }

  private reportsOf(pg: PgInfo): ReturnType<ScrubService["options"]["osds"]["reportsOf"]> {
    const role = this.filling.has(pg.id) ? PgRole.FILLING : PgRole.FOLLOWER;
    const { id, leader } = pg;
    return new Map([
      [2 as ReplicaId, create(PgReportSchema, { pg: id, replica: 2, role, leader })],
    ]);
  }

  /** Let time pass; orders are carried out at once and leave `left` blocks; < 0: they are not. */
  async pass(ms: number, left = 0): Promise<void> {
    const until = this.nowMs + ms;
    while (this.nowMs < until) {
      this.nowMs += 60_000;
      this.scrubs.tick();
      for (const { pg, order, deep } of left < 0 ? [] : this.orders.slice(-2)) {
        const report = { order, deep, done: true, found: left, left };
        this.scrubs.note(pg as PgId, create(ScrubReportSchema, report));
      }
      await this.catalogue.idle();
    }
  }

  /** Groups that were ordered, each once for each order. */
  ordered(isDeep: boolean): number[] {
    const seen = new Map(this.orders.map((one) => [one.order, one]));
    return [...seen.values()].filter((one) => one.deep === isDeep).map((one) => one.pg);
  }
}

const TIMERS = {
  arm: () => undefined,
  armPeriod: () => undefined,
  disarm: () => undefined,
};

describe("the schedule of scrubs", () => {
  let bench: Bench;
  beforeEach(async () => {
    bench = new Bench();
    await bench.begin();
  });

  test("each group is scrubbed daily and deep weekly, spread evenly", async () => {
    await bench.pass(DAY_MS / GROUPS - HOUR_MS);
    expect(bench.orders).toEqual([]);
    await bench.pass(HOUR_MS + DAY_MS);
    const light = bench.ordered(false);
    expect(light.length).toBeGreaterThanOrEqual(GROUPS);
    expect(light.length).toBeLessThanOrEqual(GROUPS + 2);
    expect(new Set(light).size).toBe(GROUPS);
    await bench.pass(7 * DAY_MS);
    const deep = bench.ordered(true);
    expect(new Set(deep).size).toBe(GROUPS);
    expect(deep.length).toBeLessThanOrEqual(GROUPS + 2);
    expect(bench.ordered(false).length).toBeLessThanOrEqual(8 * GROUPS + 8);
  });

  test("goes on where it was after a restart of the monitor", async () => {
    await bench.pass(DAY_MS);
    const before = bench.ordered(false).length;
    await bench.begin();
    await bench.pass(DAY_MS / GROUPS / 2);
    expect(bench.ordered(false).length).toBeLessThanOrEqual(before + 1);
    await bench.pass(DAY_MS);
    expect(new Set(bench.ordered(false).slice(before)).size).toBe(GROUPS);
  });

  test("passes by a group that is being filled, and a leader that has one to do", async () => {
    const filling = pgIdOf(1 as PoolId, 0);
    bench.filling.add(filling);
    await bench.pass(2 * DAY_MS, -1);
    // Nothing ends: one for each leader.
    expect(new Set(bench.orders.map((one) => one.pg)).size).toBe(2);
    expect(bench.orders.some((one) => one.pg === filling)).toBe(false);
    expect(bench.orders.length).toBeGreaterThan(100);
  });

  test("an order is given anew when the leader knows a later one, of a clock that was ahead", async () => {
    const pg = bench.catalogue.map.pgs.get(pgIdOf(1 as PoolId, 3))!;
    bench.scrubs.request(pg, false);
    const [before] = bench.orders as [ScrubGroup];
    await bench.begin();
    bench.nowMs -= HOUR_MS;
    bench.scrubs.request(pg, true);
    expect(bench.orders.at(-1)!.order).toBeLessThan(before.order);
    const report = { order: before.order, deep: false, done: true, found: 0, left: 0 };
    bench.scrubs.note(pg.id, create(ScrubReportSchema, report));
    expect(bench.scrubs.runningOf(pg.id)).toMatchObject({ deep: true });
    bench.scrubs.tick();
    const last = bench.orders.at(-1)!;
    expect(last).toMatchObject({ pg: pg.id, deep: true });
    expect(last.order).toBeGreaterThan(before.order);
    bench.scrubs.note(pg.id, create(ScrubReportSchema, { ...report, order: last.order }));
    expect(bench.scrubs.runningOf(pg.id)).toBeUndefined();
  });

  test("what it could not put right is looked at again soon", async () => {
    await bench.pass(DAY_MS / GROUPS, 1);
    const before = bench.orders.length;
    await bench.pass(HOUR_MS, 1);
    expect(bench.orders.length - before).toBeGreaterThanOrEqual(5);
    expect(bench.orders.length - before).toBeLessThanOrEqual(7);
  });
});

test("without a schedule only what is asked for is ordered, to whoever leads by then", async () => {
  const bench = new Bench();
  await bench.begin(false);
  await bench.pass(8 * DAY_MS);
  expect(bench.orders).toEqual([]);
  const pg = bench.catalogue.map.pgs.get(pgIdOf(1 as PoolId, 0))!;
  bench.scrubs.request(pg, false);
  bench.scrubs.request(pg, false);
  expect(new Set(bench.orders.map((one) => one.order)).size).toBe(1);
  bench.scrubs.request(pg, true);
  expect(bench.scrubs.runningOf(pg.id)?.deep).toBe(true);
  await bench.catalogue.change((change) => {
    change.changeMap({ pgs: [{ ...pg, leader: 2 as ReplicaId, leaderTerm: 2 as Term }] });
  });
  await bench.pass(60_000, -1);
  expect(bench.osds.at(-1)).toBe(1 as OsdId);
  const { order } = bench.orders.at(-1)!;
  const done = create(ScrubReportSchema, { order, deep: true, done: true, found: 3, healed: 3 });
  bench.scrubs.note(pg.id, create(ScrubReportSchema, { ...done, done: false }));
  expect(bench.scrubs.runningOf(pg.id)?.deep).toBe(true);
  bench.scrubs.note(pg.id, done);
  await bench.catalogue.idle();
  expect(bench.scrubs.runningOf(pg.id)).toBeUndefined();
  const record = bench.catalogue.pgs.get(pg.id)!;
  expect(record).toMatchObject({ nextReplicaId: 3, scrub: { found: 3, healed: 3, left: 0 } });
  expect(record.scrub!.deepMs).toBe(bench.nowMs);
});
