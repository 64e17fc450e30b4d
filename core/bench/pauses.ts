import { type BarReport, barOf } from "./bars.ts";
import { round } from "./spending.ts";

/**
 * `fastblock bench pauses`: how long a writer stands still while a cluster loses processes, and gets them back.
 *
 * Two writers, each with one operation open at a time: in a group that the victim leads, and in one that
 * another osd leads, of which the victim is a follower. What stands still is the longest time in which
 * nothing of a writer's was done.
 */
export interface PausesOptions {
  /** Directory for a cluster of its own; empty: a temporary one. */
  readonly directory: string;
  /** How often each event happens. */
  readonly times: number;
  /** Load before the first event: the processes compile what they run often. */
  readonly warmMs: number;
  readonly backend: "auto" | "uring" | "file";
}

/** In the order in which they happen: an osd that went comes back before the next one. */
export type PauseEvent = "kill" | "kill-back" | "stop" | "stop-back" | "freeze" | "mon";

/** What two writers felt of an event. */
export interface Pauses {
  /** In a group that the victim led. */
  readonly ownMs: number;
  /** In one that it did not lead. */
  readonly elsewhereMs: number;
}

/** What is measured with. */
export interface PausesOutside {
  /** Let an event happen while both write. Rejects when a write failed. */
  during(event: PauseEvent): Promise<Pauses>;
  /** Tell how far it is. */
  say(words: string): void;
}

/** One event. */
export interface PausesRow {
  /** `leader killed` */
  readonly name: string;
  readonly event: PauseEvent;
  /** In the order in which they were measured. */
  readonly ownMs: readonly number[];
  readonly elsewhereMs: readonly number[];
  readonly p50Ms: number;
  readonly maxMs: number;
  readonly elsewhereMaxMs: number;
  readonly [key: string]: unknown;
}

/** The answer of `bench pauses -o json`. */
export interface PausesReport {
  readonly kind: "pauses";
  readonly machine: Readonly<Record<string, string | number>>;
  readonly version: string;
  readonly osds: number;
  readonly replicas: number;
  readonly times: number;
  readonly backend: string;
  readonly rows: readonly PausesRow[];
  readonly bars: readonly BarReport[];
}

/** What nobody notices: no write of a quiet cluster may take longer either. */
const UNNOTICED_MS = 100;

interface EventText {
  readonly event: PauseEvent;
  readonly name: string;
  /** What is aimed at on a machine with two cores that does nothing else; null: at nothing. */
  readonly p50Ms: number | null;
  readonly maxMs: number;
}

const EVENTS: readonly EventText[] = [
  { event: "kill", name: "leader killed", p50Ms: 500, maxMs: 1000 },
  { event: "kill-back", name: "osd back after a kill", p50Ms: null, maxMs: UNNOTICED_MS },
  { event: "stop", name: "osd stopped in order", p50Ms: null, maxMs: 50 },
  { event: "stop-back", name: "osd back after a stop", p50Ms: null, maxMs: UNNOTICED_MS },
  { event: "freeze", name: "leader frozen", p50Ms: null, maxMs: 2000 },
  { event: "mon", name: "mon killed", p50Ms: null, maxMs: UNNOTICED_MS },
];

/** Let each event happen so often, in turns. Rejects when a write failed. */
export async function runPauses(
  outside: PausesOutside,
  times: number,
): Promise<readonly PausesRow[]> {
  const seen = new Map<PauseEvent, Pauses[]>(EVENTS.map(({ event }) => [event, []]));
  for (let time = 1; time <= times; time++) {
    for (const { event, name } of EVENTS) {
      const { ownMs, elsewhereMs } = await outside.during(event);
      const pauses = { ownMs: round(ownMs), elsewhereMs: round(elsewhereMs) };
      seen.get(event)!.push(pauses);
      const words = `${pauses.ownMs} ms, elsewhere ${pauses.elsewhereMs} ms`;
      outside.say(`${time} of ${times}: ${name}: ${words}`);
    }
  }
  return EVENTS.map(({ event, name }) => rowOf(event, name, seen.get(event)!));
}

function rowOf(event: PauseEvent, name: string, pauses: readonly Pauses[]): PausesRow {
  const ownMs = pauses.map((one) => one.ownMs);
  const elsewhereMs = pauses.map((one) => one.elsewhereMs);
  const sorted = ownMs.toSorted((a, b) => a - b);
  return {
    name,
    event,
    ownMs,
    elsewhereMs,
    p50Ms: sorted[Math.floor((sorted.length - 1) / 2)]!,
    maxMs: Math.max(...ownMs),
    elsewhereMaxMs: Math.max(...elsewhereMs),
  };
}

/** How pauses stand to what is aimed at. */
export function judgePauses(rows: readonly PausesRow[]): readonly BarReport[] {
  return rows.flatMap(({ event, name, p50Ms, maxMs, elsewhereMaxMs }) => {
    const aim = EVENTS.find((one) => one.event === event)!;
    const bar = (figure: string, wanted: number, seen: number): BarReport =>
      barOf({ row: name, figure, wanted, isMost: true }, seen);
    return [
      ...(aim.p50Ms === null ? [] : [bar("ms that a writer stands still, p50", aim.p50Ms, p50Ms)]),
      bar("ms that a writer stands still, longest", aim.maxMs, maxMs),
      bar("ms in groups that others lead, longest", UNNOTICED_MS, elsewhereMaxMs),
    ];
  });
}
