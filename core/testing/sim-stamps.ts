// cold: the simulator
/** Contents of blocks, and of halves of blocks, that tell which write they are of. */

/** Content that only this stamp makes. */
export function stampBlock(block: Uint8Array, stamp: number): void {
  const words = new Uint32Array(block.buffer, block.byteOffset, block.byteLength >>> 2);
  const salt = Math.imul(stamp, 0x9e37_79b1);
  for (let at = 0; at < words.length; at += 2) {
    words[at] = stamp;
    words[at + 1] = salt ^ at;
  }
}

/** The stamp of a content; 0 for zeros, -1 when it is not one whole stamp. */
export function stampOf(block: Uint8Array): number {
  const words = new Uint32Array(block.buffer, block.byteOffset, block.byteLength >>> 2);
  const stamp = words[0]!;
  const salt = Math.imul(stamp, 0x9e37_79b1);
  for (let at = 0; at < words.length; at += 2) {
    const check = stamp === 0 ? 0 : (salt ^ at) >>> 0;
    if (words[at] !== stamp || words[at + 1] !== check) return -1;
  }
  return stamp;
}
