// data path
import type { ReplicaId } from "../base/ids.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import {
  encodeReadRequest,
  encodeWriteRequest,
  ReadRequest,
  sizeOfReadRequest,
  sizeOfWriteRequest,
  WriteRequest,
} from "../../proto/gen/hot.ts";
import { type ClusterMap, SNAP_SEQ_WRITABLE } from "../cluster/cluster.ts";
import { EntryType } from "../log/log.ts";
import type { World } from "../reactor/world.ts";
import { type Connection, Method, type RequestOp } from "../rpc/rpc.ts";
import { LEADER } from "./image-op.ts";
import { type Part, PartVerb } from "./part.ts";

const FLAG_OWN_STORE = 1;
const FLAG_STATES = 2;

/** Builds the frames of parts in place. Answers are false when there is no space to send. */
export class RequestWriter {
  private readonly world: World;
  private readonly map: ClusterMap;
  private readonly write: WriteRequest = new WriteRequest();
  private readonly read: ReadRequest = new ReadRequest();

  constructor(world: World, map: ClusterMap) {
    this.world = world;
    this.map = map;
  }

  /** Send a part to a replica. */
  part(part: Part, connection: Connection, replica: ReplicaId): boolean {
    if (part.isChange) return this.change(part, connection, replica);
    this.fillRead(part, replica);
    if (part.replica !== LEADER) this.read.flags |= FLAG_OWN_STORE;
    if (part.verb === PartVerb.States) this.read.flags |= FLAG_STATES;
    return this.sendRead(part, connection);
  }

  /**
   * Ask a replica whether it leads: the state of the image's first block, which every group answers
   * for and every image has. Those of `sample` may be beyond an end that came down meanwhile, which
   * everybody refuses, whether he leads or not.
   */
  question(op: RequestOp, sample: Part, connection: Connection, replica: ReplicaId): boolean {
    this.fillRead(sample, replica);
    this.read.firstBlock = 0;
    this.read.blocks = 1;
    this.read.flags = FLAG_STATES;
    return this.sendRead(op, connection);
  }

  private change(part: Part, connection: Connection, replica: ReplicaId): boolean {
    const request = this.write;
    const session = part.session!;
    const isWrite = part.verb === PartVerb.Write;
    request.pg = part.pg;
    request.replica = replica;
    request.generation = this.map.generation;
    request.epoch = this.map.epoch;
    request.session = session.id;
    request.number = part.number;
    request.below = part.numbers!.below;
    if (part.sends === 0) part.below = request.below;
    request.layer = session.layer;
    request.firstBlock = part.firstBlock;
    request.blocks = part.blocks;
    request.snapSeq = session.snapSeq;
    request.lockEpoch = session.lockEpoch;
    request.ifVersion = part.ifVersion;
    request.type = isWrite ? EntryType.Write : EntryType.Zero;
    request.crcsCount = isWrite ? part.blocks : 0;
    for (let index = 0; index < request.crcsCount; index++) {
      request.crcs[index] = part.crcs[index]!;
    }
    const size = sizeOfWriteRequest(request);
    const payload = isWrite ? part.blocks * BLOCK_SIZE : 0;
    const at = connection.beginRequest(part, Method.Write, size, payload, 0);
    if (at < 0) return false;
    encodeWriteRequest(request, this.world.arena.view, at);
    if (payload > 0) {
      const from = part.memory;
      this.world.arena.bytes.copyWithin(connection.payloadOffset, from, from + payload);
    }
    connection.finish();
    return true;
  }

  private sendRead(op: RequestOp, connection: Connection): boolean {
    const at = connection.beginRequest(op, Method.Read, sizeOfReadRequest(this.read), 0, 0);
    if (at < 0) return false;
    encodeReadRequest(this.read, this.world.arena.view, at);
    connection.finish();
    return true;
  }

  private fillRead(part: Part, replica: ReplicaId): void {
    const request = this.read;
    const session = part.session!;
    request.pg = part.pg;
    request.replica = replica;
    request.generation = this.map.generation;
    request.epoch = this.map.epoch;
    request.session = session.id;
    request.layer = session.layer;
    request.firstBlock = part.firstBlock;
    request.blocks = part.blocks;
    request.snapSeq = SNAP_SEQ_WRITABLE;
    request.lockEpoch = session.lockEpoch;
    request.flags = 0;
  }
}
