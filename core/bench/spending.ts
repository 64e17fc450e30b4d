/** What the processes of a kind have used since some moment. */
export interface ProcessUsage {
  /** `client` (this process), `osd`, `mon`, `nbd` */
  readonly kind: string;
  readonly userUs: number;
  readonly systemUs: number;
  /** Of both: threads that compile code which runs often, beside it. */
  readonly compileUs: number;
  /** Context switches, wanted and forced. */
  readonly switches: number;
}

/** What was written to all devices since some moment. */
export interface DeviceUsage {
  readonly bytes: number;
  readonly writes: number;
  /** Flushes and durable writes. */
  readonly flushes: number;
}

/** What the processes of a kind used for each I/O of a load, the drain behind it included. */
export interface ProcessCost {
  readonly kind: string;
  readonly userUsPerIo: number;
  readonly systemUsPerIo: number;
  readonly compileUsPerIo: number;
  readonly switchesPerIo: number;
}

/** Readings around a measured window and the drain behind it, and how many I/O each served. */
export interface SpentSpan {
  readonly atStart: readonly ProcessUsage[];
  readonly atEnd: readonly ProcessUsage[];
  readonly afterDrain: readonly ProcessUsage[];
  readonly windowOps: number;
  /** The window's and those of the ramp before it: what is drained is of both. */
  readonly totalOps: number;
}

/** The window's costs, and the drain's share of all I/O. Empty when nothing was done. */
export function costsOf(span: SpentSpan): ProcessCost[] {
  if (span.windowOps === 0) return [];
  return span.afterDrain.map(({ kind }) => {
    const perIo = (pick: (usage: ProcessUsage) => number): number => {
      const at = (usages: readonly ProcessUsage[]): number => {
        const usage = usages.find((one) => one.kind === kind);
        return usage === undefined ? 0 : pick(usage);
      };
      const ofWindow = (at(span.atEnd) - at(span.atStart)) / span.windowOps;
      return round(ofWindow + (at(span.afterDrain) - at(span.atEnd)) / span.totalOps);
    };
    return {
      kind,
      userUsPerIo: perIo(({ userUs }) => userUs),
      systemUsPerIo: perIo(({ systemUs }) => systemUs),
      compileUsPerIo: perIo(({ compileUs }) => compileUs),
      switchesPerIo: perIo(({ switches }) => switches),
    };
  });
}

/** System calls of the reactors of a kind of process for each I/O of a load. */
export interface CallCost {
  readonly kind: string;
  readonly perIo: number;
}

/** Counters before and after so many I/O, by kind of process; empty when one is not known. */
export function callCostsOf(
  counts: Readonly<Record<string, readonly [before: number | null, after: number | null]>>,
  ops: number,
): CallCost[] {
  const costs: CallCost[] = [];
  for (const [kind, [before, after]] of Object.entries(counts)) {
    if (before === null || after === null || ops === 0) return [];
    costs.push({ kind, perIo: round((after - before) / ops) });
  }
  return costs;
}

/** Of all kinds; null when nothing is known. */
export function callsPerIoOf(costs: readonly CallCost[]): number | null {
  return costs.length === 0 ? null : round(costs.reduce((sum, { perIo }) => sum + perIo, 0));
}

/** CPU of all kinds per I/O, in µs; null when nothing is known. */
export function cpuUsPerIoOf(costs: readonly ProcessCost[]): number | null {
  if (costs.length === 0) return null;
  return round(costs.reduce((sum, cost) => sum + cost.userUsPerIo + cost.systemUsPerIo, 0));
}

/** Three digits behind the point. */
export function round(value: number): number {
  return Math.round(value * 1000) / 1000;
}
