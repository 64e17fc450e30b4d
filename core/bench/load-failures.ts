import { FastblockError } from "../base/errors.ts";
import { Status, statusName } from "../base/status.ts";
import { StampFinding } from "./stamp.ts";

const KEPT_MAX = 20;

/** What went wrong during a load, in words; the first 20 are kept. Cold. */
export class LoadFailures {
  readonly statusTexts: string[] = [];
  readonly blockTexts: string[] = [];
  blockCount = 0;
  /** Operations that had no answer in time. */
  timeouts = 0;

  addStatus(isWrite: boolean, offsetBytes: number, status: Status): void {
    if (status === Status.TimedOut) this.timeouts++;
    if (this.statusTexts.length >= KEPT_MAX) return;
    const verb = isWrite ? "writing" : "reading";
    this.statusTexts.push(`${verb} at ${offsetBytes}: ${statusName(status)}, wanted Ok`);
  }

  addBlock(block: number, finding: StampFinding, seen: number, least: number, most: number): void {
    this.blockCount++;
    if (this.blockTexts.length >= KEPT_MAX) return;
    const what = StampFinding[finding].toLowerCase();
    this.blockTexts.push(`block ${block} is ${what}: sequence ${seen}, wanted ${least} to ${most}`);
  }
}

/** What a load that failed ends with: FB1006 when operations had no answer in time, else FB5001. */
export function loadError(what: string, failure: string, timeouts: number): FastblockError {
  if (timeouts === 0) return new FastblockError("FB5001", `${what}: ${failure}`);
  return new FastblockError("FB1006", `${what}: ${failure}`, {
    hint: "see which osds are away: fastblock health; --timeout says how long to wait",
  });
}
