// cold path: once per start, and every few minutes.
import { FastblockError } from "../base/errors.ts";
import type { StoreStart } from "../store/store.ts";
import type { StoreParts } from "./local-store-parts.ts";
import { readSuperblock, writeSuperblock } from "./store-device.ts";

/**
 * Make the history of a store's starts durable, in both copies of the superblock: whichever of them
 * is damaged later, what others were told is in the other one. `buffer` is 4 KiB of the arena that
 * nobody else uses. Throws FB4006, FB4009.
 */
export async function recordStarts(
  parts: StoreParts,
  starts: readonly StoreStart[],
  buffer: number,
): Promise<void> {
  const { world, device, claim } = parts;
  const found = await readSuperblock(world, device, buffer);
  if (found === undefined || found.incarnation !== claim.incarnation) {
    const seen = found === undefined ? "no valid superblock" : `incarnation ${found.incarnation}`;
    throw new FastblockError("FB4006", `Recording a start: ${seen}, ${claim.incarnation} wanted`);
  }
  for (const step of [1, 2]) {
    const next = { ...found, generation: found.generation + step, starts };
    await writeSuperblock(world, device, next, buffer);
  }
}
