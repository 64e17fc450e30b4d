// cold: the simulator
import type { Checksum } from "../base/checksum.ts";

/**
 * CRC-32 and HMAC-SHA256 in plain code, for simulations that are given nothing faster. They answer
 * what the runtime's answer.
 */
export class PlainChecksum implements Checksum {
  private readonly table = makeTable();

  crc32(bytes: Uint8Array, seed: number): number {
    let crc = ~seed;
    const { table } = this;
    for (let at = 0; at < bytes.length; at++) {
      crc = table[(crc ^ bytes[at]!) & 0xff]! ^ (crc >>> 8);
    }
    return ~crc >>> 0;
  }

  hmacSha256(key: Uint8Array, data: Uint8Array): Uint8Array {
    const short = key.length > BLOCK ? sha256(key) : key;
    const inner = new Uint8Array(BLOCK + data.length);
    const outer = new Uint8Array(BLOCK + 32);
    inner.fill(0x36, 0, BLOCK);
    outer.fill(0x5c, 0, BLOCK);
    for (let at = 0; at < short.length; at++) {
      inner[at] = inner[at]! ^ short[at]!;
      outer[at] = outer[at]! ^ short[at]!;
    }
    inner.set(data, BLOCK);
    outer.set(sha256(inner), BLOCK);
    return sha256(outer);
  }
}

const BLOCK = 64;
const ROUNDS = 64;

function makeTable(): Int32Array {
  const table = new Int32Array(256);
  for (let value = 0; value < 256; value++) {
    let crc = value;
    for (let bit = 0; bit < 8; bit++) crc = (crc & 1) === 1 ? (crc >>> 1) ^ 0xedb8_8320 : crc >>> 1;
    table[value] = crc;
  }
  return table;
}

/** The first 32 bits of the fractional parts of the roots of the first primes (FIPS 180-4). */
function fractions(count: number, root: 2 | 3): Int32Array {
  const out = new Int32Array(count);
  let found = 0;
  for (let candidate = 2; found < count; candidate++) {
    if (!isPrime(candidate)) continue;
    out[found] = fractionOf(BigInt(candidate), root);
    found += 1;
  }
  return out;
}

/** floor(root(value) · 2^32) mod 2^32, by an integer root, exact. */
function fractionOf(value: bigint, root: 2 | 3): number {
  const scaled = value << BigInt(32 * root);
  let low = 0n;
  let high = 1n << 40n;
  while (high - low > 1n) {
    const middle = (low + high) >> 1n;
    if (middle ** BigInt(root) <= scaled) low = middle;
    else high = middle;
  }
  return Number(low & 0xffff_ffffn) | 0;
}

function isPrime(value: number): boolean {
  for (let divisor = 2; divisor * divisor <= value; divisor++) {
    if (value % divisor === 0) return false;
  }
  return true;
}

const START = fractions(8, 2);
const CONSTANTS = fractions(ROUNDS, 3);

function rotate(value: number, bits: number): number {
  return (value >>> bits) | (value << (32 - bits));
}

function sha256(data: Uint8Array): Uint8Array {
  const paddedLength = Math.ceil((data.length + 9) / BLOCK) * BLOCK;
  const padded = new Uint8Array(paddedLength);
  padded.set(data);
  padded[data.length] = 0x80;
  const view = new DataView(padded.buffer);
  view.setUint32(paddedLength - 8, Math.floor(data.length / 536_870_912));
  view.setUint32(paddedLength - 4, (data.length * 8) >>> 0);
  const state = START.slice();
  const words = new Int32Array(ROUNDS);
  for (let at = 0; at < paddedLength; at += BLOCK) compress(state, words, view, at);
  const out = new Uint8Array(32);
  const outView = new DataView(out.buffer);
  state.forEach((word, index) => outView.setInt32(index * 4, word));
  return out;
}

function compress(state: Int32Array, words: Int32Array, view: DataView, at: number): void {
  for (let index = 0; index < 16; index++) words[index] = view.getInt32(at + index * 4);
  for (let index = 16; index < ROUNDS; index++) {
    const early = words[index - 15]!;
    const late = words[index - 2]!;
    const mixEarly = rotate(early, 7) ^ rotate(early, 18) ^ (early >>> 3);
    const mixLate = rotate(late, 17) ^ rotate(late, 19) ^ (late >>> 10);
    words[index] = words[index - 16]! + mixEarly + words[index - 7]! + mixLate;
  }
  const v = state.slice();
  for (let index = 0; index < ROUNDS; index++) {
    const e = v[4]!;
    const a = v[0]!;
    const mixE = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
    const choice = (e & v[5]!) ^ (~e & v[6]!);
    const first = (v[7]! + mixE + choice + CONSTANTS[index]! + words[index]!) | 0;
    const mixA = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
    const majority = (a & v[1]!) ^ (a & v[2]!) ^ (v[1]! & v[2]!);
    v.copyWithin(1, 0, 7);
    v[4] = v[4]! + first;
    v[0] = first + mixA + majority;
  }
  for (let index = 0; index < 8; index++) state[index] = state[index]! + v[index]!;
}
