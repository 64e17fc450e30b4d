// cold: fuzzing of decoders
import { create } from "@bufbuild/protobuf";
import { ListReplySchema } from "../../proto/gen/fill_pb.ts";
import { assert } from "../base/assert.ts";
import { FastblockError } from "../base/errors.ts";
import { decodeKeys, decodeUnits, encodeKeys, encodeUnits, pageOf } from "../osd/osd.ts";
import { decodeStarts, encodeStarts, START_SIZE, STARTS_MAX } from "../store/store.ts";
import type { FuzzTarget } from "./fuzz.ts";
import { sameBytes } from "./fuzz-store.ts";

type Input = Uint8Array<ArrayBuffer>;

const KEY_SIZE = 16;
const UNIT_SIZE = 192;
const UNITS_MAX = 16;

/** Rows of a fixed size within messages of osds: units of a fill and of a scrub, starts of a store. */
export function listTargets(): FuzzTarget[] {
  return [unitTarget(), startTarget()];
}

/** The first byte, which is of the list, chooses who reads it. */
function unitTarget(): FuzzTarget {
  const keys = [3, 4, 5, 6].map((unit) => ({ layer: 2 ** 33 + unit, unit, snapSeq: 7 }));
  const units = new Uint8Array(2 * UNIT_SIZE).map((_byte, at) => at + 1);
  return {
    name: "unit-lists",
    seeds: [encodeKeys(keys), units, new Uint8Array(0)],
    grain: KEY_SIZE,
    sizeMax: UNITS_MAX * UNIT_SIZE,
    bytesMax: 262_144,
    run: (input) => {
      try {
        return READERS[(input[0] ?? 0) % READERS.length]!(input);
      } catch (error) {
        if (error instanceof FastblockError) return false;
        throw error;
      }
    },
  };
}

const READERS: readonly ((input: Input) => boolean)[] = [
  (input) => {
    const again = encodeKeys(decodeKeys(input));
    assert(sameBytes(again, input), "unit-lists: keys changed");
    return true;
  },
  (input) => {
    const count = Math.floor(input.length / UNIT_SIZE);
    const keys = Array.from({ length: count }, (_, unit) => ({ layer: 1, unit, snapSeq: 0 }));
    const units = decodeUnits(input, keys);
    const again = decodeUnits(encodeUnits(units), keys);
    assert(JSON.stringify(again) === JSON.stringify(units), "unit-lists: units changed");
    return true;
  },
  (input) => {
    const { units } = pageOf(create(ListReplySchema, { units: input, end: true }));
    const isWhole = ({ layer, unit }: (typeof units)[number]): boolean => layer >= 0 && unit >= 0;
    assert(units.every(isWhole), "unit-lists: a unit is no number");
    return true;
  },
];

function startTarget(): FuzzTarget {
  const starts = [1, 2, 5].map((incarnation) => ({
    incarnation,
    mark: 9,
    id: "0f".repeat(START_SIZE - 8),
  }));
  return {
    name: "starts",
    seeds: [encodeStarts(starts), new Uint8Array(0)],
    grain: START_SIZE,
    sizeMax: (STARTS_MAX + 2) * START_SIZE,
    bytesMax: 65_536,
    repair: (input) => {
      const view = new DataView(input.buffer);
      for (let at = 0; at + START_SIZE <= input.length; at += START_SIZE) {
        view.setUint32(at, at + 1, true);
      }
    },
    run: (input) => {
      const found = decodeStarts(input);
      if (found === undefined) return false;
      assert(sameBytes(encodeStarts(found), input), "starts: they changed");
      return true;
    },
  };
}
