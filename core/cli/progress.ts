import { Format, SingleBar } from "cli-progress";

/** A progress bar on standard error, for terminals. */
export interface Bar {
  /** `total` may change; `note` stands behind the bar. */
  at(done: number, total: number, note?: string): void;
  /** Remove the bar. Idempotent. */
  end(): void;
}

/** A bar that begins with its first `at`. */
export function drawnBar(label: string): Bar {
  const bar = new SingleBar({
    clearOnComplete: true,
    hideCursor: true,
    fps: 10,
    barsize: 30,
    formatBar: Format.BarFormat,
    barCompleteChar: "█",
    barIncompleteChar: "░",
    format: `${label.padEnd(8)} {bar} {percentage} %  {note}`,
  });
  let started = false;
  return {
    at(done, total, note = "") {
      if (!started) bar.start(total, done, { note });
      started = true;
      bar.setTotal(total);
      bar.update(done, { note });
    },
    end() {
      if (started) bar.stop();
      started = false;
    },
  };
}
