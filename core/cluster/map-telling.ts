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

/** What a holder of (generation, epoch) lacks of `map`; undefined when nothing, or too much to be told. */
export function deltaToTell(
  map: ClusterMap,
  generation: number,
  epoch: number,
): MapDelta | undefined {
  if (compareMapIdentity({ generation, epoch }, map) >= 0) return undefined;
  if (map.rowsFrom(generation, epoch) * ROW_BYTES_MIN > TOLD_BYTES_MAX) return undefined;
  const delta = map.deltaFrom(generation, epoch);
  if (delta === undefined || splitDelta(delta, TOLD_BYTES_MAX).length > 1) return undefined;
  return delta;
}
