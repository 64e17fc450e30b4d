import { heapStats } from "bun:jsc";
import { expect, test } from "bun:test";
import {
  decodeWriteRequest,
  encodeWriteRequest,
  sizeOfWriteRequest,
  WriteRequest,
} from "../../proto/gen/hot.ts";
import { DATA_LIMITS, Frame, FrameFault, FrameKind, parsePrefix } from "./frame.ts";
import { FrameSealing } from "./sealing.ts";

const ROUNDS = 300_000;

/** Objects and bytes that are there after the rounds and were not before. */
function growth(round: (number: number) => void): { objects: number; bytes: number } {
  for (let number = 0; number < ROUNDS; number++) round(number);
  Bun.gc(true);
  const before = heapStats();
  for (let number = 0; number < ROUNDS; number++) round(number);
  const after = heapStats();
  return {
    objects: after.objectCount - before.objectCount,
    bytes: after.heapSize - before.heapSize,
  };
}

test("a write request is encoded, sealed, opened and decoded without allocating", () => {
  const words = new Int32Array(1024);
  const view = new DataView(words.buffer);
  const key = new Uint8Array(16).fill(3);
  const sender = new FrameSealing();
  const receiver = new FrameSealing();
  sender.reset(key, 1);
  receiver.reset(key, 1);
  const sent = new WriteRequest();
  const read = new WriteRequest();
  sent.crcsCount = 1;
  const frame = new Frame();
  frame.kind = FrameKind.Request;
  frame.headerSize = sizeOfWriteRequest(sent);
  frame.payloadSize = 4096;
  const seen = new Frame();
  let wrong = 0;
  const pass = (number: number): void => {
    sent.number = number;
    encodeWriteRequest(sent, view, 64);
    sender.seal(frame, words, 0);
    let fault = parsePrefix(seen, words, 0, DATA_LIMITS);
    if (fault === FrameFault.None) fault = receiver.open(seen, words);
    const done = decodeWriteRequest(read, view, 64, seen.headerSize);
    if (fault !== FrameFault.None || !done || read.number !== number) wrong += 1;
  };
  const clean = growth(pass);
  // The measurement must see an allocation: the same with one small object a round, kept, so that
  // no collection in between hides it.
  const kept: unknown[] = [];
  const control = growth((number) => {
    pass(number);
    kept.push({ number });
  });
  expect(wrong).toBe(0);
  expect(control.bytes).toBeGreaterThan(20_000);
  expect(clean.bytes).toBeLessThan(control.bytes / 4);
});
