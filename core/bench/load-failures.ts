import { type Status, statusName } from "../base/status.ts";
import { StampFinding } from "./stamp.ts";

const KEPT_MAX = 20;

/** What went wrong during a load, in words; the first 20 are kept. Cold. */
export class LoadFailures {
  readonly statusTexts: string[] = [];
  readonly blockTexts: string[] = [];
  blockCount = 0;

  addStatus(isWrite: boolean, offsetBytes: number, status: Status): void {
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
