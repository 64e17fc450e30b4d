// cold path: once per start.
import { Loader, type LogOwner, ShardLog } from "../log/log.ts";
import { Mover, type MoverOwner, ObjectStore, Reader } from "../object/object.ts";
import {
  LOAD_BUFFER_BYTES,
  PageLoader,
  type PageLoaderOwner,
  PageWriter,
  type PageWriterOwner,
} from "../store/store.ts";
import { BUFFERS, type OpenedStore } from "./local-store-open.ts";
import type { StoreMachines } from "./local-store-parts.ts";

/** Who the machines tell. */
export type MachineOwner = LogOwner & MoverOwner & PageWriterOwner & PageLoaderOwner;

/** Build what runs on an opened store. */
export function buildMachines(opened: OpenedStore, owner: MachineOwner): StoreMachines {
  const { world, device, space, batches, slots, quarantine, eras, seed, shard } = opened.parts;
  const incarnation = opened.parts.claim.incarnation;
  const log = new ShardLog({
    world,
    device,
    owner,
    entries: opened.parts.entries,
    space,
    batches,
    slots,
    quarantine,
    shard,
    incarnation,
    seed,
    headPosition: opened.headPosition,
    tailPosition: opened.tailPosition,
    lastCrc: opened.lastCrc,
    isVouched: opened.isVouched,
    vouchUs: opened.parts.tuning.vouchMs * 1000,
    buffers: opened.parts.buffers + BUFFERS.batches,
  });
  const objects = new ObjectStore(slots, quarantine, batches, space.ringBlocks);
  const depth = opened.parts.tuning.backgroundDepth;
  const moverBuffer = opened.parts.buffers + BUFFERS.mover;
  const pageBuffer = opened.parts.buffers + BUFFERS.pages;
  const rows = rowLoader(opened, owner);
  const pages = new PageWriter(world, device, slots, owner, {
    seed,
    shard,
    incarnation,
    buffer: pageBuffer,
  });
  if (rows !== null) pages.setLoader(rows);
  return {
    log,
    objects,
    rows,
    reader: new Reader(world, device, objects, eras, space, rows),
    mover: new Mover(world, device, objects, eras, space, owner, {
      depth,
      buffer: moverBuffer,
      pages: rows,
    }),
    pages,
    loader: new Loader(world, device, log, slots, eras, rows),
  };
}

/** Loads what of the index is not in memory; null: all of it is. */
function rowLoader({ parts }: OpenedStore, owner: PageLoaderOwner): PageLoader | null {
  const { world, device, slots } = parts;
  if (slots.frames === null) return null;
  const buffer = world.arena.allocate(LOAD_BUFFER_BYTES);
  return new PageLoader(world, device, slots, slots.frames, owner, buffer);
}
