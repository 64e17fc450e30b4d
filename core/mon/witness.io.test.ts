/** Which groups have witnesses, and where, as the monitor decides it, with stand-ins for osds. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { PgRole } from "../../proto/gen/control_pb.ts";
import { type FakeOsd, MonHarness, until } from "./bun-mon-harness.ts";

interface PgView {
  readonly leaderOsd: number | null;
  readonly osds: number[];
  readonly witnesses: number[];
  readonly joining: number[];
  readonly leaving: number[];
  readonly replicas: { osd: number; witness: boolean; replicaId: number }[];
}

interface Check {
  readonly code: string;
  readonly severity: string;
  readonly summary: string;
  readonly details: readonly string[];
}

let mon: MonHarness;
let made: FakeOsd[];
beforeEach(async () => {
  mon = new MonHarness();
  await mon.start();
});
afterEach(async () => {
  const { errors } = mon;
  await mon.close();
  expect(errors).toEqual([]);
});

async function group(): Promise<PgView> {
  return (await mon.get("/pgs/1.0")).body as PgView;
}

/** A check of `health`, if it fails. */
async function checkOf(code: string): Promise<Check | undefined> {
  const { checks } = (await mon.get("/health")).body as { checks: Check[] };
  return checks.find((one) => one.code === code);
}

/** A pool of two with one group, on so many osds. Answers its notes, once the group is settled. */
async function makePool(osds: number): Promise<string> {
  made = await mon.addOsds(osds);
  expect(made.length).toBe(osds);
  const { body } = await mon.post("/pools", { name: "p", size: 2, pgCount: 1 });
  await until("the group is led", async () => (await group()).leaderOsd !== null);
  return body.notes.join();
}

test("with a third osd a pool of two has a witness, and no warning", async () => {
  expect(await makePool(3)).not.toContain("one failure");
  const { osds, witnesses, replicas } = await group();
  expect([...osds, ...witnesses].sort((a, b) => a - b)).toEqual([0, 1, 2]);
  expect(replicas.map((one) => one.witness)).toEqual([false, false, true]);
  const { body } = await mon.get("/pools/p:explain");
  expect(body.shares.map((one: { witnesses: number }) => one.witnesses)).toContain(1);
});

test("an osd's replicas and witnesses are told apart", async () => {
  await makePool(3);
  const { osds, witnesses } = await group();
  const memberOf = async (osd: number): Promise<object> => {
    const { pgs, replicas, witnesses: many, leaders } = (await mon.get(`/osds/${osd}`)).body;
    return { pgs, replicas, witnesses: many, leaders };
  };
  expect(await memberOf(osds[0]!)).toEqual({ pgs: 1, replicas: 1, witnesses: 0, leaders: 1 });
  expect(await memberOf(osds[1]!)).toEqual({ pgs: 1, replicas: 1, witnesses: 0, leaders: 0 });
  expect(await memberOf(witnesses[0]!)).toEqual({ pgs: 1, replicas: 0, witnesses: 1, leaders: 0 });
  await mon.post(`/osds/${osds[1]}:out`);
  expect((await checkOf("OSD_OUT"))?.details).toEqual([
    `osd.${osds[1]} on this-host, which holds 1 replica`,
  ]);
  await mon.post(`/osds/${osds[1]}:in`);
  await mon.post(`/osds/${witnesses[0]}:out`);
  expect((await checkOf("OSD_OUT"))?.details).toEqual([
    `osd.${witnesses[0]} on this-host, which holds 0 replicas and 1 witness`,
  ]);
});

