/**
 * Old copies of a store among shards that have no monitor: three osds with one group or a few, whose
 * map was made by hand, ask each other before they serve.
 */
import { describe, expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { create, toBinary } from "@bufbuild/protobuf";
import { BLOCK_SIZE } from "../base/units.ts";
import { uuidBytes, uuidText } from "../base/uuid.ts";
import { formatStore, type StoreStart } from "../pg/pg.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { Simulation, type SimWorld } from "../reactor/reactor.ts";
import { MapUpdateSchema } from "../../proto/gen/control_pb.ts";
import { Admission, OsdShard } from "./osd.ts";

const CLUSTER_ID = "11111111-2222-4333-8444-555555555555";
const MIB = 1_048_576;
const DEVICE_BYTES = 256 * MIB;
const OSDS = 3;
const GROUPS = 4;
const PORT = 7500;
const SECOND_US = 1_000_000;
const LIMIT_US = 20 * SECOND_US;
/** A store that serves has counted on by then. */
const MARK_SECONDS = 310;

/** One osd: its device, what it keeps beside it, and its process. */
interface Osd {
  readonly id: number;
  readonly address: string;
  readonly path: string;
  storeUuid: string;
  /** The file of peers' starts; survives crashes as the device does. */
  readonly kept: Map<string, StoreStart>;
  world: SimWorld | null;
  shard: OsdShard | null;
  serves: boolean;
  isAlone: boolean;
  /** Why it ended by itself; empty: it has not. */
  refusal: string;
}

class Cluster {
  readonly simulation: Simulation;
  readonly osds: Osd[] = [];
  /** Somebody heard of a start of this osd's store. */
  onTold: (osd: Osd) => void = () => {};
  private readonly key = new Uint8Array(32).fill(7);
  private readonly admission: Admission[] = [];
  private map: Uint8Array = new Uint8Array(0);

  constructor(seed: number) {
    this.simulation = new Simulation(seed, {
      drainMicrotasks,
      checksum: new SystemChecksum(),
      arenaBytes: 96 * MIB,
    });
    for (let id = 0; id < OSDS; id++) {
      this.osds.push({
        id,
        address: `10.0.0.${String(id + 1)}`,
        path: `/osd.${String(id)}`,
        storeUuid: "",
        kept: new Map(),
        world: null,
        shard: null,
        serves: false,
        isAlone: false,
        refusal: "",
      });
    }
  }

  /** Format all devices, and start everybody. */
  begin(): void {
    let formatted = 0;
    for (const osd of this.osds) {
      const failed = (error: unknown): void => this.simulation.fail("format", error);
      this.format(osd).then(() => (formatted += 1), failed);
    }
    this.until("all devices are formatted", () => formatted === OSDS);
    this.map = this.mapOf();
    for (const osd of this.osds) this.start(osd);
    this.until("all serve", () => this.settled);
  }

  until(what: string, holds: () => boolean): void {
    if (!this.simulation.run(holds, LIMIT_US)) throw new Error(`in vain: ${what}`);
  }

  pass(us: number): void {
    this.simulation.run(this.simulation.nowUs + us);
  }

  /** Every osd serves, every group has a leader and one commit index. */
  get settled(): boolean {
    return this.osds.every((osd) => osd.serves) && this.isCommon(this.osds);
  }

  isCommon(osds: readonly Osd[]): boolean {
    const groups = osds.map((osd) => osd.shard!.pg.groups);
    if (groups.some((of) => of.size !== GROUPS)) return false;
    return [...groups[0]!.rowsOf().keys()].every((pg) => {
      const replicas = groups.map((of) => of.get(pg)!);
      const commit = replicas[0]!.commitIndex;
      const leads = replicas.filter((group) => group.isLeader && group.serving);
      return (
        commit > 0 && leads.length === 1 && replicas.every((one) => one.commitIndex === commit)
      );
    });
  }

  crash(osd: Osd): void {
    osd.world!.crash();
    osd.serves = false;
  }

  /** Start the process of an osd: as `osd run` does, with a monitor that is not there. */
  start(osd: Osd): void {
    const world = this.simulation.createWorld(`osd.${String(osd.id)}`, osd.address);
    osd.world = world;
    osd.serves = false;
    osd.isAlone = false;
    osd.refusal = "";
    const shard = this.newShard(osd, world);
    osd.shard = shard;
    world.start();
    this.run(osd, world, shard).catch((error: unknown) => this.simulation.fail(world.name, error));
  }

  private newShard(osd: Osd, world: SimWorld): OsdShard {
    return new OsdShard({
      world,
      logger: world.logger,
      disk: world.disks.open(osd.path, { shard: 0 }),
      clusterId: CLUSTER_ID,
      clusterKey: this.key,
      osd: osd.id,
      shard: 0,
      shardCount: 1,
      bind: osd.address,
      port: PORT,
      peerStarts: [...osd.kept],
      host: {
        onFatal: (error) => this.simulation.fail(world.name, error),
        onNews: () => {},
        onParked: () => {},
        onVerdict: (from, verdict) => this.admission[osd.id]?.hearPeer(from, verdict),
        onPeerStart: (storeUuid, start) => {
          osd.kept.set(storeUuid, start);
          this.onTold(this.osds.find((one) => one.storeUuid === storeUuid)!);
        },
        onMapWanted: () => {},
        onPeerMap: () => {},
      },
    });
  }

  private async run(osd: Osd, world: SimWorld, shard: OsdShard): Promise<void> {
    await shard.open();
    if (!world.alive) return;
    const admission = new Admission(world, shard.identity, {
      record: (starts) => shard.recordStarts(starts),
      serve: (starts) => {
        if (!world.alive) return;
        osd.serves = true;
        shard.serve(starts);
      },
      alone: () => (osd.isAlone = true),
      refuse: (error) => {
        osd.refusal = (error as { code: string }).code;
        this.crash(osd);
      },
    });
    this.admission[osd.id] = admission;
    shard.listen();
    shard.onMap(this.map);
    admission.begin(this.osds.filter((one) => one !== osd).map((one) => one.id));
    admission.hearMonitor({ kind: "absent" });
  }

  private async format(osd: Osd): Promise<void> {
    const world = this.simulation.createWorld(`osd.${String(osd.id)}`, osd.address);
    world.start();
    const disk = world.disks.open(osd.path, { createBytes: DEVICE_BYTES });
    const { storeUuid } = await formatStore({
      world,
      disk,
      clusterId: uuidBytes(CLUSTER_ID),
      osd: osd.id,
      shardCount: 1,
      logBytes: 16 * MIB,
    });
    osd.storeUuid = uuidText(uuidBytes(storeUuid));
    disk.close();
    await world.stop();
  }

  private mapOf(): Uint8Array {
    const pgs = Array.from({ length: GROUPS }, (_, at) => ({
      id: 65_536 + at,
      lastChangeEpoch: 1,
      changeEpoch: 1,
      creating: true,
      replicas: this.osds.map(({ id, storeUuid }) => ({
        replicaId: id + 1,
        osd: id,
        storeUuid,
        shard: 0,
      })),
    }));
    const osds = this.osds.map(({ id, storeUuid, address }) => ({
      id,
      storeUuid,
      host: address,
      up: true,
      in: true,
      weight: 1,
      addresses: [{ host: address, port: PORT }],
    }));
    const pools = [
      { id: 1, name: "pool", size: 3, pgCount: GROUPS, objectBlocks: 1024, failureDomain: "osd" },
    ];
    const update = { generation: 1, fromEpoch: 0, epoch: 1, full: true, osds, pools, pgs };
    return toBinary(MapUpdateSchema, create(MapUpdateSchema, update));
  }
}

function clusterOf(seed: number): { cluster: Cluster; victim: Osd } {
  const cluster = new Cluster(seed);
  cluster.begin();
  return { cluster, victim: cluster.osds[2]! };
}

describe("without a monitor", () => {
  test("osds that all start at once vouch for each other, and one alone waits", () => {
    const { cluster } = clusterOf(1);
    for (const osd of cluster.osds) cluster.crash(osd);
    const [first, second] = cluster.osds as [Osd, Osd];
    cluster.start(first);
    cluster.until("it is alone", () => first.isAlone);
    cluster.pass(5 * SECOND_US);
    expect(first.serves).toBe(false);
    cluster.start(second);
    cluster.until("two serve", () => first.serves && second.serves);
    cluster.until("their groups serve", () => cluster.isCommon([first, second]));
  });

  test("N22: an old copy is refused by peers, also by those that were off, the right disk never", () => {
    const { cluster, victim } = clusterOf(2);
    const disk = cluster.simulation.disk(victim.path);
    cluster.crash(victim);
    const old = disk.image();
    cluster.start(victim);
    cluster.until("all serve", () => cluster.settled);
    cluster.crash(victim);
    const right = disk.image();

    disk.restore(old);
    const others = cluster.osds.filter((osd) => osd !== victim);
    for (let times = 0; times < 40; times++) {
      // Both were off: they know it from what they keep.
      if (times === 20) for (const osd of others) cluster.crash(osd);
      if (times === 20) for (const osd of others) cluster.start(osd);
      cluster.start(victim);
      cluster.until("it is refused", () => victim.refusal !== "");
      expect(victim.refusal).toStartWith("FB4004");
      expect(victim.serves).toBe(false);
    }
    cluster.until("the others serve", () => cluster.isCommon(others));

    disk.restore(right);
    cluster.start(victim);
    cluster.until("all serve", () => cluster.settled);
  });

  test("one that an ignorant peer took is ended by a peer that knows, once that is there", () => {
    const { cluster, victim } = clusterOf(3);
    const [knows, ignorant] = cluster.osds as [Osd, Osd];
    const disk = cluster.simulation.disk(victim.path);
    cluster.crash(victim);
    cluster.crash(ignorant);
    const old = disk.image();
    cluster.start(victim);
    cluster.until("two serve", () => victim.serves && cluster.isCommon([knows, victim]));
    cluster.crash(victim);
    cluster.crash(knows);
    disk.restore(old);
    cluster.start(ignorant);
    cluster.start(victim);
    cluster.until("it is taken", () => victim.serves);
    cluster.start(knows);
    cluster.until("it is refused", () => victim.refusal !== "");
  });

  test("a copy of a running store is refused once the store has counted on", () => {
    const { cluster, victim } = clusterOf(5);
    const disk = cluster.simulation.disk(victim.path);
    cluster.pass(10 * SECOND_US);
    const old = disk.image();
    cluster.pass(MARK_SECONDS * SECOND_US);
    cluster.crash(victim);
    const right = disk.image();
    disk.restore(old);
    cluster.start(victim);
    cluster.until("it is refused", () => victim.refusal !== "");
    disk.restore(right);
    cluster.start(victim);
    cluster.until("all serve", () => cluster.settled);
  });

  test.each([0, DEVICE_BYTES - BLOCK_SIZE])(
    "a superblock damaged at %d locks nobody out",
    (offset) => {
      const { cluster, victim } = clusterOf(6);
      for (let times = 0; times < 2; times++) {
        cluster.crash(victim);
        cluster.simulation.disk(victim.path).poke(offset, new Uint8Array(BLOCK_SIZE).fill(0xa5));
        cluster.start(victim);
        cluster.until("all serve", () => cluster.settled);
      }
    },
  );

  test("an osd that dies as soon as anybody hears of its start is taken again", () => {
    const { cluster, victim } = clusterOf(4);
    for (let times = 0; times < 40; times++) {
      if (victim.world!.alive) cluster.crash(victim);
      let isDead = false;
      cluster.onTold = (osd) => {
        if (osd !== victim || isDead) return;
        isDead = true;
        cluster.simulation.after(0, () => cluster.crash(victim));
      };
      cluster.start(victim);
      cluster.until("it is dead", () => !victim.world!.alive);
      expect(victim.refusal).toBe("");
    }
    cluster.onTold = () => {};
    cluster.start(victim);
    cluster.until("all serve", () => cluster.settled);
  });

  test.each([11, 12, 13, 14, 15, 16])(
    "crashes at any moment of a start lock nobody out (%d)",
    (seed) => {
      const { cluster } = clusterOf(seed);
      const random = cluster.simulation.newRandom(1);
      for (let round = 0; round < 40; round++) {
        const osd = cluster.osds[random.below(OSDS)]!;
        if (osd.world!.alive) cluster.crash(osd);
        cluster.pass(random.below(20_000));
        cluster.start(osd);
        cluster.pass(random.below(random.below(4) === 0 ? 2 * SECOND_US : 60_000));
        for (const one of cluster.osds) expect(one.refusal).toBe("");
      }
      cluster.until("all serve", () => cluster.settled);
    },
  );
});
