/** A simulated cluster is at rest only with everybody there (`sim-check.ts`). */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { Status, statusName } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { type Image, LEADER, OpKind, PromisedOp } from "../client/client.ts";
import type { Group } from "../pg/pg.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { unrest } from "./sim-check.ts";
import { groupsOf, SimCluster, type SimOsd } from "./sim-cluster.ts";

const LIMIT_US = 20_000_000;
/** Until somebody starts an osd that lost its power: the monitor takes it for up all the while. */
const DOWN_US = 100_000;
const STAMP = 7;
const TRIES_MAX = 100;

let cluster: SimCluster;
let image: Image;
/** A follower that has applied all, and has lost its power since. */
let away: SimOsd;

beforeEach(() => {
  cluster = new SimCluster(4, {
    osds: 3,
    replicas: 3,
    pgCount: 1,
    imageBytes: 1_048_576,
    checksum: new SystemChecksum(),
    drainMicrotasks,
  });
  cluster.start();
  image = cluster.await("open", cluster.client.openImage("pool/image"));
  run(OpKind.Write, LEADER, STAMP);
  rest();
  away = cluster.osds.find((osd) => !groupOf(osd).isLeader)!;
  away.world!.powerCut();
  away.session = null;
});

afterEach(() => cluster.simulation.dispose());

function groupOf(osd: SimOsd): Group {
  return groupsOf(osd)[0]!;
}

/** Of the first block; answers the first byte of what was written or read. */
function run(kind: OpKind, replica: number, stamp: number): number {
  const { bytes } = cluster.clientWorld.arena;
  const op = new PromisedOp();
  op.kind = kind;
  op.replica = replica;
  op.lengthBytes = BLOCK_SIZE;
  op.arenaOffset = cluster.clientWorld.arena.allocate(BLOCK_SIZE);
  bytes.fill(stamp, op.arenaOffset, op.arenaOffset + BLOCK_SIZE);
  // Until the connection to the machine that lost its power ends, a replica there can not be reached.
  let status = Status.Unreachable;
  for (let tries = 0; status === Status.Unreachable && tries < TRIES_MAX; tries++) {
    status = cluster.await("operation", image.run(op));
  }
  expect(statusName(status)).toBe("Ok");
  return bytes[op.arenaOffset]!;
}

function rest(): void {
  const { simulation } = cluster;
  expect(simulation.run(() => unrest(cluster) === "", LIMIT_US)).toBe(true);
}

test("who lost its power is not at rest, before the monitor misses it", () => {
  expect(cluster.isUp(away)).toBe(true);
  expect(unrest(cluster)).toBe(`osd.${String(away.id)} is down`);
});

test("who comes back is at rest once its own store shows again what it had applied", () => {
  cluster.simulation.after(DOWN_US, () => cluster.startOsd(away));
  rest();
  const replica = cluster.pgs[0]!.replicas.findIndex((one) => one.osd === away.id);
  expect(groupOf(away).appliedIndex).toBe(groupOf(away).node.log.lastIndex);
  expect(run(OpKind.Read, replica, 0)).toBe(STAMP);
});
