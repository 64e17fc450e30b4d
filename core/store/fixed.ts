// data path
import { TWO_32 } from "../base/units.ts";

/** High halves of numbers below 2^53 are below this. */
const HIGH_LIMIT = 0x20_0000;

/** Little-endian integers of more than 32 bits, as the formats hold them. Numbers stay below 2^53. */

export function getU64(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * TWO_32;
}

export function putU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value >>> 0, true);
  view.setUint32(at + 4, (value / TWO_32) >>> 0, true);
}

/** True when each of the `count` u64 behind each other at `at` is below 2^53, as all are that we write. */
export function fitU53(view: DataView, at: number, count: number): boolean {
  for (let index = 0; index < count; index++) {
    if (view.getUint32(at + index * 8 + 4, true) >= HIGH_LIMIT) return false;
  }
  return true;
}

export function getU48(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint16(at + 4, true) * TWO_32;
}

export function putU48(view: DataView, at: number, value: number): void {
  view.setUint32(at, value >>> 0, true);
  view.setUint16(at + 4, (value / TWO_32) & 0xffff, true);
}

/** The next multiple of `step` at or above `value`. */
export function roundUp(value: number, step: number): number {
  return Math.ceil(value / step) * step;
}
