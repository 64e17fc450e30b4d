// data path
import { PAYLOAD_SIZE_MAX, TWO_32 } from "../base/units.ts";
import type { Mac } from "./mac.ts";

/**
 * The frame: what travels on every connection, whatever carries it (proto/frame.md).
 *
 * ```
 *  0  u32 magic "FBF1"      4  u8 version, u8 kind, u16 flags
 *  8  u16 method, u16 status 12 u32 header size
 * 16  u64 request id        24 u32 payload size     28 u32 key id
 * 32  u64 counter           40 u32 payload crc      44 u32 reserved, zero
 * 48  u8[16] tag
 * 64  header, zero-padded to 8     then payload, zero-padded to 8
 * ```
 *
 * The tag covers the first 48 bytes and the padded header. On an encrypted connection all that follows
 * the prefix is ciphertext, made and opened where it lies, and the tag, of the cipher, covers that as
 * well. Invariants: all frames are multiples of
 * 8 bytes, so that a prefix always lies on an 8-byte boundary of the receive buffer; the counter
 * grows by one a frame in each direction.
 *
 * A one-way frame without payload may be sent short, where both ends know that:
 *
 * ```
 *  0  u32 magic "FBS1"      4  u16 method, u16 header size
 *  8  u8[16] tag
 * 24  header, zero-padded to 8
 * ```
 *
 * What is left out is known to the receiver, the counter as well: exactly one value is right. The
 * tag is that of the frame in full, so nothing that it binds is given up. A heartbeat takes 48 bytes
 * instead of 88, which is what two shards with idle groups say to each other, 20 times a second.
 */
const FRAME_MAGIC = 0x3146_4246;
const SHORT_MAGIC = 0x3153_4246;
export const FRAME_VERSION = 1;
/** From this version on frames may be short. */
export const FRAME_VERSION_SHORT = 2;
/** From this version on connections can be encrypted. */
export const FRAME_VERSION_ENCRYPTED = 3;
/** The newest that an end speaks, agreed on in the handshake. */
export const FRAME_VERSION_MAX = 3;
export const PREFIX_SIZE = 64;
export const SHORT_PREFIX_SIZE = 24;
const SHORT_TAG_AT = 8;
/** The most header of a short frame. */
export const SHORT_HEADER_SIZE_MAX = 256;
/** Bytes of the prefix in front of the tag: those the tag covers. */
export const PREFIX_TAGGED_SIZE = 48;
/** The most header of a connection that carries data or raft frames. */
export const HEADER_SIZE_DATA_MAX = 8192;
/** The most header where both ends agreed on control messages. */
export const HEADER_SIZE_CONTROL_MAX = 1_048_576;
/** The most header before the peer has proved anything. */
export const HEADER_SIZE_HANDSHAKE_MAX = 1024;

export enum FrameKind {
  Request = 1,
  Reply = 2,
  Oneway = 3,
  Handshake = 4,
  /** Nothing but a sign of life. */
  Ping = 5,
}

/** The payload is not whole blocks: its crc32 is in the prefix. */
export const FLAG_PAYLOAD_CRC = 1;
/** Header and payload are encrypted: the tag covers them, and no crc tells anything of them. */
export const FLAG_ENCRYPTED = 2;

/** A received frame, parsed in place. Reused: valid until the handler returns. */
export class Frame {
  kind: FrameKind = FrameKind.Oneway;
  /** A number of `Method`, not checked to be one. */
  method = 0;
  /** Of a reply: Ok, or why the rpc layer of the peer refused. */
  status = 0;
  flags = 0;
  requestId = 0;
  /** Arena offsets, both multiples of 8, and the sizes without padding. */
  headerOffset = 0;
  headerSize = 0;
  /** In front of the header: `PREFIX_SIZE`, or `SHORT_PREFIX_SIZE`. */
  prefixSize: number = PREFIX_SIZE;
  payloadOffset = 0;
  payloadSize = 0;
  payloadCrc = 0;
  counter = 0;
  keyId = 0;
  /** Of the whole frame. */
  sizeBytes = 0;
}

/** What a connection takes in. */
export interface FrameLimits {
  headerBytes: number;
  payloadBytes: number;
}

/** What is wrong with a prefix. */
export enum FrameFault {
  None = 0,
  Magic = 1,
  Version = 2,
  Kind = 3,
  Flags = 4,
  Reserved = 5,
  HeaderSize = 6,
  PayloadSize = 7,
  RequestId = 8,
  Counter = 9,
  KeyId = 10,
  Tag = 11,
  PayloadCrc = 12,
  Status = 13,
}

/** Size rounded up to a multiple of 8. */
export function padded(sizeBytes: number): number {
  return (sizeBytes + 7) & ~7;
}

