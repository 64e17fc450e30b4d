import { expect, test } from "bun:test";
import { makesGarbage } from "../base/bun-garbage-harness.ts";
import { countersOf, usageOf } from "./report-message.ts";
import { FigureNews, type ShardFigures, SpaceNews } from "./report.ts";

const WELL: ShardFigures["usage"]["device"] = {
  readErrors: 0,
  writeErrors: 0,
  flushErrors: 0,
  readsFail: false,
  slow: false,
  latencyUs: 0,
};

function figures(bytesLog: number, heartbeats: number): ShardFigures {
  return {
    usage: {
      bytesTotal: 1,
      bytesUsed: 1,
      bytesQuarantined: 0,
      logBytesTotal: 1,
      logBytesUsed: 1,
      overlayBlocks: 0,
      indexBytesUsed: 0,
      indexBytesDirty: 0,
      beneath: null,
      device: WELL,
    },
    counters: { bytesLog },
    requests: { writes: 0 },
    damage: { blocksLost: 0, blocksWaiting: 0, entriesFaulty: 0, refused: [] },
    recoveryUnitsLeft: 0,
    raft: { elections: 1, groups: 2, leaders: 1, heartbeats },
    // Heartbeats alone turn it.
    reactor: { systemCalls: heartbeats * 2 },
  };
}

test("figures in which only heartbeats moved are told in every tenth report, others at once", () => {
  const news = new FigureNews();
  const told = (bytesLog: number, heartbeats: number, all = false): boolean =>
    news.of(figures(bytesLog, heartbeats), all) !== undefined;
  expect(told(0, 0)).toBe(true);
  for (let report = 1; report <= 9; report++) expect(told(0, report)).toBe(false);
  expect(told(0, 10)).toBe(true);
  expect(told(0, 11)).toBe(false);
  expect(told(4096, 12)).toBe(true);
  expect(told(4096, 13)).toBe(false);
  expect(told(4096, 14, true)).toBe(true);
});

test("devices of shards are told together, and each shard's errors on the metrics page", () => {
  const well = figures(0, 0);
  const ill = { ...WELL, readErrors: 3, flushErrors: 1, readsFail: true, slow: true };
  const bad = { ...well, usage: { ...well.usage, device: { ...ill, latencyUs: 1_500_400 } } };
  const errors = { readErrors: 3n, writeErrors: 0n, flushErrors: 1n };
  const told = { ...errors, readsFail: true, slow: true, latencyMs: 1500 };
  expect(usageOf([well, bad, well]).device).toEqual(told);
  expect(usageOf([well]).device).toMatchObject({ readErrors: 0n, readsFail: false, slow: false });
  const rows = countersOf(1, bad).filter(({ name }) => /device_(errors|slow)/.test(name));
  expect(
    rows.map(({ name, labels, value }) => `${name} ${labels.join(" ")} ${String(value)}`),
  ).toEqual([
    "fastblock_device_errors_total shard=1 op=read 3",
    "fastblock_device_errors_total shard=1 op=write 0",
    "fastblock_device_errors_total shard=1 op=flush 1",
    "fastblock_device_slow shard=1 1",
  ]);
});

test("counters of the reactor are on the metrics page where they are known", () => {
  const rows = (reactor: Readonly<Record<string, number>>): readonly string[] =>
    countersOf(0, { ...figures(0, 0), reactor })
      .filter(({ name }) => name.includes("reactor"))
      .map(({ name, value }) => `${name} ${String(value)}`);
  expect(rows({ systemCalls: 7, turns: 5, blocks: 3, guestTurns: 1 })).toEqual([
    "fastblock_reactor_system_calls_total 7",
    "fastblock_reactor_turns_total 5",
    "fastblock_reactor_blocks_total 3",
  ]);
  expect(rows({ systemCalls: 0, turns: 5, blocks: 0 })).toEqual([
    "fastblock_reactor_turns_total 5",
  ]);
  expect(rows({})).toEqual([]);
});

test("groups are told in every fifth report, if they take another space than was told", () => {
  const space = new SpaceNews();
  const bytes = [0, 65_536, 131_072];
  // The last one is a witness, whose log alone grows.
  const applied = [0, 5, 0, 7];
  const store = {
    bytesOf: (row: number) => bytes[row] ?? 0,
    appliedIndex: (row: number) => applied[row] ?? 0,
  };
  const groups = new Map([0, 1, 2, 3].map((row) => [100 + row, row]));
  const told = (): number[] => {
    for (let report = 1; report <= 4; report++) expect(space.groupsOf(store, groups)).toEqual([]);
    return space.groupsOf(store, groups);
  };
  expect(told()).toEqual([101, 102, 103]);
  expect(told()).toEqual([]);
  bytes[0] = 65_536;
  bytes[2] = 0;
  applied[3] = 8;
  expect(told()).toEqual([100, 102, 103]);
  // One that left and is back was never told.
  groups.delete(101);
  expect(told()).toEqual([]);
  groups.set(101, 1);
  expect(told()).toEqual([101]);
});

test("looking for groups that take another space makes no garbage while none does", () => {
  const groups = new Map(Array.from({ length: 5000 }, (_, row) => [row + 1, row]));
  const store = { bytesOf: () => 65_536, appliedIndex: () => 0 };
  const space = new SpaceNews();
  const looks = (): void => {
    for (let report = 0; report < 5; report++) space.groupsOf(store, groups);
  };
  looks();
  const control = (): void => {
    looks();
    for (let group = 0; group < 20_000; group++) kept = { group };
  };
  let kept: object | undefined;
  expect(makesGarbage(20, looks, control)).toBe(false);
  expect(kept).toBeDefined();
});
