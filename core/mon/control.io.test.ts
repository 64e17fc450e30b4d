import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { create, fromBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { createHmac } from "node:crypto";
import {
  BeneathState,
  DeviceStateSchema,
  OsdUsageSchema,
  SpaceBeneathSchema,
  ImageCloseReplySchema,
  ImageCloseRequestSchema,
  ImageListReplySchema,
  ImageListRequestSchema,
  ImageOpenMode,
  ImageOpenReplySchema,
  type ImageOpenReply,
  ImageOpenRequestSchema,
  ImageRefreshReplySchema,
  type ImageRefreshReply,
  ImageRefreshRequestSchema,
  MapGetReplySchema,
  MapGetRequestSchema,
  MapSubscribeReplySchema,
  MapSubscribeRequestSchema,
  type OsdCommand,
  type SessionGrant,
  SessionGrantSchema,
} from "../../proto/gen/control_pb.ts";
import { Prng } from "../base/prng.ts";
import { Status } from "../base/status.ts";
import { ApplyResult, checkGrant, ImageRights, splitDelta } from "../cluster/cluster.ts";
import { EntryType } from "../log/log.ts";
import { Method } from "../rpc/rpc.ts";
import { encodeStarts, type StoreStart, withMark, withStart } from "../store/store.ts";
import {
  CLUSTER_KEY,
  type FakeClient,
  type FakeOsd,
  MonHarness,
  until,
  uuidOf,
} from "./bun-mon-harness.ts";

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

async function newPool(size = 3, pgCount = 4): Promise<void> {
  const { status } = await mon.post("/pools", { name: "p", size, pgCount });
  expect(status).toBe(201);
  await until("the pool is active", async () => (await mon.get("/pools/p")).body.pgs.other === 0);
}

/** What a call was rejected with; undefined when it was not. */
function failureOf(call: Promise<unknown>): Promise<unknown> {
  return call.then(
    () => undefined,
    (error: unknown) => error,
  );
}

describe("osds", () => {
  test("registration is believed from the osd itself alone", async () => {
    const osd = await mon.addOsd(0);
    expect(osd.reply).toMatchObject({ reportIntervalMs: 1000 });
    expect(osd.map.osds.get(0 as never)).toMatchObject({ up: true, storeUuid: uuidOf(0) });
    expect(await failureOf(osd.register({ osd: 1 }))).toMatchObject({ code: "FB1007" });
    expect(await failureOf(osd.register({ storeUuid: uuidOf(5) }))).toMatchObject({
      code: "FB1007",
    });
    const client = await mon.addClient().connected();
    const request = create(ImageListRequestSchema, { pool: "none" });
    const call = client.control.call(
      client.connection,
      Method.ImageList,
      ImageListRequestSchema,
      request,
      ImageListReplySchema,
    );
    expect(await failureOf(call)).toMatchObject({ code: "FB2001", why: "there are no pools" });
  });

  /** What the monitor answers to these starts; empty: it takes them. */
  async function answer(
    osd: FakeOsd,
    starts: readonly StoreStart[],
    only = false,
  ): Promise<string> {
    const encoded = encodeStarts(starts);
    try {
      await osd.register({ starts: encoded, startsOnly: only });
      return "";
    } catch (error) {
      return (error as { code: string }).code;
    }
  }

  test("N22: an old copy of a store is refused however often it starts, the right disk never", async () => {
    const random = new Prng(1);
    const first = withStart([], 1, random);
    const second = withStart(first, 2, random);
    const osd = await mon.addOsd(0);
    expect(await answer(osd, first)).toBe("");
    // The same start registers again; the next one asks, registers, counts on.
    expect(await answer(osd, first)).toBe("");
    expect(await answer(osd, first, true)).toBe("");
    expect(await answer(osd, second)).toBe("");
    const marked = withMark(withMark(second));
    expect(await answer(osd, marked, true)).toBe("");
    await osd.close();
    const copy = await mon.addOsd(0, { registers: false });
    await until("connected", async () => (await answer(copy, first, true)) === "FB4004");
    for (let incarnation = 2; incarnation < 60; incarnation++) {
      expect(await answer(copy, withStart(first, incarnation, random))).toBe("FB4004");
    }
    // Copied while it ran.
    expect(await answer(copy, withStart(second, 9, random))).toBe("FB4004");
    await copy.close();
    // Nobody was locked out by that, nor by starts of which the monitor never heard.
    let good = marked;
    for (let incarnation = 3; incarnation < 6; incarnation++) {
      good = withStart(good, incarnation, random);
    }
    const next = await mon.addOsd(0, { registers: false });
    await until("connected", async () => (await answer(next, good, true)) === "");
    // Asking is no registration: what it showed is not remembered.
    expect(await answer(next, marked)).toBe("");
    expect(await answer(next, good)).toBe("");
    expect(await answer(next, marked)).toBe("FB4004");
    // The monitor remembers over a restart of its own.
    await mon.stopMonitor();
    await mon.start();
    await until("it answers", async () => (await answer(next, marked)) === "FB4004");
    expect(await answer(next, good)).toBe("");
  });

  test("an osd that comes back with an earlier disk of its own is told when that is an old copy", async () => {
    const random = new Prng(2);
    const first = withStart([], 1, random);
    const second = withStart(first, 2, random);
    const osd = await mon.addOsd(0);
    expect(await answer(osd, second)).toBe("");
    await osd.report({ stopping: true });
    await until("osd 0 is down", async () => !(await mon.get("/osds/0")).body.up);
    await osd.close();
    const other = await mon.addOsd(0, { storeUuid: uuidOf(77), registers: false });
    await until("registered", async () => (await answer(other, withStart([], 1, random))) === "");
    await other.report({ stopping: true });
    await until("osd 0 is down", async () => !(await mon.get("/osds/0")).body.up);
    await other.close();
    const back = await mon.addOsd(0, { registers: false });
    await until("connected", async () => (await answer(back, first)) === "FB4004");
    expect(await answer(back, second)).toBe("");
  });

  test("a store is one osd: another id, or another store under a living id, is refused", async () => {
    const first = await mon.addOsd(0);
    const twin = await mon.addOsd(1, { storeUuid: uuidOf(0), registers: false });
    const other = await mon.addOsd(0, { storeUuid: uuidOf(77), registers: false });
    for (const osd of [twin, other]) {
      await until("refused", async () => {
        try {
          await osd.register();
          return false;
        } catch (error) {
          return (error as { code: string }).code === "FB2103";
        }
      });
    }
    await first.report({ stopping: true });
    await until("osd 0 is down", async () => !(await mon.get("/osds/0")).body.up);
    await other.register();
    expect((await mon.get("/osds/0")).body).toMatchObject({ up: true, storeUuid: uuidOf(77) });
  });

  test("a clean stop is down at once; silence after the lease; both come back", async () => {
    const [first, second] = (await mon.addOsds(2)) as [FakeOsd, FakeOsd];
    await mon.post("/pools", { name: "p", size: 2, pgCount: 4 });
    first.isReporting = false;
    const startMs = performance.now();
    await first.report({ stopping: true });
    await until("osd 0 is down", async () => !(await mon.get("/osds/0")).body.up);
    expect(performance.now() - startMs).toBeLessThan(2000);
    await until("the other hears of it", () => second.map.osds.get(0 as never)?.up === false);
    const { body } = await mon.get("/health");
    expect(body.checks.map((one: { code: string }) => one.code)).toContain("OSD_DOWN");
    second.isReporting = false;
    await until("osd 1 is down by its lease", async () => !(await mon.get("/osds/1")).body.up);
    expect((await mon.get("/health")).body.status).toBe("error");
    for (const osd of [first, second]) {
      osd.reconnect();
      osd.isReporting = true;
    }
    await until("both are up", async () => (await mon.get("/status")).body.osds.up === 2);
  });

  test("an osd is down when enough hosts miss it, though it reports", async () => {
    const osds: FakeOsd[] = [];
    for (let id = 0; id < 4; id++) osds.push(await mon.addOsd(id, { host: `host-${String(id)}` }));
    for (const osd of osds) osd.isReporting = false;
    const beat = async (complaining: readonly number[]): Promise<void> => {
      for (const osd of osds) {
        await osd.report({ unreachable: complaining.includes(osd.options.id) ? [0] : [] });
      }
    };
    const isUp = async (): Promise<boolean> => (await mon.get("/osds/0")).body.up;
    await beat([1]);
    await mon.monitor.flushNow();
    expect(await isUp()).toBe(true);
    await beat([1, 2]);
    await until("two hosts suffice", async () => !(await isUp()));
    await until("it is up when nobody complains any more", async () => {
      await beat([]);
      return isUp();
    });
  });

  test("who has not heard yet where an osd is now can not have it marked down", async () => {
    const osds: FakeOsd[] = [];
    for (let id = 0; id < 3; id++) osds.push(await mon.addOsd(id, { host: `host-${String(id)}` }));
    for (const osd of osds) osd.isReporting = false;
    const peers = osds.slice(1);
    const { epoch } = peers[0]!.map;
    await osds[0]!.report({ stopping: true });
    await osds[0]!.close();
    await until("it is down", async () => (await mon.get("/osds/0")).body.up === false);
    osds[0] = await mon.addOsd(0, { host: "host-0", storeUuid: uuidOf(77) });
    for (const peer of peers) await peer.report({ unreachable: [0], epoch });
    await mon.monitor.flushNow();
    expect((await mon.get("/osds/0")).body.up).toBe(true);
    await until("they have the map", () =>
      peers.every(({ map }) => map.osds.get(0 as never)?.storeUuid === uuidOf(77)),
    );
    for (const peer of peers) await peer.report({ unreachable: [0] });
    await mon.monitor.flushNow();
    expect((await mon.get("/osds/0")).body.up).toBe(false);
    // What they say now counts, not what they said.
    for (const peer of peers) await peer.report();
    await osds[0]!.report();
    await mon.monitor.flushNow();
    expect((await mon.get("/osds/0")).body.up).toBe(true);
  });

  test("a long absence takes an osd out, its return in again; people's out stays", async () => {
    await mon.stopMonitor();
    await mon.start({ outAfterUs: 300_000 });
    const osds = await mon.addOsds(2);
    await mon.post("/osds/1:out");
    const health = (await mon.get("/health")).body;
    expect(health).toMatchObject({
      status: "ok",
      checks: [
        {
          code: "OSD_OUT",
          severity: "info",
          summary: "1 of 2 osds is out",
          details: ["osd.1 on this-host, which holds 0 replicas"],
        },
      ],
    });
    for (const osd of osds) {
      osd.isReporting = false;
      await osd.report({ stopping: true });
    }
    await until("osd 0 is out", async () => !(await mon.get("/osds/0")).body.in);
    const codes = (await mon.get("/health")).body.checks.map(({ code }: { code: string }) => code);
    expect([codes[0], codes.at(-1)]).toEqual(["OSD_DOWN", "OSD_OUT"]);
    for (const osd of osds) {
      osd.reconnect();
      osd.isReporting = true;
    }
    await until("both are up", async () => (await mon.get("/status")).body.osds.up === 2);
    expect((await mon.get("/osds/0")).body.in).toBe(true);
    expect((await mon.get("/osds/1")).body.in).toBe(false);
  });

  test("an unknown boot is told to register", async () => {
    const osd = await mon.addOsd(0);
    expect((await osd.report()).register).toBe(false);
    expect((await osd.report({ boot: 1n })).register).toBe(true);
  });

  test("G10: an osd with a newer map tells that the monitor is from a backup", async () => {
    const osd = await mon.addOsd(0);
    await newPool(1, 1);
    const image = (await mon.post("/pools/p/images", { name: "a", sizeBytes: 4096 })).body;
    await osd.report({ epoch: 999 });
    const { body } = await mon.get("/health");
    expect(body.checks[0]).toMatchObject({ code: "MAP_BEHIND", severity: "error" });
    const refused = await mon.post("/pools/p/images", { name: "b", sizeBytes: 4096 });
    expect([refused.status, refused.body.code]).toEqual([503, "FB1015"]);
    expect(mon.errors).toEqual([]);
    await mon.stopMonitor();
    await mon.start({ restored: true });
    await until("the osd follows the new generation", () => osd.map.generation === (2 as never));
    expect(osd.map.pgs.size).toBe(1);
    const later = (await mon.post("/pools/p/images", { name: "b", sizeBytes: 4096 })).body;
    expect(later.id - image.id).toBeGreaterThan(1_000_000);
    expect(later.layer - image.layer).toBeGreaterThan(1_000_000);
    await osd.report();
    expect((await mon.get("/health")).body.status).toBe("ok");
  });

  test("G10: a renewed disk that asks is heard by a restored catalogue, which waits for its osd", async () => {
    const [gone] = await mon.addOsds(2);
    await newPool(2, 1);
    await gone!.close();
    await mon.stopMonitor();
    await mon.start({ restored: true });
    const create = async (): Promise<number> =>
      (await mon.post("/pools/p/images", { name: "a", sizeBytes: 4096 })).status;
    expect(await create()).toBe(503);
    // Another store under the id of the first osd asks before it serves, as a renewed disk does.
    const renewed = await mon.addOsd(0, { storeUuid: uuidOf(7), registers: false });
    const starts = withStart([], 1, new Prng(1));
    await until("it is connected", async () => (await answer(renewed, starts, true)) !== "FB1004");
    // It may be refused for as long as the store that the catalogue names may be there.
    await until("nobody is waited for", async () => (await create()) === 201, 4000);
  });
});

describe("fresh figures", () => {
  const order = ({ command }: OsdCommand): bigint =>
    command.case === "reportNow" ? command.value.order : 0n;

  test("who asks for them sees what the osds hold now, not what they told last", async () => {
    const osds = await mon.addOsds(3);
    await newPool();
    await mon.post("/pools/p/images", { name: "a", sizeBytes: 1_048_576 });
    const { layer } = (await mon.get("/pools/p/images/a")).body;
    for (const osd of osds) {
      osd.isReporting = false;
      osd.layers.set(layer, 65_536);
    }
    const used = async (path: string): Promise<number> => (await mon.get(path)).body.usedBytes;
    expect(await used("/pools/p/images/a")).toBe(0);
    expect(await used("/pools/p/images/a?fresh=true")).toBe(196_608);
    const listed = async (path: string): Promise<number> =>
      (await mon.get(path)).body.items[0].usedBytes;
    for (const osd of osds) osd.layers.set(layer, 131_072);
    expect(await listed("/images?fresh=true")).toBe(393_216);
    for (const osd of osds) osd.layers.set(layer, 0);
    expect(await listed("/pools/p/images?fresh=true")).toBe(0);
  });

  test("however many ask, one round is under way and one waits", async () => {
    const [osd] = await mon.addOsds(1);
    const answers = await Promise.all(
      Array.from({ length: 50 }, () => mon.get("/images?fresh=true")),
    );
    expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200));
    const orders = osd!.commands.map(order).filter((one) => one > 0n);
    expect(orders).toEqual([1n, 2n, 3n].slice(0, orders.length));
  });

  test("an osd that does not answer is waited for a moment, and its age is told", async () => {
    const [silent] = await mon.addOsds(1);
    await newPool(1);
    await mon.post("/pools/p/images", { name: "a", sizeBytes: 1_048_576 });
    silent!.isReporting = false;
    silent!.isAnswering = false;
    const { status, body } = await mon.get("/pools/p/images/a?fresh=true");
    expect([status, body.usedAgeMs >= 500]).toEqual([200, true]);
    expect(silent!.commands.map(order)).toEqual([1n]);
  });
});

