import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { OpKind } from "./image-op.ts";
import { Cut, cutPart } from "./striper.ts";

interface Part {
  readonly first: number;
  readonly blocks: number;
  readonly partial: readonly [number, number] | null;
}

function split(kind: OpKind, from: number, to: number, objectBlocks = 1024): Part[] {
  const parts: Part[] = [];
  const cut = new Cut();
  let cursor = from;
  while (cursor < to) {
    cutPart(cut, kind, cursor, to, objectBlocks);
    expect(cut.endByte).toBeGreaterThan(cursor);
    if (!cut.isSkipped) {
      const partial = cut.isPartial ? ([cut.fromByte, cut.toByte] as const) : null;
      parts.push({ first: cut.firstBlock, blocks: cut.blocks, partial });
    }
    cursor = cut.endByte;
  }
  expect(cursor).toBe(to);
  return parts;
}

const whole = (first: number, blocks: number): Part => ({ first, blocks, partial: null });
const partial = (first: number, from: number, to: number): Part => ({
  first,
  blocks: 1,
  partial: [from, to],
});

describe("cutPart", () => {
  const cases: readonly (readonly [string, OpKind, number, number, readonly Part[]])[] = [
    ["one whole block", OpKind.Write, 4096, 8192, [whole(1, 1)]],
    ["a sector", OpKind.Write, 4608, 5120, [partial(1, 512, 1024)]],
    ["the last byte of a block", OpKind.Write, 8191, 8192, [partial(1, 4095, 4096)]],
    ["over a border", OpKind.Write, 8191, 8193, [partial(1, 4095, 4096), partial(2, 0, 1)]],
    [
      "head, whole blocks, tail",
      OpKind.Write,
      100,
      20_000,
      [partial(0, 100, 4096), whole(1, 3), partial(4, 0, 3616)],
    ],
    ["a read takes whole blocks", OpKind.Read, 100, 20_000, [whole(0, 5)]],
    ["64 blocks a frame", OpKind.Write, 0, 65 * 4096, [whole(0, 64), whole(64, 1)]],
    ["frames line up", OpKind.Read, 63 * 4096, 66 * 4096, [whole(63, 1), whole(64, 2)]],
    ["zero: whole objects", OpKind.Zero, 0, 8 * 1_048_576, [whole(0, 1024), whole(1024, 1024)]],
    [
      "zero: object borders",
      OpKind.Zero,
      1023 * 4096 + 1,
      1025 * 4096,
      [partial(1023, 1, 4096), whole(1024, 1)],
    ],
    ["discard skips partial blocks", OpKind.Discard, 1, 12_287, [whole(1, 1)]],
    ["discard of less than a block", OpKind.Discard, 1, 4095, []],
    ["states", OpKind.States, 5, 65 * 4096, [whole(0, 64), whole(64, 1)]],
  ];
  test.each(cases)("%s", (_name, kind, from, to, wanted) => {
    expect(split(kind, from, to)).toEqual([...wanted]);
  });

  test("any range: parts cover it once, in order, within objects and frames", () => {
    fc.assert(
      fc.property(
        fc.constantFrom(OpKind.Read, OpKind.Write, OpKind.Zero, OpKind.States),
        fc.nat({ max: 40_000_000 }),
        fc.integer({ min: 1, max: 5_000_000 }),
        fc.constantFrom(16, 1024, 16_384),
        (kind, from, length, objectBlocks) => {
          const to = from + length;
          const isChange = kind === OpKind.Write || kind === OpKind.Zero;
          let cursor = isChange ? from : Math.floor(from / 4096) * 4096;
          for (const part of split(kind, from, to, objectBlocks)) {
            const [start, end] = part.partial ?? [0, part.blocks * 4096];
            expect(part.first * 4096 + start).toBe(cursor);
            cursor = part.first * 4096 + end;
            const object = Math.floor(part.first / objectBlocks);
            expect(Math.floor((part.first + part.blocks - 1) / objectBlocks)).toBe(object);
            if (kind !== OpKind.Zero) expect(part.blocks).toBeLessThanOrEqual(64);
          }
          expect(cursor).toBe(isChange ? to : Math.ceil(to / 4096) * 4096);
        },
      ),
    );
  });
});