test("health tells a witness that is away from a copy of the data that is", async () => {
  await makePool(3);
  const { osds, witnesses } = await group();
  const end = async (osd: number): Promise<void> => {
    made[osd]!.isReporting = false;
    await made[osd]!.report({ stopping: true });
    await until("it is down", async () => (await mon.get(`/osds/${osd}`)).body.up === false);
  };
  const begin = async (osd: number): Promise<void> => {
    made[osd]!.reconnect();
    made[osd]!.isReporting = true;
    await until("it is up", async () => (await mon.get(`/osds/${osd}`)).body.up === true);
  };
  await until("all are there", async () => (await mon.get("/health")).body.checks.length === 0);
  const place = `1.0 of p on osd.${osds[0]}, osd.${osds[1]}, osd.${witnesses[0]} (witness)`;
  await end(witnesses[0]!);
  expect(await checkOf("PG_DEGRADED")).toBeUndefined();
  expect(await checkOf("PG_WITNESS_MISSING")).toMatchObject({
    severity: "warn",
    summary: expect.stringContaining("1 placement group with all copies of the data"),
    details: [place],
  });
  await begin(witnesses[0]!);
  await end(osds[1]!);
  const away = (await mon.get("/pgs/1.0")).body.replicas[1];
  expect(away).toMatchObject({ osd: osds[1], osdUp: false, role: "follower" });
  expect(away.toldAgeMs).toBe(away.reportAgeMs);
  // One that has no news of it tells of it no more, and is heard.
  made[osds[0]!]!.isReporting = false;
  await until("what it told ages", async () => {
    await made[osds[0]!]!.report({ pgs: [], complete: false });
    const [one] = (await mon.get("/pgs/1.0")).body.replicas;
    return one.toldAgeMs > one.reportAgeMs;
  });
  made[osds[0]!]!.isReporting = true;
  await until("its last word ages", async () => {
    const { replicas } = (await mon.get("/pgs/1.0")).body;
    expect([replicas[0].osdUp, replicas[0].reportAgeMs < 2500]).toEqual([true, true]);
    return replicas[1].reportAgeMs > away.reportAgeMs;
  });
  expect(await checkOf("PG_WITNESS_MISSING")).toBeUndefined();
  expect(await checkOf("PG_DEGRADED")).toMatchObject({ severity: "warn", details: [place] });
});

test("a pool is older than its third osd: the group gets its witness", async () => {
  expect(await makePool(2)).toContain("one failure stops writes");
  expect((await group()).witnesses).toEqual([]);
  const { osds, replicas } = await group();
  await mon.addOsd(2);
  await until("it has one", async () => (await group()).witnesses.length === 1);
  const after = await group();
  expect([after.osds, after.witnesses]).toEqual([osds, [2]]);
  const idsOf = (one: PgView["replicas"][number]): number => one.replicaId;
  expect(after.replicas.map(idsOf)).toEqual([...replicas.map(idsOf), 3]);
});

test("a witness moves from an osd that is out, and to nowhere from the last one", async () => {
  await makePool(3);
  const [first] = (await group()).witnesses;
  await mon.post(`/osds/${first}:out`);
  await mon.addOsd(3);
  await until("it has moved", async () => (await group()).witnesses[0] === 3);
  await until("the old one is out", async () => (await group()).leaving.length === 0);
  expect((await group()).replicas.map((one) => one.witness)).toEqual([false, false, true]);
  await mon.post("/osds/3:out");
  await until("it is known", async () => (await mon.get("/osds/3")).body.in === false);
  await mon.monitor.witnesses.tick();
  expect((await group()).witnesses).toEqual([3]);
});

