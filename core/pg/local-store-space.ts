// data path
import { Status } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { type Entry, EntryType, type ShardLog, wholeUnits } from "../log/log.ts";
import type { ObjectStore } from "../object/object.ts";
import { Beneath, type SpaceBeneath } from "./local-store-types.ts";
import type { Applier } from "./local-store-apply.ts";
import type { FillHost } from "./local-store-fill.ts";
import type { StoreMachines, StoreParts, StoreState } from "./local-store-parts.ts";

/** Free units from which on leaders propose nothing that takes units: for what is under way. */
const FULL_SHARE = 0.02;
const FULL_UNITS_MIN = 128;
/**
 * Of the file system beneath a sparse file: what has to be free for what is under way, here and in
 * the other files there, that of the monitor among them, besides some times what waits in the log.
 */
const BENEATH_BYTES_MIN = 33_554_432;
const BENEATH_LOGS = 4;
const BENEATH_LOOK_US = 20_000;
/**
 * Where nothing was appended for this long and there is plenty, looks are as far apart: an idle shard
 * wakes 10 times a second for heartbeats, and a look took a tenth of what it does then. What others
 * take there meanwhile is seen late by the writes of one turn, and is far from all there is.
 */
const BENEATH_REST_US = 500_000;
const BENEATH_PLENTY_BYTES = 1_073_741_824;
/** So many times of what has to be free is little: people are told before writes are refused. */
const BENEATH_NEAR = 2;
/** It takes more to be better off again than to be worse, or replicas would say both in turns. */
const BETTER = 1.5;

/** What the account of the space asks of the store. */
export interface SpaceHost {
  requestCheckpoint(): void;
}

/**
 * Who gets log and units, and what those are told who get none: space is given before an entry is
 * proposed or accepted, so that nothing behind that fails for want of it.
 */
export class Space implements FillHost {
  private readonly parts: StoreParts;
  private readonly log: ShardLog;
  private readonly objects: ObjectStore;
  private readonly state: StoreState;
  private readonly applier: Applier;
  private readonly host: SpaceHost;
  private wasFull = false;
  /** How the file system beneath is, and what it can give; as of `lookedUs`. */
  private beneath = Beneath.Enough;
  private beneathBytes = Number.POSITIVE_INFINITY;
  private lookedUs = Number.NEGATIVE_INFINITY;

  constructor(
    parts: StoreParts,
    machines: StoreMachines,
    state: StoreState,
    applier: Applier,
    host: SpaceHost,
  ) {
    this.parts = parts;
    this.log = machines.log;
    this.objects = machines.objects;
    this.state = state;
    this.applier = applier;
    this.host = host;
  }

  /**
   * See `LocalStore.reserve`. Whole units are written beside the log, each into a new one, as long
   * as there are enough. When units are short here, or elsewhere (`sparing`), they go through the
   * log into those they have: then `entry.reservedUnits` says how much more space the write takes.
   */
  reserve(row: number, entry: Entry, sparing: boolean): Status {
    if (this.state.failed) return Status.DeviceFailed;
    if (this.state.settling) return Status.Busy;
    const isData = entry.type === EntryType.Write && !entry.bare;
    const whole = isData ? wholeUnits(entry.firstBlock, entry.blocks) : 0;
    // Each whole unit takes a row of the index, which is in memory until its page is written.
    if (whole > 0 && this.parts.slots.frames?.isCrowded === true) return Status.Busy;
    if (whole > 0 && !sparing && !this.wasFull) {
      const units = this.applier.unitsFor(row, entry, true);
      const status = this.log.reserve(row, entry, units, whole);
      if (status !== Status.NoSpace) return this.onRefused(row, status);
    }
    const units = this.applier.unitsFor(row, entry, false);
    return this.onRefused(row, this.log.reserve(row, entry, units, 0));
  }

  /** See `LocalStore.isFull`. */
  get isFull(): boolean {
    const { slots } = this.parts;
    this.refreshBeneath();
    const wanted = this.wasFull ? this.marginAgain : this.margin;
    const full = slots.freeUnits + slots.discarding - this.log.reservedUnits < wanted;
    const gone = slots.quarantined + this.objects.emptied.count;
    if (full && !this.wasFull && gone > 0) this.requestCheckpoint();
    this.wasFull = full;
    return full || this.isShortBeneath;
  }

  private get margin(): number {
    return Math.max(FULL_UNITS_MIN, this.parts.slots.unitsTotal * FULL_SHARE);
  }

