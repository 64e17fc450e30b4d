// cold path: a replica that is filled asks in rounds of milliseconds.
/**
 * Both ends of catch-up by difference (`core/pg/fill.ts`) on the wire: this shard answers as a
 * leader, and asks leaders for its own replicas. Messages: `proto/fill.proto`; data travels as
 * answers to BlockFetch.
 */
import { create, type DescMessage, type MessageShape } from "@bufbuild/protobuf";
import { FastblockError } from "../base/errors.ts";
import { Status } from "../base/status.ts";
import { BLOCKS_PER_UNIT, TWO_32, UNIT_SIZE } from "../base/units.ts";
import {
  BlockState,
  type FetchedBits,
  type FillBeginning,
  type FillPage,
  type FillSource,
  type FillUnits,
  type Group,
  LeaderLoad,
  type ListedUnit,
  type PgShard,
  type UnitKey,
  UnitListing,
  unitsOf,
  UnitState,
} from "../pg/pg.ts";
import type { World } from "../reactor/world.ts";
import { type Connection, type ControlService, Method } from "../rpc/rpc.ts";
import { decodeGroupState, encodeGroupState } from "../store/store.ts";
import {
  BeginReplySchema,
  BeginRequestSchema,
  LeaderLoad as LoadWord,
  type ListReply,
  ListReplySchema,
  ListRequestSchema,
  UnitsReplySchema,
  UnitsRequestSchema,
} from "../../proto/gen/fill_pb.ts";
import { fetchBlocks } from "./block-fetch.ts";

const KEY_BYTES = 16;
const LISTED_BYTES = 24;
const BLOCK_BYTES = 12;
const UNIT_BYTES = BLOCKS_PER_UNIT * BLOCK_BYTES;
/** Units that one request may ask about. */
const UNITS_MAX = 256;
/** Units of which the store has all in memory at a time. */
const ROWS_UNITS = 64;
/** Slices of the index that are looked at for one page: a page may be empty and not the last. */
const SLICES_MAX = 8;
/** A leader that does not answer in time is asked anew. */
const CALL_TIMEOUT_MS = 2000;
/** A group that has had nothing committed for so long, and has something to commit, is stalled. */
const STALLED_US = 200_000;

/** Answer replicas that are filled from this shard's groups. */
export function serveFill(pg: PgShard, service: ControlService): void {
  const listing = new UnitListing();
  const loads = new LeaderLoads(pg);
  service.serve(Method.FillBegin, BeginRequestSchema, BeginReplySchema, (request) => {
    const group = leaderOf(pg, request.pg, request.replica);
    const index = group.appliedIndex;
    const term = group.node.log.termAt(index);
    const state = encodeGroupState(group.encodeState());
    return create(BeginReplySchema, { index: BigInt(index), term: BigInt(term), state });
  });
  service.serve(Method.FillList, ListRequestSchema, ListReplySchema, async (request) => {
    const group = leaderOf(pg, request.pg, request.replica);
    const total = Math.ceil(pg.store.bytesOf(group.row) / UNIT_SIZE);
    const page = await listPage(group, request.cursor, listing);
    // A replica that went meanwhile has nothing, and that is no answer.
    leaderOf(pg, request.pg, request.replica);
    return { ...page, total, load: loads.of(group) };
  });
  service.serve(Method.FillUnits, UnitsRequestSchema, UnitsReplySchema, async (request) => {
    const group = leaderOf(pg, request.pg, request.replica);
    const { applied, units } = await unitsOf(group, decodeKeys(request.keys));
    leaderOf(pg, request.pg, request.replica);
    return create(UnitsReplySchema, {
      applied: BigInt(applied),
      units: encodeUnits(units),
      load: loads.of(group),
    });
  });
}

/** What this shard has to do besides, for replicas that ask its leaders. */
class LeaderLoads {
  private readonly pg: PgShard;
  /** By group that is asked: what was committed when, seen at the first question that found it. */
  private readonly seen = new WeakMap<
    Group,
    { readonly commit: number; readonly sinceUs: number }
  >();

  constructor(pg: PgShard) {
    this.pg = pg;
  }

  of(group: Group): LoadWord {
    const nowUs = this.pg.world.clock.nowUs();
    const { commitIndex: commit } = group;
    const known = this.seen.get(group);
    const isStill = known !== undefined && known.commit === commit;
    if (!isStill) this.seen.set(group, { commit, sinceUs: nowUs });
    if (isStill && nowUs - known.sinceUs >= STALLED_US && group.node.log.lastIndex > commit) {
      return LoadWord.STALLED;
    }
    return this.pg.pace.isBusy(nowUs) ? LoadWord.CLIENTS : LoadWord.UNSPECIFIED;
  }
}

