// data path
import { TWO_32 } from "../base/units.ts";

/**
 * The placement hash of an object: low 32 bits of a 64-bit hash. Part of the data format: a change
 * moves every object, so it never changes.
 *
 * ```
 * hash(family, object) = mix(mix(family + G) + object + G)      all arithmetic modulo 2^64
 * mix(z): z ^= z >>> 30; z *= 0xbf58476d1ce4e5b9
 *         z ^= z >>> 27; z *= 0x94d049bb133111eb
 *         z ^= z >>> 31                                          G = 0x9e3779b97f4a7c15
 * ```
 *
 * `mix` is the finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection in which each input
 * bit flips each output bit with probability one half. Adding image and object numbers without it
 * would put object 11 of image 1 where object 1 of image 11 lies. Both inputs are below 2^53.
 * Computed on 32-bit halves: no BigInt, no allocation.
 */
export function hashObject(familyId: number, objectIndex: number): number {
  let low = (familyId >>> 0) + 0x7f4a_7c15;
  let high = (Math.floor(familyId / TWO_32) + 0x9e37_79b9 + (low >= TWO_32 ? 1 : 0)) >>> 0;
  low = low >>> 0;
  let shifted = (low ^ ((low >>> 30) | (high << 2))) >>> 0;
  high = (high ^ (high >>> 30)) >>> 0;
  low = Math.imul(shifted, 0x1ce4_e5b9) >>> 0;
  high = productHigh(shifted, high, 0x1ce4_e5b9, 0xbf58_476d);
  shifted = (low ^ ((low >>> 27) | (high << 5))) >>> 0;
  high = (high ^ (high >>> 27)) >>> 0;
  low = Math.imul(shifted, 0x1331_11eb) >>> 0;
  high = productHigh(shifted, high, 0x1331_11eb, 0x94d0_49bb);
  shifted = (low ^ ((low >>> 31) | (high << 1))) >>> 0;
  high = (high ^ (high >>> 31)) >>> 0;

  // Second round: + object + G, carried in two steps so that each stays below 2^53.
  low = shifted + (objectIndex >>> 0) + 0x7f4a_7c15;
  high = (high + Math.floor(objectIndex / TWO_32) + 0x9e37_79b9 + Math.floor(low / TWO_32)) >>> 0;
  low = low >>> 0;
  shifted = (low ^ ((low >>> 30) | (high << 2))) >>> 0;
  high = (high ^ (high >>> 30)) >>> 0;
  low = Math.imul(shifted, 0x1ce4_e5b9) >>> 0;
  high = productHigh(shifted, high, 0x1ce4_e5b9, 0xbf58_476d);
  shifted = (low ^ ((low >>> 27) | (high << 5))) >>> 0;
  high = (high ^ (high >>> 27)) >>> 0;
  low = Math.imul(shifted, 0x1331_11eb) >>> 0;
  high = productHigh(shifted, high, 0x1331_11eb, 0x94d0_49bb);
  return (low ^ ((low >>> 31) | (high << 1))) >>> 0;
}

/** The high 32 bits of the low 64 of (aHigh·2^32 + aLow) · (bHigh·2^32 + bLow). */
function productHigh(aLow: number, aHigh: number, bLow: number, bHigh: number): number {
  const a0 = aLow & 0xffff;
  const a1 = aLow >>> 16;
  const b0 = bLow & 0xffff;
  const b1 = bLow >>> 16;
  // Each product is below 2^32, each sum below 2^34: exact in doubles.
  const middle = a1 * b0 + ((a0 * b0) >>> 16);
  const cross = a0 * b1 + (middle & 0xffff);
  const carry = a1 * b1 + Math.floor(middle / 65_536) + Math.floor(cross / 65_536);
  return (carry + (Math.imul(aLow, bHigh) >>> 0) + (Math.imul(aHigh, bLow) >>> 0)) >>> 0;
}