describe("the file system beneath a store", () => {
  test("G13: is told by health, status and the osd, and writes that are refused are an error", async () => {
    const osd = await mon.addOsd(0);
    const tell = async (state: BeneathState, freeBytes: bigint): Promise<void> => {
      const beneath = create(SpaceBeneathSchema, { state, freeBytes, path: "/d/osd.0.img" });
      osd.isReporting = false;
      await osd.report({ usage: create(OsdUsageSchema, { capacityBytes: 4096n, beneath }) });
    };
    expect((await mon.get("/osds/0")).body.beneath).toBe(null);
    await tell(BeneathState.ENOUGH, 300n << 20n);
    expect((await mon.get("/health")).body.status).toBe("ok");
    expect((await mon.get("/status")).body.capacity.freeBytesBeneath).toBe(300 * 2 ** 20);
    await tell(BeneathState.NEAR, 60n << 20n);
    const near = (await mon.get("/health")).body;
    expect([near.status, near.checks[0].code]).toEqual(["warn", "OSD_FILE_SYSTEM_NEAR_FULL"]);
    await tell(BeneathState.SHORT, 30n << 20n);
    const short = (await mon.get("/health")).body;
    expect([short.status, short.checks[0].code]).toEqual(["error", "OSD_FILE_SYSTEM_FULL"]);
    expect(short.checks[0].details).toEqual([
      "osd.0: 30 MiB free beneath /d/osd.0.img, it takes no writes",
    ]);
    expect((await mon.get("/osds/0")).body.beneath).toEqual({
      state: "short",
      freeBytes: 30 * 2 ** 20,
      path: "/d/osd.0.img",
    });
  });
});

