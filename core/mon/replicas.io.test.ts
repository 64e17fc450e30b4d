/** What the monitor does about replicas by itself and by command, with stand-ins for osds. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { create } from "@bufbuild/protobuf";
import { PgReportSchema, PgRole } from "../../proto/gen/control_pb.ts";
import { type FakeOsd, MonHarness, until, uuidOf } from "./bun-mon-harness.ts";

const PG = 65_536;

interface ReplicaView {
  readonly replicaId: number;
  readonly osd: number;
  readonly leaving: boolean;
  readonly role: string;
}

interface PgView {
  readonly leaderOsd: number;
  readonly osds: number[];
  readonly joining: number[];
  readonly leaving: number[];
  readonly replicas: ReplicaView[];
  readonly configuration: { readonly voters: number[] };
}

let mon: MonHarness;
let osds: FakeOsd[];
beforeEach(async () => {
  mon = new MonHarness();
  await mon.start();
  osds = await mon.addOsds(3);
  await mon.post("/pools", { name: "p", size: 3, pgCount: 1 });
  await until("the group is led", async () => (await group()).leaderOsd !== null);
});
afterEach(async () => {
  const { errors } = mon;
  await mon.close();
  expect(errors).toEqual([]);
});

async function group(): Promise<PgView> {
  return (await mon.get("/pgs/1.0")).body as PgView;
}

test("a replica that its store distrusts gets a new id in the same place", async () => {
  const before = await group();
  const victim = before.osds.find((osd) => osd !== before.leaderOsd)!;
  const old = before.replicas.find((one) => one.osd === victim)!.replicaId;
  // The leader's report names the wanted voters as soon as it has the map: hold it back.
  osds[before.leaderOsd]!.isReporting = false;
  osds[victim]!.roles.set(old, PgRole.DISTRUSTED);
  await until("it is renewed", async () => (await group()).leaving.length === 1);
  const renewing = await group();
  expect(renewing.osds).toEqual(before.osds);
  expect([renewing.joining, renewing.leaving]).toEqual([[victim], [victim]]);
  expect(renewing.replicas.map((one) => [one.replicaId, one.osd, one.leaving])).toEqual([
    ...before.replicas.map((one) =>
      one.osd === victim ? [4, victim, false] : [one.replicaId, one.osd, false],
    ),
    [old, victim, true],
  ]);
  // Once: the same word again makes no further replica.
  await osds[victim]!.report();
  expect((await group()).replicas.length).toBe(4);
  osds[before.leaderOsd]!.isReporting = true;
  await until("the old one is out", async () => (await group()).replicas.length === 3);
  expect((await group()).configuration.voters).toContain(4);
});

test("a replica that its group went on without gets a new id, once its own was given out", async () => {
  await until("all are seen", async () =>
    (await group()).replicas.every((one) => one.role !== "unknown"),
  );
  const before = await group();
  const left = before.replicas.find((one) => one.osd !== before.leaderOsd)!;
  const leader = osds[before.leaderOsd]!;
  leader.isReporting = false;
  const own = before.replicas.find((one) => one.osd === before.leaderOsd)!.replicaId;
  const voters = before.replicas
    .map((one) => one.replicaId)
    .filter((one) => one !== left.replicaId);
  const tell = async (nextReplicaId: number): Promise<void> => {
    const report = create(PgReportSchema, {
      ...{ pg: PG, replica: own, role: PgRole.LEADER, term: 1n, leader: own, established: true },
      ...{ configuration: { index: 2, voters }, nextReplicaId },
    });
    await leader.report({ complete: false, pgs: [report] });
    await mon.monitor.flushNow();
  };
  // It comes yet: its leader did not have the map that wants it. 0: an older program, which tells no ids.
  for (const next of [left.replicaId, 0]) {
    await tell(next);
    const { joining, leaving } = await group();
    expect([joining, leaving]).toEqual([[left.osd], []]);
  }
  await tell(left.replicaId + 1);
  const { osds: members, replicas } = await group();
  expect(members).toEqual(before.osds);
  expect(replicas.find((one) => one.osd === left.osd && !one.leaving)!.replicaId).toBe(4);
});

test("without a leader nothing is given up", async () => {
  const { leaderOsd, replicas } = await group();
  const leader = osds[leaderOsd]!;
  leader.leads.clear();
  await leader.report();
  for (const { osd, replicaId } of replicas) {
    if (osd === leaderOsd) continue;
    osds[osd]!.roles.set(replicaId, PgRole.DISTRUSTED);
    await osds[osd]!.report();
  }
  await mon.monitor.flushNow();
  expect((await group()).leaving).toEqual([]);
});

/** The osd is gone, and another store registers under its id. */
async function replaceDisk(osd: number): Promise<void> {
  await osds[osd]!.report({ stopping: true });
  await osds[osd]!.close();
  await until("it is down", async () => (await mon.get(`/osds/${osd}`)).body.up === false);
  osds[osd] = await mon.addOsd(osd, { storeUuid: uuidOf(77) });
}

