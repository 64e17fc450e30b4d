// cold path: for reports.
import { BLOCK_SIZE, UNIT_SIZE } from "../base/units.ts";
import type { Device } from "../device/device.ts";
import { FRAME_BYTES, type SlotTable } from "../store/store.ts";
import type { Filler } from "./local-store-fill.ts";
import type { Space } from "./local-store-space.ts";
import type { StoreMachines, StoreParts, StoreState } from "./local-store-parts.ts";
import type { DeviceState, StoreCounters, StoreUsage } from "./local-store-types.ts";

/** How full the store is. */
export function usageOf(parts: StoreParts, machines: StoreMachines, room: Space): StoreUsage {
  const { slots, space } = parts;
  const { log, objects } = machines;
  const total = slots.unitsTotal;
  const free = slots.freeUnits + slots.discarding;
  const quarantined = Math.min(slots.quarantined, total - free);
  return {
    bytesTotal: total * UNIT_SIZE,
    bytesUsed: (total - free - quarantined + log.reservedUnits) * UNIT_SIZE,
    bytesQuarantined: quarantined * UNIT_SIZE,
    logBytesTotal: space.ringBlocks * BLOCK_SIZE,
    logBytesUsed: log.usedBlocks * BLOCK_SIZE,
    overlayBlocks: objects.overlay.count,
    indexBytesUsed: (slots.frames?.used ?? 0) * FRAME_BYTES,
    indexBytesDirty: (slots.frames?.dirty ?? 0) * FRAME_BYTES,
    beneath: room.reportBeneath(),
    device: deviceOf(parts.device),
  };
}

function deviceOf({ counters, readsFail, slow, slowLatencyUs }: Device): DeviceState {
  const { readErrors, writeErrors, flushErrors } = counters;
  return { readErrors, writeErrors, flushErrors, readsFail, slow, latencyUs: slowLatencyUs };
}

/** A snapshot of what was done since the store was opened. */
export function countersOf(
  parts: StoreParts,
  machines: StoreMachines,
  state: StoreState,
  filler: Filler,
): StoreCounters {
  const { log, mover, pages, reader } = machines;
  const device = parts.device.counters;
  return {
    bytesLog: log.bytesWritten,
    bytesDirect: log.bytesDirect,
    bytesHome: mover.bytesWritten,
    bytesIndex: pages.bytesWritten,
    bytesCheckpoint: state.checkpointBytes,
    bytesRead: reader.bytesRead,
    batches: log.batchesWritten,
    entries: log.entriesAppended,
    entriesAppendedAgain: log.entriesAgain,
    deviceWrites: device.writes.reduce((sum, writes) => sum + writes, 0),
    deviceFlushes: device.flushes + device.durableWrites,
    deviceDiscards: device.discards,
    bytesDiscarded: device.bytesDiscarded,
    checkpoints: state.checkpoints,
    checksumFailures: reader.checksumFailures,
    blocksHealed: reader.blocksHealed,
    blocksMoved: mover.blocksMoved,
    unitsCopied: mover.unitsCopied,
    pageLoads: machines.rows?.loads ?? 0,
    pageEvictions: parts.slots.frames?.evictions ?? 0,
    unitsFilled: filler.unitsFilled,
  };
}

/** Bytes of units of each layer that is here. */
export function layerBytesOf(slots: SlotTable): Map<number, number> {
  const { layers } = slots;
  const bytes = new Map<number, number>();
  for (const handle of layers.list()) {
    const units = layers.unitsOf(handle);
    if (units > 0) bytes.set(layers.idOf(handle), units * UNIT_SIZE);
  }
  return bytes;
}
