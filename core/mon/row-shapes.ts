import { FastblockError } from "../base/errors.ts";
import { poolOfPg, type PgId } from "../base/ids.ts";
import { isFailureDomain, isName } from "../cluster/cluster.ts";
import type { MetaRow } from "./meta-store.ts";

/**
 * What the rows of the catalogue look like. The monitor alone writes them; but a disk may rot, and people
 * may put right by hand what they should not. A row that is not what it must be is told by its key
 * (FB4006), before anybody believes a word of it. What is there beside what is wanted is let alone.
 */

/** Answers what is wrong with a value, as `PLACE is SEEN, wanted WHAT`; empty: nothing is. */
type Shape = (value: unknown, place: string) => string;

const U32_MAX = 0xffff_ffff;

function wrong(value: unknown, place: string, wanted: string): string {
  const seen = (JSON.stringify(value) ?? "absent").slice(0, 64);
  return `${place} is ${seen}, wanted ${wanted}`;
}

function whole(min = 0, max: number = Number.MAX_SAFE_INTEGER): Shape {
  return (value, place) => {
    const fits =
      Number.isSafeInteger(value) && (value as number) >= min && (value as number) <= max;
    return fits ? "" : wrong(value, place, `a whole number from ${String(min)} to ${String(max)}`);
  };
}

/** Of a wall clock: whole or not. */
const time: Shape = (value, place) =>
  typeof value === "number" && value >= 0 ? "" : wrong(value, place, "a time");
const text: Shape = (value, place) =>
  typeof value === "string" ? "" : wrong(value, place, "a text");
const flag: Shape = (value, place) =>
  typeof value === "boolean" ? "" : wrong(value, place, "true or false");
const name: Shape = (value, place) =>
  typeof value === "string" && isName(value) ? "" : wrong(value, place, "a name");
const domain: Shape = (value, place) =>
  typeof value === "string" && isFailureDomain(value) ? "" : wrong(value, place, "osd or host");
const power: Shape = (value, place) => {
  const fits =
    whole(1, 65_536)(value, place) === "" && Number.isInteger(Math.log2(value as number));
  return fits ? "" : wrong(value, place, "a power of two up to 65536");
};

function oneOf(...words: readonly string[]): Shape {
  return (value, place) =>
    words.includes(value as string) ? "" : wrong(value, place, words.join(" or "));
}

function maybe(shape: Shape): Shape {
  return (value, place) => (value === undefined ? "" : shape(value, place));
}

function list(shape: Shape): Shape {
  return (value, place) => {
    if (!Array.isArray(value)) return wrong(value, place, "a list");
    for (const [at, one] of value.entries()) {
      const what = shape(one, `${place}[${String(at)}]`);
      if (what !== "") return what;
    }
    return "";
  };
}

function object(fields: Readonly<Record<string, Shape>>): Shape {
  const shapes = Object.entries(fields);
  return (value, place) => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      return wrong(value, place, "an object");
    }
    for (const [field, shape] of shapes) {
      // What every object inherits is no field of a row.
      const own = Object.hasOwn(value, field)
        ? (value as Record<string, unknown>)[field]
        : undefined;
      const what = shape(own, place === "it" ? field : `${place}.${field}`);
      if (what !== "") return what;
    }
    return "";
  };
}

const count = whole();
const u32 = whole(0, U32_MAX);
const counts = list(count);

const replica = object({
  replicaId: whole(1),
  osd: u32,
  storeUuid: text,
  shard: u32,
  leaving: flag,
  witness: maybe(flag),
});
const configuration = object({
  index: count,
  voters: counts,
  outgoing: counts,
  learners: counts,
});
const start = object({ storeUuid: text, incarnation: u32, mark: u32, id: text });
const scrub = object({
  lightMs: time,
  deepMs: time,
  deep: flag,
  found: count,
  healed: count,
  left: count,
  blocks: list(object({ layer: count, block: count, undecided: flag })),
});

