// data path
import type { Checksum } from "../base/checksum.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import type { Arena } from "../reactor/world.ts";
import { getU64, putU64 } from "../store/store.ts";

/**
 * A batch: everything that the groups of a shard appended in one turn, written by one durable write.
 *
 * Header blocks (this header, then the records behind each other), then inline payload, one 4 KiB
 * block each, in the order of the records.
 *
 * ```
 *  0 magic u32 "FBLB" | 4 format u16 | 6 shard u16 | 8 incarnation u32
 * 12 crc u32 (of all header blocks, this field zero, seeded with the store's uuid)
 * 16 seq u64 | 24 durableSeq u64 | 32 directSeq u64
 * 40 prevCrc u32 (crc field of batch seq − 1) | 44 headerBlocks u16 | 46 reserved u16
 * 48 payloadBlocks u32 | 52 records u32 | 56 recordBytes u32 | 60 reserved u32 | 64 records
 * ```
 * Payload is covered by the checksums in the records.
 *
 * Sequence and checksum alone were not enough: batches k and k+1 in flight, power cut, k torn, k+1
 * whole; k′ is written over k, and the old k+1 behind it is valid again and cuts a committed entry.
 * `prevCrc` chains k+1 to the very k, `incarnation` never falls along the chain.
 *
 * `durableSeq` vouches: every batch up to it was on stable storage when this one was composed;
 * `directSeq` says the same of their direct payloads. It tells a torn end from damage in the middle.
 */
export const BATCH_HEADER_SIZE = 64;
/** 256 blocks: header and payload of one batch. */
export const BATCH_BLOCKS_MAX = 256;
const MAGIC = 0x424c_4246;
const FORMAT = 1;

/** Fields of a batch header. */
export class BatchHeader {
  shard = 0;
  incarnation = 0;
  seq = 0;
  durableSeq = 0;
  directSeq = 0;
  prevCrc = 0;
  headerBlocks = 0;
  payloadBlocks = 0;
  records = 0;
  recordBytes = 0;
  crc = 0;
}

/** Write the header at `at`; records and zeroed padding are in place. Sets and answers the crc. */
export function sealBatch(
  arena: Arena,
  at: number,
  header: BatchHeader,
  seed: number,
  checksum: Checksum,
): number {
  const view = arena.view;
  view.setUint32(at, MAGIC, true);
  view.setUint16(at + 4, FORMAT, true);
  view.setUint16(at + 6, header.shard, true);
  view.setUint32(at + 8, header.incarnation, true);
  view.setUint32(at + 12, 0, true);
  putU64(view, at + 16, header.seq);
  putU64(view, at + 24, header.durableSeq);
  putU64(view, at + 32, header.directSeq);
  view.setUint32(at + 40, header.prevCrc, true);
  view.setUint16(at + 44, header.headerBlocks, true);
  view.setUint16(at + 46, 0, true);
  view.setUint32(at + 48, header.payloadBlocks, true);
  view.setUint32(at + 52, header.records, true);
  view.setUint32(at + 56, header.recordBytes, true);
  view.setUint32(at + 60, 0, true);
  header.crc = crcOfBlocks(arena, at, header.headerBlocks, seed, checksum);
  view.setUint32(at + 12, header.crc, true);
  return header.crc;
}

/** True when a header may begin at `at`: read before the crc, to know how many blocks it covers. */
export function peekBatch(arena: Arena, at: number, header: BatchHeader): boolean {
  const view = arena.view;
  if (view.getUint32(at, true) !== MAGIC) return false;
  if (view.getUint16(at + 4, true) !== FORMAT) return false;
  header.shard = view.getUint16(at + 6, true);
  header.incarnation = view.getUint32(at + 8, true);
  header.crc = view.getUint32(at + 12, true);
  header.seq = getU64(view, at + 16);
  header.durableSeq = getU64(view, at + 24);
  header.directSeq = getU64(view, at + 32);
  header.prevCrc = view.getUint32(at + 40, true);
  header.headerBlocks = view.getUint16(at + 44, true);
  header.payloadBlocks = view.getUint32(at + 48, true);
  header.records = view.getUint32(at + 52, true);
  header.recordBytes = view.getUint32(at + 56, true);
  if (header.headerBlocks < 1) return false;
  if (header.headerBlocks + header.payloadBlocks > BATCH_BLOCKS_MAX) return false;
  return BATCH_HEADER_SIZE + header.recordBytes <= header.headerBlocks * BLOCK_SIZE;
}

/** Verify the crc of a header whose blocks are all in memory. The memory is left as it was. */
export function verifyBatch(
  arena: Arena,
  at: number,
  header: BatchHeader,
  seed: number,
  checksum: Checksum,
): boolean {
  arena.view.setUint32(at + 12, 0, true);
  const crc = crcOfBlocks(arena, at, header.headerBlocks, seed, checksum);
  arena.view.setUint32(at + 12, header.crc, true);
  return crc === header.crc;
}

function crcOfBlocks(
  arena: Arena,
  at: number,
  blocks: number,
  seed: number,
  checksum: Checksum,
): number {
  let crc = seed;
  for (let block = 0; block < blocks; block++) {
    crc = checksum.crc32(arena.block(at + block * BLOCK_SIZE), crc);
  }
  return crc;
}
