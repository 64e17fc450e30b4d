import { describe, expect, test } from "bun:test";
import { Command } from "@commander-js/extra-typings";
import { FastblockError } from "../base/errors.ts";
import { buildTree, CliContext, type CliPorts, type HttpRequest, runCli } from "./cli.ts";
import { complete, completionScript } from "./completion.ts";

interface Answer {
  readonly status?: number;
  readonly body: unknown;
}

/** Ports with a mon of the given answers: `METHOD path` → answer. */
class TestPorts implements CliPorts {
  outText = "";
  errText = "";
  readonly outIsTty = false;
  readonly errIsTty = false;
  readonly environment = {};
  readonly directoryDefault = "/nowhere";
  readonly versions = { fastblock: "1.2.3" };
  readonly asked: HttpRequest[] = [];
  readonly programs: CliPorts["programs"] = {} as CliPorts["programs"];
  mons = [{ host: "127.0.0.1", port: 7480 }];
  private readonly answers: Readonly<Record<string, Answer | (() => Answer)>>;

  constructor(answers: Readonly<Record<string, Answer | (() => Answer)>> = {}) {
    this.answers = answers;
  }

  out(text: string): void {
    this.outText += text;
  }

  err(text: string): void {
    this.errText += text;
  }

  readMons(directory: string): readonly { host: string; port: number }[] {
    if (directory === "/nowhere" || directory === "/c") return this.mons;
    throw new FastblockError("FB1005", `looking for a cluster: ${directory} holds no cluster.json`);
  }

  http(request: HttpRequest) {
    this.asked.push(request);
    const url = new URL(request.url);
    if (url.port === "1") return Promise.reject(new Error("connection refused"));
    const key = `${request.method} ${url.pathname.replace("/api/v1", "")}${url.search}`;
    const found = this.answers[key];
    const answer = typeof found === "function" ? found() : found;
    if (answer === undefined) return Promise.resolve({ status: 404, body: "" });
    return Promise.resolve({ status: answer.status ?? 200, body: JSON.stringify(answer.body) });
  }

  yaml(value: unknown): string {
    return Bun.YAML.stringify(value);
  }

  style(_kind: string, text: string): string {
    return text;
  }

  ask(): Promise<string> {
    return Promise.resolve("");
  }

  sleep(): Promise<void> {
    this.now += 1000;
    return Promise.resolve();
  }

  pass(ms: number): void {
    this.now += ms;
  }

  /** As of a real clock: with fractions, and never the same. */
  nowMs(): number {
    this.now += 0.125;
    return this.now;
  }

  private now = 0;
}

async function run(ports: TestPorts, line: string): Promise<number | "serving"> {
  return runCli(line === "" ? [] : line.split(" "), ports);
}

const POOL = { id: 1, name: "demo", size: 3, pgCount: 32, failureDomain: "osd" };

