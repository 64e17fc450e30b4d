import { readFileSync } from "node:fs";
import type { Logger } from "../core/base/logger.ts";
import { formatPeerStarts, parsePeerStarts } from "../core/osd/osd.ts";
import { isNewer, type StoreStart } from "../core/store/store.ts";
import { replaceFile } from "./kept-file.ts";

/** Peers that start together are written down together. */
const WRITE_DELAY_MS = 100;

/**
 * The newest starts of peers' stores, kept in a file beside the map: what an osd remembers of them
 * over its own restarts. Losing the file loses memory, nothing else.
 */
export class KeptStarts {
  private readonly path: string;
  private readonly logger: Logger;
  private readonly known = new Map<string, StoreStart>();
  private timer: ReturnType<typeof setTimeout> | undefined;

  /** Read the file, if there is one. */
  constructor(path: string, logger: Logger) {
    this.path = path;
    this.logger = logger;
    let text: string;
    try {
      text = readFileSync(path, "utf8");
    } catch {
      return;
    }
    const kept = parsePeerStarts(text);
    if (kept === undefined) {
      logger.warn("the kept starts of peers can not be read", {
        path,
        reason: "not a JSON object",
      });
    }
    for (const [storeUuid, start] of kept ?? []) this.known.set(storeUuid, start);
  }

  /** All of them, by the store's uuid: plain values. */
  get entries(): readonly (readonly [string, StoreStart])[] {
    return [...this.known];
  }

  /** A shard met a newer start. */
  keep(storeUuid: string, start: StoreStart): void {
    if (!isNewer(start, this.known.get(storeUuid))) return;
    this.known.set(storeUuid, start);
    this.timer ??= setTimeout(() => this.flush(), WRITE_DELAY_MS);
  }

  /** Write what is not written yet. */
  flush(): void {
    if (this.timer === undefined) return;
    clearTimeout(this.timer);
    this.timer = undefined;
    try {
      replaceFile(this.path, formatPeerStarts(this.known));
    } catch (error) {
      this.logger.warn("the starts of peers can not be kept", { reason: String(error) });
    }
  }
}