describe("the device of an osd", () => {
  const codes = async (): Promise<string[]> => {
    const { body } = await mon.get("/health");
    return body.checks.map((check: { code: string }) => check.code);
  };

  test("a slow one and one that fails reads are warnings, until it is well again", async () => {
    const osd = await mon.addOsd(0);
    osd.isReporting = false;
    const tell = (device: MessageInitShape<typeof DeviceStateSchema>): Promise<unknown> =>
      osd.report({ usage: create(OsdUsageSchema, { capacityBytes: 4096n, device }) });
    expect((await mon.get("/osds/0")).body.device).toBe(null);
    await tell({});
    expect(await codes()).toEqual([]);
    await tell({ slow: true, latencyMs: 1500, readErrors: 2n, readsFail: true });
    const { body } = await mon.get("/health");
    expect(body).toMatchObject({
      status: "warn",
      checks: [
        { code: "OSD_SLOW", summary: "1 osd has a slow device" },
        { code: "OSD_READ_ERRORS", summary: "the device of 1 osd fails reads" },
      ],
    });
    expect(body.checks[0].details[0]).toEndWith(": its device takes 1500 ms");
    expect(body.checks[1].details[0]).toEndWith(": 2 reads failed since it started");
    expect((await mon.get("/osds/0")).body.device).toEqual({
      ...{ readErrors: 2, writeErrors: 0, flushErrors: 0 },
      ...{ readsFail: true, slow: true, latencyMs: 1500 },
    });
    await tell({ readErrors: 2n, readsFail: true });
    expect(await codes()).toEqual(["OSD_READ_ERRORS"]);
    // An hour went by: what was counted stays, and is no warning.
    await tell({ readErrors: 2n });
    expect(await codes()).toEqual([]);
  });
});

