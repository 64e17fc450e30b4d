import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { CampaignCluster } from "./campaign-cluster.ts";

/**
 * A wall clock that steps, for one process at a time: libfaketime tells it the time, and a file tells
 * libfaketime. The clock that measures time is left alone, as no step of a wall clock touches it.
 */

const PLACES = [
  "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
  "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
];
/** How often a process looks into the file. */
const LOOK_S = 1;

export class CampaignClock {
  private readonly library: string;
  private readonly file: string;
  private pid = 0;

  private constructor(library: string, file: string) {
    this.library = library;
    this.file = file;
  }

  /** Answers why there is none, where there can be none. */
  static open(folder: string): CampaignClock | string {
    const library = PLACES.find((path) => existsSync(path));
    if (library === undefined) return "clocks that step need libfaketime, of the package faketime";
    return new CampaignClock(library, join(folder, "clock"));
  }

  /** Start an osd anew, in order, under this clock. */
  async take(cluster: CampaignCluster, name: string): Promise<void> {
    this.step(0);
    await cluster.end(name, "SIGTERM");
    await cluster.start(name, {
      LD_PRELOAD: this.library,
      FAKETIME_TIMESTAMP_FILE: this.file,
      FAKETIME_CACHE_DURATION: String(LOOK_S),
      FAKETIME_DONT_FAKE_MONOTONIC: "1",
    });
    this.pid = cluster.pid(name);
  }

  /** Whether the process that was started under this clock is the one that runs. */
  runs(cluster: CampaignCluster, name: string): boolean {
    return this.pid === cluster.pid(name) && cluster.isRunning(name);
  }

  /** From now on the time is so many seconds from what it is. */
  step(seconds: number): void {
    writeFileSync(this.file, `${seconds < 0 ? "-" : "+"}${Math.abs(seconds)}s\n`);
  }
}
