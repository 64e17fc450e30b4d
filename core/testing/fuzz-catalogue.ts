// cold: fuzzing of decoders
import { assert } from "../base/assert.ts";
import { FastblockError } from "../base/errors.ts";
import { Catalogue, MemoryMetaStore } from "../mon/mon.ts";
import type { Timers } from "../reactor/world.ts";
import type { FuzzTarget } from "./fuzz.ts";
import type { FuzzPorts } from "./fuzz-traffic.ts";

const CLUSTER_ID = "11111111-2222-4333-8444-555555555555";
const STORE = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";
const GROUP = 65_536;
const decoder = new TextDecoder();
const encoder = new TextEncoder();

const replica = { replicaId: 1, osd: 3, storeUuid: STORE, shard: 0, leaving: false };

/** A catalogue with one row of each kind, each as full as it may be. */
const ROWS: Readonly<Record<string, object>> = {
  cluster: { clusterId: CLUSTER_ID, generation: 2, format: 1, restored: false },
  map: { epoch: 9, format: 2 },
  ids: { pool: 1, image: 5, layer: 5, session: 7, operation: 2 },
  "map/recovery": { speed: 2, paused: false, changeEpoch: 4 },
  "map/osd/3": {
    ...{ id: 3, storeUuid: STORE, host: "host-0", up: true, in: true, weight: 4096 },
    ...{ addresses: [{ host: "10.0.0.1", port: 7500 }], changeEpoch: 8 },
  },
  "map/pool/1": {
    ...{ id: 1, name: "pool", size: 1, pgCount: 1, objectBlocks: 1024 },
    ...{ failureDomain: "osd", changeEpoch: 2, generation: 1 },
  },
  [`map/pg/${GROUP}`]: {
    ...{ id: GROUP, lastChangeEpoch: 2, changeEpoch: 9, creating: false, leader: 1, leaderTerm: 6 },
    replicas: [replica, { ...replica, replicaId: 2, witness: true }],
    configuration: { index: 12, voters: [1, 2], outgoing: [], learners: [] },
  },
  "map/removed/2": { first: 2, last: 2, generation: 1, changeEpoch: 5 },
  "image/5": {
    ...{ id: 5, name: "disk", pool: 1, family: 5, layer: 5, sizeBytes: 1_073_741_824 },
    ...{ objectBlocks: 1024, snapSeq: 0, lockEpoch: 3, createdMs: 1_700_000_000_000 },
  },
  "session/7": {
    ...{ id: 7, image: 5, mode: "exclusive", client: "nbd.0", serial: 2, openedMs: 1.5 },
  },
  "osd/3": {
    ...{ id: 3, capacityBytes: 4_294_967_296, incarnation: 2, version: "1.2.3", backend: "file" },
    starts: [{ storeUuid: STORE, incarnation: 2, mark: 1, id: "0123456789abcdef" }],
    ...{ formatMax: 2, autoOut: false, firstSeenMs: 1 },
  },
  [`pg/${GROUP}`]: {
    ...{ id: GROUP, nextReplicaId: 3 },
    scrub: {
      ...{ lightMs: 1, deepMs: 2, deep: true, found: 2, healed: 1, left: 1 },
      blocks: [{ layer: 5, block: 77, undecided: true }],
    },
  },
  "operation/2": {
    ...{
      id: 2,
      kind: "image.shrink",
      state: "failed",
      title: "shrink pool/disk",
      pool: 1,
      image: 5,
    },
    ...{ layer: 5, session: 6, lockEpoch: 2, snapSeq: 0, firstBlock: 16, blocks: 16, groups: 1 },
    ...{ startedMs: 1, endedMs: 2, error: "FB3004" },
  },
};

const WORDS = [
  ...["null", "true", "false", "[]", "{}", '""', "-1", "0", "1.5", "1e999", "9007199254740993"],
  ...['"__proto__"', '"id"', '"replicas"', '"name"', "4294967296", '"up"', "65536", '"exclusive"'],
];
const CODES = ["FB4002", "FB4003", "FB4006"];

const NEVER: Timers = {
  arm() {},
  armPeriod() {},
  disarm() {},
};

/** One row of a catalogue is what the input says: its key, a line feed, its value. */
export function catalogueTarget({ drainMicrotasks }: FuzzPorts): FuzzTarget {
  const rows = Object.entries(ROWS).map(([key, row]) => ({ key, value: JSON.stringify(row) }));
  const settle = <Value>(promise: Promise<Value>): Value => {
    let value: Value | undefined;
    let failure: Error | undefined;
    promise.then(
      (one) => {
        value = one;
      },
      (error: unknown) => {
        failure = error instanceof Error ? error : new Error(String(error));
      },
    );
    drainMicrotasks();
    if (failure !== undefined) throw failure;
    return value as Value;
  };
  return {
    name: "catalogue",
    seeds: rows.map(({ key, value }) => encoder.encode(`${key}\n${value}`)),
    sizeMax: 4096,
    words: WORDS.map((word) => encoder.encode(word)),
    bytesMax: 262_144,
    run: (input) => {
      const text = decoder.decode(input);
      const at = text.indexOf("\n");
      if (at < 0) return false;
      const row = { key: text.slice(0, at), value: text.slice(at + 1) };
      const store = new MemoryMetaStore(NEVER);
      settle(store.commit({ compares: [], writes: [...rows, row] }));
      const catalogue = new Catalogue(
        store,
        () => ({ key: "leader", what: "create", revision: 0 }),
        () => {},
      );
      try {
        settle(catalogue.load(CLUSTER_ID));
      } catch (error) {
        if (!(error instanceof FastblockError)) throw error;
        assert(CODES.includes(error.code), `catalogue: ${error.code}: ${error.message}`);
        const isNamed = error.code !== "FB4006" || error.message.includes(`row ${row.key}:`);
        assert(isNamed || isOfSeveral(error), `catalogue: which row? ${error.message}`);
        return false;
      }
      checkServes(catalogue);
      settle(catalogue.change((change) => change.changeMap({})));
      return true;
    },
  };
}

/** What is wrong may be what two good rows say together. */
function isOfSeveral({ message }: FastblockError): boolean {
  return message.includes("row map: ") || message.includes(`row map/pg/${GROUP}: its pool`);
}

/** Everything that was loaded stands under its own number, and a full map can be told. */
function checkServes(catalogue: Catalogue): void {
  const { map, images, sessions, osds, pgs, operations } = catalogue;
  for (const kind of [map.osds, map.pools, map.pgs, images, sessions, osds, pgs, operations]) {
    for (const [id, one] of kind) {
      assert(Number.isSafeInteger(id) && one.id === id, "catalogue: a row under another number");
    }
  }
  for (const { replicas } of map.pgs.values()) {
    assert(Array.isArray(replicas), "catalogue: a group without a list of replicas");
  }
  for (const { addresses } of map.osds.values()) {
    for (const { host, port } of addresses) {
      assert(typeof host === "string" && port >= 0 && port <= 65_535, "catalogue: no address");
    }
  }
  for (const image of images.values()) {
    assert(catalogue.imageByName(image.pool, image.name) !== undefined, "catalogue: a lost name");
    assert(Number.isSafeInteger(catalogue.nextLockEpoch(image)), "catalogue: no lock epoch");
  }
  assert(map.deltaFrom(0, 0) !== undefined, "catalogue: no map is told");
}
