import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { runInNewContext } from "node:vm";
import type {
  ImageView,
  OperationView,
  OsdView,
  PgView,
  PoolView,
  StatusView,
} from "../core/mon/mon.ts";

/** The page's script on a document of plain objects, with answers of the types that REST has. */

const PAGE = readFileSync(join(import.meta.dir, "status.html"), "utf8");
const SCRIPT = /<script>([\s\S]*)<\/script>/.exec(PAGE)![1]!;

class Node {
  textContent = "";
  className = "";
  title = "";
  children: Node[] = [];

  append(...nodes: Node[]): void {
    this.children.push(...nodes);
  }

  replaceChildren(...nodes: Node[]): void {
    this.children = nodes;
  }

  get text(): string {
    return [this.textContent, ...this.children.map((one) => one.text)].filter(Boolean).join("|");
  }
}

class Page {
  readonly nodes = new Map<string, Node>();
  readonly body = new Node();
  title = "";
  hidden = false;
  nowMs = 1_000_000;
  isDown = false;
  metrics = "";
  private next: (() => Promise<void>) | undefined;
  private readonly answers: Readonly<Record<string, unknown>>;

  constructor(answers: Readonly<Record<string, unknown>>) {
    this.answers = answers;
    for (const match of PAGE.matchAll(/ id="([a-z]+)"/g)) this.nodes.set(match[1]!, new Node());
  }

  getElementById(id: string): Node | undefined {
    return this.nodes.get(id);
  }

  createElement(): Node {
    return new Node();
  }

  text(id: string): string {
    return this.nodes.get(id)!.text;
  }

  /** Run the script once, or its next round. */
  async round(): Promise<void> {
    if (this.next === undefined) {
      const nowMs = (): number => this.nowMs;
      class PageDate extends Date {
        static override now = nowMs;
      }
      const setTimeout = (next: () => Promise<void>): void => {
        this.next = next;
      };
      runInNewContext(SCRIPT, { document: this, fetch: this.fetch, setTimeout, Date: PageDate });
      while (this.next === undefined) await new Promise((done) => setImmediate(done));
    } else await this.next();
  }

  private readonly fetch = (path: string): Promise<unknown> => {
    if (this.isDown) return Promise.reject(new Error("refused"));
    const answer = this.answers[path];
    return Promise.resolve({
      ok: path === "/metrics" || answer !== undefined,
      status: 404,
      json: () => Promise.resolve(answer),
      text: () => Promise.resolve(this.metrics),
    });
  };
}

const CHECK = { code: "OSD_DOWN", severity: "warn", summary: "1 of 2 osds are down" } as const;

const STATUS: StatusView = {
  cluster: { id: "x", name: "dev" },
  health: { status: "warn", checks: [{ ...CHECK, details: [], hint: "start it" }] },
  version: "0.1.0",
  backend: "uring",
  backends: { mons: { uring: 1 }, osds: { uring: 2 }, clients: {} },
  map: { generation: 1, epoch: 12 },
  mons: { total: 1, leader: "mon.a" },
  osds: { total: 2, up: 1, in: 2 },
  pgs: { total: 2, byState: { creating: 0, active: 1, degraded: 1, down: 0, leaderless: 0 } },
  pools: 1,
  images: 1,
  sessions: 1,
  operations: 0,
  capacity: { totalBytes: 2 ** 30, usedBytes: 2 ** 20, freeBytesBeneath: null },
};
const IMAGE = {
  path: "p/<b>",
  sizeBytes: 2 ** 30,
  allocatedBytes: 2 ** 20,
  usedBytes: 3 * 2 ** 20,
  sessions: [
    { id: 1, client: "nbd.0", mode: "shared", alive: true, since: "" },
    { id: 2, client: "nbd.1", mode: "shared", alive: false, since: "" },
  ],
} satisfies Partial<ImageView>;
const POOL = {
  name: "p",
  size: 3,
  pgCount: 32,
  images: 1,
  provisionedBytes: 2 ** 30,
  usedBytes: 3 * 2 ** 20,
  pgs: { active: 31, other: 1 },
} satisfies Partial<PoolView>;
const OSD = {
  id: 1,
  host: "h",
  up: false,
  in: true,
  usedBytes: 5,
  capacityBytes: "9007199254740993",
  logUsedBytes: 0,
  logCapacityBytes: 2 ** 20,
  replicas: 7,
  witnesses: 2,
  leaders: 3,
  reportAgeMs: null,
} satisfies Partial<OsdView>;
const PG = {
  id: "1.0",
  pool: "p",
  state: "degraded",
  leaderOsd: 0,
  osds: [0, 1],
  witnesses: [2],
} satisfies Partial<PgView>;
const OPERATION = {
  id: 4,
  title: "remove p/x",
  state: "failed",
  done: 1,
  total: 32,
  waitingFor: ["1.4: Unreachable"],
} satisfies Partial<OperationView>;