describe("maps", () => {
  test("a subscriber gets what it lacks and then every epoch, without a gap", async () => {
    await mon.addOsds(3);
    const client = await mon.addClient().connected();
    // Changes run while it subscribes: none may overtake the reply.
    const changes = Array.from({ length: 10 }, (_, at) =>
      mon.post("/pools", { name: `p${String(at)}`, size: 3, pgCount: 2 }),
    );
    await client.control.call(
      client.connection,
      Method.MapSubscribe,
      MapSubscribeRequestSchema,
      create(MapSubscribeRequestSchema, { generation: 0, epoch: 0 }),
      MapSubscribeReplySchema,
    );
    expect(client.map.epoch).toBeGreaterThan(0);
    await Promise.all(changes);
    await until("the client has the newest map", () => {
      return client.map.epoch === mon.monitor.catalogue.map.epoch && client.map.pools.size === 10;
    });
    expect(client.results).not.toContain(ApplyResult.Gap);
    expect(client.map.deltaFrom(0, 0)!.pgs.length).toBe(20);
  });

  test("the status counts backends: the mon's own, the osds', those of who follows now", async () => {
    await mon.addOsds(1);
    const backends = async (): Promise<unknown> => (await mon.get("/status")).body.backends;
    expect(await backends()).toEqual({ mons: { file: 1 }, osds: { file: 1 }, clients: {} });
    const follow = async (backend: string): Promise<FakeClient> => {
      const client = await mon.addClient().connected();
      await client.control.call(
        client.connection,
        Method.MapSubscribe,
        MapSubscribeRequestSchema,
        create(MapSubscribeRequestSchema, { generation: 0, epoch: 0, backend }),
        MapSubscribeReplySchema,
      );
      return client;
    };
    const first = await follow("uring");
    await follow("file");
    const both = { mons: { file: 1 }, osds: { file: 1 }, clients: { uring: 1, file: 1 } };
    expect(await backends()).toEqual(both);
    await first.close();
    await until("the first is gone", async () => !JSON.stringify(await backends()).includes("ur"));
  });

  test("one that has the map gets nothing; after one that is ahead nobody does", async () => {
    await mon.addOsds(1);
    const client = await mon.addClient().connected();
    const get = async (generation: number, epoch: number): Promise<readonly ApplyResult[]> => {
      await client.control.call(
        client.connection,
        Method.MapGet,
        MapGetRequestSchema,
        create(MapGetRequestSchema, { generation, epoch }),
        MapGetReplySchema,
      );
      return client.results.splice(0);
    };
    const { epoch } = mon.monitor.catalogue.map;
    expect(await get(1, epoch)).toEqual([]);
    // What was missing stands there when the answer is.
    expect(await get(0, 0)).toEqual([ApplyResult.Applied]);
    expect(client.map.epoch).toBe(epoch);
    expect(await get(1, epoch - 1)).toEqual([ApplyResult.Current]);
    for (const [generation, number] of [
      [2, 1],
      [1, 0],
    ] as const) {
      const error = await get(generation, number).catch((reason: unknown) => reason);
      expect(error).toMatchObject({ code: "FB1015" });
    }
  });

  test("a map larger than a message arrives in parts", async () => {
    const groups = 8192;
    const osd = await mon.addOsd(0);
    osd.isReporting = false;
    expect(splitDelta(mon.monitor.catalogue.map.deltaFrom(0, 0)!).length).toBe(1);
    expect((await mon.post("/pools", { name: "p", size: 1, pgCount: groups })).status).toBe(201);
    expect(splitDelta(mon.monitor.catalogue.map.deltaFrom(0, 0)!).length).toBeGreaterThan(2);
    await until("all groups arrive", () => osd.map.pgs.size === groups);
    expect(osd.gaps).toEqual([]);
    const late = await mon.addOsd(1);
    await until("a late one gets them too", () => late.map.pgs.size === groups);
    expect(late.gaps).toEqual([]);
  });
});