describe("commands", () => {
  test("a list comes from the mon, as a table or as it was said", async () => {
    const ports = new TestPorts({ "GET /pools": { body: { items: [POOL] } } });
    expect(await run(ports, "pool ls")).toBe(0);
    expect(ports.outText).toMatch(/^NAME +SIZE +PGS .*\ndemo +3 +32 +osd/);
    ports.outText = "";
    expect(await run(ports, "-o json pool ls")).toBe(0);
    expect(JSON.parse(ports.outText)).toEqual([POOL]);
    ports.outText = "";
    expect(await run(ports, "pool ls -o name")).toBe(0);
    expect(ports.outText).toBe("demo\n");
  });

  test("osds are shown with their replicas and, beside them, their witnesses", async () => {
    const osd = { host: "h", up: true, in: true };
    const items = [
      { ...osd, id: 0, pgs: 12, replicas: 8, witnesses: 4, leaders: 3 },
      { ...osd, id: 1, pgs: 9, replicas: 9, witnesses: 0, leaders: 5 },
    ];
    const ports = new TestPorts({ "GET /osds": { body: { items } } });
    expect(await run(ports, "osd ls --columns osd,replicas,witnesses,leaders")).toBe(0);
    expect(ports.outText).toMatch(/^OSD +REPLICAS +WITNESSES +LEADERS\nosd.0 +8 +4 +3\nosd.1 +9/);
    ports.outText = "";
    expect(await run(ports, "osd tree --columns node,replicas,witnesses,leaders,pgs")).toBe(0);
    expect(ports.outText).toMatch(/\nh +17 +4 +8 +21\n +osd.0 +8 +4 +3 +12\n/);
  });

  test("pg info says how old the word of each replica is, and that the leader's osd is down", async () => {
    const replica = { shard: 0, leaving: false, witness: false, usedBytes: 0 };
    const replicas = [
      {
        replicaId: 1,
        osd: 4,
        ...replica,
        osdUp: false,
        reportAgeMs: 75_040,
        toldAgeMs: 90_000,
        role: "leader",
      },
      {
        replicaId: 2,
        osd: 5,
        ...replica,
        osdUp: true,
        reportAgeMs: 400,
        toldAgeMs: 3400,
        role: "follower",
      },
      {
        replicaId: 3,
        osd: 6,
        ...replica,
        osdUp: false,
        reportAgeMs: null,
        toldAgeMs: null,
        role: "unknown",
      },
    ];
    const group = { id: "1.0", leaderOsd: null as number | null, leaderReplica: 1, replicas };
    const ports = new TestPorts({ "GET /pgs/1.0": { body: group } });
    expect(await run(ports, "pg info 1.0")).toBe(0);
    expect(ports.outText).toContain(
      "leader         none: osd.4, which led last, is down (heard 75.0 s ago)\n",
    );
    expect(ports.outText).toMatch(/UP +HEARD +TOLD +ROLE\n.* no +75.0 s +90.0 s +was leader\n/);
    expect(ports.outText).toMatch(/ yes +0.4 s +3.4 s +follower\n.* no +- +- +unknown\n/);
    ports.outText = "";
    group.leaderOsd = 5;
    group.leaderReplica = 2;
    expect(await run(ports, "pg info 1.0")).toBe(0);
    expect(ports.outText).toContain("leader         osd.5\n");
  });

  test("a backend is one word when the command and all osds agree, else mixed", async () => {
    for (const [osds, told] of [
      ["uring", "uring"],
      ["file", "mixed"],
      ["mixed", "mixed"],
    ] as const) {
      const ports = new TestPorts({ "GET /status": { body: { backend: osds } } });
      const root = new Command("fastblock");
      expect(await new CliContext(ports, root).backendWith("uring")).toBe(told);
    }
  });

  test("words about a change go to standard error, its data to standard output", async () => {
    const ports = new TestPorts({ "POST /pools": { status: 201, body: POOL } });
    expect(await run(ports, "pool create demo --size 3")).toBe(0);
    expect(ports.outText).toBe("");
    expect(ports.errText).toBe("pool demo is created, 3 replicas\n");
    expect(JSON.parse(ports.asked[0]!.body!)).toEqual({ name: "demo", size: 3 });
    expect(await run(ports, "-q -o json pool create demo --size 3")).toBe(0);
    expect(JSON.parse(ports.outText)).toEqual(POOL);
  });

  test("recovery shows the dial and how far replicas are, and turns it", async () => {
    const both = { pool: "demo", unitsDone: 3, unitsLeft: 5, pass: 1, amplification: 1.5 };
    const bytes = { bytesLeft: 327_680, bytesDiffering: 8192, bytesCopied: 12_288 };
    const replicas = [
      { pg: "1.0", osd: 2, stage: "difference", entriesLeft: 0, etaSeconds: 7, ...both, ...bytes },
      { pg: "1.1", osd: 2, stage: "log", entriesLeft: 40, etaSeconds: null, pool: "demo" },
    ];
    const status = { speed: "low", paused: true, replicas };
    const ports = new TestPorts({
      "GET /recovery": { body: status },
      "PATCH /recovery": { body: { ...status, paused: false } },
    });
    expect(await run(ports, "recovery status")).toBe(0);
    expect(ports.errText).toBe("speed low, paused: 2 replicas are on the way back\n");
    const cells = ports.outText.split("\n").map((line) => line.trim().split(/ {2,}/));
    expect(cells[1]).toEqual([
      "1.0",
      "demo",
      "osd.2",
      "difference",
      "3",
      "320 KiB",
      "-",
      "8 KiB",
      "12 KiB",
      "1.5",
      "7 s",
    ]);
    expect(cells[2]).toEqual(["1.1", "demo", "osd.2", "log", "-", "-", "40", "-", "-", "-", "-"]);
    ports.outText = "";
    expect(await run(ports, "recovery status -o json")).toBe(0);
    expect(JSON.parse(ports.outText)).toEqual(status);
    for (const [line, body] of [
      ["recovery pause", { paused: true }],
      ["recovery resume", { paused: false }],
      ["recovery speed high", { speed: "high" }],
    ] as const) {
      expect(await run(ports, line)).toBe(0);
      expect(JSON.parse(ports.asked[ports.asked.length - 1]!.body!)).toEqual(body);
    }
    expect(await run(ports, "recovery speed fast")).toBe(2);
  });

  test("a trace is started, ended and shown as a table, as a list, and drawn", async () => {
    const figures = { count: 9, meanUs: 400, p50Us: 380.5, p99Us: 1200, maxUs: 2000 };
    const row = { kind: "write", what: "in words", ...figures };
    const stages = [
      { ...row, stage: "replicate", within: null, who: "leader", share: 0.75 },
      { ...row, stage: "log-write", within: "replicate", who: "leader", share: 0.5 },
      { ...row, stage: "total", within: null, who: "all", share: 1 },
    ];
    const op = {
      ...{ kind: "write", pg: "1.4", session: 5, number: 7, totalUs: 2000, leader: "osd.2" },
      ...{ slowestFollower: null, stagesUs: { request: 40, replicate: 1500 }, lanes: [], bars: [] },
    };
    const off = { state: "never", writes: 0, reads: 0, rowsLost: 0, stages: [], typical: null };
    const on = {
      ...{ ...off, state: "on", sample: 100, startedAt: "2026-01-31T12:00:00.000Z" },
      ...{ secondsLeft: 42, writes: 9, stages, typical: op, slowest: [op] },
    };
    let isOn = false;
    const ports = new TestPorts({
      "GET /trace?slowest=1": () => ({ body: isOn ? on : off }),
      "GET /trace?slowest=5": { body: on },
      "POST /trace": { body: on },
      "DELETE /trace": { body: { ...on, state: "ended" } },
    });
    expect(await run(ports, "trace show")).toBe(0);
    expect(ports.errText).toBe("no trace was taken: fastblock trace start\n");
    expect(await run(ports, "trace show --svg /nowhere/x.svg")).toBe(3);
    expect(ports.errText).toContain("drawing a trace: 0 operations with all stages, wanted one");
    ports.errText = "";
    isOn = true;
    expect(await run(ports, "trace start --sample 100 --time 90s")).toBe(0);
    expect(JSON.parse(ports.asked.at(-1)!.body!)).toEqual({ sample: 100, timeMs: 90_000 });
    expect(ports.errText).toBe("1 operation in 100 is traced for 90 s: fastblock trace show\n");
    ports.errText = "";
    ports.outText = "";
    expect(await run(ports, "trace show")).toBe(0);
    expect(ports.errText).toBe(
      "the trace of 1 in 100 goes on for 42 s: 9 writes, 0 reads\n" +
        "a write takes 400 µs in the mean: replicate 75.0 %\n",
    );
    expect(ports.outText).toMatch(/^OP +STAGE +WHO +COUNT +P50 +P99 +MAX +SHARE\n/);
    expect(ports.outText).toMatch(
      /\nwrite +replicate +leader +9 +38[01].* µs +1.2 ms +2 ms +75.0 %\n/,
    );
    expect(ports.outText).toMatch(/\nwrite {4}log-write /);
    ports.outText = "";
    expect(await run(ports, "trace show --slowest 5")).toBe(0);
    expect(ports.outText).toMatch(/\nwrite +1.4 +2 ms +40 µs +1.5 ms +- +osd.2 +-\n/);
    ports.outText = "";
    expect(await run(ports, "trace show -o json")).toBe(0);
    expect(JSON.parse(ports.outText)).toEqual(on);
    expect(await run(ports, "trace stop")).toBe(0);
    for (const wrong of ["start --sample 0", "start --time x", "show --slowest 101"]) {
      expect(await run(ports, `trace ${wrong}`)).toBe(2);
    }
  });

  test("pg scrub waits until what it ordered is done, and fails when something is left", async () => {
    let looks = 0;
    const ports = new TestPorts({
      "POST /pgs/1.0:scrub": { status: 202, body: {} },
      "GET /pgs": () => {
        looks += 1;
        const running = looks < 3 ? "deep" : null;
        const scrub = { running, last: "now", lastDeep: "now", found: 3, healed: 2, left: 1 };
        return { body: { items: [{ id: "1.0", pool: "p", scrub }] } };
      },
    });
    expect(await run(ports, "pg scrub 1.0 --deep")).toBe(1);
    expect(JSON.parse(ports.asked[0]!.body!)).toEqual({ deep: true });
    expect(ports.outText).toMatch(/^PG +POOL +RUNNING +FOUND .*\n1\.0 +p +- +3 +2 +1 /);
    expect(ports.errText).toContain("FB2204");
    looks = 0;
    expect(await run(ports, "pg scrub 1.0 --no-wait")).toBe(0);
    expect(looks).toBe(1);
    looks = Number.NEGATIVE_INFINITY;
    ports.errText = "";
    expect(await run(ports, "pg scrub 1.0 --timeout 5s")).toBe(7);
    expect(ports.errText).toContain("hint  it goes on: fastblock pg ls -o wide\n");
    expect(await run(ports, "pg scrub")).toBe(2);
    expect(await run(ports, "pg scrub 1.0 --all")).toBe(2);
  });

  test("pg replace waits until the old replica has left, unless --no-wait", async () => {
    const stages = [
      { joining: [3], leaving: [1] },
      { joining: [], leaving: [1] },
      { joining: [], leaving: [] },
    ];
    let looks = 0;
    const ports = new TestPorts({
      "POST /pgs/1.0:replaceReplica": { status: 202, body: { id: "1.0", ...stages[0] } },
      "GET /pgs/1.0": () => ({ body: { id: "1.0", ...stages[Math.min(2, looks++)] } }),
    });
    expect(await run(ports, "pg replace 1.0 --from 1 --to 3")).toBe(0);
    expect(looks).toBe(3);
    expect(ports.errText).toBe("group 1.0 has moved from osd.1 to osd.3\n");
    expect(await run(ports, "pg replace 1.0 --from 1 --to 3 --no-wait")).toBe(0);
    expect(looks).toBe(3);
  });

  test("a choice that there is not is refused with those that there are", async () => {
    const ports = new TestPorts({});
    expect(await run(ports, "pool create demo --size 3 --failure-domain rack")).toBe(2);
    expect(ports.errText).toContain("Allowed choices are osd, host.");
  });

  test("a value that can not be read is told with its option", async () => {
    const ports = new TestPorts({});
    expect(await run(ports, "image create p/a --size 1XB")).toBe(2);
    expect(ports.errText).toContain("reading --size: 1XB, wanted a number of bytes, KiB");
    ports.errText = "";
    expect(await run(ports, "pool ls --timeout soon")).toBe(2);
    expect(ports.errText).toContain("reading --timeout: soon, wanted a number like 30s");
  });

  test("a dry run asks for one", async () => {
    const ports = new TestPorts({ "POST /pools?dryRun=true": { body: POOL } });
    expect(await run(ports, "pool create demo --size 3 --dry-run")).toBe(0);
    expect(ports.errText).toStartWith("dry run, nothing changed: ");
  });

  test("an error of the mon keeps its code and exit code", async () => {
    const body = { code: "FB2002", detail: "creating pool demo: it exists", status: 409 };
    const ports = new TestPorts({ "POST /pools": { status: 409, body } });
    expect(await run(ports, "pool create demo --size 3")).toBe(4);
    expect(ports.outText).toBe("");
    expect(ports.errText).toStartWith("error FB2002: creating pool demo: it exists\n  hint ");
    ports.errText = "";
    expect(await run(ports, "pool create demo --size 3 -o json")).toBe(4);
    const json = JSON.parse(ports.errText) as { error: { code: string } };
    expect(json.error.code).toBe("FB2002");
    for (const flag of ["-o yaml", "-oyaml", "--output yaml", "--output=yaml"]) {
      ports.errText = "";
      expect(await run(ports, `pool create demo --size 3 ${flag}`)).toBe(4);
      expect(Bun.YAML.parse(ports.errText)).toEqual(json);
    }
  });

  test("the next mon is asked when one can not be reached", async () => {
    const ports = new TestPorts({ "GET /pools": { body: { items: [] } } });
    ports.mons = [
      { host: "127.0.0.1", port: 1 },
      { host: "::1", port: 7480 },
    ];
    expect(await run(ports, "pool ls")).toBe(0);
    expect(ports.asked.map(({ url }) => new URL(url).host)).toEqual(["127.0.0.1:1", "[::1]:7480"]);
    ports.mons = [{ host: "127.0.0.1", port: 1 }];
    expect(await run(ports, "pool ls")).toBe(5);
    expect(ports.errText).toContain("FB1004");
  });

  test("a long operation is waited for; its failure is told", async () => {
    let looks = 0;
    const operation = { id: 7, kind: "image.remove", state: "running", title: "x" };
    const ports = new TestPorts({
      "DELETE /pools/p/images/a": { status: 202, body: operation },
      "GET /operations/7": () => ({
        body: { ...operation, state: ++looks < 3 ? "running" : "done" },
      }),
    });
    expect(await run(ports, "image rm p/a --yes")).toBe(0);
    expect(looks).toBe(3);
    expect(await run(ports, "image rm p/a --no-wait --yes")).toBe(0);
    expect(ports.errText).toContain("fastblock op wait 7");
    const failing = new TestPorts({
      "GET /operations/7": { body: { ...operation, state: "failed", error: "no space" } },
    });
    expect(await run(failing, "op wait 7")).toBe(1);
    expect(failing.errText).toContain("why   no space");
    const slow = new TestPorts({ "GET /operations/7": { body: operation } });
    expect(await run(slow, "op wait 7 --timeout 5s")).toBe(7);
  });

  test("removing several images goes on after a failure and exits with 9", async () => {
    const ports = new TestPorts({
      "DELETE /pools/p/images/a": { status: 404, body: { code: "FB3001", detail: "no a" } },
      "DELETE /pools/p/images/b": { status: 200, body: {} },
    });
    expect(await run(ports, "image rm p/a p/b --yes")).toBe(9);
    expect(ports.errText).toContain("p/a: no a\n");
    expect(ports.errText).toContain("image p/b is removed\n");
    expect(await run(ports, "image rm p/a --yes")).toBe(3);
  });

  test("mons are listed with addresses and uptime, whoever does not lead without", async () => {
    const place = { state: "up", leader: true, version: "0.1.0", backend: "uring", id: 0 };
    const at = (port: number) => ({ host: "10.0.0.1", port });
    const items = [
      { ...place, name: "mon.a", control: at(7400), http: at(7480), uptimeMs: 7_384_000 },
      {
        ...{ name: "mon.b", state: "unknown", leader: false, version: null, backend: null, id: 1 },
        ...{ control: at(7401), http: at(7481), uptimeMs: null },
      },
    ];
    const ports = new TestPorts({ "GET /monitors": { body: { items } } });
    expect(await run(ports, "mon ls")).toBe(0);
    expect(ports.outText).toBe(
      "MON    STATE    LEADER  CONTROL        HTTP              UPTIME  VERSION  BACKEND\n" +
        "mon.a  up       yes     10.0.0.1:7400  10.0.0.1:7480  2 h 3 min  0.1.0    uring\n" +
        "mon.b  unknown  no      10.0.0.1:7401  10.0.0.1:7481          -  -        -\n",
    );
    ports.outText = "";
    expect(await run(ports, "mon ls -o name")).toBe(0);
    expect(ports.outText).toBe("mon.a\nmon.b\n");
  });

  test("pg transfer-leader says who leads, asks as long as --timeout, and tells why not", async () => {
    const path = "POST /pgs/1.0:transferLeader";
    const lead = new TestPorts({ [path]: { body: { id: "1.0", leaderOsd: 2 } } });
    const bodies = (ports: TestPorts): unknown[] =>
      ports.asked.map(({ body }) => JSON.parse(body!) as unknown);
    expect(await run(lead, "pg transfer-leader 1.0 --to osd.2 --timeout 5s")).toBe(0);
    expect(lead.errText).toBe("osd.2 leads group 1.0\n");
    expect(bodies(lead)).toEqual([{ osd: 2, waitMs: 5000 }]);
    expect(await run(lead, "--no-wait pg transfer-leader 1.0 --to osd.2")).toBe(0);
    expect(lead.errText).toContain("group 1.0 is asked to move its leader to osd.2\n");
    expect(bodies(lead)[1]).toEqual({ osd: 2, waitMs: 0 });
    const why = "osd 0 leads it on";
    const late: TestPorts = new TestPorts({
      [path]: () => {
        late.pass((bodies(late).at(-1) as { waitMs: number }).waitMs);
        return { status: 504, body: { code: "FB1006", detail: "osd 2 does not lead yet", why } };
      },
    });
    expect(await run(late, "pg transfer-leader 1.0 --to 2 --timeout 70s")).toBe(7);
    expect(bodies(late)).toEqual([30_000, 30_000, 10_000].map((waitMs) => ({ osd: 2, waitMs })));
    expect(late.errText).toContain(`  why   ${why}\n`);
  });

  test("space is shown by image, the largest first", async () => {
    const [small, large] = [
      { path: "p/a", allocatedBytes: 65_536, usedBytes: 196_608, usedAgeMs: 4 },
      { path: "p/b", allocatedBytes: 1_048_576, usedBytes: 3_145_728, usedAgeMs: 2000 },
    ].map((one) => ({ ...one, sizeBytes: 1_048_576 }));
    const ports = new TestPorts({
      "GET /images?pool=p&fresh=true": { body: { items: [small, large] } },
      "GET /pools/p/images/a?fresh=true": { body: small },
      "GET /images?fresh=true": { body: { items: [small, { ...large, usedAgeMs: 35_000 }] } },
      "GET /pools/p/images/b?fresh=true": { body: { ...large, usedAgeMs: null } },
    });
    expect(await run(ports, "image du p")).toBe(0);
    expect(ports.outText).toBe(
      "IMAGE   SIZE  ALLOCATED  SHARE     USED\n" +
        "p/b    1 MiB      1 MiB  100 %    3 MiB\n" +
        "p/a    1 MiB     64 KiB  6.3 %  192 KiB\n",
    );
    expect(ports.errText).toBe("");
    ports.outText = "";
    expect(await run(ports, "image du p/a -o json")).toBe(0);
    expect(JSON.parse(ports.outText)).toEqual([small]);
    await run(ports, "image du");
    expect(ports.errText).toBe("an osd does not answer: its share is as it was 35.0 s ago\n");
    await run(ports, "image du p/b");
    expect(ports.errText).toContain("an osd was not heard since the mon runs");
  });

  test("an operation is shown and its cancelling refused by its number", async () => {
    const refusal = { code: "FB6002", detail: "cancelling operation 7: running", why: "it works" };
    const ports = new TestPorts({
      "GET /operations/7": { body: { id: 7, kind: "image.remove", state: "running" } },
      "POST /operations/7:cancel": { status: 409, body: refusal },
    });
    expect(await run(ports, "op show 7 -o name")).toBe(0);
    expect(ports.outText).toBe("7\n");
    expect(await run(ports, "op cancel 7")).toBe(8);
    expect(ports.errText).toContain("why   it works");
    expect(await run(ports, "op show x")).toBe(2);
  });

  test("an image does not leave its pool by a new name", async () => {
    const ports = new TestPorts();
    expect(await run(ports, "image rename p/a q/b")).toBe(2);
    expect(ports.errText).toContain("renaming p/a: q/b, wanted a name in p");
  });

  test("the mon that answers a status is its name", async () => {
    const status = { mons: { total: 1, leader: "mon.a" }, map: {}, version: "1" };
    const ports = new TestPorts({ "GET /status": { body: status } });
    expect(await run(ports, "mon status -o name")).toBe(0);
    expect(ports.outText).toBe("mon.a\n");
  });

  test("an address that is none is refused, not tried", async () => {
    for (const api of ["foo", "ftp://a:1", "http://", "http://a:1/b"]) {
      const ports = new TestPorts({});
      expect(await run(ports, `status --api ${api}`)).toBe(2);
      expect(ports.errText).toContain(`reading --api: ${api}, wanted`);
    }
  });

  test("roles that keep data are told where", async () => {
    for (const line of ["mon run", "osd run --name osd.1"]) {
      const ports = new TestPorts();
      expect(await run(ports, line)).toBe(2);
      expect(ports.errText).toContain("no --data, wanted the ");
    }
  });

  test("what destroys data is not done by a script without --yes, nor under another name", async () => {
    for (const line of ["image rm p/a", "pool rm p", "image resize p/a --size 4KiB"]) {
      const ports = new TestPorts({
        "GET /pools/p/images/a": { body: { path: "p/a", sizeBytes: 8192 } },
        "POST /pools/p/images/a:resize?dryRun=true": { body: {} },
      });
      expect(await run(ports, line)).toBe(8);
      expect(ports.errText).toContain("error FB1013");
      expect(ports.errText).toContain("no terminal to ask on, wanted --yes");
      Object.assign(ports, { errIsTty: true, outIsTty: true, errText: "" });
      expect(await run(ports, line)).toBe(8);
      expect(ports.errText).toContain("not confirmed, wanted p");
      const changes = ports.asked.filter(({ method }) => method !== "GET");
      expect(changes.filter(({ url }) => !url.endsWith("?dryRun=true"))).toEqual([]);
    }
  });

  test("nobody is asked about a smaller size that would be refused", async () => {
    const body = { code: "FB3003", detail: "resizing image p/a: 100 bytes, wanted a multiple" };
    const ports = new TestPorts({
      "GET /pools/p/images/a": { body: { path: "p/a", sizeBytes: 8192 } },
      "POST /pools/p/images/a:resize?dryRun=true": { status: 400, body },
    });
    expect(await run(ports, "image resize p/a --size 100")).toBe(2);
    expect(ports.errText).toStartWith("error FB3003: resizing image p/a: 100 bytes");
  });

  test("a refusal that can not be forced is told with those that can", async () => {
    const ports = new TestPorts({});
    expect(await run(ports, "image rm p/a --yes --force FB9")).toBe(2);
    expect(ports.errText).toMatch(
      /^error FB1001: .*'FB9' is invalid\. Allowed choices are FB3005\./,
    );
    expect(ports.asked).toEqual([]);
  });

  test("a smaller size is confirmed, a larger one is not", async () => {
    const ports = new TestPorts({
      "GET /pools/p/images/a": { body: { path: "p/a", sizeBytes: 8192 } },
      "POST /pools/p/images/a:resize?dryRun=true": { body: {} },
      "POST /pools/p/images/a:resize": { body: { image: {}, operation: null } },
    });
    expect(await run(ports, "image resize p/a --size 4KiB --yes")).toBe(0);
    expect(await run(ports, "image resize p/a --size 16KiB")).toBe(0);
  });

  test("health --check answers as Nagios wants", async () => {
    const code = (status: string) =>
      run(new TestPorts({ "GET /health": { body: { status, checks: [] } } }), "health --check");
    expect(await code("ok")).toBe(0);
    expect(await code("warn")).toBe(1);
    expect(await code("error")).toBe(2);
    expect(await run(new TestPorts(), "health --check")).toBe(3);
  });

  test("the page shows three details of a check, health all of them, --check a line", async () => {
    const details = ["1.0", "1.1", "1.2", "1.3"];
    const check = { code: "PG_DOWN", severity: "error", summary: "4 down", details, hint: "start" };
    const health = { status: "error", checks: [check] };
    const shown = async (line: string): Promise<string> => {
      const answers = { "GET /health": { body: health }, "GET /status": { body: { health } } };
      const ports = new TestPorts(answers);
      await run(ports, line);
      return ports.outText;
    };
    const page = "    1.0\n    1.1\n    1.2\n    and more: fastblock health\n    hint  start\n";
    expect(await shown("status")).toContain(page);
    expect(await shown("health")).toContain("    1.2\n    1.3\n    hint  start\n");
    expect(await shown("health --check")).toBe("error  PG_DOWN: 4 down\n");
    expect(JSON.parse(await shown("health --check -o json"))).toEqual(health);
  });

  test.each([
    [{ mons: { file: 1 }, osds: { uring: 3 }, clients: {} }, "uring"],
    [{ mons: { file: 1 }, osds: { uring: 2, file: 1 }, clients: {} }, "osds 2 uring 1 file"],
    [
      { mons: { file: 1 }, osds: { uring: 1 }, clients: { file: 2 } },
      "osds 1 uring, clients 2 file",
    ],
  ])(
    "the page tells one backend when all agree, else who has which: %j",
    async (backends, text) => {
      const ports = new TestPorts({ "GET /status": { body: { backends } } });
      await run(ports, "status");
      expect(ports.outText).toContain(`\nbackend     ${text}\n`);
    },
  );
});

