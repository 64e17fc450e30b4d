// cold path: once per start, every few minutes, and when the cluster's format is raised.
import { FastblockError } from "../base/errors.ts";
import type { Superblock } from "../store/store.ts";
import type { StoreParts } from "./local-store-parts.ts";
import { readSuperblock, writeSuperblock } from "./store-device.ts";

/** What of the superblock changes while a store is open. */
export type StoreFacts = Partial<Pick<Superblock, "starts" | "format">>;

/**
 * Make facts durable in both copies of the superblock: whichever of them is damaged later, what others
 * were told, and what no older program may open, is in the other one. `buffer` is 4 KiB of the arena
 * that nobody else uses. Throws FB4006, FB4009.
 */
export async function recordFacts(
  parts: StoreParts,
  facts: StoreFacts,
  buffer: number,
): Promise<void> {
  const { world, device, claim } = parts;
  const found = await readSuperblock(world, device, buffer, parts.formats);
  if (found === undefined || found.incarnation !== claim.incarnation) {
    const seen = found === undefined ? "no valid superblock" : `incarnation ${found.incarnation}`;
    throw new FastblockError(
      "FB4006",
      `Writing the superblock: ${seen}, ${claim.incarnation} wanted`,
    );
  }
  for (const step of [1, 2]) {
    const next = { ...found, ...facts, generation: found.generation + step };
    await writeSuperblock(world, device, next, buffer);
  }
}
