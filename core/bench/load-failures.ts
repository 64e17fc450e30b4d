import { FastblockError } from "../base/errors.ts";
import { Status, statusText } from "../base/status.ts";
import { StampFinding } from "./stamp.ts";

const KEPT_MAX = 20;

/** What went wrong during a load, in words; the first 20 are kept. Cold. */
export class LoadFailures {
  readonly statusTexts: string[] = [];
  readonly blockTexts: string[] = [];
  blockCount = 0;
  /** Operations that had no answer in time. */
  timeouts = 0;
  /** Operations that had no space. */
  refusedForSpace = 0;

  addStatus(isWrite: boolean, offsetBytes: number, status: Status): void {
    if (status === Status.TimedOut) this.timeouts++;
    if (status === Status.NoSpace) this.refusedForSpace++;
    if (this.statusTexts.length >= KEPT_MAX) return;
    const verb = isWrite ? "writing" : "reading";
    this.statusTexts.push(`${verb} at ${offsetBytes}: ${statusText(status)}`);
  }

  addBlock(block: number, finding: StampFinding, seen: number, least: number, most: number): void {
    this.blockCount++;
    if (this.blockTexts.length >= KEPT_MAX) return;
    const what = StampFinding[finding].toLowerCase();
    this.blockTexts.push(`block ${block} is ${what}: sequence ${seen}, wanted ${least} to ${most}`);
  }
}

/** What a load came to, as far as its failures go: a report of a bench. */
export interface FailureCounts {
  /** Operations that had no answer in time. */
  readonly timeouts: number;
  /** Operations that had no space. */
  readonly refusedForSpace: number;
}

/** What a load that failed ends with: FB1006 without an answer in time, FB5002 for want of space. */
export function loadError(what: string, failure: string, counts: FailureCounts): FastblockError {
  const message = `${what}: ${failure}`;
  if (counts.timeouts > 0) {
    return new FastblockError("FB1006", message, {
      hint: "see which osds are away: fastblock health; --timeout says how long to wait",
    });
  }
  return new FastblockError(counts.refusedForSpace > 0 ? "FB5002" : "FB5001", message);
}