/** Bytes of a whole frame. */
export function frameSize(headerBytes: number, payloadBytes: number): number {
  return PREFIX_SIZE + padded(headerBytes) + padded(payloadBytes);
}

/**
 * Parse the prefix at the arena offset `at` (multiple of 8) and check every field but counter and
 * tag, which need the connection's state.
 */
export function parsePrefix(
  frame: Frame,
  words: Int32Array,
  at: number,
  limits: FrameLimits,
): FrameFault {
  const base = at >>> 2;
  if (words[base]! !== FRAME_MAGIC) return FrameFault.Magic;
  const shape = words[base + 1]!;
  if ((shape & 0xff) !== FRAME_VERSION) return FrameFault.Version;
  const kind = (shape >>> 8) & 0xff;
  if (kind < FrameKind.Request || kind > FrameKind.Ping) return FrameFault.Kind;
  const flags = shape >>> 16;
  if (flags > FLAG_ENCRYPTED) return FrameFault.Flags;
  const headerSize = words[base + 3]! >>> 0;
  if (headerSize > limits.headerBytes) return FrameFault.HeaderSize;
  const payloadSize = words[base + 6]! >>> 0;
  if (payloadSize > limits.payloadBytes) return FrameFault.PayloadSize;
  // Bits 0 to 11: less than a block. Whole blocks are covered by the crcs in the header.
  const partial = (payloadSize & 4095) !== 0;
  if (flags !== FLAG_ENCRYPTED && partial !== (flags === FLAG_PAYLOAD_CRC)) return FrameFault.Flags;
  const requestHigh = words[base + 5]! >>> 0;
  const counterHigh = words[base + 9]! >>> 0;
  if (requestHigh >= 0x20_0000) return FrameFault.RequestId;
  if (counterHigh >= 0x20_0000) return FrameFault.Counter;
  if (words[base + 11]! !== 0) return FrameFault.Reserved;
  const methodAndStatus = words[base + 2]!;
  frame.kind = kind;
  frame.flags = flags;
  frame.method = methodAndStatus & 0xffff;
  frame.status = methodAndStatus >>> 16;
  frame.requestId = (words[base + 4]! >>> 0) + requestHigh * TWO_32;
  frame.counter = (words[base + 8]! >>> 0) + counterHigh * TWO_32;
  frame.keyId = words[base + 7]! >>> 0;
  frame.payloadCrc = words[base + 10]! >>> 0;
  if (flags !== FLAG_PAYLOAD_CRC && frame.payloadCrc !== 0) return FrameFault.PayloadCrc;
  if (kind !== FrameKind.Reply && frame.status !== 0) return FrameFault.Status;
  frame.headerOffset = at + PREFIX_SIZE;
  frame.headerSize = headerSize;
  frame.prefixSize = PREFIX_SIZE;
  frame.payloadOffset = at + PREFIX_SIZE + padded(headerSize);
  frame.payloadSize = payloadSize;
  frame.sizeBytes = frameSize(headerSize, payloadSize);
  return FrameFault.None;
}

/** True when a short frame begins at the arena offset `at`. */
export function isShort(words: Int32Array, at: number): boolean {
  return words[at >>> 2]! === SHORT_MAGIC;
}

/** Parse the prefix of a short frame; its counter and key id are the receiver's to tell. */
export function parseShort(
  frame: Frame,
  words: Int32Array,
  at: number,
  limits: FrameLimits,
): FrameFault {
  const shape = words[(at >>> 2) + 1]!;
  const headerSize = shape >>> 16;
  if (headerSize > SHORT_HEADER_SIZE_MAX || headerSize > limits.headerBytes) {
    return FrameFault.HeaderSize;
  }
  frame.kind = FrameKind.Oneway;
  frame.flags = 0;
  frame.method = shape & 0xffff;
  frame.status = 0;
  frame.requestId = 0;
  frame.counter = 0;
  frame.keyId = 0;
  frame.payloadCrc = 0;
  frame.headerOffset = at + SHORT_PREFIX_SIZE;
  frame.headerSize = headerSize;
  frame.prefixSize = SHORT_PREFIX_SIZE;
  frame.payloadOffset = frame.headerOffset + padded(headerSize);
  frame.payloadSize = 0;
  frame.sizeBytes = SHORT_PREFIX_SIZE + padded(headerSize);
  return FrameFault.None;
}

/** Write the prefix of a short frame at `at`; the tag is zero. */
export function writeShort(frame: Frame, words: Int32Array, at: number): void {
  const base = at >>> 2;
  words[base] = SHORT_MAGIC;
  words[base + 1] = frame.method | (frame.headerSize << 16);
  words[base + 2] = 0;
  words[base + 3] = 0;
  words[base + 4] = 0;
  words[base + 5] = 0;
}

