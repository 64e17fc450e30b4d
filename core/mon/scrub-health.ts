import { formatPgId } from "../base/ids.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import type { Catalogue } from "./catalogue.ts";

/** What scrubs found and could not put right: how many blocks, and a line for each group and block. */
export function collectScrubbed(catalogue: Catalogue): {
  readonly blocks: number;
  readonly groups: number;
  readonly details: readonly string[];
} {
  const images = new Map<number, string>();
  for (const image of catalogue.images.values()) {
    const pool = catalogue.map.pools.get(image.pool)?.name ?? "?";
    images.set(image.layer, `${pool}/${image.name}`);
  }
  let blocks = 0;
  let groups = 0;
  const details: string[] = [];
  for (const { id, scrub } of catalogue.pgs.values()) {
    if (scrub === undefined || scrub.left === 0 || !catalogue.map.pgs.has(id)) continue;
    groups += 1;
    blocks += scrub.left;
    for (const { layer, block, undecided } of scrub.blocks) {
      const where = `${images.get(layer) ?? "a removed image"} at ${String(block * BLOCK_SIZE)}`;
      const what = undecided ? "its replicas differ, and no majority agrees" : "damaged";
      details.push(`${formatPgId(id)}: ${where}: block ${String(block)}: ${what}`);
    }
    const more = scrub.left - scrub.blocks.length;
    if (more > 0) details.push(`${formatPgId(id)}: ${String(more)} blocks more`);
  }
  return { blocks, groups, details };
}
