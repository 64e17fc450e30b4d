import { FastblockError } from "../core/base/errors.ts";

/** What a file that a command can not read is told as: FB1014 where there is none, else FB1008. */
export function unreadable(path: string, error: unknown): FastblockError {
  const isMissing = error instanceof Error && "code" in error && error.code === "ENOENT";
  if (isMissing) return new FastblockError("FB1014", `reading ${path}: there is no such file`);
  const why = error instanceof Error ? error.message : String(error);
  return new FastblockError("FB1008", `reading ${path}: ${why}`);
}
