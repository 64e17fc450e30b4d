import { readFileSync } from "node:fs";
import { join } from "node:path";
import { FastblockError } from "../base/errors.ts";
import { checkTemporaryHome } from "./bun-places.ts";

/**
 * The text of one file that every cluster directory has. Throws FB1005 when the directory holds
 * none, FB1017 when this user may not read it, FB1008.
 */
export function readClusterText(directory: string, file: string): string {
  checkTemporaryHome(directory);
  try {
    return readFileSync(join(directory, file), "utf8");
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : "";
    if (code === "ENOENT" || code === "ENOTDIR") {
      throw new FastblockError("FB1005", `looking for a cluster: ${directory} holds no ${file}`);
    }
    const why = error instanceof Error ? error.message : String(error);
    throw new FastblockError(
      code === "EACCES" || code === "EPERM" ? "FB1017" : "FB1008",
      `opening the cluster directory ${directory}: ${why}`,
    );
  }
}
