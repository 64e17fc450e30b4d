// cold path: asked once per round; what clients do sets one number.
/**
 * The recovery dial on one shard: how much of its time a shard spends on bringing replicas back.
 *
 * While clients are at work, here or at the leader that is asked, a share of the time: work is done
 * in short rounds, and after each comes a rest in proportion to what it took. A slow machine so gets
 * less recovery, as it has less to give. While nobody is at work there is no rest.
 *
 * A fixed rate was not enough: what one machine does not feel stops another.
 */
import { type RecoverySettings, RecoverySpeed } from "../cluster/cluster.ts";

/** Of the time of a shard, and units of one round: what a client may have to wait for. */
interface Position {
  readonly share: number;
  readonly units: number;
}

const POSITIONS: Readonly<Record<RecoverySpeed, Position>> = {
  [RecoverySpeed.Low]: { share: 0.05, units: 4 },
  [RecoverySpeed.Medium]: { share: 0.2, units: 16 },
  [RecoverySpeed.High]: { share: 0.5, units: 64 },
};
/** Units of one round while nobody is at work. */
export const ROUND_UNITS_MAX: number = POSITIONS[RecoverySpeed.High].units;
/** So long after its last request a client counts as being at work. */
const BUSY_US = 100_000;
/** No rest is longer: clients may have gone meanwhile. */
const REST_US_MAX = 1_000_000;

export class RecoveryPace {
  /**
   * A follower that lacks no more entries of a log is sent them at once, clients or not: it may be
   * needed in a moment, when another replica stops. With rests for all, a clean stop right after the
   * return of another osd paused writers for 300 to 400 ms, where 10 to 30 are usual.
   */
  nearEntries = 65_536;
  /** When a client's request was last answered here, or a new entry of one came from a leader. */
  clientUs: number = Number.NEGATIVE_INFINITY;
  /** Units of a round at most. */
  readonly unitsMax: number;
  private speed: RecoverySpeed = RecoverySpeed.Medium;
  private paused_ = false;

  constructor(unitsMax: number = ROUND_UNITS_MAX) {
    this.unitsMax = unitsMax;
  }

  /** Nothing is to be compared and copied. */
  get paused(): boolean {
    return this.paused_;
  }

  follow(settings: RecoverySettings): void {
    this.speed = settings.speed;
    this.paused_ = settings.paused;
  }

  /** Whether clients are at work on this shard. */
  isBusy(nowUs: number): boolean {
    return nowUs - this.clientUs < BUSY_US;
  }

  /** Units that one round may ask about. */
  roundUnits(isBusy: boolean): number {
    return isBusy ? Math.min(POSITIONS[this.speed].units, this.unitsMax) : this.unitsMax;
  }

  /** How long to rest after `tookUs` of work, of which `workers` go on at the same time. */
  restUs(tookUs: number, workers: number): number {
    const { share } = POSITIONS[this.speed];
    return Math.min(REST_US_MAX, Math.round(tookUs * Math.max(0, workers / share - 1)));
  }
}
