import { FastblockError } from "../base/errors.ts";
import { trimNumber } from "../base/size-text.ts";

export { counted, formatSize } from "../base/size-text.ts";

/** Sizes and times as people write them: `10GiB`, `4KiB`, `1500000`, `30s`, `250ms`. */

const SIZE_FACTORS: Readonly<Record<string, number>> = {
  "": 1,
  b: 1,
  k: 1024,
  kib: 1024,
  m: 1024 ** 2,
  mib: 1024 ** 2,
  g: 1024 ** 3,
  gib: 1024 ** 3,
  t: 1024 ** 4,
  tib: 1024 ** 4,
  kb: 1000,
  mb: 1000 ** 2,
  gb: 1000 ** 3,
  tb: 1000 ** 4,
};

/** See `sizeOf`; for an option, whose name its error gets by itself. */
export function parseSize(text: string): number {
  return sizeOf(text, "a size");
}

/** `http://127.0.0.1:7480`, without the slash behind it. Throws FB1001. */
export function parseUrl(text: string): string {
  const url = text.replace(/\/+$/, "");
  if (/^https?:\/\/[^/?#\s]+$/.test(url)) return url;
  throw new FastblockError("FB1001", `reading --api: ${text}, wanted a URL like http://HOST:PORT`);
}

/** A directory of the command line. Throws FB1001 for what an unset variable leaves. */
export function parseDirectory(text: string): string {
  if (text !== "") return text;
  throw new FastblockError("FB1001", "reading --dir: it is empty, wanted a directory");
}

/**
 * Bytes of `4KiB`, `4k`, `1.5GiB`, `4096`; decimal units (`MB`) count in thousands. Throws FB1001
 * naming `what`.
 */
export function sizeOf(text: string, what: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([a-zA-Z]*)$/.exec(text.trim());
  const factor = match === null ? undefined : SIZE_FACTORS[match[2]!.toLowerCase()];
  if (match === null || factor === undefined) {
    throw new FastblockError(
      "FB1001",
      `reading ${what}: ${text}, wanted a number of bytes, KiB, MiB, GiB or TiB, like 10GiB`,
    );
  }
  const bytes = Number(match[1]) * factor;
  if (!Number.isSafeInteger(bytes)) {
    throw new FastblockError("FB1001", `reading ${what}: ${text}, wanted a whole number of bytes`);
  }
  return bytes;
}

const TIME_FACTORS: Readonly<Record<string, number>> = {
  us: 0.001,
  ms: 1,
  "": 1000,
  s: 1000,
  m: 60_000,
  min: 60_000,
  h: 3_600_000,
};

/** See `durationMsOf`; for an option, whose name its error gets by itself. */
export function parseDurationMs(text: string): number {
  return durationMsOf(text, "a time");
}

/**
 * Milliseconds of `30s`, `250ms`, `2m`, `1h`; a bare number counts seconds. Throws FB1001 naming
 * `what`.
 */
export function durationMsOf(text: string, what: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/.exec(text.trim());
  const factor = match === null ? undefined : TIME_FACTORS[match[2]!];
  const ms = match === null || factor === undefined ? Number.NaN : Number(match[1]) * factor;
  if (!(ms <= Number.MAX_SAFE_INTEGER)) {
    throw new FastblockError("FB1001", `reading ${what}: ${text}, wanted a number like 30s`);
  }
  return ms;
}

/** `835 µs`, `1.25 ms`, `3.2 s`, `2 min 5 s`, `5 h 3 min`, `9 d 5 h` for people. */
export function formatDurationUs(us: number): string {
  if (us < 1000) return `${trimNumber(us)} µs`;
  if (us < 1_000_000) return `${trimNumber(us / 1000)} ms`;
  if (us < 120_000_000) return `${trimNumber(us / 1_000_000)} s`;
  const seconds = Math.round(us / 1_000_000);
  const [minutes, hours] = [Math.floor(seconds / 60), Math.floor(seconds / 3600)];
  if (hours < 1) return `${minutes} min ${seconds % 60} s`;
  if (hours < 24) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** `18.4 k`, `950`, `1.2 M` for people. */
export function formatCount(count: number): string {
  if (count < 10_000) return trimNumber(count);
  if (count < 10_000_000) return `${trimNumber(count / 1000)} k`;
  return `${trimNumber(count / 1_000_000)} M`;
}

/** A whole number from `low` to `high`. Throws FB1001 naming `what`. */
export function parseWhole(text: string, what: string, low: number, high: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(value) || value < low || value > high) {
    throw new FastblockError("FB1001", `reading ${what}: ${text}, wanted ${low} to ${high}`);
  }
  return value;
}

/** The number in `3` or `osd.3`. Throws FB1001. */
export function parseOsdName(text: string): number {
  return parseWhole(text.replace(/^osd\./, ""), "an osd id", 0, 65_535);
}

export interface ImagePath {
  readonly pool: string;
  readonly image: string;
}

/** Split `POOL/IMAGE`. Throws FB1001. */
export function parseImagePath(text: string): ImagePath {
  const parts = text.split("/");
  const [pool, image] = parts;
  if (parts.length !== 2 || pool === undefined || image === undefined || !pool || !image) {
    throw new FastblockError("FB1001", `reading an image's path: ${text}, wanted POOL/IMAGE`);
  }
  return { pool, image };
}
