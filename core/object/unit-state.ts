// cold path: catch-up by difference; nothing here runs for a client's request.
import { assert } from "../base/assert.ts";
import { BLOCKS_PER_UNIT, TWO_32 } from "../base/units.ts";
import { NONE, SlotState, type SlotZone, UNITS_PER_HOLE } from "../store/store.ts";
import { type ObjectStore, SourceKind } from "./object-store.ts";
import { BlockState } from "./ops.ts";

/** Keys that one listing holds, and slots that one call looks at. */
const LISTING_MAX = 1024;
const LISTING_SLICE = 8192;

/**
 * One unit as a reader at `snapSeq` sees it: through what is older, and through parents. Reused by
 * its owner, who sets the key.
 */
export class UnitState {
  layer = 0;
  unit = 0;
  snapSeq = 0;
  /** `BlockState` of each block: Zero, Data or Lost. */
  readonly states: Uint8Array = new Uint8Array(BLOCKS_PER_UNIT);
  /** Raft index that wrote the block; 0 unless Data or Lost. */
  readonly versions: Float64Array = new Float64Array(BLOCKS_PER_UNIT);
  /** The client's crc32; 0 unless Data. */
  readonly crcs: Uint32Array = new Uint32Array(BLOCKS_PER_UNIT);
  /** Of states, versions and crcs: equal on every replica that shows the same. Set by `digestOf`. */
  digestLow = 0;
  digestHigh = 0;
}

/** A page of a listing. Reused by its owner. */
export class UnitListing {
  count = 0;
  readonly layers: Float64Array = new Float64Array(LISTING_MAX);
  readonly units: Uint32Array = new Uint32Array(LISTING_MAX);
  readonly snapSeqs: Uint32Array = new Uint32Array(LISTING_MAX);
  readonly digestsLow: Uint32Array = new Uint32Array(LISTING_MAX);
  readonly digestsHigh: Uint32Array = new Uint32Array(LISTING_MAX);
}

/** Fill in what a reader sees of the unit that `state` names. */
export function readUnit(objects: ObjectStore, row: number, state: UnitState): void {
  objects.openUnit(state.layer, state.unit, state.snapSeq, row);
  for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
    objects.blockAt(bit);
    assert(!objects.sourceAbsent, "readUnit: a row is not in memory");
    const kind = objects.sourceKind;
    const data = kind === SourceKind.Log || kind === SourceKind.Home;
    const lost = kind === SourceKind.Lost;
    state.states[bit] = data ? BlockState.Data : lost ? BlockState.Lost : BlockState.Zero;
    state.versions[bit] = data || lost ? objects.sourceVersion : 0;
    state.crcs[bit] = data ? objects.sourceCrc : 0;
  }
}

/** Digest what `state` holds, into `digestLow` and `digestHigh`: two independent halves of 32 bits. */
export function digestOf(state: UnitState): void {
  let low = 0x243f_6a88;
  let high = 0x85a3_08d3;
  for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
    const version = state.versions[bit]!;
    const first = version >>> 0;
    const second = ((version / TWO_32) >>> 0) + state.states[bit]! * 0x1_0000;
    const third = state.crcs[bit]!;
    low = mixLow(mixLow(mixLow(low ^ first) ^ second) ^ third);
    high = mixHigh(mixHigh(mixHigh(high + first) + second) + third);
  }
  state.digestLow = low >>> 0;
  state.digestHigh = high >>> 0;
}

/** Bijective: states that differ in one word only never meet. */
function mixLow(value: number): number {
  let hash = Math.imul(value ^ (value >>> 16), 0x85eb_ca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2_ae35);
  return ((hash ^ (hash >>> 16)) + 0x9e37_79b9) | 0;
}

/** Bijective, with other constants. */
function mixHigh(value: number): number {
  let hash = Math.imul(value ^ (value >>> 16), 0x7feb_352d);
  hash = Math.imul(hash ^ (hash >>> 15), 0x846c_a68b);
  return ((hash ^ (hash >>> 16)) + 0x6a09_e667) | 0;
}

/** The slot of exactly this key, for marking what was seen; -1 when there is none. */
export function unitSlot(
  objects: ObjectStore,
  layer: number,
  unit: number,
  snapSeq: number,
): number {
  const handle = objects.slots.layers.find(layer);
  const slot = handle === NONE ? NONE : objects.slots.exact(handle, unit, snapSeq);
  return slot === NONE ? -1 : slot;
}

/**
 * List the keys of a row from `cursor` (0: the beginning) on: every (layer, unit, snapSeq) that has
 * a slot or a hole bit, in the order of the slots, up to the slot that brings them to `countMax`; the
 * digests are to be set (`digestListed`). Answers the next cursor, -1 at the end.
 */
export function listUnits(
  objects: ObjectStore,
  row: number,
  cursor: number,
  listing: UnitListing,
  countMax: number = LISTING_MAX,
): number {
  const { slots } = objects;
  const perZone = slots.geometry.slotsPerZone;
  const end = slots.zones.length * perZone;
  listing.count = 0;
  let next = cursor;
  let looked = 0;
  while (next < end && looked < LISTING_SLICE && listing.count < countMax) {
    const zoneNumber = Math.floor(next / perZone);
    const zone = slots.zones[zoneNumber]!;
    looked += 1;
    if (!zone.opened) {
      next = (zoneNumber + 1) * perZone;
      continue;
    }
    const index = next % perZone;
    if (zone.row[index] === row && !addKeys(objects, zone, index, listing)) break;
    next += 1;
  }
  return next < end ? next : -1;
}

/** Add the keys that a slot stands for. False: they do not fit any more. */
function addKeys(
  objects: ObjectStore,
  zone: SlotZone,
  index: number,
  listing: UnitListing,
): boolean {
  const state: SlotState = zone.state[index]!;
  if (state === SlotState.Live || state === SlotState.Forming) {
    if (listing.count === LISTING_MAX) return false;
    addKey(objects, zone, index, zone.unit[index]!, listing);
  }
  if (state !== SlotState.Hole) return true;
  if (listing.count + UNITS_PER_HOLE > LISTING_MAX) return false;
  for (let bit = 0; bit < UNITS_PER_HOLE; bit++) {
    const word = zone.holes[index * 2 + (bit >>> 5)]!;
    if (((word >>> (bit & 31)) & 1) === 0) continue;
    addKey(objects, zone, index, zone.unit[index]! + bit, listing);
  }
  return true;
}

function addKey(
  objects: ObjectStore,
  zone: SlotZone,
  index: number,
  unit: number,
  listing: UnitListing,
): void {
  listing.layers[listing.count] = objects.slots.layers.idOf(zone.layer[index]!);
  listing.units[listing.count] = unit;
  listing.snapSeqs[listing.count] = zone.snapSeq[index]!;
  listing.count += 1;
}

/** Set the digests of units [`from`, `to`) of a listing. */
export function digestListed(
  objects: ObjectStore,
  row: number,
  listing: UnitListing,
  from: number,
  to: number,
): void {
  const state = new UnitState();
  for (let at = from; at < to; at++) {
    state.layer = listing.layers[at]!;
    state.unit = listing.units[at]!;
    state.snapSeq = listing.snapSeqs[at]!;
    readUnit(objects, row, state);
    digestOf(state);
    listing.digestsLow[at] = state.digestLow;
    listing.digestsHigh[at] = state.digestHigh;
  }
}
