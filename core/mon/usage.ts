import type { OsdId } from "../base/ids.ts";

/**
 * Space that layers take on all osds together, as reported: sums kept up to date by differences,
 * so that a page of many images does not add up the cluster for each.
 */
export class LayerSpace {
  /** By osd: `shard:layer` → bytes. */
  private readonly reported = new Map<OsdId, Map<string, Told>>();
  private readonly totals = new Map<number, number>();

  /** Bytes of a layer on all replicas. */
  of(layer: number): number {
    return this.totals.get(layer) ?? 0;
  }

  /** A shard of an osd says what a layer takes there; 0: nothing. */
  note(osd: OsdId, told: Told): void {
    const own = this.reported.get(osd) ?? new Map<string, Told>();
    this.reported.set(osd, own);
    const key = `${String(told.shard)}:${String(told.layer)}`;
    this.add(told.layer, told.bytes - (own.get(key)?.bytes ?? 0));
    if (told.bytes === 0) own.delete(key);
    else own.set(key, told);
  }

  /** The osd is about to tell everything anew. */
  forget(osd: OsdId): void {
    for (const told of this.reported.get(osd)?.values() ?? []) this.add(told.layer, -told.bytes);
    this.reported.delete(osd);
  }

  private add(layer: number, bytes: number): void {
    const total = (this.totals.get(layer) ?? 0) + bytes;
    if (total === 0) this.totals.delete(layer);
    else this.totals.set(layer, total);
  }
}

/** What a layer takes on one shard. */
export interface Told {
  readonly shard: number;
  readonly layer: number;
  readonly bytes: number;
}
