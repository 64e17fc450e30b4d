import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { create } from "@bufbuild/protobuf";
import { LayerUsageSchema, PgRole } from "../../proto/gen/control_pb.ts";
import { AssertionError } from "../base/assert.ts";
import { type FakeOsd, MonHarness, until } from "./bun-mon-harness.ts";

const PROBLEM = "application/problem+json";

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

async function poolActive(name: string): Promise<void> {
  await until(`pool ${name} is active`, async () => {
    const { body } = await mon.get(`/pools/${name}`);
    return body.pgs.other === 0;
  });
}

describe("queries", () => {
  test.each([
    ["GET", "/pools?limit=-1", "limit"],
    ["GET", "/images?fields=name", "fields"],
    ["GET", "/pgs?pool=p&colour=red", "colour"],
    ["GET", "/pgs?pool=p&pool=q", "pool"],
    ["GET", "/status?watch=1", "watch"],
    ["GET", "/operations/1?waitMs=-1", "waitMs"],
    ["GET", "/operations/1?waitMs=soon", "waitMs"],
    ["GET", "/pools/p:explain?dryRun=true", "dryRun"],
    ["DELETE", "/pools/p?force=FB3005", "force"],
    ["DELETE", "/pools/p/images/a?force=yes", "force"],
    ["DELETE", "/pools/p?dryRun=1", "dryRun"],
    ["POST", "/osds/1:out?dryrun=true", "dryrun"],
    ["POST", "/osds/1:out?dryRun=maybe", "dryRun"],
  ])("%s %s is refused by its parameter's name", async (method, path, name) => {
    const { status, type, body } = await mon.ask(method, `/api/v1${path}`);
    expect([status, type]).toEqual([400, PROBLEM]);
    expect(body).toMatchObject({ code: "FB1001", hint: "see /openapi.json" });
    expect(body.detail).toStartWith(`${name} is malformed: `);
  });

  test("a refusal that can not be forced is told with the one that can", async () => {
    const { body } = await mon.ask("DELETE", "/api/v1/pools/p/images/a?force=FB9");
    expect(body.detail).toBe("force is malformed: FB9, wanted FB3005");
  });
});

// G19
test("a broken invariant in a request ends the mon", async () => {
  const { world } = mon.monitor.options;
  const ends: unknown[] = [];
  Object.assign(world, { fail: (error: unknown) => ends.push(error) });
  Object.assign(mon.monitor.views, {
    status() {
      throw new AssertionError("an invariant is broken");
    },
  });
  await mon.ask("GET", "/api/v1/status");
  expect(ends.map(String)).toEqual(["AssertionError: an invariant is broken"]);
});