/** A page of a replica's units, as an answer. `shared`: used when it need not wait for the index. */
export async function listPage(
  group: Group,
  from: number,
  shared: UnitListing,
): Promise<ListReply> {
  const { store } = group.shard;
  const listing = store.isPaged ? new UnitListing() : shared;
  let cursor = from;
  for (let slice = 0; slice < SLICES_MAX; slice++) {
    cursor = store.listUnits(group.row, cursor, listing);
    if (cursor < 0 || listing.count > 0) break;
  }
  if (store.isPaged) await digestPage(group, listing);
  const units = encodeListing(listing);
  return create(ListReplySchema, { next: Math.max(0, cursor), end: cursor < 0, units });
}

/** Set the digests of a page, some units at a time. */
async function digestPage({ shard, row }: Group, listing: UnitListing): Promise<void> {
  const { store } = shard;
  for (let at = 0; at < listing.count; at += ROWS_UNITS) {
    const end = Math.min(listing.count, at + ROWS_UNITS);
    const units: UnitKey[] = [];
    for (let of = at; of < end; of++) {
      units.push({
        layer: listing.layers[of]!,
        unit: listing.units[of]!,
        snapSeq: listing.snapSeqs[of]!,
      });
    }
    await store.withUnits(row, units, () => store.digestListing(row, listing, at, end));
  }
}

/**
 * What a leader has applied is committed, whether it serves already or not. Waiting for that was not
 * enough: it may need this very replica to commit anything, when another one is gone.
 */
function leaderOf(pg: PgShard, id: number, replica: number): Group {
  const group = pg.groups.get(id);
  if (group !== undefined && group.replica === replica && group.isLeader) return group;
  throw new FastblockError("FB1007", `filling a replica of group ${String(id)}: not the leader`, {
    why: `replica ${String(replica)} is asked and does not lead here, wanted the leader`,
  });
}

/** A leader at the other end of a connection. */
export class PeerFillSource implements FillSource {
  private readonly world: World;
  private readonly service: ControlService;
  private readonly connection: Connection;
  private readonly pg: number;
  private readonly replica: number;

  constructor(
    world: World,
    service: ControlService,
    connection: Connection,
    pg: number,
    replica: number,
  ) {
    this.world = world;
    this.service = service;
    this.connection = connection;
    this.pg = pg;
    this.replica = replica;
  }

  async begin(): Promise<FillBeginning> {
    const request = create(BeginRequestSchema, { pg: this.pg, replica: this.replica });
    const reply = await this.call(Method.FillBegin, BeginRequestSchema, request, BeginReplySchema);
    const state = decodeGroupState(reply.state);
    const index = Number(reply.index);
    if (state === undefined || state.applied !== index) throw malformed("the state of the group");
    return { index, term: Number(reply.term), state };
  }

  async list(cursor: number): Promise<FillPage> {
    const request = create(ListRequestSchema, { pg: this.pg, replica: this.replica, cursor });
    const reply = await this.call(Method.FillList, ListRequestSchema, request, ListReplySchema);
    return pageOf(reply);
  }

  async units(keys: readonly UnitKey[]): Promise<FillUnits> {
    const request = create(UnitsRequestSchema, {
      pg: this.pg,
      replica: this.replica,
      keys: encodeKeys(keys),
    });
    const reply = await this.call(Method.FillUnits, UnitsRequestSchema, request, UnitsReplySchema);
    const { applied, load } = reply;
    return { applied: Number(applied), load: loadOf(load), units: decodeUnits(reply.units, keys) };
  }

  async blocks(unit: UnitState, first: number, count: number, to: number): Promise<FetchedBits> {
    const range = {
      pg: this.pg,
      replica: this.replica,
      layer: unit.layer,
      firstBlock: unit.unit * BLOCKS_PER_UNIT + first,
      blocks: count,
      snapSeq: unit.snapSeq,
    };
    const answer = await fetchBlocks(this.world, this.connection, range, to);
    const all = ((1 << count) - 1) << first;
    if (answer.status === Status.Damaged) return { arrived: 0, unreadable: all };
    if (answer.status !== Status.Ok) {
      throw new FastblockError("FB1004", "fetching blocks from the leader failed", {
        why: Status[answer.status] ?? String(answer.status),
      });
    }
    let arrived = 0;
    let unreadable = 0;
    for (const [at, block] of answer.blocks.entries()) {
      const bit = 1 << (first + at);
      // Lost: given up since it was told as data. No later entry changed it, it must be told again.
      if (block.state === BlockState.Damaged || block.state === BlockState.Lost) unreadable |= bit;
      const same =
        block.state === BlockState.Data &&
        block.version === unit.versions[first + at]! &&
        block.crc === unit.crcs[first + at]!;
      if (same) arrived |= bit;
    }
    return { arrived, unreadable };
  }

  private call<Request extends DescMessage, Reply extends DescMessage>(
    method: Method,
    schema: Request,
    message: MessageShape<Request>,
    reply: Reply,
  ): Promise<MessageShape<Reply>> {
    return this.service.call(this.connection, method, schema, message, reply, {
      timeoutMs: CALL_TIMEOUT_MS,
    });
  }
}

