import type { LoadFigures } from "./readings.ts";
import type { RunningLoad } from "./own-processes.ts";
import { type Meter, type Sample, type Span, spanOf } from "./meter.ts";
import { isWrite, type Load, type System } from "./settings.ts";

/**
 * One run of one system: ramp, measured time, then (behind writes) a drain until the disk is quiet.
 *
 *     start      ramp       measured time, `timeMs`            exit       quiet
 *       |---------|------------------------------------|---------|----------|
 *                     |=========== window =========|             |== drain =|
 *
 * The window is counted back from the client's exit: how long a client takes to start differs, how
 * long it takes to end hardly does. Rates are the client's own, over all of `timeMs`.
 *
 * What is done later belongs to the I/O that caused it: moving data from a log to its place, and the
 * third copy, which a majority does not wait for. So the costs of an I/O are those of the window, and
 * the drain's share of all I/O since the start of the ramp.
 */
export interface Run {
  readonly load: string;
  readonly system: System;
  readonly repetition: number;
  readonly startedAt: string;
  readonly iops: number;
  readonly bytesPerSec: number;
  readonly latencyUs: LoadFigures["latencyUs"];
  readonly errors: number;
  /** User and system time of all processes of the system, its client's too, drain included. */
  readonly cpuUsPerIo: number;
  /** Of it in the drain. */
  readonly drainCpuUsPerIo: number;
  /** Of it in the window, by kind of process. */
  readonly cpuUsPerIoByKind: Readonly<Record<string, number>>;
  /** Kernel threads and interrupts of the whole machine, not in `cpuUsPerIo`. */
  readonly kernelCpuUsPerIo: number;
  /** What the disk did for an I/O, whoever asked for it; drain included. */
  readonly disk: {
    readonly reads: number;
    readonly writes: number;
    readonly bytes: number;
    readonly flushes: number;
  };
  readonly drainSeconds: number;
  /** CPU meanwhile, in % of one core: the clusters that only rested, strangers, the host. */
  readonly restingPercent: number;
  readonly foreignPercent: number;
  readonly stolenPercent: number;
}

export interface Timing {
  readonly timeMs: number;
  readonly rampMs: number;
}

/** Of the exit: closing an image and ending takes less. */
const EXIT_MS = 1250;
/** Of the other end, for the same reason: the measured time may have ended that much earlier. */
const HEAD_MS = 250;
const SAMPLE_MS = 500;
const QUIET_BYTES = 1024 ** 2;
const QUIET_SAMPLES = 4;
const DRAIN_MS_MAX = 20_000;

export interface Measured {
  readonly window: Span;
  readonly drain: Span;
  readonly drainSeconds: number;
  readonly figures: LoadFigures;
}

/** Watch a load that has been started, and what follows it. Throws when it fails. */
export async function watch(
  meter: Meter,
  load: Load,
  timing: Timing,
  running: RunningLoad,
  read: (text: string) => LoadFigures,
): Promise<Measured> {
  const samples: Sample[] = [meter.sample()];
  let hasEnded = false;
  const ended = running.ended.then((end) => {
    hasEnded = true;
    return { ...end, ms: performance.now() };
  });
  while (!hasEnded) {
    await Promise.race([Bun.sleep(SAMPLE_MS), ended]);
    if (!hasEnded) samples.push(meter.sample());
  }
  const { text, errors, code, ms } = await ended;
  const words = `${errors}\n${text}`.trim().slice(0, 600);
  if (code !== 0) throw new Error(`running ${load.name}: exit code ${code}, wanted 0: ${words}`);
  const figures = read(text);
  const [from, to] = windowOf(samples, ms, timing.timeMs);
  const atExit = meter.sample();
  const drained = isWrite(load) ? await drain(meter, atExit) : atExit;
  return {
    window: spanOf(from, to),
    drain: spanOf(atExit, drained),
    drainSeconds: (drained.ms - atExit.ms) / 1000,
    figures,
  };
}

/** The first and the last sample of the window. Throws when it holds too little. */
export function windowOf(
  samples: readonly Sample[],
  exitMs: number,
  timeMs: number,
): readonly [Sample, Sample] {
  const from = samples.find(({ ms }) => ms >= exitMs - timeMs + HEAD_MS);
  const to = samples.findLast(({ ms }) => ms <= exitMs - EXIT_MS);
  if (from === undefined || to === undefined || to.ms - from.ms < timeMs / 2) {
    const seen = `${samples.length} samples`;
    throw new Error(`looking for the window of ${timeMs} ms: ${seen}, wanted half of it covered`);
  }
  return [from, to];
}

/** Until the disk has written next to nothing for some samples: the first of these, then. */
async function drain(meter: Meter, atExit: Sample): Promise<Sample> {
  let quietFrom = atExit;
  let quiet = 0;
  for (let last = atExit; quiet < QUIET_SAMPLES && last.ms - atExit.ms < DRAIN_MS_MAX; ) {
    await Bun.sleep(SAMPLE_MS);
    const now = meter.sample();
    const isQuiet = now.disk.writtenBytes - last.disk.writtenBytes < QUIET_BYTES;
    quiet = isQuiet ? quiet + 1 : 0;
    if (!isQuiet) quietFrom = now;
    last = now;
  }
  return quietFrom;
}

/** The run as it stands in the report. */
export function runOf(
  about: { load: Load; system: System; repetition: number; startedAt: string; timing: Timing },
  measured: Measured,
): Run {
  const { load, system, repetition, startedAt, timing } = about;
  const { window, drain: behind, figures } = measured;
  const windowOps = figures.iops * window.seconds;
  const totalOps = (figures.iops * (timing.timeMs + timing.rampMs)) / 1000;
  const both = (pick: (span: Span) => number): number =>
    round(pick(window) / windowOps + pick(behind) / totalOps);
  const percent = (us: number): number => round(us / window.seconds / 10_000);
  const own = (span: Span): number => sumOf(span.cpuUs.get(system));
  const all = [...window.cpuUs.values()].reduce((sum, kinds) => sum + sumOf(kinds), 0);
  return {
    load: load.name,
    system,
    repetition,
    startedAt,
    iops: round(figures.iops),
    bytesPerSec: Math.round(figures.bytesPerSec),
    latencyUs: figures.latencyUs,
    errors: figures.errors,
    cpuUsPerIo: both(own),
    drainCpuUsPerIo: round(own(behind) / totalOps),
    cpuUsPerIoByKind: Object.fromEntries(
      [...(window.cpuUs.get(system) ?? [])].map(([kind, us]) => [kind, round(us / windowOps)]),
    ),
    kernelCpuUsPerIo: both(({ kernelUs }) => kernelUs),
    disk: {
      reads: both(({ disk }) => disk.reads),
      writes: both(({ disk }) => disk.writes),
      bytes: both(({ disk }) => disk.writtenBytes),
      flushes: both(({ disk }) => disk.flushes),
    },
    drainSeconds: round(measured.drainSeconds),
    restingPercent: percent(all - own(window)),
    foreignPercent: percent(window.foreignUs),
    stolenPercent: percent(window.stolenUs),
  };
}

function sumOf(kinds: ReadonlyMap<string, number> | undefined): number {
  return [...(kinds?.values() ?? [])].reduce((sum, us) => sum + us, 0);
}

function round(value: number): number {
  return Math.round(value * 1000) / 1000;
}
