// cold: numbers only
/**
 * Numbers of the NBD protocol (big-endian on the wire), fixed newstyle with structured replies.
 *
 * ```
 * server hello   "NBDMAGIC" 8 | "IHAVEOPT" 8 | handshake flags 2
 * client flags   4
 * option         "IHAVEOPT" 8 | option 4 | length 4 | data
 * option reply   magic 8 | option 4 | type 4 | length 4 | data
 * request        magic 4 | flags 2 | type 2 | cookie 8 | offset 8 | length 4 | data of WRITE
 * simple reply   magic 4 | error 4 | cookie 8 | data of READ
 * chunk          magic 4 | flags 2 | type 2 | cookie 8 | length 4 | data
 * ```
 */
export const HELLO_MAGIC_HIGH = 0x4e42_444d;
export const HELLO_MAGIC_LOW = 0x4147_4943;
export const OPTION_MAGIC_HIGH = 0x4948_4156;
export const OPTION_MAGIC_LOW = 0x454f_5054;
export const OPTION_REPLY_MAGIC_HIGH = 0x0003_e889;
export const OPTION_REPLY_MAGIC_LOW = 0x0455_65a9;
export const REQUEST_MAGIC = 0x2560_9513;
export const SIMPLE_REPLY_MAGIC = 0x6744_6698;
export const CHUNK_MAGIC = 0x668e_33ef;

export const HELLO_SIZE = 18;
export const OPTION_HEADER_SIZE = 16;
export const OPTION_REPLY_HEADER_SIZE = 20;
export const REQUEST_SIZE = 28;
export const SIMPLE_REPLY_SIZE = 16;
export const CHUNK_HEADER_SIZE = 20;

/** Handshake flags, server and client alike. */
export const FIXED_NEWSTYLE = 1;
export const NO_ZEROES = 2;

export enum Option {
  ExportName = 1,
  Abort = 2,
  List = 3,
  StartTls = 5,
  Info = 6,
  Go = 7,
  StructuredReply = 8,
  ListMetaContext = 9,
  SetMetaContext = 10,
}

export enum OptionReply {
  Ack = 1,
  Server = 2,
  Info = 3,
  MetaContext = 4,
  Unsupported = 0x8000_0001,
  Policy = 0x8000_0002,
  Invalid = 0x8000_0003,
  Unknown = 0x8000_0006,
  Shutdown = 0x8000_0007,
  TooBig = 0x8000_0009,
}

export enum Info {
  Export = 0,
  Name = 1,
  BlockSize = 3,
}

/** Transmission flags: what an export can do. */
export enum ExportFlag {
  HasFlags = 1,
  ReadOnly = 2,
  Flush = 4,
  Fua = 8,
  Trim = 32,
  WriteZeroes = 64,
  DontFragment = 128,
  MultiConnection = 256,
  Cache = 1024,
  FastZero = 2048,
}

export enum Command {
  Read = 0,
  Write = 1,
  Disconnect = 2,
  Flush = 3,
  Trim = 4,
  Cache = 5,
  WriteZeroes = 6,
  BlockStatus = 7,
}

export enum CommandFlag {
  Fua = 1,
  NoHole = 2,
  DontFragment = 4,
  OneExtent = 8,
  FastZero = 16,
}

export enum Chunk {
  None = 0,
  OffsetData = 1,
  OffsetHole = 2,
  BlockStatus = 5,
  Error = 0x8001,
}

export const CHUNK_DONE = 1;

/** `base:allocation`: nothing is allocated; reads as zeros. */
export const STATE_HOLE = 1;
export const STATE_ZERO = 2;

/** Errors of replies (the numbers of Linux). */
export enum NbdError {
  None = 0,
  NotPermitted = 1,
  Io = 5,
  NoMemory = 12,
  Invalid = 22,
  NoSpace = 28,
  Overflow = 75,
  Shutdown = 108,
}

export const NAME_SIZE_MAX = 4096;
export const BLOCK_SIZE_MIN = 1;
export const BLOCK_SIZE_PREFERRED = 4096;
/** The most data of one READ or WRITE. */
export const REQUEST_LENGTH_MAX = 33_554_432;
export const BASE_ALLOCATION = "base:allocation";
export const BASE_ALLOCATION_ID = 1;
