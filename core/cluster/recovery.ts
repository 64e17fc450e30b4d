import type { Epoch } from "../base/ids.ts";

/** What recovery may take of osds that clients keep at work: RecoverySpeed of `control.proto`. */
export enum RecoverySpeed {
  Low = 1,
  Medium = 2,
  High = 3,
}

/** The recovery dial of a cluster. */
export interface RecoverySettings {
  readonly speed: RecoverySpeed;
  /** Nothing is compared and copied; what is new reaches every replica as ever. */
  readonly paused: boolean;
  /** 0: nobody has touched it. */
  readonly changeEpoch: Epoch;
}

/** As every cluster begins. */
export const RECOVERY_DEFAULT: RecoverySettings = {
  speed: RecoverySpeed.Medium,
  paused: false,
  changeEpoch: 0 as Epoch,
};

/** Narrow the number of a message or a row: a speed that is not known counts as medium. */
export function recoverySpeedOf(value: number): RecoverySpeed {
  return value === RecoverySpeed.Low || value === RecoverySpeed.High ? value : RecoverySpeed.Medium;
}
