// cold path: damage is rare.
import type { Logger } from "../base/logger.ts";
import { Status, statusName } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { BlockState, type Group, type GroupPeer, StoreRepairOp } from "../pg/pg.ts";
import type { World } from "../reactor/world.ts";
import { type Connection, type Frame, Method, RequestOp } from "../rpc/rpc.ts";
import {
  BlockFetchRequest,
  decodeReadReply,
  encodeBlockFetchRequest,
  ReadReply,
  sizeOfBlockFetchRequest,
} from "../../proto/gen/hot.ts";

/** How long one peer may take for one block. */
const FETCH_TIMEOUT_US = 1_000_000;

/** One block of one group that does not match its checksum here. */
export interface DamagedBlock {
  readonly group: Group;
  readonly layer: number;
  readonly block: number;
  readonly snapSeq: number;
  /** The version that was damaged: only the same one of a peer puts it right. */
  readonly version: number;
}

/**
 * Puts damaged blocks right from a peer, at the same version.
 *
 * Never from another version: a peer that lags would bring back old data, and one that is ahead
 * holds what may not be committed. The bytes are checked against the checksum that travels with
 * them and again by the store before they are written.
 */
export class Healer {
  private readonly world: World;
  private readonly logger: Logger;
  private readonly connectionTo: (peer: GroupPeer) => Connection | null;
  /** One repair of a block at a time, whoever asks. */
  private readonly running = new Map<string, Promise<boolean>>();

  constructor(world: World, logger: Logger, connectionTo: (peer: GroupPeer) => Connection | null) {
    this.world = world;
    this.logger = logger;
    this.connectionTo = connectionTo;
  }

  /** Repair one block. False: no peer has it at this version now. */
  heal(damaged: DamagedBlock): Promise<boolean> {
    const { group, layer, block, snapSeq } = damaged;
    const key = `${group.pg}/${layer}/${block}/${snapSeq}`;
    let healing = this.running.get(key);
    if (healing === undefined) {
      healing = this.healOnce(damaged).finally(() => this.running.delete(key));
      this.running.set(key, healing);
    }
    return healing;
  }

  private async healOnce(damaged: DamagedBlock): Promise<boolean> {
    const { group, layer, block, version } = damaged;
    const where = { pg: group.pg, layer, block, version };
    for (const peer of group.peers) {
      if (peer === null || !peer.link.up) continue;
      const slot = this.world.slots.take(BLOCK_SIZE);
      if (slot < 0) return false;
      try {
        const crc = await this.fetch(peer, damaged, slot);
        if (crc < 0) continue;
        const status = await this.repair(damaged, slot, crc);
        // Another version by now: the block was written anew, the damage is gone.
        if (status === Status.Ok || status === Status.Conflict) {
          this.logger.warn("damaged block healed", { ...where, from: peer.link.osd });
          return true;
        }
        this.logger.warn("repair refused", { ...where, status: statusName(status) });
      } finally {
        this.world.slots.release(slot);
      }
    }
    this.logger.error("damaged block has no whole copy at its version", where);
    return false;
  }

  /** The block of a peer into `slot`; answers its crc32, or -1. */
  private fetch(peer: GroupPeer, damaged: DamagedBlock, slot: number): Promise<number> {
    const connection = this.connectionTo(peer);
    if (connection === null || !connection.isOpen) return Promise.resolve(-1);
    const request = new BlockFetchRequest();
    request.pg = damaged.group.pg;
    request.replica = peer.replica;
    request.layer = damaged.layer;
    request.firstBlock = damaged.block;
    request.blocks = 1;
    request.snapSeq = damaged.snapSeq;
    request.version = damaged.version + 1;
    return new Promise((resolve) => {
      const op = new FetchOp(this.world, damaged.version, slot, resolve);
      const size = sizeOfBlockFetchRequest(request);
      const at = connection.beginRequest(op, Method.BlockFetch, size, 0, FETCH_TIMEOUT_US);
      if (at < 0) {
        resolve(-1);
        return;
      }
      encodeBlockFetchRequest(request, this.world.arena.view, at);
      connection.finish();
    });
  }

  private repair(damaged: DamagedBlock, slot: number, crc: number): Promise<Status> {
    return new Promise((resolve) => {
      const op = new RepairOp(resolve);
      op.row = damaged.group.row;
      op.layer = damaged.layer;
      op.block = damaged.block;
      op.snapSeq = damaged.snapSeq;
      op.version = damaged.version;
      op.crc = crc;
      op.arenaOffset = slot;
      damaged.group.shard.store.repair(op);
    });
  }
}

class FetchOp extends RequestOp {
  private readonly world: World;
  private readonly version: number;
  private readonly slot: number;
  private readonly resolve: (crc: number) => void;

  constructor(world: World, version: number, slot: number, resolve: (crc: number) => void) {
    super();
    this.world = world;
    this.version = version;
    this.slot = slot;
    this.resolve = resolve;
  }

  override onReply(frame: Frame): void {
    this.resolve(this.take(frame));
  }

  override onFail(_status: Status): void {
    this.resolve(-1);
  }

  private take(frame: Frame): number {
    const reply = new ReadReply();
    const { arena, checksum } = this.world;
    if (!decodeReadReply(reply, arena.view, frame.headerOffset, frame.headerSize)) return -1;
    if (reply.status !== Status.Ok || reply.blocksCount !== 3) return -1;
    const high = reply.blocks[2]!;
    const version = reply.blocks[1]! + (high & 0xffff) * 4_294_967_296;
    if (high >>> 30 !== BlockState.Data || version !== this.version) return -1;
    if (frame.payloadSize !== BLOCK_SIZE) return -1;
    const from = frame.payloadOffset;
    arena.bytes.copyWithin(this.slot, from, from + BLOCK_SIZE);
    const crc = checksum.crc32(arena.block(this.slot), 0);
    return crc === reply.blocks[0]! ? crc : -1;
  }
}

class RepairOp extends StoreRepairOp {
  private readonly resolve: (status: Status) => void;

  constructor(resolve: (status: Status) => void) {
    super();
    this.resolve = resolve;
  }

  override onDone(): void {
    this.resolve(this.status);
  }
}
