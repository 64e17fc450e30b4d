import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  closeFile,
  mapMemory,
  O_CREAT,
  O_RDWR,
  openFile,
  unmapMemory,
} from "../../ffi/libc/libc.ts";
import { Ring, UringOp } from "../../ffi/uring/ring.ts";
import { silentLogger } from "../base/logger.ts";
import { UringMemory } from "./uring-memory.ts";

const PIECE = 1_048_576;
const BLOCK = 4096;
const WAIT_US = 5_000_000;

const folder = mkdtempSync(join(tmpdir(), "fastblock memory "));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("memory that was given back reads zeros, and is written and read as before", () => {
  const mapped = mapMemory(2 * PIECE);
  const bytes = new Uint8Array(mapped.buffer);
  const ring = new Ring({ entries: 8, completions: 16 });
  const memory = new UringMemory(ring, mapped.address, 2 * PIECE, silentLogger);
  const path = join(folder, "file");
  const fd = openFile(path, O_RDWR | O_CREAT, 0o600);
  const transfer = (op: UringOp, at: number): void => {
    const buffer = memory.bufferAt(at, BLOCK);
    expect(buffer).toBe(Math.floor(at / PIECE));
    const entry = ring.prepare(op, fd, mapped.address + at, BLOCK, 0, 0, 0, 0);
    ring.setWord(entry, 10, buffer);
    ring.enter(WAIT_US);
    let result = 0;
    const onCompletion = (_low: number, _high: number, answer: number): void => {
      result = answer;
    };
    expect(ring.reap({ onCompletion })).toBe(1);
    expect(result).toBe(BLOCK);
  };
  try {
    bytes.fill(1);
    transfer(UringOp.WriteFixed, 0);
    transfer(UringOp.WriteFixed, PIECE);
    // All of the first piece; of the second, which the ring knows, a part alone: it stays.
    memory.giveBack(0, PIECE + BLOCK);
    expect(bytes.subarray(0, PIECE).every((byte) => byte === 0)).toBe(true);
    expect(bytes.subarray(PIECE).every((byte) => byte === 1)).toBe(true);
    bytes.fill(2, 0, BLOCK);
    transfer(UringOp.WriteFixed, 0);
    expect(
      readFileSync(path)
        .subarray(0, BLOCK)
        .every((byte) => byte === 2),
    ).toBe(true);
    bytes.fill(3, 0, BLOCK);
    transfer(UringOp.ReadFixed, 0);
    expect(bytes.subarray(0, BLOCK).every((byte) => byte === 2)).toBe(true);
    bytes.fill(4, PIECE, PIECE + BLOCK);
    transfer(UringOp.WriteFixed, PIECE);
    expect(
      readFileSync(path)
        .subarray(0, BLOCK)
        .every((byte) => byte === 4),
    ).toBe(true);
  } finally {
    closeFile(fd);
    ring.close();
    unmapMemory(mapped);
  }
});
