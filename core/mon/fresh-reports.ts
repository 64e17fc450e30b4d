import type { OsdId } from "../base/ids.ts";
import { sleep, type Timers } from "../reactor/world.ts";
import type { OsdCommand } from "../../proto/gen/control_pb.ts";
import type { OsdLive } from "./osd-service.ts";

export interface FreshReportsOptions {
  readonly timers: Timers;
  readonly live: ReadonlyMap<OsdId, OsdLive>;
  /** Tell an osd something. False when it is not connected. */
  readonly command: (osd: OsdId, command: OsdCommand["command"]) => boolean;
}

/** An osd answers within milliseconds, or it hangs: then its last figures are shown, with their age. */
const FRESH_US = 1_000_000;
const POLL_US = 5_000;

/**
 * Asks the osds to report at once, for whoever wants to see what is true now. Reports come once a
 * second otherwise, so that whoever looked right after a write saw nothing of it.
 *
 * However many ask, one round is under way and one waits for it.
 */
export class FreshReports {
  private readonly options: FreshReportsOptions;
  private order = 0;
  private running: Promise<void> = Promise.resolve();
  private next: Promise<void> | undefined;

  constructor(options: FreshReportsOptions) {
    this.options = options;
  }

  /** Ends when every connected osd has told what it holds since the call, after 1 s at the latest. */
  fresh(): Promise<void> {
    this.next ??= this.running.then(() => {
      this.next = undefined;
      this.running = this.round();
      return this.running;
    });
    return this.next;
  }

  private async round(): Promise<void> {
    const { timers, live, command } = this.options;
    this.order += 1;
    const { order } = this;
    const value = { $typeName: "fastblock.control.ReportNow" as const, order: BigInt(order) };
    const asked = [...live.keys()].filter((osd) => command(osd, { case: "reportNow", value }));
    for (let waitedUs = 0; waitedUs < FRESH_US; waitedUs += POLL_US) {
      if (asked.every((osd) => (live.get(osd)?.asked ?? 0) >= order)) return;
      await sleep(timers, POLL_US);
    }
  }
}
