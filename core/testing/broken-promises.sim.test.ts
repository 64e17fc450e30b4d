/**
 * G19 where no turn sees it: a violated invariant in work that goes on in promises ends the process by
 * the one fatal path, at once. Errors that are logged do not count here (`errorsAllowed`).
 */
import { create } from "@bufbuild/protobuf";
import { afterEach, describe, expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { MapUpdateSchema } from "../../proto/gen/control_pb.ts";
import { AssertionError } from "../base/assert.ts";
import { BlockState } from "../object/object.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import type { SimWorld } from "../reactor/reactor.ts";
import { SimCluster, type SimOsd } from "./sim-cluster.ts";

const PLANTED = "an invariant is broken";
const LIMIT_US = 20_000_000;
/** Not known yet: the read is answered that its block is damaged. */
const HEALING_WAITING = 2;

/** What is private, by its name: the places are met far too rarely otherwise. */
interface Inside {
  [name: string]: Inside & ((...parameters: unknown[]) => unknown);
}

function inside(object: object): Inside {
  return object as unknown as Inside;
}

function plant(object: object, name: string): void {
  Object.assign(object, { [name]: () => Promise.reject(new AssertionError(PLANTED)) });
}

function plantThrow(object: object, name: string): void {
  Object.assign(object, {
    [name]: () => {
      throw new AssertionError(PLANTED);
    },
  });
}

/** Plants the bug and makes the code come by; answers the process that must end. */
type Place = (cluster: SimCluster, osd: SimOsd) => SimWorld;

const groupOf = (osd: SimOsd): object => [...osd.shard!.pg.groups.values()][0]!;

const PLACES: Readonly<Record<string, Place>> = {
  "a checkpoint": (_, osd) => {
    const { store } = osd.shard!.pg;
    plant(inside(store)["background"]!["checkpointer"]!, "run");
    store.requestCheckpoint();
    return osd.world!;
  },
  "the end of a store": (cluster, osd) => {
    const { world } = osd;
    plant(inside(osd.shard!.pg.store)["background"]!, "finish");
    cluster.stopOsd(osd).catch(() => undefined);
    return world!;
  },
  "a fill, a scrub": (_, osd) => {
    osd.shard!.onBroken(new AssertionError(PLANTED));
    return osd.world!;
  },
  "a raise of the format": (_, osd) => {
    plant(osd.shard!.pg.store, "raiseFormat");
    inside(osd.shard!)["raiseFormat"]!(1000);
    return osd.world!;
  },
  "the healer": (_, osd) => {
    const healer = inside(osd.shard!)["healer"]!;
    plant(healer, "healOnce");
    healer["heal"]!({ group: groupOf(osd), layer: 1, block: 1, snapSeq: 1, version: 1 });
    return osd.world!;
  },
  "a read that was healed": (_, osd) => {
    const requests = inside(osd.shard!)["requests"]!;
    plantThrow(requests, "replyRead");
    const healer = { heal: () => Promise.resolve(HEALING_WAITING) };
    Object.assign(requests, { healer });
    const op = { blocks: 1, states: [BlockState.Damaged], versions: [1], group: groupOf(osd) };
    requests["healRead"]!(op);
    return osd.world!;
  },
  "payloads that are fetched": (_, osd) => {
    const faulty = inside(osd.shard!)["faulty"]!;
    plant(faulty, "look");
    const one = { group: groupOf(osd), pauseUs: 0, dueUs: 0, leaderlessSinceUs: 0, looking: false };
    (faulty["watched"] as unknown as Map<unknown, unknown>).set(one.group, one);
    faulty["tick"]!();
    return osd.world!;
  },
  "a map of a peer": (_, osd) => {
    const maps = inside(osd.shard!)["maps"]!;
    Object.assign(maps, {
      calls: { call: () => Promise.resolve({ update: create(MapUpdateSchema) }) },
    });
    plantThrow(maps["host"]!, "onPeerMap");
    maps["ask"]!([{}]);
    return osd.world!;
  },
  "a map that a peer's shard handed on": (_, osd) => {
    plantThrow(osd.session!, "onMapUpdate");
    osd.session!.hear(new Uint8Array());
    return osd.world!;
  },
  "a report": (_, osd) => {
    plant(inside(osd.session!)["options"]!["host"]!, "collect");
    osd.session!.reportNow();
    return osd.world!;
  },
  "a registration": (_, osd) => {
    plant(osd.session!, "register");
    inside(osd.session!)["onOpen"]!();
    return osd.world!;
  },
  "a goodbye": (_, osd) => {
    const { world } = osd;
    plant(osd.session!, "sendReport");
    osd.session!.stop().catch(() => undefined);
    return world!;
  },
  "an admission": (_, osd) => {
    const admission = inside(osd.admission!);
    plant(admission["host"]!, "record");
    admission["record"]!([]);
    return osd.world!;
  },
  "a session of a client": (cluster) => {
    const services = inside(cluster.client)["inner"]!;
    plant(services, "refresh");
    services["refreshQuietly"]!({});
    return cluster.clientWorld;
  },
  "a session that is renewed": (cluster) => {
    const services = inside(cluster.client)["inner"]!;
    plant(services, "renewing");
    services["renew"]!({ onRenewed: () => undefined }, false);
    return cluster.clientWorld;
  },
  "a map of a client": (cluster) => {
    const mon = inside(cluster.client)["inner"]!["mon"]!;
    plant(mon, "subscribe");
    mon["onOpen"]!(mon["connection"]);
    return cluster.clientWorld;
  },
  "a message to the monitor": (cluster, osd) => {
    plantThrow(cluster.monitor.osds, "report");
    osd.session!.reportNow();
    return cluster.monWorld;
  },
  "an operation": (cluster) => {
    const { operations } = cluster.monitor;
    plant(operations, "runAll");
    operations.start({ id: 1, pool: 99, title: "" } as never);
    return cluster.monWorld;
  },
  "the record of an operation": (cluster) => {
    const { operations } = cluster.monitor;
    plant(operations, "record");
    operations.start({ id: 1, pool: 99, title: "" } as never);
    return cluster.monWorld;
  },
  "the catalogue": (cluster) => {
    plant(inside(cluster.monitor.catalogue)["store"]!, "commit");
    const pool = { name: "other", size: 3, pgCount: 1, failureDomain: "osd" as const };
    cluster.monitor.pools
      .create(pool, false)
      .catch((error: unknown) => inside(cluster.monitor)["failUnlessPassing"]!(error));
    return cluster.monWorld;
  },
};

let cluster: SimCluster | null = null;

afterEach(() => {
  cluster?.simulation.dispose();
  cluster = null;
});

describe("a broken invariant ends the process that meets it in", () => {
  for (const [name, place] of Object.entries(PLACES)) {
    test(name, () => {
      cluster = new SimCluster(1, {
        osds: 3,
        replicas: 3,
        pgCount: 1,
        imageBytes: 1_048_576,
        checksum: new SystemChecksum(),
        errorsAllowed: true,
        drainMicrotasks,
      });
      cluster.start();
      const { simulation, osds } = cluster;
      const world = place(cluster, osds[0]!);
      expect(() => simulation.run(simulation.nowUs + LIMIT_US)).toThrow(PLANTED);
      expect(world.alive).toBe(false);
    });
  }
});