test("nobody makes a witness lead, or puts data where it is; it can be moved", async () => {
  await makePool(4);
  const { osds, witnesses } = await group();
  const [witness] = witnesses;
  const spare = [0, 1, 2, 3].find((osd) => !osds.includes(osd) && osd !== witness)!;
  const lead = await mon.post("/pgs/1.0:transferLeader", { osd: witness });
  expect([lead.status, lead.body.why]).toEqual([
    409,
    "its replica there is a witness, it has no data",
  ]);
  const replace = (fromOsd: number, toOsd: number): ReturnType<MonHarness["post"]> =>
    mon.post("/pgs/1.0:replaceReplica", { fromOsd, toOsd });
  await until("all are seen", async () => {
    const { body } = await replace(osds[1]!, witness!);
    return body.code === "FB2003";
  });
  const onto = async (from: number, to: number): Promise<[string, string]> => {
    const { body } = await replace(from, to);
    return [body.detail, body.hint];
  };
  const other = "choose another osd: fastblock osd ls";
  expect(await onto(osds[1]!, witness!)).toEqual([
    `moving a replica of group 1.0 to osd ${witness}: the witness of the group is there`,
    `${other}; or move the witness away first: fastblock pg replace 1.0 --from ${witness} --to OSD`,
  ]);
  expect(await onto(osds[1]!, osds[0]!)).toEqual([
    `moving a replica of group 1.0 to osd ${osds[0]}: a replica of the group is there`,
    other,
  ]);
  await mon.post(`/osds/${spare}:out`);
  expect(await onto(osds[1]!, spare)).toEqual([
    `moving a replica of group 1.0 to osd ${spare}: it can not take replicas`,
    other,
  ]);
  await mon.post(`/osds/${spare}:in`);
  expect((await replace(witness!, spare)).status).toBe(202);
  await until("it is there", async () => {
    const now = await group();
    return now.witnesses[0] === spare && now.leaving.length === 0;
  });
  expect((await group()).osds).toEqual(osds);
  expect((await replace(osds[1]!, witness!)).status).toBe(202);
  await until("data is where it was", async () => (await group()).osds[1] === witness);
  expect((await group()).witnesses).toEqual([spare]);
});

test("an osd beside a member of the group is refused with that member's name", async () => {
  for (const [id, host] of ["a", "b", "c", "c"].entries()) await mon.addOsd(id, { host });
  await mon.post("/pools", { name: "p", size: 2, pgCount: 1 });
  await until("the group is led", async () => (await group()).leaderOsd !== null);
  const { osds, witnesses } = await group();
  const beside = [...osds, ...witnesses].find((osd) => osd >= 2)!;
  const fromOsd = osds.find((osd) => osd !== beside)!;
  const toOsd = 5 - beside;
  await until("all are seen", async () => {
    const { code, detail } = (await mon.post("/pgs/1.0:replaceReplica", { fromOsd, toOsd })).body;
    const member = witnesses.includes(beside) ? "the witness" : "a replica";
    const where = `${member} of the group is on the same host, on osd ${beside}`;
    return (
      code === "FB2003" && detail === `moving a replica of group 1.0 to osd ${toOsd}: ${where}`
    );
  });
});

test("health tells a copy that is filled, and one that was not told of since its osd's start", async () => {
  await makePool(3);
  const { osds, witnesses, replicas } = await group();
  const place = `1.0 of p on osd.${osds[0]}, osd.${osds[1]}, osd.${witnesses[0]} (witness)`;
  const isWell = async (): Promise<boolean> => (await mon.get("/health")).body.status === "ok";
  await until("all are there", isWell);
  const follower = made[osds[1]!]!;
  const { replicaId } = replicas.find(({ osd }) => osd === osds[1])!;
  follower.roles.set(replicaId, PgRole.FILLING);
  await until("it is filled", async () => (await checkOf("PG_FILLING")) !== undefined);
  expect(await checkOf("PG_FILLING")).toMatchObject({ severity: "warn", details: [place] });
  follower.roles.delete(replicaId);
  await until("it has all", isWell);
  follower.leaderless.add(replicaId);
  await until("it waits for a leader", async () => (await checkOf("PG_FILLING")) !== undefined);
  follower.leaderless.delete(replicaId);
  await until("it follows", isWell);
  follower.isReporting = false;
  follower.reconnect();
  await until("it is started", async () => (await checkOf("PG_FILLING")) !== undefined);
  follower.isReporting = true;
  await until("it tells", isWell);
});

test("a group whose leader leads no more, and that elects nobody, is shown so", async () => {
  await makePool(3);
  const { replicas } = await group();
  const isWell = async (): Promise<boolean> => (await mon.get("/health")).body.status === "ok";
  const stateIs = async (state: string): Promise<boolean> =>
    (await mon.get("/pgs/1.0")).body.state === state;
  await until("all are there", isWell);
  expect(await stateIs("active")).toBe(true);
  for (const { osd, replicaId } of replicas) {
    made[osd]!.leaderless.add(replicaId);
    made[osd]!.leads.clear();
  }
  await until("nobody leads", async () => (await checkOf("PG_LEADERLESS")) !== undefined);
  expect(await stateIs("leaderless")).toBe(true);
});
