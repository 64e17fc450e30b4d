// data path
import { assert } from "../base/assert.ts";
import { BLOCK_SIZE, TWO_32 } from "../base/units.ts";
import type { ReadReply } from "../../proto/gen/hot.ts";
import type { World } from "../reactor/world.ts";
import { BlockState, STATE_BYTES } from "./image-op.ts";
import type { Part } from "./part.ts";

/** Words that a read reply has for each block. */
export const REPLY_WORDS = 3;

/** What taking blocks out of a reply came to. */
export enum Taken {
  /** All there; no block holds data. */
  Zero = 0,
  Data = 1,
  /** A block is lost. */
  Lost = 2,
  /** A block does not match its checksum, or the reply does not fit the request. */
  Damaged = 3,
}

/** State of the n-th block of a reply. */
export function stateOf(reply: ReadReply, index: number): number {
  return reply.blocks[index * REPLY_WORDS + 2]! >>> 30;
}

/** Version of the n-th block of a reply. */
export function versionOf(reply: ReadReply, index: number): number {
  const at = index * REPLY_WORDS;
  return reply.blocks[at + 1]! + (reply.blocks[at + 2]! & 0xffff) * TWO_32;
}

/** True when the reply has the words of `blocks` blocks and the payload of those with data. */
export function fitsReply(reply: ReadReply, blocks: number, payloadBytes: number): boolean {
  if (reply.blocksCount !== blocks * REPLY_WORDS) return false;
  let data = 0;
  for (let index = 0; index < blocks; index++) {
    const state = stateOf(reply, index);
    if (state > BlockState.Lost) return false;
    if (state === BlockState.Data) data++;
  }
  return payloadBytes === data * BLOCK_SIZE;
}

/**
 * Copy a reply's blocks from the payload at `from` to whole blocks at `to` (4 KiB-aligned), zeros
 * for those without data, and check each against its checksum where it has arrived.
 */
export function takeBlocks(
  world: World,
  reply: ReadReply,
  blocks: number,
  from: number,
  to: number,
): Taken {
  const bytes = world.arena.bytes;
  let taken = Taken.Zero;
  let source = from;
  for (let index = 0; index < blocks; index++) {
    const target = to + index * BLOCK_SIZE;
    const state = stateOf(reply, index);
    if (state === BlockState.Lost) return Taken.Lost;
    if (state === BlockState.Zero) {
      bytes.fill(0, target, target + BLOCK_SIZE);
      continue;
    }
    bytes.copyWithin(target, source, source + BLOCK_SIZE);
    source += BLOCK_SIZE;
    const crc = world.checksum.crc32(world.arena.block(target), 0);
    if (crc !== reply.blocks[index * REPLY_WORDS]!) return Taken.Damaged;
    taken = Taken.Data;
  }
  return taken;
}

/** Copy a reply's words to `to`: what `OpKind.States` answers. */
export function takeStates(world: World, reply: ReadReply, blocks: number, to: number): void {
  const view = world.arena.view;
  for (let index = 0; index < blocks; index++) {
    const at = to + index * STATE_BYTES;
    const word = index * REPLY_WORDS;
    view.setUint32(at, reply.blocks[word]!, true);
    view.setUint32(at + 4, reply.blocks[word + 1]!, true);
    view.setUint32(at + 8, reply.blocks[word + 2]!, true);
  }
}

/**
 * Merge: the bytes of the block that the part does not change come from `scratch`, a copy of what
 * the cluster holds now. The part's own bytes stay as they are.
 */
export function mergeBlock(world: World, part: Part, scratch: number): void {
  assert(part.isPartial, "mergeBlock: the part is whole");
  const bytes = world.arena.bytes;
  bytes.copyWithin(part.memory, scratch, scratch + part.fromByte);
  bytes.copyWithin(part.memory + part.toByte, scratch + part.toByte, scratch + BLOCK_SIZE);
}

/** Compute the checksum of each block of a write, once. */
export function stampChecksums(world: World, part: Part): void {
  for (let index = 0; index < part.blocks; index++) {
    const block = world.arena.block(part.memory + index * BLOCK_SIZE);
    part.crcs[index] = world.checksum.crc32(block, 0);
  }
}
