import { expect, test } from "bun:test";
import { Mac } from "./mac.ts";

// Published vectors of Chaskey-12: key below, message 00 01 02 …; by length in words.
const KEY = [0x833d3433, 0x009f389f, 0x2398e64f, 0x417acf39];
const VECTORS: readonly (readonly [number, readonly number[]])[] = [
  [0, [0x43cb1f41, 0x51eba0c2, 0xff0a8ac3, 0x7ee3f642]],
  [1, [0x0b2b62db, 0x1e9e3f50, 0xa1b8dcad, 0xb4279ae0]],
  [2, [0x9faf57d6, 0xf4bc02cf, 0x6af6d831, 0xd2930d90]],
  [3, [0xc040258c, 0xf25392c0, 0x9f6b5dc0, 0x35c3d638]],
  [4, [0x5dd0e2a9, 0xfb5eac8c, 0x633a392e, 0x500c36f3]],
  [5, [0xece3bdb9, 0x17e5a589, 0x64aa2eef, 0x9a75eced]],
  [8, [0x77962784, 0x07c647fa, 0xdd752c0f, 0xd2f5a799]],
  [15, [0xa8f07a68, 0x366fc33b, 0xaf00eefb, 0x1a48a9df]],
];

const message = new Int32Array(new Uint8Array(64).map((_, at) => at).buffer);

function newMac(): Mac {
  const mac = new Mac();
  mac.setKey(new Uint8Array(new Uint32Array(KEY).buffer));
  return mac;
}

const tagOf = (mac: Mac): number[] =>
  [mac.tag0, mac.tag1, mac.tag2, mac.tag3].map((word) => word >>> 0);

test.each(VECTORS)("the tag of %d words is the published one", (words, wanted) => {
  const mac = newMac();
  mac.begin();
  mac.finish(message, 0, words);
  expect(tagOf(mac)).toEqual([...wanted]);
});

test("a message in parts has the tag of the whole", () => {
  const mac = newMac();
  mac.begin();
  mac.update(message, 0, 12);
  mac.finish(message, 12, 3);
  expect(tagOf(mac)).toEqual([...VECTORS[7]![1]]);
});

test("a part that is not whole blocks is a bug, and so is a short key", () => {
  expect(() => newMac().update(message, 0, 3)).toThrow("whole blocks");
  expect(() => new Mac().setKey(new Uint8Array(15))).toThrow("16 bytes");
});
