/** One sample of a metrics page. */
export interface Sample {
  readonly name: string;
  /** The labels as they stand there: the series' identity. */
  readonly labels: string;
  readonly value: number;
}

const LINE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[^}]*\})?\s+(-?[0-9.eE+-]+)/;

/** The samples of one metric in the text format of Prometheus. */
export function samplesOf(text: string, name: string): Sample[] {
  const samples: Sample[] = [];
  for (const line of text.split("\n")) {
    if (!line.startsWith(name)) continue;
    const match = LINE.exec(line);
    if (match === null || match[1] !== name) continue;
    samples.push({ name, labels: match[2] ?? "", value: Number(match[3]) });
  }
  return samples;
}

/**
 * Sums counters that may begin again at zero, as those of a process do that was started again.
 *
 * What a series counted before it was first seen does not count.
 */
export class CounterSum {
  private readonly last = new Map<string, number>();
  private total = 0;

  /** Of a series that is known to have begun since the last reading, all counts: it began at zero. */
  begin(labels: string): void {
    if (!this.last.has(labels)) this.last.set(labels, 0);
  }

  /** Whether the series was in a reading. */
  knows(labels: string): boolean {
    return this.last.has(labels);
  }

  /** Take in one reading of every series; answers how much was counted since the first. */
  take(samples: readonly { readonly labels: string; readonly value: number }[]): number {
    for (const { labels, value } of samples) {
      const before = this.last.get(labels);
      if (before !== undefined) this.total += value >= before ? value - before : value;
      this.last.set(labels, value);
    }
    return this.total;
  }
}