describe("usage", () => {
  test.each([
    ["crate", "unknown command 'crate'"],
    ["image crate p/b", "unknown command 'crate'"],
    ["pool create demo", "required option '--size <replicas>' not specified"],
    ["pool create demo --size many", "reading --size: many, wanted 1 to 6"],
    ["image create p/b --size many", "reading --size: many"],
    ["pool ls --colums x", "unknown option '--colums'"],
    ["pool ls -o xml", "argument 'xml' is invalid"],
  ])("%p exits with 2 and says why", async (line, why) => {
    const ports = new TestPorts();
    expect(await run(ports, line)).toBe(2);
    expect(ports.errText).toStartWith("error FB1001: ");
    expect(ports.errText).toContain(why);
    expect(ports.outText).toBe("");
  });

  test.each([
    ["status --columns name", "--columns"],
    ["pg info 1.0 --sort id --filter a=b", "--sort, --filter"],
    ["op wait 7 -o json --columns id", "--columns"],
    ["image verify p/a --columns equal", "--columns"],
  ])("%p: the flags of lists are refused before anything is asked", async (line, flags) => {
    const ports = new TestPorts();
    expect(await run(ports, line)).toBe(2);
    expect(ports.errText).toContain(`${flags}, wanted none of the flags of lists`);
    expect(ports.asked).toEqual([]);
  });

  test("a near miss is guessed", async () => {
    const ports = new TestPorts();
    await run(ports, "poool ls");
    expect(ports.errText).toContain("hint  Did you mean pool?\n");
  });

  test("a verb that is none of a noun's is told which there are", async () => {
    const ports = new TestPorts();
    await run(ports, "--cluster /c pool rename a b");
    expect(ports.errText).toContain("hint  pool knows create, ls, info, explain, rm\n");
    await run(ports, "pool crate a");
    expect(ports.errText).toContain("hint  Did you mean create? pool knows create, ls,");
  });

  test("a directory without a cluster exits with 3", async () => {
    const ports = new TestPorts();
    expect(await run(ports, "pool ls --cluster /none")).toBe(3);
    expect(ports.errText).toContain("FB1005");
  });

  test("help and version are data", async () => {
    const ports = new TestPorts();
    expect(await run(ports, "pool create --help")).toBe(0);
    expect(ports.outText).toContain("Usage: fastblock pool create [options] <NAME>");
    ports.outText = "";
    expect(await run(ports, "--version")).toBe(0);
    expect(ports.outText).toBe("1.2.3\n");
    ports.outText = "";
    expect(await run(ports, "version")).toBe(0);
    expect(ports.outText).toBe("fastblock 1.2.3\n");
  });

  test("help goes down to the command that is named, by its alias as well", async () => {
    for (const [words, usage] of [
      ["image create", "image create [options] <POOL/IMAGE>"],
      ["image list", "image ls|list [options] [POOL]"],
      ["client nbd serve", "client nbd serve [options] [POOL/IMAGE...]"],
      ["image", "image|volume [options] [command]"],
      ["", "[options] [command]"],
    ] as const) {
      const ports = new TestPorts();
      expect(await run(ports, `help ${words}`.trim())).toBe(0);
      expect(ports.outText).toStartWith(`Usage: fastblock ${usage}\n`);
    }
    const ports = new TestPorts();
    expect(await run(ports, "help image crate")).toBe(2);
    expect(ports.errText).toContain("image has no command crate, wanted create, ls, ");
  });

  test("help names the words that an argument takes", async () => {
    const ports = new TestPorts();
    expect(await run(ports, "recovery speed --help")).toBe(0);
    expect(ports.outText).toContain('(choices: "low", "medium", "high")');
  });

  test("every help points to what all commands share", async () => {
    const ports = new TestPorts();
    expect(await run(ports, "image du --help")).toBe(0);
    expect(ports.outText).toContain("Options of every command, and exit codes: fastblock --help");
  });

  test("a noun without a verb shows its help and exits with 2", async () => {
    const ports = new TestPorts();
    expect(await run(ports, "pool")).toBe(2);
    expect(ports.errText).toContain("Usage: fastblock pool");
  });
});