const call = {
  open: (
    client: FakeClient,
    mode: ImageOpenMode,
    takeOver = false,
    former?: SessionGrant,
  ): Promise<ImageOpenReply> =>
    client.control.call(
      client.connection,
      Method.ImageOpen,
      ImageOpenRequestSchema,
      create(ImageOpenRequestSchema, {
        ...{ pool: "p", image: "a", mode, client: "nbd.0", takeOver },
        ...{ former: former?.session ?? 0n, formerLockEpoch: former?.lockEpoch ?? 0 },
      }),
      ImageOpenReplySchema,
    ),
  refresh: (client: FakeClient, session: bigint): Promise<ImageRefreshReply> =>
    client.control.call(
      client.connection,
      Method.ImageRefresh,
      ImageRefreshRequestSchema,
      create(ImageRefreshRequestSchema, { session }),
      ImageRefreshReplySchema,
    ),
  close: (client: FakeClient, session: bigint): Promise<unknown> =>
    client.control.call(
      client.connection,
      Method.ImageClose,
      ImageCloseRequestSchema,
      create(ImageCloseRequestSchema, { session }),
      ImageCloseReplySchema,
    ),
};

const checksum = {
  crc32: () => 0,
  hmacSha256: (key: Uint8Array, data: Uint8Array) =>
    new Uint8Array(createHmac("sha256", key).update(data).digest()),
};

