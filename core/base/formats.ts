/**
 * One number for everything that is written down or sent: superblocks and what lies behind them, logs,
 * messages, maps, the catalogue. A cluster is at one of them, told by its map; it is raised by people,
 * one by one, and never goes down (core/README.md, Versions).
 */
export interface FormatRange {
  /** The lowest that this program writes. Older ones are read, and raised when they are found. */
  readonly min: number;
  /** The highest that it knows. */
  readonly max: number;
}

/** Of this program. 2: the superblock holds the starts. */
export const FORMATS: FormatRange = { min: 2, max: 2 };

/** Of a cluster whose map tells none, and of a program that announces none. */
export const FORMAT_FIRST = 2;

/** What a process announces of itself on each connection, and what it wants of its peers. */
export interface FormatState {
  readonly range: FormatRange;
  /** The highest that its map or its store has seen: who does not know it is refused. 0: nobody is. */
  wanted: number;
}

/** Why two programs can not work together; empty: they can. `own` refuses `peer`. */
export function judgeFormats(own: FormatState, peer: FormatState): string {
  if (peer.range.max < own.wanted) {
    return `too old: it knows formats up to ${peer.range.max}, the cluster has ${own.wanted}`;
  }
  if (peer.wanted > own.range.max) {
    return `too new: its cluster has format ${peer.wanted}, this program knows ${own.range.max}`;
  }
  if (peer.range.min > own.range.max) {
    return `too new: it writes formats from ${peer.range.min} on, this program knows ${own.range.max}`;
  }
  return "";
}