describe("completion", () => {
  const ports = new TestPorts();
  const root = new Command("fastblock");
  buildTree(root, new CliContext(ports, root), { first() {}, last() {} });
  const live = {
    names: (kind: string) => Promise.resolve(kind === "POOL" ? ["demo", "fast"] : []),
  };
  const words = async (...typed: string[]): Promise<readonly string[] | "file"> => {
    const found = await complete(root, typed, live);
    return found === "file" ? "file" : found.map((one) => one.word);
  };

  test("nouns, verbs, options, choices and live names are offered", async () => {
    expect(await words("po")).toEqual(["pool"]);
    expect(await words("pool", "c")).toEqual(["create"]);
    expect(await words("pool", "create", "--s")).toEqual(["--size", "--sort"]);
    expect(await words("-o", "y")).toEqual(["yaml"]);
    expect(await words("pool", "ls", "--output=j")).toEqual(["--output=json", "--output=jsonl"]);
    expect(await words("pool", "info", "f")).toEqual(["fast"]);
    expect(await words("pool", "rm", "")).toEqual(["demo", "fast"]);
    expect(await words("completion", "")).toEqual(["bash", "zsh", "fish"]);
  });

  test("an option's value does not count as a word of the command", async () => {
    expect(await words("--cluster", "/x", "pool", "l")).toEqual(["ls"]);
    expect(await words("pool", "create", "demo", "")).toEqual([]);
  });

  test("files are left to the shell", async () => {
    expect(await words("--cluster", "")).toBe("file");
    expect(await words("osd", "fsck", "--data", "")).toBe("file");
  });

  test("hidden commands are not offered", async () => {
    expect(await words("__")).toEqual([]);
    const text = new TestPorts();
    expect(await run(text, "__complete -- pool c")).toBe(0);
    expect(text.outText).toBe("create\tcreate a pool\n");
  });
});

test("completion scripts parse in their shells", () => {
  for (const shell of ["bash", "zsh", "fish"] as const) {
    const script = completionScript(shell);
    expect(script).toContain("__complete");
    if (Bun.which(shell) === null) continue;
    const check = Bun.spawnSync([shell, "-n", "/dev/stdin"], { stdin: Buffer.from(script) });
    expect(`${shell}: ${check.stderr.toString()}${check.exitCode}`).toBe(`${shell}: 0`);
  }
});