function malformed(what: string): FastblockError {
  return new FastblockError("FB1007", `comparing replicas: ${what} of the peer is malformed`);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function putKey(view: DataView, at: number, key: UnitKey): void {
  view.setUint32(at, key.layer % TWO_32, true);
  view.setUint32(at + 4, Math.floor(key.layer / TWO_32), true);
  view.setUint32(at + 8, key.unit, true);
  view.setUint32(at + 12, key.snapSeq, true);
}

/** Throws FB1007 on a layer that no number can hold. */
function getKey(view: DataView, at: number): UnitKey {
  const layer = view.getUint32(at, true) + view.getUint32(at + 4, true) * TWO_32;
  if (!Number.isSafeInteger(layer)) throw malformed("a unit's layer");
  return {
    layer,
    unit: view.getUint32(at + 8, true),
    snapSeq: view.getUint32(at + 12, true),
  };
}

/** The keys of units, as in a request. */
export function encodeKeys(keys: readonly UnitKey[]): Uint8Array {
  const bytes = new Uint8Array(keys.length * KEY_BYTES);
  for (const [at, key] of keys.entries()) putKey(viewOf(bytes), at * KEY_BYTES, key);
  return bytes;
}

/** Throws FB1007. */
export function decodeKeys(bytes: Uint8Array): UnitKey[] {
  if (bytes.length % KEY_BYTES !== 0 || bytes.length > UNITS_MAX * KEY_BYTES) {
    throw malformed("the list of units");
  }
  const view = viewOf(bytes);
  const keys: UnitKey[] = [];
  for (let at = 0; at < bytes.length; at += KEY_BYTES) keys.push(getKey(view, at));
  return keys;
}

function encodeListing(listing: UnitListing): Uint8Array {
  const bytes = new Uint8Array(listing.count * LISTED_BYTES);
  const view = viewOf(bytes);
  for (let row = 0; row < listing.count; row++) {
    const at = row * LISTED_BYTES;
    putKey(view, at, {
      layer: listing.layers[row]!,
      unit: listing.units[row]!,
      snapSeq: listing.snapSeqs[row]!,
    });
    view.setUint32(at + 16, listing.digestsLow[row]!, true);
    view.setUint32(at + 20, listing.digestsHigh[row]!, true);
  }
  return bytes;
}

/** A page of units, of an answer. Throws FB1007. */
export function pageOf(reply: ListReply): FillPage {
  return {
    next: reply.end ? -1 : reply.next,
    units: decodeListing(reply.units),
    total: reply.total,
    load: loadOf(reply.load),
  };
}

/** A load that is not known counts as clients'. */
function loadOf(load: LoadWord): LeaderLoad {
  if (load === LoadWord.UNSPECIFIED) return LeaderLoad.None;
  return load === LoadWord.STALLED ? LeaderLoad.Stalled : LeaderLoad.Clients;
}

function decodeListing(bytes: Uint8Array): ListedUnit[] {
  if (bytes.length % LISTED_BYTES !== 0) throw malformed("the list of units");
  const view = viewOf(bytes);
  const units: ListedUnit[] = [];
  for (let at = 0; at < bytes.length; at += LISTED_BYTES) {
    units.push({
      ...getKey(view, at),
      digestLow: view.getUint32(at + 16, true),
      digestHigh: view.getUint32(at + 20, true),
    });
  }
  return units;
}

/** What units are, as in an answer. */
export function encodeUnits(units: readonly UnitState[]): Uint8Array {
  const bytes = new Uint8Array(units.length * UNIT_BYTES);
  for (const [at, unit] of units.entries()) encodeUnit(viewOf(bytes), at * UNIT_BYTES, unit);
  return bytes;
}

/** What the units of `keys` are. Throws FB1007. */
export function decodeUnits(bytes: Uint8Array, keys: readonly UnitKey[]): UnitState[] {
  if (bytes.length !== keys.length * UNIT_BYTES) throw malformed("units");
  const view = viewOf(bytes);
  return keys.map((key, at) => decodeUnit(view, at * UNIT_BYTES, key));
}

function encodeUnit(view: DataView, from: number, unit: UnitState): void {
  for (let block = 0; block < BLOCKS_PER_UNIT; block++) {
    const at = from + block * BLOCK_BYTES;
    const version = unit.versions[block]!;
    const high = Math.floor(version / TWO_32);
    view.setUint32(at, unit.crcs[block]!, true);
    view.setUint32(at + 4, version % TWO_32, true);
    view.setUint32(at + 8, (high | (unit.states[block]! << 30)) >>> 0, true);
  }
}

function decodeUnit(view: DataView, from: number, key: UnitKey): UnitState {
  const unit = new UnitState();
  unit.layer = key.layer;
  unit.unit = key.unit;
  unit.snapSeq = key.snapSeq;
  for (let block = 0; block < BLOCKS_PER_UNIT; block++) {
    const at = from + block * BLOCK_BYTES;
    const high = view.getUint32(at + 8, true);
    unit.crcs[block] = view.getUint32(at, true);
    unit.versions[block] = view.getUint32(at + 4, true) + (high & 0xffff) * TWO_32;
    unit.states[block] = high >>> 30;
  }
  return unit;
}
