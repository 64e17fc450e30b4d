// data path
import { UNIT_SIZE } from "../base/units.ts";
import { DeviceOp, DeviceRegion } from "../device/device.ts";
import { CallbackTimer, DiskVerb } from "../reactor/world.ts";
import { StaleUnits } from "../store/store.ts";
import type { StoreParts, StoreState } from "./local-store-parts.ts";
import type { Space } from "./local-store-space.ts";

/** Units of one discard: 16 MiB. */
const UNITS_MAX = 256;
/** After one that failed though discards are known here. */
const FAILED_REST_US = 10_000_000;
/** EPERM, ENODEV, EINVAL, ENOTTY, ENOSYS, EOPNOTSUPP: what is beneath does not know discards. */
const UNKNOWN_HERE: readonly number[] = [1, 19, 22, 25, 38, 95];

/**
 * Gives the space of units that are free for good back to what lies beneath: holes in a sparse
 * file, discarded blocks of a device.
 *
 * One range at a time, and a rest after each: as long as it took while nobody writes, or while the
 * file system beneath is short of space; `discardRestMs` while clients write. A range is not free
 * meanwhile, so only what the store can spare is taken; and some are kept as they are for the next
 * writes. A discard is a hint: what was not given back
 * is tried again later, after a start too, and a device that knows none is asked once.
 */
export class Discarder extends DeviceOp {
  private readonly parts: StoreParts;
  private readonly state: StoreState;
  private readonly space: Space;
  private readonly units: StaleUnits;
  private readonly timer: CallbackTimer;
  private unknownHere = false;
  private failedBefore = false;
  private beganUs = 0;
  private endedUs = 0;
  /** The shortest rest after the last one. */
  private restUs = 0;

  constructor(parts: StoreParts, state: StoreState, space: Space) {
    super();
    this.parts = parts;
    this.state = state;
    this.space = space;
    this.units = new StaleUnits(parts.slots);
    this.verb = DiskVerb.Discard;
    this.region = DeviceRegion.Data;
    this.timer = new CallbackTimer(() => parts.world.turns.again());
  }

  // cold: once per start.
  /** The replay has ended: what is free now is free for good. */
  begin(): void {
    this.units.begin();
  }

  /** Begin the next discard if there is anything to give back, and it is time. */
  advance(isIdle: boolean): void {
    if (this.units.count > 0 || this.unknownHere || this.state.closing) return;
    if (!this.parts.slots.holdsStale || this.isKept) return;
    const { clock, timers } = this.parts.world;
    const hurries = isIdle || this.space.isShortBeneath;
    const busyUs = hurries ? 0 : this.parts.tuning.discardRestMs * 1000;
    const dueUs = this.endedUs + (this.restUs > busyUs ? this.restUs : busyUs);
    if (clock.turnUs < dueUs) {
      if (this.timer.timerDueUs < 0) timers.arm(this.timer, dueUs - clock.turnUs);
      return;
    }
    const spare = this.space.spareUnits;
    if (spare < 1 || !this.units.take(spare < UNITS_MAX ? spare : UNITS_MAX)) return;
    this.offsetBytes = this.parts.slots.unitOffset(this.units.first);
    this.lengthBytes = this.units.count * UNIT_SIZE;
    this.beganUs = clock.turnUs;
    this.parts.device.submit(this);
  }

  /** What is stale now is to be used again, as long as nobody else wants the space. */
  private get isKept(): boolean {
    const { slots, tuning } = this.parts;
    const used = slots.unitsTotal - slots.freeUnits;
    return !this.space.isShortBeneath && slots.staleUnits * 100 <= used * tuning.staleKeptPercent;
  }

  onComplete(): void {
    const { clock, turns } = this.parts.world;
    const isRefused = this.errno !== 0;
    this.units.giveBack(isRefused);
    this.endedUs = clock.turnUs;
    this.restUs = this.endedUs - this.beganUs;
    if (isRefused && !this.state.failed) this.onRefused();
    turns.again();
  }

  // cold: once per store, or per failure.
  private onRefused(): void {
    const { device, logger } = this.parts;
    const fields = { path: device.disk.path, errno: this.errno };
    this.restUs = FAILED_REST_US;
    if (UNKNOWN_HERE.includes(this.errno)) {
      this.unknownHere = true;
      logger.warn("no discards beneath the store: freed space stays allocated there", fields);
    } else if (!this.failedBefore) {
      this.failedBefore = true;
      logger.warn("a discard failed beneath the store: it is tried again", fields);
    }
  }

  // cold: once per stop.
  close(): void {
    this.parts.world.timers.disarm(this.timer);
  }
}
