/**
 * Checksums and keyed hashes, supplied by the process (`core/reactor/bun-checksum.ts`).
 *
 * The polynomial is CRC-32 (IEEE 802.3), the one that the runtime computes at memory speed.
 */
export interface Checksum {
  /** CRC-32 of `bytes`, continuing from `seed` (0 at the start). Unsigned. */
  crc32(bytes: Uint8Array, seed: number): number;
  /** HMAC-SHA256, 32 bytes; for handshakes and key derivation, never per I/O. */
  hmacSha256(key: Uint8Array, data: Uint8Array): Uint8Array;
}

/**
 * Bind a block's checksum to its place: stored crc = client's crc32(block) xor mix32(layer, block).
 *
 * A block read back from the wrong place then fails its check. `block` is the 4 KiB block number
 * within the layer; both numbers are below 2^53. Multiply–xorshift of the four 32-bit halves.
 */
export function mix32(layer: number, block: number): number {
  let hash = 0x9e37_79b9;
  hash = step(hash ^ (layer >>> 0));
  hash = step(hash ^ ((layer / 4_294_967_296) >>> 0));
  hash = step(hash ^ (block >>> 0));
  hash = step(hash ^ ((block / 4_294_967_296) >>> 0));
  return hash >>> 0;
}

function step(value: number): number {
  let hash = Math.imul(value ^ (value >>> 16), 0x7feb_352d);
  hash = Math.imul(hash ^ (hash >>> 15), 0x846c_a68b);
  return hash ^ (hash >>> 16);
}
