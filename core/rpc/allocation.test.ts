import { heapStats } from "bun:jsc";
import { expect, test } from "bun:test";
import {
  decodeWriteRequest,
  encodeWriteRequest,
  sizeOfWriteRequest,
  WriteRequest,
} from "../../proto/gen/hot.ts";
import { SystemCiphers } from "../reactor/bun-system.ts";
import { DATA_LIMITS, FLAG_ENCRYPTED, Frame, FrameFault, FrameKind, parsePrefix } from "./frame.ts";
import { FrameSealing } from "./sealing.ts";

const ROUNDS = 300_000;

/** Objects and bytes that are there after the rounds and were not before. */
function growth(
  rounds: number,
  round: (number: number) => void,
): { objects: number; bytes: number } {
  for (let number = 0; number < rounds; number++) round(number);
  Bun.gc(true);
  const before = heapStats();
  for (let number = 0; number < rounds; number++) round(number);
  const after = heapStats();
  return {
    objects: after.objectCount - before.objectCount,
    bytes: after.heapSize - before.heapSize,
  };
}

test.each(["signed", "encrypted"])(
  "a write request is encoded, sealed (%s), opened and decoded without allocating",
  (kind) => {
    const words = new Int32Array(new ArrayBuffer(8192));
    const view = new DataView(words.buffer);
    const key = new Uint8Array(16).fill(3);
    const sender = new FrameSealing();
    const receiver = new FrameSealing();
    const isEncrypted = kind === "encrypted";
    const rounds = isEncrypted ? ROUNDS / 20 : ROUNDS;
    const ciphers = new SystemCiphers();
    expect(ciphers.missing).toBe("");
    const bytes = new Uint8Array(words.buffer);
    const cipherKey = new Uint8Array(32).fill(4);
    sender.reset(key, 1, isEncrypted ? ciphers.create(bytes, cipherKey, "seal") : null);
    receiver.reset(key, 1, isEncrypted ? ciphers.create(bytes, cipherKey, "open") : null);
    const sent = new WriteRequest();
    const read = new WriteRequest();
    sent.crcsCount = 1;
    const frame = new Frame();
    frame.kind = FrameKind.Request;
    frame.headerSize = sizeOfWriteRequest(sent);
    frame.payloadSize = 4096;
    frame.flags = isEncrypted ? FLAG_ENCRYPTED : 0;
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
    const clean = growth(rounds, pass);
    // The measurement must see an allocation: the same with one small object a round, kept, so that
    // no collection in between hides it.
    const kept: unknown[] = [];
    const control = growth(rounds, (number) => {
      pass(number);
      kept.push({ number });
    });
    expect(wrong).toBe(0);
    expect(control.bytes).toBeGreaterThan(20_000);
    expect(clean.bytes).toBeLessThan(control.bytes / 4);
  },
);
