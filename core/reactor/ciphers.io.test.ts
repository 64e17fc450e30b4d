import { describe, expect, test } from "bun:test";
import { createCipheriv } from "node:crypto";
import { Prng } from "../base/prng.ts";
import { SystemCiphers } from "./bun-system.ts";

const ciphers = new SystemCiphers();
/** Where things lie in the memory of these tests. */
const BOUND_AT = 64;
const TAG_AT = 128;
const TEXT_AT = 192;

function memory(sizeBytes: number): Uint8Array {
  return new Uint8Array(new ArrayBuffer(sizeBytes));
}

interface Message {
  readonly counter: number;
  readonly bound: Uint8Array<ArrayBuffer>;
  readonly text: Uint8Array<ArrayBuffer>;
}

/** Ciphertext and tag of a message. */
function seal(key: Uint8Array, { counter, bound, text }: Message): [Uint8Array, Uint8Array] {
  const bytes = memory(TEXT_AT + text.length);
  bytes.set(bound, BOUND_AT);
  bytes.set(text, TEXT_AT);
  const cipher = ciphers.create(bytes, key, "seal");
  cipher.seal(counter, BOUND_AT, bound.length, TEXT_AT, text.length, TAG_AT);
  cipher.end();
  expect(bytes.slice(BOUND_AT, BOUND_AT + bound.length)).toEqual(bound);
  return [bytes.slice(TEXT_AT), bytes.slice(TAG_AT, TAG_AT + 16)];
}

/** The same by the runtime's own cipher. */
function sealElsewhere(key: Uint8Array, { counter, bound, text }: Message): [Buffer, Buffer] {
  const nonce = Buffer.alloc(12);
  nonce.writeBigUInt64LE(BigInt(counter), 4);
  const cipher = createCipheriv("aes-256-gcm", key, nonce);
  cipher.setAAD(bound);
  const sealed = Buffer.concat([cipher.update(text), cipher.final()]);
  return [sealed, cipher.getAuthTag()];
}

describe("AES-256-GCM of the system", () => {
  test("is there", () => {
    expect(ciphers.missing).toBe("");
  });

  // McGrew and Viega, The Galois/Counter Mode of Operation, test cases 13 and 14.
  test.each([
    [0, "", "530f8afbc74536b9a963b4f1c4cb738b"],
    [16, "cea7403d4d606b6e074ec5d3baf39d18", "d0d1c8a799996bf0265b98b5d48ab919"],
  ])("answers what its authors say, of %d bytes", (size, sealed, tag) => {
    const message = { counter: 0, bound: new Uint8Array(0), text: new Uint8Array(size) };
    const seen = seal(new Uint8Array(32), message);
    expect(seen.map((part) => part.toHex())).toEqual([sealed, tag]);
  });

  test("answers what the runtime's own answers, in place, for any counter and size", () => {
    const prng = new Prng(3);
    const counters = [1, 2 ** 32 - 1, 2 ** 32, 2 ** 33 + 5, Number.MAX_SAFE_INTEGER];
    for (const size of [0, 1, 15, 16, 17, 104, 4200, 262_400]) {
      for (const counter of counters) {
        const key = new Uint8Array(32);
        const bound = new Uint8Array(48);
        const text = new Uint8Array(size);
        for (const part of [key, bound, text]) prng.fill(part);
        const seen = seal(key, { counter, bound, text });
        const wanted = sealElsewhere(key, { counter, bound, text });
        expect(seen.map((part) => part.toHex())).toEqual(wanted.map((part) => part.toHex()));
      }
    }
  });

  test("opens what was sealed, again and again under one key, and nothing else", () => {
    const prng = new Prng(4);
    const key = new Uint8Array(32).fill(9);
    const bytes = memory(8192);
    const sealing = ciphers.create(bytes, key, "seal");
    const opening = ciphers.create(bytes, key, "open");
    const text = new Uint8Array(500);
    for (let counter = 1; counter < 400; counter++) {
      prng.fill(text);
      bytes.set(text, TEXT_AT);
      sealing.seal(counter, BOUND_AT, 48, TEXT_AT, 500, TAG_AT);
      // Every third one is changed: a bit of the tag, of what is bound, of the text, or its place.
      const spoilt = counter % 3 === 0;
      const at = [TAG_AT, BOUND_AT, TEXT_AT][counter % 9 === 0 ? 0 : counter % 2 === 0 ? 1 : 2]!;
      const bit = prng.below(8);
      if (spoilt) bytes[at + prng.below(16)]! ^= 1 << bit;
      const isRight = opening.open(counter, BOUND_AT, 48, TEXT_AT, 500, TAG_AT);
      expect({ counter, isRight }).toEqual({ counter, isRight: !spoilt });
      if (!spoilt) expect(bytes.slice(TEXT_AT, TEXT_AT + 500)).toEqual(text);
    }
    bytes.set(text, TEXT_AT);
    sealing.seal(7, BOUND_AT, 48, TEXT_AT, 500, TAG_AT);
    expect(opening.open(8, BOUND_AT, 48, TEXT_AT, 500, TAG_AT)).toBe(false);
    sealing.end();
    opening.end();
    expect(() => opening.open(9, BOUND_AT, 48, TEXT_AT, 500, TAG_AT)).toThrow("it was ended");
  });

  test("stays within its memory, and takes keys of 32 bytes", () => {
    const bytes = memory(1024);
    const cipher = ciphers.create(bytes, new Uint8Array(32), "seal");
    expect(() => cipher.seal(1, 0, 48, 1000, 25, 64)).toThrow("beyond the memory");
    expect(() => cipher.seal(1, 1000, 48, 0, 25, 64)).toThrow("beyond the memory");
    cipher.end();
    expect(() => ciphers.create(bytes, new Uint8Array(16), "seal")).toThrow("32 bytes");
  });
});
