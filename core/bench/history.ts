/**
 * The history of a run: one JSON line per operation and 4 KiB block, which any checker of
 * linearizable registers can judge.
 *
 * `key` is the block's number within the image, `kind` `write` or `read`, `value` the sequence
 * written or seen (0: the block holds nothing of this run), `call` and `return` nanoseconds of one
 * clock that counts µs: `call` is the first of its µs and `return` the last of its own, so that no
 * order is claimed which may not have been; `ok` false means that the outcome is unknown (a write may or may not have happened). An
 * operation that never ended has `return` null.
 */
export function formatHistoryLine(
  key: number,
  isWrite: boolean,
  value: number | null,
  callUs: number,
  returnUs: number,
  ok: boolean,
): string {
  const end = returnUs < 0 ? "null" : String(Math.floor(returnUs) * 1000 + 999);
  const kind = isWrite ? "write" : "read";
  return `{"key":${key},"kind":"${kind}","value":${value ?? "null"},"call":${Math.floor(callUs) * 1000},"return":${end},"ok":${ok}}\n`;
}

/** Takes the lines of a history in the order of completion. */
export interface OpLog {
  add(line: string): void;
}
