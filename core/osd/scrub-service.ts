// cold path: a scrub asks in rounds of milliseconds, in the background.
/**
 * Both ends of a scrub (`core/pg/scrub.ts`) on the wire: this shard answers leaders, and asks the
 * other replicas of the groups that it leads. Messages: `proto/scrub.proto`, `proto/fill.proto`.
 */
import { create, type DescMessage, type MessageShape } from "@bufbuild/protobuf";
import { FastblockError } from "../base/errors.ts";
import { TWO_32 } from "../base/units.ts";
import {
  type BlockPlace,
  type FillPage,
  type Group,
  isWholeFollower,
  type PgShard,
  type ScrubPeer,
  type ScrubRead,
  type UnitKey,
  UnitListing,
  unitsAt,
  type UnitState,
} from "../pg/pg.ts";
import { type Connection, type ControlService, Method } from "../rpc/rpc.ts";
import {
  ListReplySchema,
  ListRequestSchema,
  UnitsReplySchema,
  UnitsRequestSchema,
} from "../../proto/gen/fill_pb.ts";
import {
  ReadReplySchema,
  ReadRequestSchema,
  RefillReplySchema,
  RefillRequestSchema,
} from "../../proto/gen/scrub_pb.ts";
import {
  decodeKeys,
  decodeUnits,
  encodeKeys,
  encodeUnits,
  listPage,
  pageOf,
} from "./fill-service.ts";
import type { ScrubStoreReader } from "./scrub-reader.ts";

const CALL_TIMEOUT_MS = 2000;
/** Others read on that shard, too, and what is damaged is healed before the answer. */
const READ_TIMEOUT_MS = 30_000;
const PLACE_BYTES = 16;

/** Answer leaders that scrub. */
export function serveScrub(pg: PgShard, service: ControlService, reader: ScrubStoreReader): void {
  const listing = new UnitListing();
  service.serve(Method.ScrubList, ListRequestSchema, ListReplySchema, (request) =>
    listPage(followerOf(pg, request), request.cursor, listing),
  );
  service.serve(Method.ScrubUnits, UnitsRequestSchema, UnitsReplySchema, async (request) => {
    const group = followerOf(pg, request);
    const units = await unitsAt(group, decodeKeys(request.keys), Number(request.at));
    return units === null
      ? create(UnitsReplySchema)
      : create(UnitsReplySchema, { applied: request.at, units: encodeUnits(units) });
  });
  service.serve(Method.ScrubRead, ReadRequestSchema, ReadReplySchema, async (request) => {
    const read = await reader.read(followerOf(pg, request), request.cursor);
    const { next, blocks, damaged, healed } = read;
    const left = encodePlaces(read.left);
    return create(ReadReplySchema, {
      next: Math.max(0, next),
      end: next < 0,
      blocks,
      damaged,
      healed,
      left,
    });
  });
  service.serve(Method.ScrubRefill, RefillRequestSchema, RefillReplySchema, (request) => {
    const group = followerOf(pg, request);
    pg.logger.warn("a replica is not what most of its group are", {
      pg: group.pg,
      replica: group.replica,
    });
    pg.fills.wantDiverged(group);
    pg.world.turns.again();
    return create(RefillReplySchema);
  });
}

function followerOf(pg: PgShard, asked: { readonly pg: number; readonly replica: number }): Group {
  const group = pg.groups.get(asked.pg);
  if (group !== undefined && group.replica === asked.replica && isWholeFollower(group)) {
    return group;
  }
  throw new FastblockError("FB1007", `scrubbing group ${String(asked.pg)}: not a whole follower`, {
    why: `replica ${String(asked.replica)} is asked, which leads, is being filled, or is not here`,
  });
}

/** A replica at the other end of a connection. */
export class PeerScrub implements ScrubPeer {
  readonly replica: number;
  private readonly service: ControlService;
  private readonly connection: Connection;
  private readonly pg: number;

  constructor(service: ControlService, connection: Connection, pg: number, replica: number) {
    this.service = service;
    this.connection = connection;
    this.pg = pg;
    this.replica = replica;
  }

  async list(cursor: number): Promise<FillPage> {
    const request = create(ListRequestSchema, { ...this.to, cursor });
    return pageOf(await this.call(Method.ScrubList, ListRequestSchema, request, ListReplySchema));
  }

  async unitsAt(keys: readonly UnitKey[], index: number): Promise<UnitState[] | null> {
    const at = BigInt(index);
    const request = create(UnitsRequestSchema, { ...this.to, keys: encodeKeys(keys), at });
    const reply = await this.call(Method.ScrubUnits, UnitsRequestSchema, request, UnitsReplySchema);
    return reply.applied === at ? decodeUnits(reply.units, keys) : null;
  }

  async read(cursor: number): Promise<ScrubRead> {
    const request = create(ReadRequestSchema, { ...this.to, cursor });
    const reply = await this.call(
      Method.ScrubRead,
      ReadRequestSchema,
      request,
      ReadReplySchema,
      READ_TIMEOUT_MS,
    );
    const { blocks, damaged, healed } = reply;
    const next = reply.end ? -1 : reply.next;
    return { next, blocks, damaged, healed, left: decodePlaces(reply.left) };
  }

  async refill(): Promise<void> {
    const request = create(RefillRequestSchema, this.to);
    await this.call(Method.ScrubRefill, RefillRequestSchema, request, RefillReplySchema);
  }

  private get to(): { pg: number; replica: number } {
    return { pg: this.pg, replica: this.replica };
  }

  private call<Request extends DescMessage, Reply extends DescMessage>(
    method: Method,
    schema: Request,
    message: MessageShape<Request>,
    reply: Reply,
    timeoutMs: number = CALL_TIMEOUT_MS,
  ): Promise<MessageShape<Reply>> {
    return this.service.call(this.connection, method, schema, message, reply, { timeoutMs });
  }
}

function encodePlaces(places: readonly BlockPlace[]): Uint8Array {
  const bytes = new Uint8Array(places.length * PLACE_BYTES);
  const view = new DataView(bytes.buffer);
  const put = (at: number, value: number): void => {
    view.setUint32(at, value % TWO_32, true);
    view.setUint32(at + 4, Math.floor(value / TWO_32), true);
  };
  for (const [at, place] of places.entries()) {
    put(at * PLACE_BYTES, place.layer);
    put(at * PLACE_BYTES + 8, place.block);
  }
  return bytes;
}

function decodePlaces(bytes: Uint8Array): BlockPlace[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const get = (at: number): number =>
    view.getUint32(at, true) + view.getUint32(at + 4, true) * TWO_32;
  const places: BlockPlace[] = [];
  for (let at = 0; at + PLACE_BYTES <= bytes.length; at += PLACE_BYTES) {
    places.push({ layer: get(at), block: get(at + 8) });
  }
  return places;
}