function grantOf(reply: ImageOpenReply | ImageRefreshReply): SessionGrant {
  expect(checkGrant(checksum, CLUSTER_KEY, reply.grant, reply.mac)).toBe(true);
  return fromBinary(SessionGrantSchema, reply.grant);
}

describe("sessions", () => {
  let osds: FakeOsd[];
  let client: FakeClient;
  beforeEach(async () => {
    osds = await mon.addOsds(3);
    await newPool();
    await mon.post("/pools/p/images", { name: "a", sizeBytes: 1_048_576 });
    client = await mon.addClient().connected();
  });

  test("each open is a session of its own, never used again", async () => {
    const first = grantOf(await call.open(client, ImageOpenMode.SHARED));
    const second = grantOf(await call.open(client, ImageOpenMode.READ_ONLY));
    expect(first.rights).toBe(ImageRights.Read | ImageRights.Write);
    expect(second.rights).toBe(ImageRights.Read);
    expect(first).toMatchObject({ sizeBytes: 1_048_576n, lockEpoch: 0, serial: 1 });
    expect(second.session).toBeGreaterThan(first.session);
    expect((await mon.get("/pools/p/images/a")).body.sessions.length).toBe(2);
    await call.close(client, first.session);
    await call.close(client, second.session);
    expect((await mon.get("/pools/p/images/a")).body.sessions).toEqual([]);
    expect(await failureOf(call.refresh(client, first.session))).toMatchObject({ code: "FB3007" });
    await mon.stopMonitor();
    await mon.start();
    let opened: ImageOpenReply | undefined;
    await until("reconnected", async () => {
      opened = await call.open(client, ImageOpenMode.SHARED).catch(() => undefined);
      return opened !== undefined;
    });
    const third = grantOf(opened!);
    expect(third.session).toBeGreaterThan(second.session);
    const refreshed = grantOf(await call.refresh(client, third.session));
    expect(refreshed).toMatchObject({ session: third.session, serial: 2 });
  });

  test("an exclusive open fences the others; a second one waits for the first to go", async () => {
    const shared = grantOf(await call.open(client, ImageOpenMode.SHARED));
    const other = await mon.addClient().connected();
    const exclusive = grantOf(await call.open(other, ImageOpenMode.EXCLUSIVE));
    expect(exclusive.lockEpoch).toBe(shared.lockEpoch + 1);
    await until("the shared one is told", () => client.changes.length > 0);
    expect(client.changes[0]).toMatchObject({ session: shared.session, removed: true });
    expect(await failureOf(call.refresh(client, shared.session))).toMatchObject({ code: "FB3007" });
    for (const mode of [ImageOpenMode.SHARED, ImageOpenMode.EXCLUSIVE]) {
      expect(await failureOf(call.open(client, mode))).toMatchObject({ code: "FB3005" });
    }
    const taken = grantOf(await call.open(client, ImageOpenMode.EXCLUSIVE, true));
    expect(taken.lockEpoch).toBe(exclusive.lockEpoch + 1);
    // The holder dies: its connection ends, and the lock is free at once.
    await client.close();
    await until("the monitor sees it", async () => {
      try {
        grantOf(await call.open(other, ImageOpenMode.EXCLUSIVE));
        return true;
      } catch {
        return false;
      }
    });
  });

  test("G4: a shared open that ends an exclusive holder fences it, be it alive or not", async () => {
    const { EXCLUSIVE, SHARED } = ImageOpenMode;
    const other = await mon.addClient().connected();
    const first = grantOf(await call.open(other, EXCLUSIVE));
    const taken = grantOf(await call.open(client, SHARED, true));
    expect(taken.lockEpoch).toBe(first.lockEpoch + 1);
    expect(grantOf(await call.open(client, SHARED)).lockEpoch).toBe(taken.lockEpoch);
    const second = grantOf(await call.open(other, EXCLUSIVE));
    await other.close();
    let after: SessionGrant | undefined;
    await until("the monitor sees it", async () => {
      const opened = call.open(client, SHARED);
      const failure = await failureOf(opened);
      if (failure !== undefined) expect(failure).toMatchObject({ code: "FB3005" });
      else after = grantOf(await opened);
      return after !== undefined;
    });
    expect(after?.lockEpoch).toBe(second.lockEpoch + 1);
  });

  test("who goes on with another session fences nobody else, and is refused once that is over", async () => {
    const goOn = async (mode: ImageOpenMode, former: SessionGrant): Promise<SessionGrant> =>
      grantOf(await call.open(client, mode, false, former));
    const { EXCLUSIVE, SHARED } = ImageOpenMode;
    const first = grantOf(await call.open(client, EXCLUSIVE));
    // The answer to the first try did not come: only the last one stays beside the former.
    const lost = await goOn(EXCLUSIVE, first);
    const second = await goOn(EXCLUSIVE, first);
    const { lockEpoch } = first;
    expect([lost.lockEpoch, second.lockEpoch]).toEqual([lockEpoch + 1, lockEpoch + 2]);
    const left = (await mon.get("/pools/p/images/a")).body.sessions as unknown[];
    expect(left.length).toBe(2);
    expect(await failureOf(goOn(SHARED, second))).toMatchObject({ code: "FB3007" });
    // To give it back does not fence the one that took its place; the end of an exclusive one does.
    await call.close(client, first.session);
    const other = await mon.addClient().connected();
    const taken = grantOf(await call.open(other, EXCLUSIVE, true));
    expect(taken.lockEpoch).toBe(second.lockEpoch + 1);
    expect(await failureOf(goOn(EXCLUSIVE, second))).toMatchObject({ code: "FB3007" });
    await call.close(other, taken.session);
    expect(await failureOf(goOn(EXCLUSIVE, second))).toMatchObject({ code: "FB3007" });
    // As a restored catalogue does, it knows nothing of this one; but that nobody was alone since.
    const shared = grantOf(await call.open(client, SHARED));
    expect(shared.lockEpoch).toBe(taken.lockEpoch + 1);
    await call.close(client, shared.session);
    expect((await goOn(SHARED, shared)).lockEpoch).toBe(shared.lockEpoch);
    grantOf(await call.open(other, EXCLUSIVE, true));
    expect(await failureOf(goOn(SHARED, shared))).toMatchObject({ code: "FB3007" });
  });

  test("an image in use is not removed, unless forced; holders are told", async () => {
    const grant = grantOf(await call.open(client, ImageOpenMode.SHARED));
    const refused = await mon.ask("DELETE", "/api/v1/pools/p/images/a");
    expect(refused.body).toMatchObject({ code: "FB3005", detail: "image p/a is in use by nbd.0" });
    const forced = await mon.ask("DELETE", "/api/v1/pools/p/images/a?force=FB3005");
    expect(forced.status).toBe(202);
    await until("the holder is told", () => client.changes.length > 0);
    expect(client.changes[0]).toMatchObject({ session: grant.session, removed: true });
    expect(await failureOf(call.open(client, ImageOpenMode.SHARED))).toMatchObject({
      code: "FB3001",
    });
  });

  test("removing writes one LayerGone to the leader of every group", async () => {
    const image = (await mon.get("/pools/p/images/a")).body;
    const { body } = await mon.ask("DELETE", "/api/v1/pools/p/images/a");
    await mon.get(`/operations/${String(body.id)}?waitMs=5000`);
    const writes = osds.flatMap((osd) => osd.writes).sort();
    expect(writes.length).toBe(4);
    for (const [at, write] of writes.entries()) {
      expect(write).toMatch(
        new RegExp(
          `^${String(65_536 + at)} ${String(EntryType.LayerGone)} \\d+:0 ${String(image.layer)} 0\\+0 lock1 Ok$`,
        ),
      );
    }
  });

  test("G12: shrinking zeroes past the new end in every group, under a higher lock epoch", async () => {
    const grant = grantOf(await call.open(client, ImageOpenMode.SHARED));
    // The first answers are of every kind that a retry cures.
    const moods = [Status.Busy, Status.Unknown, Status.MapStale, Status.Fenced, Status.Denied];
    for (const osd of osds) {
      osd.answer = (_, attempt) => ({ status: moods[attempt - 1] ?? Status.Ok });
    }
    const { status, body } = await mon.post("/pools/p/images/a:resize", { sizeBytes: 4096 });
    expect([status, body.image.sizeBytes, body.image.lockEpoch]).toEqual([202, 4096, 1]);
    await until("the holder is told", () => client.changes.length > 0);
    const busy = await mon.post("/pools/p/images/a:resize", { sizeBytes: 8192 });
    expect([busy.status, busy.body.code]).toEqual([409, "FB3006"]);
    const done = await mon.get(`/operations/${String(body.operation.id)}?waitMs=20000`);
    expect(done.body).toMatchObject({ state: "done", done: 4, total: 4 });
    const good = osds.flatMap((osd) => osd.writes).filter((write) => write.endsWith("Ok"));
    expect(good.length).toBe(4);
    for (const write of good) expect(write).toContain(` ${String(EntryType.Zero)} `);
    for (const write of good) expect(write).toMatch(/:0 \d+ 1\+255 lock1 Ok$/);
    const renewed = grantOf(await call.refresh(client, grant.session));
    expect(renewed).toMatchObject({ sizeBytes: 4096n, lockEpoch: 1, serial: 2 });
    expect((await mon.post("/pools/p/images/a:resize", { sizeBytes: 8192 })).status).toBe(200);
  });

  test("there is nothing to zero in a group that has the image removed", async () => {
    for (const osd of osds) osd.answer = () => ({ status: Status.Removed });
    const { body } = await mon.post("/pools/p/images/a:resize", { sizeBytes: 4096 });
    const done = await mon.get(`/operations/${String(body.operation.id)}?waitMs=5000`);
    expect(done.body).toMatchObject({ state: "done", done: 4, total: 4 });
  });

  test("a redirect is followed", async () => {
    osds[0]!.answer = () => ({ status: Status.NotLeader, leaderOsd: 1 });
    const { body } = await mon.post("/pools/p/images/a:resize", { sizeBytes: 4096 });
    const done = await mon.get(`/operations/${String(body.operation.id)}?waitMs=5000`);
    expect(done.body).toMatchObject({ state: "done" });
    const redirected = new Set(osds[0]!.writes.map((write) => write.split(" ")[0]!));
    expect(redirected.size).toBeGreaterThan(0);
    for (const pg of redirected) {
      expect(osds[1]!.writes.some((write) => write.startsWith(`${pg} `))).toBe(true);
    }
  });

  test("an answer that is final fails the operation, and health says so", async () => {
    for (const osd of osds) osd.answer = () => ({ status: Status.Invalid });
    const { body } = await mon.post("/pools/p/images/a:resize", { sizeBytes: 4096 });
    const done = await mon.get(`/operations/${String(body.operation.id)}?waitMs=5000`);
    expect(done.body).toMatchObject({ state: "failed" });
    expect(done.body.error).toMatch(/^group 1\.\d answered Invalid$/);
    expect((await mon.get("/health")).body.checks[0].code).toBe("OPERATION_STUCK");
    expect((await mon.get("/operations/99")).body.code).toBe("FB6001");
  });

  test("a group that forgot the session gets a new one", async () => {
    for (const osd of osds) {
      osd.answer = (_, attempt) => ({ status: attempt > 1 ? Status.Ok : Status.SessionExpired });
    }
    const { body } = await mon.ask("DELETE", "/api/v1/pools/p/images/a");
    await until("it ends", async () => {
      return (await mon.get(`/operations/${String(body.id)}`)).body.state === "done";
    });
    const sessions = osds.flatMap((osd) => osd.writes).map((write) => write.split(" ")[2]);
    expect(new Set(sessions).size).toBe(2);
  });

  test("an operation goes on after a restart of the monitor, under the same session", async () => {
    for (const osd of osds) osd.answer = () => ({ status: Status.Busy });
    const { body } = await mon.ask("DELETE", "/api/v1/pools/p/images/a");
    await until("it was tried", () => osds.some((osd) => osd.writes.length > 0));
    await mon.stopMonitor();
    for (const osd of osds) osd.answer = () => ({ status: Status.Ok });
    await mon.start();
    const done = await mon.get(`/operations/${String(body.id)}?waitMs=20000`);
    expect(done.body).toMatchObject({ state: "done", done: 4 });
    const sessions = osds.flatMap((osd) => osd.writes).map((write) => write.split(" ")[2]);
    expect(new Set(sessions).size).toBe(1);
    expect((await mon.get("/images")).body.items).toEqual([]);
  });
});

test("G18, N2: a peer with another key gets nowhere", async () => {
  const stranger = await mon.addOsd(0, { key: new Uint8Array(32).fill(1), registers: false });
  expect(await failureOf(stranger.register())).toMatchObject({ code: "FB1004" });
  await mon.addOsd(1);
  expect((await mon.get("/osds")).body.items.length).toBe(1);
});
