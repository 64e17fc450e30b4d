import { closeSync, openSync, writeSync } from "node:fs";
import { FastblockError } from "../base/errors.ts";
import type { OpLog } from "./history.ts";

const BUFFER_CHARS_MAX = 1_048_576;

/** Writes a history to a file, a mebibyte at a time. */
export class BunOpLog implements OpLog {
  private readonly file: number;
  private parts: string[] = [];
  private chars = 0;

  /** Throws FB1008. */
  constructor(path: string) {
    try {
      this.file = openSync(path, "w");
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      throw new FastblockError("FB1008", `writing the history ${path}: ${why}`);
    }
  }

  add(line: string): void {
    this.parts.push(line);
    this.chars += line.length;
    if (this.chars >= BUFFER_CHARS_MAX) this.flush();
  }

  close(): void {
    this.flush();
    closeSync(this.file);
  }

  private flush(): void {
    const text = Buffer.from(this.parts.join(""));
    for (let at = 0; at < text.length; ) at += writeSync(this.file, text, at);
    this.parts = [];
    this.chars = 0;
  }
}
