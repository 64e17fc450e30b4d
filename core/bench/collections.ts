/** What the collectors of some processes did: how long nothing else ran in a thread because of them. */
export interface Collections {
  /** Of pauses: a collection has one or more. */
  readonly count: number;
  /** All of them together, and the longest. */
  readonly pauseUs: number;
  readonly pauseUsMax: number;
}

/** Makes the engine tell of every collection on the standard error of a process. */
export const COLLECTIONS_TOLD: Readonly<Record<string, string>> = { BUN_JSC_logGC: "1" };

const LINE = /^(?:\[GC<|GC END!|Requesting GC)/;
const PAUSE = /\bp=(\d+\.\d+)ms/g;

/**
 * What the engine told: one or more lines per collection, in which `p=` is how long the thread stood still.
 *
 *     [GC<0x52c55600118>: START M 1054885kb => EdenCollection, … p=3.704360ms (max 3.704360)...]
 *     [GC<0x52c55600118>: … => 1056546kb, p=5.480928ms (max 12.787966), cycle 5.472475ms END]
 */
export function collectionsIn(text: string): Collections {
  const pauses = Array.from(text.matchAll(PAUSE), (match) => Number(match[1]) * 1000);
  return {
    count: pauses.length,
    pauseUs: Math.round(pauses.reduce((sum, us) => sum + us, 0)),
    pauseUsMax: Math.round(Math.max(0, ...pauses)),
  };
}

/** Whether a process tells of its collections: the engine says so first of all. */
export function tellsCollections(text: string): boolean {
  return text.includes("[GC<");
}

/** What a process wrote, without what its engine did. */
export function withoutCollections(text: string): string {
  const lines = text.split("\n");
  return lines.filter((line) => !LINE.test(line)).join("\n");
}

/** Of several runs or processes together. */
export function collectionsOf(all: readonly Collections[]): Collections {
  return {
    count: all.reduce((sum, { count }) => sum + count, 0),
    pauseUs: all.reduce((sum, { pauseUs }) => sum + pauseUs, 0),
    pauseUsMax: Math.max(0, ...all.map(({ pauseUsMax }) => pauseUsMax)),
  };
}
