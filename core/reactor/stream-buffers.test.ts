import { describe, expect, test } from "bun:test";
import { Prng } from "../base/prng.ts";
import { LinearArena } from "./arena.ts";
import { BufferPool, ReceiveBuffer, SendBuffer } from "./stream-buffers.ts";

/** Bytes that are not the low bytes of `first`, `first + 1` … */
function countWrong(bytes: Uint8Array, first: number): number {
  return bytes.filter((byte, index) => byte !== ((first + index) & 255)).length;
}

describe("send buffer", () => {
  test("keeps every byte, in order, through reservations and partial sends", () => {
    for (let seed = 1; seed <= 30; seed++) {
      const random = new Prng(seed);
      const capacity = 4096;
      const memory = new Uint8Array(capacity + 512);
      const buffer = new SendBuffer(512, capacity);
      let written = 0;
      let read = 0;
      let flying = 0;
      let wrong = 0;
      for (let round = 0; round < 2000; round++) {
        const wanted = 1 + random.below(round % 50 === 0 ? capacity : 700);
        const at = buffer.reserve(wanted);
        if (at >= 0) {
          expect(at >= 512 && at + wanted <= 512 + capacity).toBe(true);
          const length = random.below(4) === 0 ? random.below(wanted + 1) : wanted;
          for (let index = 0; index < length; index++) memory[at + index] = (written + index) & 255;
          buffer.commit(length);
          written += length;
        }
        expect(buffer.unsentBytes).toBe(written - read);
        // A send is in flight over [head, head + flying): those bytes must not change.
        if (flying === 0) flying = buffer.tail - buffer.head;
        if (random.below(3) === 0 && flying > 0) {
          const sent = 1 + random.below(flying);
          wrong += countWrong(memory.subarray(buffer.head, buffer.head + sent), read);
          buffer.sent(sent);
          read += sent;
          flying = 0;
        }
      }
      expect(wrong).toBe(0);
      expect(read).toBeGreaterThan(10_000);
    }
  });

  test("an empty buffer takes its whole capacity", () => {
    const buffer = new SendBuffer(0, 4096);
    buffer.reserve(3000);
    buffer.commit(3000);
    expect(buffer.reserve(4096)).toBe(-1);
    buffer.sent(3000);
    expect(buffer.reserve(4096)).toBe(0);
  });
});

describe("receive buffer", () => {
  test("moves the unread rest to the front when room gets small", () => {
    const bytes = new Uint8Array(8192);
    const buffer = new ReceiveBuffer(bytes, 4096, 4096);
    expect(buffer.makeRoom()).toBe(4096);
    bytes.fill(7, 4096, 4096 + 3000);
    buffer.grow(3000);
    buffer.consume(2992);
    expect(buffer.makeRoom()).toBe(4088);
    expect(buffer.head).toBe(4096);
    expect(buffer.length).toBe(8);
    expect(bytes[4096]).toBe(7);
    expect(() => buffer.consume(9)).toThrow("above what was received");
    buffer.consume(8);
    expect(buffer.makeRoom()).toBe(4096);
  });
});

test("of a pool, the buffers that no connection has are given back", () => {
  const pool = new BufferPool(new LinearArena(new ArrayBuffer(65_536)));
  const kept = pool.take(8192);
  const gone = [pool.take(8192), pool.take(4000)];
  pool.release(gone[0]!, 8192);
  pool.release(gone[1]!, 4000);
  const given: number[][] = [];
  pool.giveBack({ giveBack: (offset, sizeBytes) => void given.push([offset, sizeBytes]) });
  expect(given).toEqual([
    [gone[0]!, 8192],
    [gone[1]!, 4096],
  ]);
  expect(kept).not.toBe(pool.take(8192));
});
