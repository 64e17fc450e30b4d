// cold path: damage and recovery.
import { Status } from "../base/status.ts";
import { BLOCK_SIZE, TWO_32 } from "../base/units.ts";
import { BlockState } from "../pg/pg.ts";
import type { World } from "../reactor/world.ts";
import { type Connection, type Frame, Method, RequestOp } from "../rpc/rpc.ts";
import {
  BlockFetchRequest,
  decodeReadReply,
  encodeBlockFetchRequest,
  ReadReply,
  sizeOfBlockFetchRequest,
} from "../../proto/gen/hot.ts";

/** How long one peer may take. */
const FETCH_TIMEOUT_US = 1_000_000;

/** Which blocks of which replica; `snapSeq` as a reader has it. */
export interface BlockRange {
  readonly pg: number;
  readonly replica: number;
  readonly layer: number;
  readonly firstBlock: number;
  /** 1 to 64. */
  readonly blocks: number;
  readonly snapSeq: number;
}

/** What one block is at the peer. `crc` is of the bytes that came, when they match it. */
export interface FetchedBlock {
  readonly state: BlockState;
  readonly version: number;
  readonly crc: number;
}

/** The answer of a peer: Ok with all blocks in order, or why there is none. */
export interface BlockAnswer {
  readonly status: Status;
  readonly blocks: readonly FetchedBlock[];
}

/**
 * Ask a peer for blocks of its own store. Data of block i lies at arena offset `to` + i · 4096 when
 * the promise resolves; the memory must stay the caller's until then. Bytes that do not match their
 * checksum make the answer `Damaged`: they were whole when the peer sent them. With `version` (≥ 0)
 * the peer answers Busy until it has applied that one. Never rejects.
 */
export function fetchBlocks(
  world: World,
  connection: Connection,
  range: BlockRange,
  to: number,
  version = -1,
): Promise<BlockAnswer> {
  const request = new BlockFetchRequest();
  request.pg = range.pg;
  request.replica = range.replica;
  request.layer = range.layer;
  request.firstBlock = range.firstBlock;
  request.blocks = range.blocks;
  request.snapSeq = range.snapSeq;
  request.version = version + 1;
  return new Promise((resolve) => {
    const op = new FetchOp(world, range.blocks, to, resolve);
    const size = sizeOfBlockFetchRequest(request);
    const at = connection.beginRequest(op, Method.BlockFetch, size, 0, FETCH_TIMEOUT_US);
    if (at < 0) {
      resolve({ status: connection.refusal, blocks: [] });
      return;
    }
    encodeBlockFetchRequest(request, world.arena.view, at);
    connection.finish();
  });
}

class FetchOp extends RequestOp {
  private readonly world: World;
  private readonly count: number;
  private readonly to: number;
  private readonly resolve: (answer: BlockAnswer) => void;

  constructor(world: World, count: number, to: number, resolve: (answer: BlockAnswer) => void) {
    super();
    this.world = world;
    this.count = count;
    this.to = to;
    this.resolve = resolve;
  }

  override onReply(frame: Frame): void {
    const answer = this.take(frame);
    this.resolve(answer ?? { status: Status.Invalid, blocks: [] });
  }

  override onFail(status: Status): void {
    this.resolve({ status, blocks: [] });
  }

  private take(frame: Frame): BlockAnswer | null {
    const reply = new ReadReply();
    const { arena } = this.world;
    if (!decodeReadReply(reply, arena.view, frame.headerOffset, frame.headerSize)) return null;
    if (reply.status !== Status.Ok) return { status: reply.status, blocks: [] };
    if (reply.blocksCount !== this.count * 3) return null;
    const blocks: FetchedBlock[] = [];
    let from = frame.payloadOffset;
    const end = from + frame.payloadSize;
    for (let at = 0; at < this.count; at++) {
      const high = reply.blocks[at * 3 + 2]!;
      const version = reply.blocks[at * 3 + 1]! + (high & 0xffff) * TWO_32;
      const crc = reply.blocks[at * 3]!;
      const state: BlockState = high >>> 30;
      if (state === BlockState.Data) {
        if (from + BLOCK_SIZE > end) return null;
        if (!this.copy(from, this.to + at * BLOCK_SIZE, crc)) {
          return { status: Status.Damaged, blocks: [] };
        }
        from += BLOCK_SIZE;
      }
      blocks.push({ state, version, crc });
    }
    return from === end ? { status: Status.Ok, blocks } : null;
  }

  /** Checked where it lies now: what is handed on is what was checked. */
  private copy(from: number, to: number, crc: number): boolean {
    const { arena, checksum } = this.world;
    arena.bytes.copyWithin(to, from, from + BLOCK_SIZE);
    return checksum.crc32(arena.block(to), 0) === crc;
  }
}
