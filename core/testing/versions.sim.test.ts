/** G17: programs of two versions in one cluster (core/base/formats.ts, core/README.md, Versions). */
import { expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { FastblockError } from "../base/errors.ts";
import { FORMATS, type FormatRange } from "../base/formats.ts";
import { Client } from "../client/client.ts";
import { inspectStore } from "../pg/pg.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { MON_ADDRESS, SimCluster, type SimOsd } from "./sim-cluster.ts";
import { FORMATS_NEXT } from "./sim-versions.ts";

const MIB = 1_048_576;
const SECOND_US = 1_000_000;
const LIMIT_US = 60 * SECOND_US;

class Scene {
  readonly cluster: SimCluster;
  /** What the next osd or monitor runs; clients run the next version. */
  formats: FormatRange = FORMATS;
  clientFormats = FORMATS_NEXT;
  /** Why osds ended, in order. */
  readonly ends: FastblockError[] = [];

  constructor(seed: number) {
    this.cluster = new SimCluster(seed, {
      osds: 3,
      replicas: 3,
      pgCount: 4,
      imageBytes: MIB,
      checksum: new SystemChecksum(),
      drainMicrotasks,
      formatsOf: (who) => (who === "client" ? this.clientFormats : this.formats),
    });
    this.cluster.onFatal = (osd, error) => {
      if (!(error instanceof FastblockError)) throw error;
      const { world } = osd;
      this.ends.push(error);
      this.cluster.simulation.after(0, () => world?.crash());
      return true;
    };
    this.cluster.start();
    this.until("all groups serve", () => this.cluster.serving);
  }

  until(what: string, holds: () => boolean): void {
    if (!this.cluster.simulation.run(holds, LIMIT_US)) throw new Error(`in vain: ${what}`);
  }

  /** Another program is started over the store of an osd. */
  run(osd: SimOsd, formats: FormatRange): void {
    if (osd.world?.alive === true) osd.world.crash();
    this.formats = formats;
    this.cluster.startOsd(osd);
  }

  restart(osd: SimOsd, formats: FormatRange): void {
    osd.world!.crash();
    this.until("it is down", () => !this.cluster.isUp(osd));
    this.run(osd, formats);
    this.until("it is up", () => this.cluster.isUp(osd) && this.cluster.serving);
  }

  restartMonitor(formats: FormatRange): void {
    this.formats = formats;
    this.cluster.restartMonitor();
    const { osds } = this.cluster;
    this.until("all are up", () => osds.every((osd) => this.cluster.isUp(osd)));
  }

  raise(): void {
    this.cluster.await("raise", this.cluster.raiseFormat());
  }

  /** What stands in the superblock of an osd that does not run. */
  superblock(osd: SimOsd): { format: number; incarnation: number; copyA: boolean; copyB: boolean } {
    const { cluster } = this;
    const seen = cluster.await(
      "inspect",
      cluster.withDevice(osd, (world, disk) => inspectStore(world, disk, "superblock")),
    );
    return seen["superblock"] as ReturnType<Scene["superblock"]>;
  }
}

const text = (byte: number): Uint8Array => new Uint8Array(4096).fill(byte);

test("up and down while mixed: nothing is written that this version does not know", () => {
  const scene = new Scene(1);
  const { cluster } = scene;
  const image = cluster.await("open", cluster.client.openImage("pool/image"));
  let byte = 0;
  for (const formats of [FORMATS_NEXT, FORMATS, FORMATS_NEXT]) {
    for (const osd of cluster.osds) {
      scene.restart(osd, formats);
      byte += 1;
      cluster.await("write", image.write(0, text(byte)));
      expect(cluster.await("read", image.read(0, 4096))).toEqual(text(byte));
    }
    scene.restartMonitor(formats);
  }
  expect(cluster.clusterFormat).toBe(FORMATS.max);
  const [osd] = cluster.osds;
  osd!.world!.crash();
  expect(scene.superblock(osd!).format).toBe(FORMATS.max);
  expect(scene.ends).toEqual([]);
}, 60_000);

/** All run the next version; the format is raised. */
function raised(seed: number): Scene {
  const scene = new Scene(seed);
  for (const osd of scene.cluster.osds) scene.restart(osd, FORMATS_NEXT);
  scene.restartMonitor(FORMATS_NEXT);
  scene.raise();
  return scene;
}

test("the format is raised once everybody knows it, by one", () => {
  const scene = new Scene(2);
  const { cluster } = scene;
  const why = (): string => {
    try {
      scene.raise();
    } catch (error) {
      if (error instanceof FastblockError && error.code === "FB1016") return error.why ?? "";
      throw error;
    }
    return "";
  };
  expect(why()).toBe("not known to this mon, osd.0, osd.1, osd.2");
  scene.restartMonitor(FORMATS_NEXT);
  for (const osd of cluster.osds.slice(1)) scene.restart(osd, FORMATS_NEXT);
  expect(why()).toBe("not known to osd.0");
  scene.restart(cluster.osds[0]!, FORMATS_NEXT);
  // Down, and known to go on as the next version.
  cluster.osds[1]!.world!.crash();
  expect(why()).toBe("");
  expect(cluster.clusterFormat).toBe(FORMATS_NEXT.max);
  expect(why()).toBe("not known to this mon, osd.0, osd.1, osd.2, client");
}, 60_000);

test("once it was raised this version refuses the store, and changes nothing of it", () => {
  const scene = raised(3);
  const { cluster, ends } = scene;
  const [osd] = cluster.osds;
  // Every osd has the map, and its store says so.
  cluster.simulation.run(cluster.simulation.nowUs + SECOND_US);
  osd!.world!.powerCut();
  const disk = cluster.simulation.disk(osd!.path);
  const before = scene.superblock(osd!);
  expect(before).toMatchObject({ format: FORMATS_NEXT.max, copyA: true, copyB: true });
  const image = disk.image();
  scene.run(osd!, FORMATS);
  scene.until("it ends", () => osd!.world?.alive === false);
  expect(ends.map(({ code }) => code)).toEqual(["FB4003"]);
  expect(scene.superblock(osd!)).toEqual(before);
  expect(disk.image()).toEqual(image);
  scene.run(osd!, FORMATS_NEXT);
  scene.until("it is up", () => cluster.isUp(osd!) && cluster.serving);
}, 60_000);

test("a store that missed it is refused by the monitor, and is as it was", () => {
  const scene = new Scene(4);
  const { cluster, ends } = scene;
  for (const osd of cluster.osds) scene.restart(osd, FORMATS_NEXT);
  scene.restartMonitor(FORMATS_NEXT);
  const osd = cluster.osds[0]!;
  osd.world!.crash();
  scene.raise();
  scene.run(osd, FORMATS);
  scene.until("it ends", () => osd.world?.alive === false);
  expect(ends.map(({ code }) => code)).toEqual(["FB1016"]);
  expect(scene.superblock(osd).format).toBe(FORMATS.max);
  scene.run(osd, FORMATS_NEXT);
  scene.until("it is up", () => cluster.isUp(osd) && cluster.serving);
}, 60_000);

test("a client of this version is told why it can not follow", () => {
  const scene = raised(5);
  const { cluster } = scene;
  const world = cluster.simulation.createWorld("old", "10.0.0.250");
  const client = new Client({
    world,
    name: "old",
    clusterId: "11111111-2222-4333-8444-555555555555",
    psk: new Uint8Array(32).fill(7),
    mons: [{ host: MON_ADDRESS, port: 7400 }],
    bind: "10.0.0.250",
    formats: FORMATS,
  });
  world.start();
  let error: unknown;
  client.start().then(
    () => {
      error = "started";
    },
    (reason: unknown) => {
      error = reason;
    },
  );
  scene.until("it is answered", () => error !== undefined);
  expect(error).toMatchObject({ code: "FB1016" });
}, 60_000);

test("a catalogue that was restored to before the raise learns of it from the stores", () => {
  const scene = new Scene(6);
  const { cluster } = scene;
  for (const osd of cluster.osds) scene.restart(osd, FORMATS_NEXT);
  scene.restartMonitor(FORMATS_NEXT);
  const backup = cluster.copyCatalogue();
  scene.raise();
  cluster.simulation.run(cluster.simulation.nowUs + SECOND_US);
  cluster.restoreMonitor(backup);
  cluster.startMonitor();
  scene.until("it has gone on", () => cluster.health.size === 0 && cluster.pgs.length === 4);
  scene.until("it knows", () => cluster.clusterFormat === FORMATS_NEXT.max);
}, 60_000);