test("G7: a replaced disk gets its replicas back", async () => {
  const before = await group();
  const { osds: members, leaderOsd } = before;
  const lost = members.find((osd) => osd !== leaderOsd)!;
  const old = before.replicas.find((one) => one.osd === lost)!.replicaId;
  await until("a whole store is refused", async () => {
    const itself = { fromOsd: lost, toOsd: lost };
    return (await mon.post("/pgs/1.0:replaceReplica", itself)).body.code === "FB2203";
  });
  await replaceDisk(lost);
  await until("the old one is out", async () => {
    const { replicas } = await group();
    return replicas.length === 3 && !replicas.some((one) => one.replicaId === old);
  });
  expect((await group()).osds).toEqual(members);
});

test("a replaced disk of a group without a leader waits, and can be said to be the group's", async () => {
  const { osds: members, leaderOsd } = await group();
  const lost = members.find((osd) => osd !== leaderOsd)!;
  await until("all are seen", async () => {
    const itself = { fromOsd: lost, toOsd: lost };
    return (await mon.post("/pgs/1.0:replaceReplica", itself)).body.code === "FB2203";
  });
  osds[leaderOsd]!.leads.clear();
  await osds[leaderOsd]!.report();
  await replaceDisk(lost);
  await mon.monitor.flushNow();
  expect((await group()).leaving).toEqual([]);
  const { body: health } = await mon.get("/health");
  expect(health.checks.map((one: { code: string }) => one.code)).toContain("STORE_REPLACED");
  const itself = { fromOsd: lost, toOsd: lost };
  const { status, body } = await mon.post("/pgs/1.0:replaceReplica", itself);
  expect([status, body.osds, body.leaving]).toEqual([202, members, [lost]]);
});

test("nothing comes to an osd that a replica of the group still leaves", async () => {
  const spare = 3;
  osds.push(await mon.addOsd(spare));
  const before = await group();
  const old = before.osds.find((osd) => osd !== before.leaderOsd)!;
  osds[before.leaderOsd]!.isReporting = false;
  await until("it is replaced", async () => {
    const { status } = await mon.post("/pgs/1.0:replaceReplica", { fromOsd: old, toOsd: spare });
    return status === 202;
  });
  const back = await mon.post("/pgs/1.0:replaceReplica", { fromOsd: spare, toOsd: old });
  expect([back.status, back.body.code]).toEqual([409, "FB2203"]);
  const lead = await mon.post("/pgs/1.0:transferLeader", { osd: old });
  expect([lead.status, lead.body.code, lead.body.why]).toEqual([
    409,
    "FB2203",
    "its replica there is leaving",
  ]);
  const early = await mon.post("/pgs/1.0:transferLeader", { osd: spare });
  expect([early.status, early.body.code]).toEqual([409, "FB2203"]);
});

test("the word of a replica's end does not hide the one that came in its place", async () => {
  const { osds: members, replicas } = await group();
  const osd = members[1]!;
  const { replicaId } = replicas.find((one) => one.osd === osd)!;
  await osds[osd]!.report({ complete: false });
  const gone = { $typeName: "fastblock.control.PgReport" as const, pg: PG, replica: 99 };
  await osds[osd]!.report({
    complete: false,
    pgs: [
      {
        ...gone,
        role: PgRole.REMOVED,
        term: 0n,
        leader: 0,
        commitIndex: 0n,
        appliedIndex: 0n,
        established: false,
        usedBytes: 0n,
        recovery: [],
        shard: 0,
        witness: false,
        nextReplicaId: 0,
      },
    ],
  });
  const found = (await group()).replicas.find((one) => one.replicaId === replicaId)!;
  expect(found.role).not.toBe("unknown");
});
