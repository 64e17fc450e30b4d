import { expect, test } from "bun:test";
import { FigureNews, type ShardFigures } from "./report.ts";

function figures(bytesLog: number, heartbeats: number): ShardFigures {
  return {
    usage: {
      bytesTotal: 1,
      bytesUsed: 1,
      bytesQuarantined: 0,
      logBytesTotal: 1,
      logBytesUsed: 1,
      overlayBlocks: 0,
      beneath: null,
    },
    counters: { bytesLog },
    requests: { writes: 0 },
    damage: { blocksLost: 0, blocksWaiting: 0, entriesFaulty: 0, refused: [] },
    recoveryUnitsLeft: 0,
    raft: { elections: 1, groups: 2, leaders: 1, heartbeats },
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
