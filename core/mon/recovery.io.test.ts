import { afterEach, beforeEach, expect, test } from "bun:test";
import { PgRole, RecoveryStage } from "../../proto/gen/control_pb.ts";
import { RecoverySpeed } from "../cluster/cluster.ts";
import { MonHarness, until } from "./bun-mon-harness.ts";

/** The recovery dial at the monitor: kept, told to osds, and what they report of replicas. */
let mon: MonHarness;
beforeEach(async () => {
  mon = new MonHarness();
  await mon.start();
});
afterEach(async () => {
  const { errors } = mon;
  await mon.close();
  expect(errors).toEqual([]);
});

function turn(body: unknown, query = ""): ReturnType<MonHarness["ask"]> {
  return mon.ask("PATCH", `/api/v1/recovery${query}`, body);
}

test("the dial reaches every osd at once, and stands after a restart of the monitor", async () => {
  const osds = await mon.addOsds(2);
  expect((await mon.get("/recovery")).body).toEqual({
    speed: "medium",
    paused: false,
    replicas: [],
  });
  const dry = await turn({ speed: "high" }, "?dryRun=true");
  expect([dry.status, dry.body.speed]).toEqual([200, "high"]);
  expect((await mon.get("/recovery")).body.speed).toBe("medium");
  const low = await turn({ speed: "low", paused: true });
  expect([low.status, low.body]).toEqual([200, { speed: "low", paused: true, replicas: [] }]);
  const told = (): boolean =>
    osds.every(({ map }) => map.recovery.speed === RecoverySpeed.Low && map.recovery.paused);
  await until("the osds hear of it", told);
  const { epoch } = (await mon.get("/status")).body.map;
  await turn({ speed: "low" });
  expect((await mon.get("/status")).body.map.epoch).toBe(epoch);
  await mon.stopMonitor();
  await mon.start();
  expect((await mon.get("/recovery")).body).toMatchObject({ speed: "low", paused: true });
  const late = await mon.addOsd(2);
  await until("one that comes later hears of it", () => late.map.recovery.paused);
  await turn({ paused: false });
  await until("the osds go on", () => osds.every(({ map }) => !map.recovery.paused));
});

test.each([
  [{ speed: "fast" }, "speed"],
  [{ paused: "yes" }, "paused"],
  [{ colour: "red" }, "colour"],
])("%o is refused by its field's name", async (body, name) => {
  const answer = await turn(body);
  expect([answer.status, answer.body.code]).toEqual([400, "FB1001"]);
  expect(answer.body.detail).toStartWith(`${name} is malformed: `);
});

test("replicas on their way back are shown as their osds report them, and health while they wait", async () => {
  const osds = await mon.addOsds(3);
  await mon.post("/pools", { name: "p", size: 3, pgCount: 1 });
  await until("the group has a leader", async () => {
    return (await mon.get("/pgs/1.0")).body.leaderOsd !== null;
  });
  const { replicas, leaderOsd } = (await mon.get("/pgs/1.0")).body;
  const [leader, filled, behind] = [
    replicas.find((one: { osd: number }) => one.osd === leaderOsd),
    ...replicas.filter((one: { osd: number }) => one.osd !== leaderOsd),
  ] as { osd: number; replicaId: number }[];
  osds[filled!.osd]!.roles.set(filled!.replicaId, PgRole.FILLING);
  osds[filled!.osd]!.recovering.set(filled!.replicaId, [
    {
      replica: filled!.replicaId,
      stage: RecoveryStage.DIFFERENCE,
      pass: 1,
      unitsDone: 100,
      unitsLeft: 300,
      passMs: 5000,
      blocksDiffering: 16n,
      blocksCopied: 20n,
    },
  ]);
  osds[leader!.osd]!.recovering.set(leader!.replicaId, [
    { replica: behind!.replicaId, stage: RecoveryStage.LOG, entriesLeft: 40n },
  ]);
  for (const osd of osds) await osd.report();
  const rows = (await mon.get("/recovery")).body.replicas as { stage: string }[];
  expect(rows.find((row) => row.stage === "difference")).toEqual({
    pg: "1.0",
    pool: "p",
    osd: filled!.osd,
    stage: "difference",
    entriesLeft: 0,
    pass: 1,
    unitsDone: 100,
    unitsLeft: 300,
    bytesLeft: 300 * 65_536,
    bytesDiffering: 65_536,
    bytesCopied: 81_920,
    amplification: 1.25,
    etaSeconds: 15,
  } as never);
  expect(rows.find((row) => row.stage === "log")).toMatchObject({
    osd: behind!.osd,
    entriesLeft: 40,
    etaSeconds: null,
  });
  const codes = async (): Promise<string[]> =>
    (await mon.get("/health")).body.checks.map((check: { code: string }) => check.code);
  expect(await codes()).not.toContain("RECOVERY_PAUSED");
  const { body } = await turn({ paused: true });
  expect(body.replicas.map((row: { etaSeconds: number | null }) => row.etaSeconds)).toEqual([
    null,
    null,
  ]);
  const paused = (await mon.get("/health")).body.checks.find(
    (check: { code: string }) => check.code === "RECOVERY_PAUSED",
  );
  expect(paused).toEqual({
    code: "RECOVERY_PAUSED",
    severity: "warn",
    summary: "recovery is paused: 1 replica waits for it",
    details: [`1.0 of p on osd.${filled!.osd}`],
    hint: "fastblock recovery resume",
  });
  osds[filled!.osd]!.recovering.clear();
  osds[leader!.osd]!.recovering.clear();
  for (const osd of osds) await osd.report();
  expect((await mon.get("/recovery")).body.replicas).toEqual([]);
});
