import type { PgId } from "../base/ids.ts";
import { formatPgId } from "../base/ids.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import type { RefusedBlock } from "../../proto/gen/control_pb.ts";
import type { Catalogue } from "./catalogue.ts";
import type { OsdService } from "./osd-service.ts";

/** Blocks of one kind that reads are refused for. */
export interface RefusedSummary {
  /** For people, `pool/image`: those that have such blocks. */
  readonly images: readonly string[];
  /** A line for each block, by image and offset. */
  readonly details: readonly string[];
  /** How many there are, for people: osds name no more than the first of each shard. */
  readonly count: string;
}

/** From so many on a shard may have more than it named. */
const LISTED_MAX = 64;

interface Refused {
  readonly image: string;
  readonly pg: PgId;
  readonly block: number;
  lost: boolean;
  readonly osds: number[];
}

/**
 * What osds that are up refuse to show, by block of an image: lost, or waiting for a replica.
 *
 * Each replica tells of its own copy. A block is lost when one of them knows it to be: the others
 * look for a whole copy that can not exist.
 */
export function collectRefused(
  catalogue: Catalogue,
  osds: OsdService,
): { readonly lost: RefusedSummary; readonly waiting: RefusedSummary } {
  const images = new Map<bigint, string>();
  for (const image of catalogue.images.values()) {
    const pool = catalogue.map.pools.get(image.pool)?.name ?? "?";
    images.set(BigInt(image.layer), `${pool}/${image.name}`);
  }
  const blocks = new Map<string, Refused>();
  for (const live of osds.live.values()) {
    if (catalogue.map.osds.get(live.id)?.up !== true) continue;
    for (const one of live.refused) add(blocks, images.get(one.layer), one, live.id);
  }
  const sorted = [...blocks.values()].sort((a, b) =>
    a.image === b.image ? a.block - b.block : a.image < b.image ? -1 : 1,
  );
  return {
    lost: summarize(sorted.filter((one) => one.lost)),
    waiting: summarize(sorted.filter((one) => !one.lost)),
  };
}

/** Blocks of a layer that no image has any more are nobody's. */
function add(
  blocks: Map<string, Refused>,
  image: string | undefined,
  one: RefusedBlock,
  osd: number,
): void {
  if (image === undefined) return;
  const key = `${String(one.layer)}/${String(one.block)}`;
  const known = blocks.get(key);
  if (known === undefined) {
    const pg = one.pg as PgId;
    blocks.set(key, { image, pg, block: Number(one.block), lost: one.lost, osds: [osd] });
    return;
  }
  known.lost ||= one.lost;
  known.osds.push(osd);
}

function summarize(blocks: readonly Refused[]): RefusedSummary {
  return {
    images: [...new Set(blocks.map((one) => one.image))],
    count: `${String(blocks.length)}${blocks.length >= LISTED_MAX ? " or more" : ""}`,
    details: blocks.map((one) => {
      const osds = one.osds.map((osd) => `osd.${String(osd)}`).join(", ");
      const offset = String(one.block * BLOCK_SIZE);
      return `${one.image} at ${offset}: block ${String(one.block)}, ${formatPgId(one.pg)} on ${osds}`;
    }),
  };
}