describe("pools", () => {
  test("a pool on too few osds is refused with what to do", async () => {
    await mon.addOsds(2);
    const { status, type, body } = await mon.post("/pools", { name: "p", size: 3 });
    expect(status).toBe(409);
    expect(type).toContain("application/problem+json");
    expect(body).toMatchObject({
      code: "FB2003",
      detail: "creating pool p: 2 osds can take replicas, wanted 3",
      hint: "add osds, or create the pool with --size 2",
    });
    expect((await mon.get("/pools")).body.items).toEqual([]);
  });

  test("a pool is created, established, shown, and not created twice", async () => {
    await mon.addOsds(3);
    const created = await mon.post("/pools", { name: "p", size: 3 });
    expect(created.status).toBe(201);
    expect(created.body).toMatchObject({ name: "p", size: 3, pgCount: 32, failureDomain: "osd" });
    expect(created.body.objectBytes).toBe(4_194_304);
    await poolActive("p");
    const again = await mon.post("/pools", { name: "p", size: 3 });
    expect([again.status, again.body.code]).toEqual([409, "FB2002"]);
    const { body } = await mon.get("/pgs?pool=p");
    expect(body.items.length).toBe(32);
    expect(body.items[0]).toMatchObject({ id: "1.0", pool: "p", state: "active", term: 1 });
    const leaders = body.items.map((pg: { leaderOsd: number }) => pg.leaderOsd);
    for (const osd of [0, 1, 2]) {
      expect([10, 11]).toContain(leaders.filter((one: number) => one === osd).length);
    }
    const explained = await mon.get("/pools/p:explain");
    expect(explained.body).toMatchObject({ pool: "p", ok: true, domainsUsable: 3, rejected: [] });
    expect((await mon.get("/status")).body).toMatchObject({
      backend: "file",
      backends: { mons: { file: 1 }, osds: { file: 3 }, clients: {} },
      health: { status: "ok" },
      osds: { total: 3, up: 3, in: 3 },
      pgs: { total: 32, byState: { active: 32 } },
    });
  });

  test("the mons are told with their addresses, and this one with its state", async () => {
    const { body } = await mon.get("/monitors");
    expect(body.items).toEqual([
      {
        id: 0,
        name: "mon.a",
        state: "up",
        leader: true,
        control: { host: "127.0.0.1", port: 7400 },
        http: { host: "127.0.0.1", port: 7480 },
        started: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/),
        uptimeMs: expect.any(Number),
        version: "1.2.3",
        backend: "file",
      },
      {
        id: 1,
        name: "mon.b",
        state: "unknown",
        leader: false,
        control: { host: "127.0.0.1", port: 7401 },
        http: { host: "127.0.0.1", port: 7481 },
        started: null,
        uptimeMs: null,
        version: null,
        backend: null,
      },
    ]);
    expect((await mon.get("/status")).body.mons).toEqual({ total: 2, leader: "mon.a" });
  });

  test("sizes 1 and 2 come with a warning; malformed ones are refused", async () => {
    await mon.addOsds(2);
    const two = await mon.post("/pools", { name: "two", size: 2 });
    expect(two.body.notes.join()).toContain("one failure stops writes");
    const one = await mon.post("/pools", { name: "one", size: 1 });
    expect(one.body.notes.join()).toContain("nothing to heal from");
    await mon.addOsd(2);
    for (const [body, code] of [
      [{ name: "x", size: 0 }, "FB1001"],
      [{ name: "x", size: 7 }, "FB1001"],
      [{ name: "x", size: 1.5 }, "FB1001"],
      [{ name: "x", size: 1, pgCount: 33 }, "FB1001"],
      [{ name: "x", size: 1, pgCount: 131_072 }, "FB1001"],
      [{ name: "x", size: 1, objectBytes: 4097 }, "FB1001"],
      [{ name: "x", size: 1, failureDomain: "rack" }, "FB1001"],
      [{ name: "x", size: 1, colour: "red" }, "FB1001"],
      [{ name: "../x", size: 1 }, "FB1002"],
      [{ name: "x".repeat(64), size: 1 }, "FB1002"],
      [{ size: 1 }, "FB1001"],
      ["not json", "FB1001"],
    ] as const) {
      const answer = await mon.post("/pools", body);
      expect([answer.status, answer.body.code]).toEqual([400, code]);
    }
    const many = await mon.post("/pools", { name: "x", size: 3, pgCount: 65_536 });
    expect(many.body).toMatchObject({ code: "FB2003", hint: "take fewer groups: --pgs 4096" });
    expect((await mon.get("/pools")).body.items.length).toBe(2);
  });

  test("a dry run checks and changes nothing", async () => {
    await mon.addOsds(3);
    const { body: before } = await mon.get("/status");
    const dry = await mon.post("/pools?dryRun=true", { name: "p", size: 3 });
    expect([dry.status, dry.body.name]).toEqual([201, "p"]);
    expect((await mon.post("/pools?dryRun=true", { name: "p", size: 4 })).body.code).toBe("FB2003");
    expect((await mon.get("/status")).body.map).toEqual(before.map);
    expect((await mon.get("/pools/p")).body.code).toBe("FB2001");
  });

  test("a pool with images is not removed, an empty one is", async () => {
    const [osd] = await mon.addOsds(1);
    await mon.post("/pools", { name: "p", size: 1, pgCount: 4 });
    await poolActive("p");
    await mon.post("/pools/p/images", { name: "i", sizeBytes: 4096 });
    const refused = await mon.ask("DELETE", "/api/v1/pools/p");
    expect(refused.body).toMatchObject({ code: "FB2004", why: "its images are: i" });
    await mon.ask("DELETE", "/api/v1/pools/p/images/i");
    expect((await mon.ask("DELETE", "/api/v1/pools/p")).status).toBe(200);
    expect((await mon.get("/pools/p")).body).toMatchObject({
      code: "FB2001",
      why: "there are no pools",
    });
    await until("the osd drops the groups", () => osd!.map.pgs.size === 0);
    // Ids are not used again: neither the pool's, nor its groups'.
    expect((await mon.post("/pools", { name: "p", size: 1 })).body.id).toBe(2);
  });
});

