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
    expect(holders(row).length).toBe(input.size);
    const domains = row.map((replica) => {
      const found = input.osds.find((one) => one.id === replica.osd)!;
      return input.failureDomain === "osd" ? String(found.id) : found.host;
    });
    expect(new Set(domains).size).toBe(row.length);
  }
}

function holders<T extends { readonly witness: boolean }>(row: readonly T[]): T[] {
  return row.filter((one) => !one.witness);
}

function standing(result: PlacementResult): PlacementInput["groups"] {
  return result.rows.map((row, group) => ({
    id: pgIdOf(1 as PoolId, group),
    seats: row.map(({ osd: on, shard, witness }, seat) => {
      return { osd: on, shard, witness, replicaId: (group * 8 + seat + 1) as ReplicaId };
    }),
  }));
}

function witnessesOf(result: PlacementResult): (number | undefined)[] {
  return result.rows.map((row) => row.find((one) => one.witness)?.osd);
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
    for (const replica of leadersOnly ? row.slice(0, 1) : holders(row)) {
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
      .map(({ osd: on, shard, witness }) => ({
        osd: on,
        shard,
        replicaId: next++ as ReplicaId,
        witness,
      }))
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

test("groups of two have a witness in a third domain, evenly, and others have none", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 6 }),
      fc.integer({ min: 0, max: 8 }),
      fc.integer({ min: 0, max: 6 }),
      fc.integer({ min: 1, max: 3 }),
      (size, extra, power, perHost) => {
        const osds = Array.from({ length: (size + extra) * perHost }, (_, at) =>
          osd(at, { host: `host-${String(Math.floor(at / perHost))}`, shardCount: 2 }),
        );
        const domain = perHost === 1 ? "osd" : "host";
        const input: PlacementInput = {
          size,
          failureDomain: domain,
          osds,
          groups: groups(2 ** power),
        };
        const result = place(input);
        checkDomains(input, result);
        const isWitnessed = size === 2 && extra > 0;
        expect(result.witnessed).toBe(isWitnessed ? 2 ** power : 0);
        for (const row of result.rows) {
          expect(row.map((one) => one.witness)).toEqual(
            Array.from({ length: size + (isWitnessed ? 1 : 0) }, (_, at) => at === 2 && size === 2),
          );
        }
        expect(spread(result.shares.map((share) => share.witnesses))).toBeLessThanOrEqual(2);
        expect(place({ ...input, osds: [...osds].reverse() })).toEqual(result);
        const again = place({ ...input, groups: standing(result) });
        expect(again.rows.flat().every((one) => one.replicaId > 0)).toBe(true);
        expect(witnessesOf(again)).toEqual(witnessesOf(result));
      },
    ),
    { numRuns: 150 },
  );
});

test("a witness stays with an osd that is down, and leaves one that is out if it can", () => {
  const make = (over: Partial<PlacementOsd>, count = 4): PlacementResult => {
    const osds = Array.from({ length: count }, (_, at) => osd(at, at === 2 ? over : {}));
    return place({ size: 2, failureDomain: "osd", osds, groups: standing(first) });
  };
  const first = place({
    size: 2,
    failureDomain: "osd",
    osds: [osd(0), osd(1), osd(2)],
    groups: groups(16),
  });
  const held = witnessesOf(first);
  expect(held).toContain(2);
  expect(witnessesOf(make({ up: false }))).toEqual(held);
  expect(witnessesOf(make({ in: false }, 3))).toEqual(held);
  const moved = witnessesOf(make({ in: false }));
  expect(moved).toEqual(held.map((one) => (one === 2 ? 3 : one)));
});

test("a third osd gives witnesses to a pool that is older, and moves no data", () => {
  const first = place({
    size: 2,
    failureDomain: "osd",
    osds: [osd(0), osd(1)],
    groups: groups(16),
  });
  expect([first.ok, first.witnessed]).toEqual([true, 0]);
  const osds = [osd(0), osd(1), osd(2, { weight: 10 })];
  const second = place({ size: 2, failureDomain: "osd", osds, groups: standing(first) });
  expect([second.moved, second.witnessed]).toEqual([0, 16]);
  expect(witnessesOf(second)).toEqual(new Array(16).fill(2));
});
