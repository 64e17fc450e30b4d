import { expect, test } from "bun:test";
import fc from "fast-check";
import { pgIdOf, type OsdId, type PoolId, type ReplicaId } from "../base/ids.ts";
import {
  place,
  type PlacementInput,
  type PlacementOsd,
  type PlacementResult,
} from "./placement.ts";

function osd(id: number, over: Partial<PlacementOsd> = {}): PlacementOsd {
  return {
    id: id as OsdId,
    host: `host-${String(id)}`,
    up: true,
    in: true,
    weight: 1000,
    shardCount: 1,
    otherReplicas: [],
    otherLeaders: [],
    ...over,
  };
}

function groups(count: number): PlacementInput["groups"] {
  return Array.from({ length: count }, (_, at) => ({ id: pgIdOf(1 as PoolId, at), seats: [] }));
}

function spread(values: readonly number[]): number {
  return Math.max(...values) - Math.min(...values);
}

function checkDomains(input: PlacementInput, result: PlacementResult): void {
  for (const row of result.rows) {
    expect(row.length).toBe(input.size);
    const domains = row.map((replica) => {
      const found = input.osds.find((one) => one.id === replica.osd)!;
      return input.failureDomain === "osd" ? String(found.id) : found.host;
    });
    expect(new Set(domains).size).toBe(input.size);
  }
}

function perShard(
  input: PlacementInput,
  result: PlacementResult,
  leadersOnly: boolean,
): number[][] {
  const table = new Map(
    input.osds.map((one) => [one.id, new Array<number>(one.shardCount).fill(0)]),
  );
  for (const row of result.rows) {
    for (const replica of leadersOnly ? row.slice(0, 1) : row) {
      table.get(replica.osd)![replica.shard]!++;
    }
  }
  return [...table.values()];
}

test("equal osds hold and lead equally many groups, on every shard", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 6 }),
      fc.integer({ min: 0, max: 8 }),
      fc.integer({ min: 0, max: 8 }),
      fc.integer({ min: 1, max: 4 }),
      (size, extra, power, shards) => {
        const osds = Array.from({ length: size + extra }, (_, at) =>
          osd(at, { shardCount: shards }),
        );
        const input: PlacementInput = {
          size,
          failureDomain: "osd",
          osds,
          groups: groups(2 ** power),
        };
        const result = place(input);
        expect(result.ok).toBe(true);
        checkDomains(input, result);
        expect(spread(result.shares.map((share) => share.replicas))).toBeLessThanOrEqual(1);
        expect(spread(result.shares.map((share) => share.leaders))).toBeLessThanOrEqual(1);
        for (const counts of perShard(input, result, true)) {
          expect(spread(counts)).toBeLessThanOrEqual(1);
        }
        for (const counts of perShard(input, result, false)) {
          expect(spread(counts)).toBeLessThanOrEqual(2);
        }
        expect(place({ ...input, osds: [...osds].reverse() })).toEqual(result);
      },
    ),
    { numRuns: 150 },
  );
});

test("hosts are failure domains, and their osds stay even", () => {
  const osds = Array.from({ length: 12 }, (_, at) =>
    osd(at, { host: `host-${String(Math.floor(at / 3))}`, shardCount: 2 }),
  );
  const input: PlacementInput = { size: 3, failureDomain: "host", osds, groups: groups(256) };
  const result = place(input);
  checkDomains(input, result);
  expect(spread(result.shares.map((share) => share.replicas))).toBeLessThanOrEqual(1);
  expect(spread(result.shares.map((share) => share.leaders))).toBeLessThanOrEqual(1);
});

test("weights are followed as far as domains allow", () => {
  const osds = [0, 1, 2, 3, 4, 5].map((id) => osd(id, { weight: id < 2 ? 2000 : 1000 }));
  const result = place({ size: 2, failureDomain: "osd", osds, groups: groups(128) });
  for (const share of result.shares) {
    expect(Math.abs(share.replicas - share.target)).toBeLessThanOrEqual(2);
  }
});

test("a load from other pools decides among equals", () => {
  const busy = { otherReplicas: [50], otherLeaders: [20] };
  const osds = [osd(0, busy), osd(1, busy), osd(2), osd(3)];
  const result = place({ size: 1, failureDomain: "osd", osds, groups: groups(2) });
  expect(result.rows.map((row) => row[0]!.osd as number).sort((a, b) => a - b)).toEqual([2, 3]);
});

test("what stands stays: one empty seat moves one replica", () => {
  const osds = [0, 1, 2, 3].map((id) => osd(id));
  const first = place({ size: 3, failureDomain: "osd", osds, groups: groups(32) });
  let next = 1;
  const standing = first.rows.map((row, at) => ({
    id: pgIdOf(1 as PoolId, at),
    seats: row
      .map((one) => ({ osd: one.osd, shard: one.shard, replicaId: next++ as ReplicaId }))
      .filter((_, seat) => !(at === 7 && seat === 0)),
  }));
  const second = place({ size: 3, failureDomain: "osd", osds, groups: standing });
  expect(second.moved).toBe(1);
  const lost = first.rows[7]!.slice(1).map((one) => one.osd);
  expect(second.rows[7]!.map((one) => one.osd)).toEqual(expect.arrayContaining(lost));
});

test("osds that are down, out or weightless receive nothing, and the result says why", () => {
  const osds = [osd(0), osd(1, { up: false }), osd(2, { in: false }), osd(3, { weight: 0 })];
  const alone = place({ size: 1, failureDomain: "osd", osds, groups: groups(4) });
  expect(alone.rows.every((row) => row[0]!.osd === 0)).toBe(true);
  const failed = place({ size: 2, failureDomain: "osd", osds, groups: groups(4) });
  expect(failed.ok).toBe(false);
  expect(failed).toMatchObject({ domainsUsable: 1, domainsWanted: 2, rows: [] });
  expect(failed.rejected).toEqual([
    { osd: 1 as OsdId, rule: "is down" },
    { osd: 2 as OsdId, rule: "is out" },
    { osd: 3 as OsdId, rule: "has weight 0" },
  ]);
});

test("osds on one host are too few for the host domain", () => {
  const osds = [0, 1, 2].map((id) => osd(id, { host: "one" }));
  const result = place({ size: 3, failureDomain: "host", osds, groups: groups(1) });
  expect(result).toMatchObject({ ok: false, domainsUsable: 1 });
});