/** Write the prefix of `frame` (kind, method, status, sizes, ids, crc) at `at`; the tag is zero. */
export function writePrefix(frame: Frame, words: Int32Array, at: number): void {
  const base = at >>> 2;
  const requestHigh = Math.floor(frame.requestId / TWO_32);
  const counterHigh = Math.floor(frame.counter / TWO_32);
  words[base] = FRAME_MAGIC;
  words[base + 1] = FRAME_VERSION | (frame.kind << 8) | (frame.flags << 16);
  words[base + 2] = frame.method | (frame.status << 16);
  words[base + 3] = frame.headerSize;
  words[base + 4] = frame.requestId - requestHigh * TWO_32;
  words[base + 5] = requestHigh;
  words[base + 6] = frame.payloadSize;
  words[base + 7] = frame.keyId;
  words[base + 8] = frame.counter - counterHigh * TWO_32;
  words[base + 9] = counterHigh;
  words[base + 10] = frame.payloadCrc;
  words[base + 11] = 0;
  words[base + 12] = 0;
  words[base + 13] = 0;
  words[base + 14] = 0;
  words[base + 15] = 0;
}

/**
 * Compute the tag of a frame into `mac`: its prefix lies in full at `prefixAt` of `prefix`, which is memory
 * of its own where the frame is short, and its header at `at` of `words`.
 */
function computeTag(
  mac: Mac,
  prefix: Int32Array,
  prefixAt: number,
  words: Int32Array,
  at: number,
  headerBytes: number,
): void {
  mac.begin();
  mac.update(prefix, prefixAt >>> 2, PREFIX_TAGGED_SIZE >>> 2);
  mac.finish(words, at >>> 2, padded(headerBytes) >>> 2);
}

/** Put the tag into the finished frame at `at`. */
export function sealFrame(mac: Mac, words: Int32Array, at: number, headerBytes: number): void {
  computeTag(mac, words, at, words, at + PREFIX_SIZE, headerBytes);
  putTag(mac, words, at + PREFIX_TAGGED_SIZE);
}

/** True when the tag of the frame at `at` is right. Takes the same time either way. */
export function verifyFrame(mac: Mac, words: Int32Array, at: number, headerBytes: number): boolean {
  computeTag(mac, words, at, words, at + PREFIX_SIZE, headerBytes);
  return isTag(mac, words, at + PREFIX_TAGGED_SIZE);
}

/** Put the tag into the short frame at `at`, which stands in full in `prefix`. */
export function sealShort(
  mac: Mac,
  prefix: Int32Array,
  words: Int32Array,
  at: number,
  headerBytes: number,
): void {
  computeTag(mac, prefix, 0, words, at + SHORT_PREFIX_SIZE, headerBytes);
  putTag(mac, words, at + SHORT_TAG_AT);
}

/** `verifyFrame` of the short frame at `at`, which stands in full in `prefix`. */
export function verifyShort(
  mac: Mac,
  prefix: Int32Array,
  words: Int32Array,
  at: number,
  headerBytes: number,
): boolean {
  computeTag(mac, prefix, 0, words, at + SHORT_PREFIX_SIZE, headerBytes);
  return isTag(mac, words, at + SHORT_TAG_AT);
}

function putTag(mac: Mac, words: Int32Array, at: number): void {
  const base = at >>> 2;
  words[base] = mac.tag0;
  words[base + 1] = mac.tag1;
  words[base + 2] = mac.tag2;
  words[base + 3] = mac.tag3;
}

function isTag(mac: Mac, words: Int32Array, at: number): boolean {
  const base = at >>> 2;
  const difference =
    (words[base]! ^ mac.tag0) |
    (words[base + 1]! ^ mac.tag1) |
    (words[base + 2]! ^ mac.tag2) |
    (words[base + 3]! ^ mac.tag3);
  return difference === 0;
}

/** The fault for people, e.g. `HeaderSize`. */
// cold: ends a connection
export function faultName(fault: FrameFault): string {
  return FrameFault[fault] ?? `FrameFault(${String(fault)})`;
}

/** True when the `count` bytes at `at` are zero, as padding is. */
export function isZero(bytes: Uint8Array, at: number, count: number): boolean {
  for (let index = at; index < at + count; index++) if (bytes[index] !== 0) return false;
  return true;
}

/** Limits until the peer has proved the key. */
export const HANDSHAKE_LIMITS: Readonly<FrameLimits> = {
  headerBytes: HEADER_SIZE_HANDSHAKE_MAX,
  payloadBytes: 0,
};

/** Default limits of a connection for data and raft frames. */
export const DATA_LIMITS: Readonly<FrameLimits> = {
  headerBytes: HEADER_SIZE_DATA_MAX,
  payloadBytes: PAYLOAD_SIZE_MAX,
};
