/** Sizes that formats depend on (`core/README.md`, Formats). All in bytes unless named otherwise. */
export const BLOCK_SIZE = 4096;
export const UNIT_SIZE = 65_536;
export const BLOCKS_PER_UNIT = 16;
/** The most payload of one data or raft frame: 64 blocks. Larger requests are split by the client. */
export const PAYLOAD_SIZE_MAX = 262_144;
export const PAYLOAD_BLOCKS_MAX = 64;
/** 2^32, for splitting 53-bit numbers into two 32-bit halves. */
export const TWO_32 = 4_294_967_296;
