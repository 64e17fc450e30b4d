const SIZE_UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"] as const;

/** `1.5 GiB` for people; exact where it fits three digits. */
export function formatSize(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < SIZE_UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${trimNumber(value)} ${SIZE_UNITS[unit]!}`;
}

/** A size that must not be mistaken for one close to it: `300 MiB`, else `314572801 bytes`. */
export function exactSize(bytes: number): string {
  if (bytes < 1024) return `${bytes} bytes`;
  let unit = 0;
  let value = bytes;
  while (value % 1024 === 0 && value >= 1024 && unit < SIZE_UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return value < 10_000 && unit > 0 ? `${value} ${SIZE_UNITS[unit]!}` : `${bytes} bytes`;
}

/** Three significant digits, without trailing zeros. */
export function trimNumber(value: number): string {
  if (value >= 100) return String(Math.round(value));
  return String(Number(value.toPrecision(3)));
}

/** `1 replica`, `3 replicas`: a count with its word; `many` where that takes more than an s. */
export function counted(count: number | string, one: string, many = `${one}s`): string {
  return `${count} ${String(count) === "1" ? one : many}`;
}