function newPage(): Page {
  return new Page({
    "/api/v1/status": STATUS,
    "/api/v1/images": { items: [IMAGE] },
    "/api/v1/pools": { items: [POOL] },
    "/api/v1/osds": { items: [OSD] },
    "/api/v1/pgs": { items: [PG, { ...PG, state: "active", leaderOsd: null }] },
    "/api/v1/operations": { items: [OPERATION] },
  });
}

test("health, pools, images, osds, groups and operations are shown as REST tells them", async () => {
  const page = newPage();
  await page.round();
  expect(page.text("health")).toBe("warn");
  expect(page.text("checks")).toBe("OSD_DOWN: 1 of 2 osds are down. start it");
  expect(page.text("summary")).toContain("1 of 2 osds up, 1 sessions, 1.0 MiB of 1.0 GiB used");
  expect(page.text("images")).toBe("p/<b>|1.0 GiB|1.0 MiB|3.0 MiB|nbd.0 (shared)");
  expect(page.text("pools")).toBe("p|3|31 of 32|1|1.0 GiB|3.0 MiB");
  expect(page.text("osds")).toBe("osd.1|h|down, in|5 B of 8.0 PiB|0 B of 1.0 MiB|7|2|3|never");
  expect(page.text("states")).toBe("1 active, 1 degraded");
  expect(page.nodes.get("pgs")!.children.map((one) => one.className)).toEqual([
    "degraded",
    "active",
  ]);
  expect(page.nodes.get("pgs")!.children[0]!.title).toBe(
    "1.0 of p: degraded, led by osd.0, on osd.0, osd.1, witness osd.2",
  );
  expect(page.text("operations")).toBe("4: remove p/x|failed|1 of 32|1.4: Unreachable");
  expect(page.body.className).toBe("");
});

test("rates are of the time between two looks", async () => {
  const page = newPage();
  const count = (writes: number): string =>
    `fastblock_osd_ops_total{osd="0",op="write",result="ok"} ${writes}\n` +
    `fastblock_osd_ops_total{osd="1",op="write",result="ok"} ${writes}\n` +
    `fastblock_osd_ops_total{osd="1",op="read",result="ok"} 5\n`;
  page.metrics = count(100);
  await page.round();
  expect(page.text("rates")).toBe("");
  page.nowMs += 2000;
  page.metrics = count(600);
  await page.round();
  expect(page.text("rates")).toBe("500 writes and 0 reads per second at the osds");
});

test("figures that the mon no longer answers for turn grey", async () => {
  const page = newPage();
  await page.round();
  page.isDown = true;
  page.nowMs += 2000;
  await page.round();
  expect(page.text("health")).toBe("no answer (refused)");
  expect(page.body.className).toBe("");
  page.nowMs += 20_000;
  await page.round();
  expect(page.body.className).toBe("old");
  page.isDown = false;
  await page.round();
  expect(page.text("health")).toBe("warn");
  expect(page.body.className).toBe("");
});