/** By the key without its id; those with an id hold it. */
const SHAPES: Readonly<Record<string, Shape>> = {
  cluster: object({
    clusterId: text,
    generation: whole(1),
    format: whole(1),
    restored: maybe(flag),
  }),
  map: object({ epoch: whole(1), format: maybe(count) }),
  ids: object({ pool: count, image: count, layer: count, session: count, operation: count }),
  "map/recovery": object({ speed: count, paused: flag, changeEpoch: count }),
  "map/osd": object({
    id: u32,
    storeUuid: text,
    host: text,
    up: flag,
    in: flag,
    weight: u32,
    addresses: list(object({ host: text, port: whole(0, 65_535) })),
    changeEpoch: count,
  }),
  "map/pool": object({
    id: whole(1),
    name,
    size: whole(1, 6),
    pgCount: power,
    objectBlocks: power,
    failureDomain: domain,
    changeEpoch: count,
    generation: maybe(count),
  }),
  "map/pg": object({
    id: count,
    lastChangeEpoch: count,
    changeEpoch: count,
    creating: flag,
    replicas: list(replica),
    leader: count,
    leaderTerm: count,
    configuration: maybe(configuration),
  }),
  "map/removed": object({
    first: whole(1),
    last: whole(1),
    generation: whole(1),
    changeEpoch: count,
  }),
  image: object({
    id: count,
    name,
    pool: count,
    family: count,
    layer: count,
    sizeBytes: count,
    objectBlocks: power,
    snapSeq: count,
    lockEpoch: count,
    createdMs: time,
  }),
  session: object({
    id: count,
    image: count,
    mode: oneOf("shared", "read-only", "exclusive"),
    client: text,
    serial: count,
    openedMs: time,
  }),
  osd: object({
    id: u32,
    capacityBytes: count,
    incarnation: count,
    starts: maybe(list(start)),
    version: text,
    backend: text,
    formatMax: maybe(count),
    autoOut: flag,
    firstSeenMs: time,
  }),
  pg: object({ id: count, nextReplicaId: whole(1), scrub: maybe(scrub) }),
  operation: object({
    id: count,
    kind: oneOf("image.shrink", "image.remove"),
    state: oneOf("running", "done", "failed", "cancelled"),
    title: text,
    pool: count,
    image: count,
    layer: count,
    session: count,
    lockEpoch: count,
    snapSeq: count,
    firstBlock: count,
    blocks: count,
    groups: count,
    startedMs: time,
    endedMs: maybe(time),
    error: maybe(text),
  }),
};

/** Read a row of a known kind. Throws FB4006 with its key, what is there, and what is wanted. */
export function readRow<T>(row: MetaRow): T {
  let value: unknown;
  try {
    value = JSON.parse(row.value);
  } catch {
    throw damagedRow(row.key, "it is not JSON");
  }
  const at = row.key.lastIndexOf("/");
  const hasId = SHAPES[row.key] === undefined && at > 0;
  const kind = hasId ? row.key.slice(0, at) : row.key;
  const shape = SHAPES[kind];
  if (shape === undefined) throw damagedRow(row.key, "no row has such a key");
  const what = shape(value, "it");
  if (what !== "") throw damagedRow(row.key, what);
  if (hasId) {
    const { id, first } = value as { readonly id?: number; readonly first?: number };
    const own = String(kind === "map/removed" ? first : id);
    if (own !== row.key.slice(at + 1)) throw damagedRow(row.key, `it is the row of ${own}`);
  }
  return value as T;
}

/** A map that is made of good rows has the pool of each of its groups. Throws FB4006. */
export function checkGroups(
  pools: readonly { readonly id: number; readonly pgCount: number }[],
  groups: readonly { readonly id: number }[],
): void {
  const known = new Map(pools.map(({ id, pgCount }) => [id, pgCount]));
  for (const { id } of groups) {
    const pool = poolOfPg(id as PgId);
    const held = known.get(pool);
    const key = `map/pg/${String(id)}`;
    if (held === undefined) throw damagedRow(key, `its pool ${String(pool)} is not there`);
    if (id % 65_536 >= held) throw damagedRow(key, `its pool has ${String(held)} groups`);
  }
}

/** FB4006, of one row. */
export function damagedRow(key: string, what: string): FastblockError {
  return new FastblockError("FB4006", `reading the catalogue: row ${key}: ${what}`, {
    hint: "restore the catalogue from a backup and start with --restored",
  });
}
