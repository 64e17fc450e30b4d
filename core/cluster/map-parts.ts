import type { MapDelta, OsdRow, PgRow, PoolRow } from "./map-delta.ts";

/** One message of the control plane holds 1 MiB; estimates below are generous, so half of it. */
const PART_BYTES = 524_288;
/** Four numbers of up to five bytes, with what frames them. */
const REMOVED_BYTES = 26;

/**
 * Cut a delta into parts that each fit one message, in the order in which they must be applied.
 *
 * 100,000 groups of three are some 20 MiB. The parts carry the same identity; the first holds
 * what was removed.
 */
export function splitDelta(delta: MapDelta, partBytes: number = PART_BYTES): MapDelta[] {
  const parts: { osds: OsdRow[]; pools: PoolRow[]; pgs: PgRow[] }[] = [];
  let room = 0;
  const reserve = (bytes: number): (typeof parts)[number] => {
    if (parts.length === 0 || bytes > room) {
      parts.push({ osds: [], pools: [], pgs: [] });
      room = partBytes;
    }
    room -= bytes;
    return parts[parts.length - 1]!;
  };
  reserve(delta.removedPools.length * REMOVED_BYTES);
  for (const row of delta.osds) reserve(osdBytes(row)).osds.push(row);
  for (const row of delta.pools) reserve(160).pools.push(row);
  for (const row of delta.pgs) reserve(pgBytes(row)).pgs.push(row);
  return parts.map((rows, part) => ({
    ...delta,
    ...rows,
    removedPools: part === 0 ? delta.removedPools : [],
    part,
    more: part < parts.length - 1,
  }));
}

/** The delta that was cut. */
export function joinDeltas(parts: readonly MapDelta[]): MapDelta {
  return {
    ...parts[0]!,
    osds: parts.flatMap((one) => one.osds),
    pools: parts.flatMap((one) => one.pools),
    pgs: parts.flatMap((one) => one.pgs),
    removedPools: parts.flatMap((one) => one.removedPools),
    part: 0,
    more: false,
  };
}

function osdBytes(row: OsdRow): number {
  const addresses = row.addresses.reduce((sum, one) => sum + one.host.length * 3 + 12, 0);
  return 80 + row.storeUuid.length + row.host.length * 3 + addresses;
}

function pgBytes(row: PgRow): number {
  const { configuration } = row;
  const members =
    configuration === undefined
      ? 0
      : configuration.voters.length + configuration.outgoing.length + configuration.learners.length;
  return 64 + row.replicas.length * 72 + members * 5;
}
