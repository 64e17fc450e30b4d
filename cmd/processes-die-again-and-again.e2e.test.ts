import { expect, test } from "bun:test";
import { FAULT_KINDS } from "./campaign-faults.ts";
import { formatKillReport, runKillCampaign } from "./campaign-kill.ts";
import { EXECUTABLE } from "./e2e-harness.ts";

const KILLS = 60;

test("G1, G2, G9, G11, G14: nothing acknowledged is lost while processes are killed, stopped, paused and cut off", async () => {
  const seed = Number(process.env["CAMPAIGN_SEED"] ?? "1");
  const report = await runKillCampaign({
    program: [EXECUTABLE],
    seed,
    osds: 3,
    shards: 1,
    gateways: 2,
    kills: KILLS,
    timeMs: Infinity,
    only: "",
    // Leases and elections pass in half of what the long campaign gives them.
    pace: 0.5,
    historyPath: `${process.cwd()}/dist/campaign-${seed}.jsonl`,
    keepHistory: false,
    interruption: new AbortController().signal,
    say: (text) => console.log(text),
  });
  console.log(formatKillReport(report));
  expect(report.failures).toEqual([]);
  if (report.late.length > 0) {
    throw new Error(`waited longer than promised: ${report.late.join("; ")}`);
  }
  expect(report.kills).toBe(KILLS);
  // The first bag was emptied: each kind that this machine can make has struck.
  const struck = new Set(report.faults.map(({ kind }) => kind));
  const missing = FAULT_KINDS.filter(({ name }) => !struck.has(name)).map(({ needs }) => needs);
  // What this machine can not make is named with its reason, all else has struck.
  expect(new Set(missing).size).toBe(report.notMade.length);
  expect(missing).not.toContain(undefined);
  expect(report.history.operations).toBeGreaterThan(100_000);
  expect(report.history.searched).toBeGreaterThan(0);
}, 900_000);
