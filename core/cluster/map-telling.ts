import { type ClusterMap, compareMapIdentity } from "./cluster-map.ts";
import type { MapDelta } from "./map-delta.ts";
import { splitDelta } from "./map-parts.ts";

/**
 * What an osd tells of the map, to a client or to another osd, is one message of at most this size.
 * In parts, those of several osds would mix. Who lacks more asks the monitor.
 */
export const TOLD_BYTES_MAX = 262_144;
/** `splitDelta` counts no row for less. */
const ROW_BYTES_MIN = 64;

/** Places in the map's history that are remembered as too far back. */
const TOO_FAR_MAX = 1024;

/**
 * Tells others what they lack of a map.
 *
 * For whom that is too much is remembered until the map changes: to find it out every row is looked
 * at, and clients that are so far behind come back with each request.
 */
export class MapTeller {
  private readonly map: ClusterMap;
  /** The map that `tooFar` is of. */
  private generation = 0;
  private epoch = 0;
  private readonly tooFar = new Set<number>();

  /** `map`: read only; it may change between calls. */
  constructor(map: ClusterMap) {
    this.map = map;
  }

  /** What a holder of (generation, epoch) lacks; undefined when nothing, or too much to be told. */
  lackOf(generation: number, epoch: number): MapDelta | undefined {
    const { map, tooFar } = this;
    if (compareMapIdentity({ generation, epoch }, map) >= 0) return undefined;
    if (this.generation !== map.generation || this.epoch !== map.epoch) tooFar.clear();
    this.generation = map.generation;
    this.epoch = map.epoch;
    const from = map.fromOf(generation, epoch);
    if (tooFar.has(from)) return undefined;
    const delta = deltaToTell(map, generation, epoch);
    if (delta !== undefined) return delta;
    if (tooFar.size === TOO_FAR_MAX) tooFar.clear();
    tooFar.add(from);
    return undefined;
  }
}

function deltaToTell(map: ClusterMap, generation: number, epoch: number): MapDelta | undefined {
  if (map.rowsFrom(generation, epoch) * ROW_BYTES_MIN > TOLD_BYTES_MAX) return undefined;
  const delta = map.deltaFrom(generation, epoch);
  if (delta === undefined || splitDelta(delta, TOLD_BYTES_MAX).length > 1) return undefined;
  return delta;
}