describe("images", () => {
  let osds: FakeOsd[] = [];

  beforeEach(async () => {
    osds = await mon.addOsds(3);
    await mon.post("/pools", { name: "p", size: 3, pgCount: 8 });
    await poolActive("p");
  });

  test("are created, listed, renamed; names and ids as promised", async () => {
    const first = await mon.post("/pools/p/images", { name: "a", sizeBytes: 1_048_576 });
    expect(first.status).toBe(201);
    expect(first.body).toMatchObject({ path: "p/a", sizeBytes: 1_048_576, sessions: [] });
    expect(first.body.created).toMatch(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
    const twice = await mon.post("/pools/p/images", { name: "a", sizeBytes: 4096 });
    expect([twice.status, twice.body.code]).toEqual([409, "FB3002"]);
    const missing = await mon.post("/pools/q/images", { name: "a", sizeBytes: 4096 });
    expect([missing.status, missing.body.code, missing.body.why]).toEqual([
      404,
      "FB2001",
      "pools are: p",
    ]);
    const big = await mon.post("/pools/p/images", { name: "b", sizeBytes: "17592186044416" });
    expect(big.body.sizeBytes).toBe(17_592_186_044_416);
    for (const sizeBytes of [0, 1, 4095, "17592186048512", -4096]) {
      const { body } = await mon.post("/pools/p/images", { name: "c", sizeBytes });
      expect(["FB3003", "FB1001"]).toContain(body.code);
    }
    expect((await mon.post("/pools/p/images", { name: "a/b", sizeBytes: 4096 })).body.code).toBe(
      "FB1002",
    );
    const renamed = await mon.ask("PATCH", "/api/v1/pools/p/images/a", { name: "z" });
    expect(renamed.body).toMatchObject({ id: first.body.id, path: "p/z" });
    expect((await mon.ask("PATCH", "/api/v1/pools/p/images/z", { name: "b" })).body.code).toBe(
      "FB3002",
    );
    expect((await mon.get("/pools/p/images/a")).body.code).toBe("FB3001");
    const names = (await mon.get("/images?pool=p")).body.items.map(
      (one: { name: string }) => one.name,
    );
    expect(names).toEqual(["b", "z"]);
  });

  test("a removed image's name is free at once, its ids never", async () => {
    const first = await mon.post("/pools/p/images", { name: "a", sizeBytes: 4096 });
    const removed = await mon.ask("DELETE", "/api/v1/pools/p/images/a");
    expect(removed.status).toBe(202);
    const second = await mon.post("/pools/p/images", { name: "a", sizeBytes: 4096 });
    expect(second.status).toBe(201);
    expect(second.body.id).toBeGreaterThan(first.body.id);
    expect(second.body.layer).toBeGreaterThan(first.body.layer);
    const done = await mon.get(`/operations/${String(removed.body.id)}?waitMs=5000`);
    expect(done.body).toMatchObject({ state: "done", done: 8, total: 8, error: null });
    const cancelled = await mon.post(`/operations/${String(removed.body.id)}:cancel`);
    expect(cancelled.body).toMatchObject({ code: "FB6002", status: 409, why: "it has ended" });
    expect((await mon.post("/operations/99:cancel")).body.code).toBe("FB6001");
  });

  test("space of images and pools is the sum of what osds tell of their layers", async () => {
    const { body: image } = await mon.post("/pools/p/images", { name: "a", sizeBytes: 1_048_576 });
    for (const osd of osds) osd.isReporting = false;
    const layer = BigInt(image.layer);
    const used = async (): Promise<readonly number[]> => [
      (await mon.get("/pools/p/images/a")).body.usedBytes,
      (await mon.get("/images")).body.items[0].allocatedBytes,
      (await mon.get("/pools/p")).body.usedBytes,
    ];
    expect(await used()).toEqual([0, 0, 0]);
    for (const osd of osds) {
      const layers = [create(LayerUsageSchema, { shard: 0, layer, usedBytes: 131_072n })];
      await osd.report({ complete: false, layers });
    }
    expect(await used()).toEqual([393_216, 131_072, 393_216]);
    const gone = [create(LayerUsageSchema, { shard: 0, layer, usedBytes: 0n })];
    await osds[0]!.report({ complete: false, layers: gone });
    expect(await used()).toEqual([262_144, 131_072, 262_144]);
  });

  test("growing is immediate", async () => {
    await mon.post("/pools/p/images", { name: "a", sizeBytes: 4096 });
    const grown = await mon.post("/pools/p/images/a:resize", { sizeBytes: 8192 });
    expect([grown.status, grown.body.image.sizeBytes, grown.body.operation]).toEqual([
      200,
      8192,
      null,
    ]);
    expect((await mon.post("/pools/p/images/a:resize", { sizeBytes: 1 })).body.code).toBe("FB3003");
    expect((await mon.post("/pools/p/images/b:resize", { sizeBytes: 4096 })).body.code).toBe(
      "FB3001",
    );
  });
});

describe("osds and groups", () => {
  test("out stops new placement, in allows it again", async () => {
    await mon.addOsds(3);
    expect((await mon.post("/osds/1:out")).body).toMatchObject({ id: 1, in: false, up: true });
    const refused = await mon.post("/pools", { name: "p", size: 3 });
    expect(refused.body).toMatchObject({ code: "FB2003", why: "osd 1 is out" });
    expect((await mon.post("/osds/1:in?dryRun=true")).status).toBe(200);
    expect((await mon.get("/osds/1")).body.in).toBe(false);
    expect((await mon.post("/osds/1:in")).body.in).toBe(true);
    expect((await mon.post("/pools", { name: "p", size: 3 })).status).toBe(201);
    expect((await mon.post("/osds/9:in")).body.code).toBe("FB2101");
    expect((await mon.post("/osds/x:in")).body.code).toBe("FB1001");
  });

  test("a leader is moved by a command to the osd that leads", async () => {
    const osds = await mon.addOsds(3);
    await mon.post("/pools", { name: "p", size: 3, pgCount: 1 });
    await poolActive("p");
    const { body: pg } = await mon.get("/pgs/1.0");
    const [from, to] = [osds[pg.leaderOsd]!, osds[pg.osds[1]]!];
    const answer = mon.post("/pgs/1.0:transferLeader", { osd: to.options.id });
    await until("the command arrives", () => from.commands.length === 1);
    expect(from.commands[0]!.command).toMatchObject({
      case: "transferLeader",
      value: { pg: 65_536, toReplica: pg.replicas[1].replicaId },
    });
    from.leads.clear();
    to.leads.set(65_536, 2);
    await to.report();
    const { status, body } = await answer;
    expect([status, body.leaderOsd, body.term]).toEqual([200, to.options.id, 2]);
    const none = { code: "FB2101", detail: "osd 9 does not exist", why: "osds are: 0, 1, 2" };
    expect((await mon.post("/pgs/1.0:transferLeader", { osd: 9 })).body).toMatchObject(none);
    expect(from.commands.length).toBe(1);
  });

  test("a leader that does not hand over is asked again, and in the end told with the reason", async () => {
    const osds = await mon.addOsds(3);
    await mon.post("/pools", { name: "p", size: 3, pgCount: 1 });
    await poolActive("p");
    const { body: pg } = await mon.get("/pgs/1.0");
    const [from, to] = [osds[pg.leaderOsd]!, osds[pg.osds[1]]!];
    const asked = (): number =>
      from.commands.filter(({ command }) => command.case === "transferLeader").length;
    const osd = to.options.id;
    const only = await mon.post("/pgs/1.0:transferLeader", { osd, waitMs: 0 });
    expect([only.status, only.body.leaderOsd]).toEqual([200, from.options.id]);
    await until("it is asked once", () => asked() === 1);
    const late = await mon.post("/pgs/1.0:transferLeader", { osd, waitMs: 1100 });
    expect([late.status, late.body.code]).toEqual([504, "FB1006"]);
    expect(late.body.detail).toBe(`osd ${osd} does not lead group 1.0 yet`);
    expect(late.body.why).toStartWith(`osd ${from.options.id} leads it on`);
    await until("it was asked twice more", () => asked() === 3);
    // One that can not lead any more is not waited for.
    const waiting = mon.post("/pgs/1.0:transferLeader", { osd, waitMs: 30_000 });
    await until("it is asked anew", () => asked() === 4);
    to.roles.set(pg.replicas[1].replicaId, PgRole.FILLING);
    const { status, body } = await waiting;
    expect([status, body.code, body.why]).toEqual([
      409,
      "FB2203",
      "its replica there is still catching up",
    ]);
    expect((await mon.get("/pgs/1.7")).body.code).toBe("FB2201");
    expect((await mon.get("/pgs/nonsense")).body.code).toBe("FB2201");
  });

  test("a scrub is ordered of the osd that leads", async () => {
    const osds = await mon.addOsds(3);
    await mon.post("/pools", { name: "p", size: 3, pgCount: 1 });
    await poolActive("p");
    const { body: pg } = await mon.get("/pgs/1.0");
    const never = { running: null, last: null, lastDeep: null, found: 0, healed: 0, left: 0 };
    expect(pg.scrub).toEqual(never);
    const leader = osds[pg.leaderOsd]!;
    expect((await mon.post("/pgs/1.0:scrub?dryRun=true", {})).body.scrub).toEqual(never);
    const { status, body } = await mon.post("/pgs/1.0:scrub", { deep: true });
    expect([status, body.scrub.running]).toEqual([202, "deep"]);
    await until("the command arrives", () => leader.commands.length > 0);
    expect(leader.commands[0]!.command).toMatchObject({
      case: "scrub",
      value: { pg: 65_536, deep: true },
    });
    expect((await mon.post("/pgs/1.0:scrub", { deep: 1 })).body.code).toBe("FB1001");
    expect((await mon.post("/pgs/1.7:scrub", {})).body.code).toBe("FB2201");
  });

  test("a replaced replica leaves the map when a configuration without it is applied", async () => {
    const osds = await mon.addOsds(4);
    await mon.post("/pools", { name: "p", size: 3, pgCount: 1 });
    await poolActive("p");
    const { body: pg } = await mon.get("/pgs/1.0");
    const spare = [0, 1, 2, 3].find((id) => !pg.osds.includes(id))!;
    const same = { fromOsd: pg.osds[2], toOsd: pg.osds[1] };
    const none = { code: "FB2101", detail: "osd 9 does not exist", why: "osds are: 0, 1, 2, 3" };
    for (const wish of [
      { fromOsd: 9, toOsd: spare },
      { fromOsd: pg.osds[2], toOsd: 9 },
    ]) {
      expect((await mon.post("/pgs/1.0:replaceReplica", wish)).body).toMatchObject(none);
    }
    const from = await mon.post("/pgs/1.0:replaceReplica", { fromOsd: spare, toOsd: pg.osds[1] });
    expect([from.body.code, from.body.why]).toEqual(["FB1001", expect.stringContaining("osd 0")]);
    // Refused as not established until every founder was seen, then for what it is.
    await until("it is refused for its place", async () => {
      const { body } = await mon.post("/pgs/1.0:replaceReplica", same);
      expect(["FB2202", "FB2003"]).toContain(body.code);
      return body.code === "FB2003";
    });
    const itself = { fromOsd: pg.osds[2], toOsd: pg.osds[2] };
    expect((await mon.post("/pgs/1.0:replaceReplica", itself)).body.code).toBe("FB2203");
    const leader = osds[pg.leaderOsd]!;
    leader.isReporting = false;
    const answer = await mon.post("/pgs/1.0:replaceReplica", { fromOsd: pg.osds[2], toOsd: spare });
    expect(answer.status).toBe(202);
    expect(answer.body.osds).toEqual([pg.osds[0], pg.osds[1], spare]);
    expect(answer.body.replicas.map((one: { replicaId: number }) => one.replicaId)).toEqual([
      1, 2, 4, 3,
    ]);
    expect(answer.body.replicas[3].leaving).toBe(true);
    await until(
      "the leader has the map",
      () => leader.map.pgs.get(65_536 as never)!.replicas.length === 4,
    );
    leader.isReporting = true;
    await leader.report();
    await until("the old replica is gone", async () => {
      const { body } = await mon.get("/pgs/1.0");
      return body.replicas.length === 3;
    });
    expect((await mon.get("/pgs/1.0")).body.configuration.voters).toEqual([1, 2, 4]);
  });
});

describe("the rest", () => {
  test("every route is in the document, with problems for its errors", async () => {
    const { body } = await mon.ask("GET", "/openapi.json");
    expect(body.openapi).toBe("3.1.0");
    expect(Object.keys(body.paths).sort()).toEqual(
      [
        "/api/v1/health",
        "/api/v1/images",
        "/api/v1/monitors",
        "/api/v1/operations",
        "/api/v1/operations/{operation}",
        "/api/v1/operations/{operation}:cancel",
        "/api/v1/osds",
        "/api/v1/osds/{osd}",
        "/api/v1/osds/{osd}:in",
        "/api/v1/osds/{osd}:out",
        "/api/v1/pgs",
        "/api/v1/pgs/{pg}",
        "/api/v1/pgs/{pg}:replaceReplica",
        "/api/v1/pgs/{pg}:scrub",
        "/api/v1/pgs/{pg}:transferLeader",
        "/api/v1/recovery",
        "/api/v1/pools",
        "/api/v1/pools/{pool}",
        "/api/v1/pools/{pool}/images",
        "/api/v1/pools/{pool}/images/{image}",
        "/api/v1/pools/{pool}/images/{image}:resize",
        "/api/v1/pools/{pool}:explain",
        "/api/v1/status",
        "/api/v1/trace",
        "/api/v1/version",
      ].sort(),
    );
  });

  test("a trace is started, shown and ended; what makes no sense is refused", async () => {
    const [osd] = await mon.addOsds(1);
    expect((await mon.get("/trace")).body).toMatchObject({
      state: "never",
      stages: [],
      typical: null,
    });
    const wrong = [
      { sample: 0 },
      { sample: 1.5 },
      { timeMs: 10 },
      { timeMs: 86_400_000 },
      { a: 1 },
    ];
    for (const body of wrong) {
      expect((await mon.ask("POST", "/api/v1/trace", body)).status).toBe(400);
    }
    await mon.ask("POST", "/api/v1/trace?dryRun=true", { sample: 5 });
    expect((await mon.get("/trace")).body.state).toBe("never");
    const { body } = await mon.ask("POST", "/api/v1/trace", { sample: 5, timeMs: 30_000 });
    expect(body).toMatchObject({ state: "on", sample: 5, secondsLeft: 30 });
    const orders = (): unknown[] =>
      osd!.commands.map(({ command }) => (command.case === "trace" ? command.value.sample : "?"));
    await until("the osd hears", () => orders().length === 1);
    expect((await mon.ask("GET", "/api/v1/trace?slowest=101")).status).toBe(400);
    expect((await mon.ask("DELETE", "/api/v1/trace")).body.state).toBe("ended");
    await until("the osd hears of the end", () => orders().length === 2);
    expect(orders()).toEqual([5, 0]);
  });

  test("metrics have own names, one block a family, osds' counters labelled", async () => {
    await mon.addOsds(2);
    await mon.get("/status");
    await until("reports arrive", async () => {
      const { body } = await mon.ask("GET", "/metrics");
      return body.includes('fastblock_osd_ops_total{osd="1",op="write"} 7');
    });
    const { body, type } = await mon.ask("GET", "/metrics");
    expect(type).toContain("text/plain");
    expect(body).toContain("fastblock_process_cpu_seconds_total 1.5");
    expect(body).toContain('fastblock_osd_up{osd="0",host="this-host"} 1');
    expect(body).toContain("fastblock_health_status 0");
    const types = body.split("\n").filter((line: string) => line.startsWith("# TYPE"));
    expect(new Set(types).size).toBe(types.length);
    for (const line of types) expect(line).toMatch(/^# TYPE fastblock_/);
    for (const line of body.split("\n")) {
      expect(line).toMatch(/^(#.*|[a-z_]+(\{.*\})? [-+.\deInfNa]+)?$/);
    }
  });

  test("pages of other origins and names that point here are refused", async () => {
    const evil = await mon.ask(
      "POST",
      "/api/v1/pools",
      { name: "p" },
      { origin: "http://evil.example" },
    );
    expect([evil.status, evil.body.code]).toEqual([403, "FB1007"]);
    const rebound = await mon.ask("GET", "/api/v1/status", undefined, { host: "evil.example" });
    expect([rebound.status, rebound.body.code]).toEqual([403, "FB1007"]);
    expect((await mon.ask("GET", "/")).body).toContain("page");
    expect((await mon.ask("GET", "/healthz")).body).toBe("ok\n");
    expect((await mon.ask("GET", "/api/v1/nothing")).body).toMatchObject({
      status: 404,
      code: "FB1010",
      title: "There is no such route",
    });
    const large = await mon.post("/pools", { name: "x".repeat(100_000), size: 1 });
    expect([large.status, large.type, large.body.code]).toEqual([413, PROBLEM, "FB1012"]);
  });

  test("a body of another type is refused, whoever reads it", async () => {
    await mon.addOsds(1);
    const form = { "content-type": "application/x-www-form-urlencoded" };
    for (const path of ["/pools", "/pools/p/images/a:resize"]) {
      const { status, type, body } = await mon.ask("POST", `/api/v1${path}`, {}, form);
      expect([path, status, type, body.code]).toEqual([path, 415, PROBLEM, "FB1011"]);
    }
    for (const [body, type, code] of [
      [{}, "text/plain", 415],
      [{}, "application/x-www-form-urlencoded", 415],
      ["", "application/x-www-form-urlencoded", 415],
      [{}, "application/json", 200],
      ["", "application/json", 200],
    ] as const) {
      const headers = { "content-type": type };
      const { status } = await mon.ask("POST", "/api/v1/osds/0:out", body, headers);
      expect([type, body, status]).toEqual([type, body, code]);
    }
    const untyped = await mon.ask("POST", "/api/v1/osds/0:out", new Uint8Array(2));
    expect([untyped.status, untyped.body.code]).toEqual([415, "FB1011"]);
    expect((await mon.ask("POST", "/api/v1/osds/0:out")).status).toBe(200);
    const broken = await mon.ask("POST", "/api/v1/pools", "{");
    expect([broken.status, broken.type, broken.body.code]).toEqual([400, PROBLEM, "FB1001"]);
  });

  test("what was answered is there after a restart of the monitor", async () => {
    const osds = await mon.addOsds(3);
    await mon.post("/pools", { name: "p", size: 3, pgCount: 4 });
    await poolActive("p");
    const { body: image } = await mon.post("/pools/p/images", { name: "a", sizeBytes: 8192 });
    const before = (await mon.get("/status")).body;
    await mon.stopMonitor();
    await mon.start();
    const after = (await mon.get("/status")).body;
    expect(after.map.generation).toBe(before.map.generation);
    expect(after.map.epoch).toBeGreaterThanOrEqual(before.map.epoch);
    expect(after.osds).toEqual(before.osds);
    const again = (await mon.get("/pools/p/images/a")).body;
    expect({ ...again, usedAgeMs: 0 }).toEqual({ ...image, usedAgeMs: 0 });
    await until("the osds are back", () => osds.every((osd) => osd.map.epoch >= before.map.epoch));
    await until("the groups are reported again", async () => {
      const { body } = await mon.get("/pgs/1.0");
      return body.replicas.every((one: { role: string }) => one.role !== "unknown");
    });
    const next = await mon.post("/pools/p/images", { name: "b", sizeBytes: 8192 });
    expect(next.body.id).toBeGreaterThan(image.id);
  });
});