  private get marginAgain(): number {
    return this.margin * BETTER;
  }

  /** Free units that may be kept from being used for a moment; none below 1. */
  get spareUnits(): number {
    return Math.floor(this.parts.slots.freeUnits - this.log.reservedUnits - this.marginAgain);
  }

  /** See `LocalStore.takesSpace`. */
  takesSpace(entry: Entry): boolean {
    // Where a sparse file has holes, within the units it has, is not known here.
    const isData = entry.type === EntryType.Write;
    return entry.reservedUnits > 0 || (isData && this.isShortBeneath);
  }

  // cold: a file system is full.
  /** The device says that writes wait for space: what they move home stays in the log meanwhile. */
  onStarved(): void {
    const { path } = this.parts.device.disk;
    this.parts.logger.error("no space beneath the store: what the log holds waits there", { path });
  }

  /** The file system beneath is nearly full. */
  get isShortBeneath(): boolean {
    return this.beneath === Beneath.Short;
  }

  private refreshBeneath(): void {
    const { turnUs } = this.parts.world.clock;
    const rests =
      !this.parts.device.isStarving &&
      turnUs - this.log.appendedAtUs >= BENEATH_REST_US &&
      this.beneathBytes >= BENEATH_PLENTY_BYTES;
    if (turnUs - this.lookedUs >= (rests ? BENEATH_REST_US : BENEATH_LOOK_US)) this.lookBeneath();
  }

  // cold: at most every 20 ms.
  private lookBeneath(): void {
    const { device, world, logger } = this.parts;
    if (this.state.closing) return;
    this.lookedUs = world.clock.turnUs;
    // Not every file system tells what it gives: there are quotas.
    this.beneathBytes = device.isStarving ? 0 : device.disk.bytesBeneath();
    const before = this.beneath;
    this.beneath = this.judgeBeneath();
    if ((before === Beneath.Short) === this.isShortBeneath) return;
    const fields = { path: device.disk.path, freeBytes: this.beneathBytes };
    if (this.isShortBeneath)
      logger.warn("the file system beneath the store is nearly full", fields);
    else logger.warn("the file system beneath the store has space again", fields);
  }

  // cold: at most every 20 ms.
  private judgeBeneath(): Beneath {
    // What was moved home and is kept in the log for followers needs nothing more.
    const waiting = this.objects.overlay.count + this.log.unappliedBlocks;
    const margin = BENEATH_BYTES_MIN + waiting * BLOCK_SIZE * BENEATH_LOGS;
    const bytes = this.beneathBytes;
    if (bytes < (this.beneath === Beneath.Short ? margin * BETTER : margin)) return Beneath.Short;
    const near = margin * BENEATH_NEAR;
    return bytes < (this.beneath === Beneath.Enough ? near : near * BETTER)
      ? Beneath.Near
      : Beneath.Enough;
  }

  // cold: for reports.
  /** See `StoreUsage.beneath`. */
  reportBeneath(): SpaceBeneath | null {
    this.refreshBeneath();
    const { beneathBytes: bytes, beneath: state } = this;
    if (bytes === Number.POSITIVE_INFINITY) return null;
    const step = bytes < 1 ? 1 : 2 ** Math.max(0, Math.floor(Math.log2(bytes)) - 3);
    const freeBytes = Math.floor(bytes / step) * step;
    return { state, freeBytes, path: this.parts.device.disk.path };
  }

  /** See `LocalStore.refuseFull`. */
  refuseFull(row: number, own: boolean): Status {
    const freeing = this.log.group(row).unappliedFreeing > 0;
    return own || freeing ? this.onRefused(row, Status.NoSpace) : Status.NoSpace;
  }

  /** Back-pressure: a checkpoint makes room. Answers what to tell whom it was refused. */
  onRefused(row: number, status: Status): Status {
    // What it overwrites may be freed ahead of it, or may not: that is known in a moment.
    if (status === Status.NoSpace && this.log.group(row).unappliedFreeing > 0) return Status.Busy;
    if (status === Status.Busy) this.requestCheckpoint();
    const { quarantined, discarding } = this.parts.slots;
    const comes = quarantined + discarding + this.objects.emptied.count;
    if (status !== Status.NoSpace || comes === 0) return status;
    this.requestCheckpoint();
    return Status.Busy;
  }

  requestCheckpoint(): void {
    this.host.requestCheckpoint();
  }
}
