import { expect, test } from "bun:test";
import { createHmac } from "node:crypto";
import type { Checksum } from "../base/checksum.ts";
import { checkGrant, isImageSize, isName, signGrant } from "./cluster.ts";

const checksum: Checksum = {
  crc32: () => 0,
  hmacSha256: (key, data) => new Uint8Array(createHmac("sha256", key).update(data).digest()),
};
const key = new Uint8Array(32).fill(7);

test("a grant passes with its signature only", () => {
  const grant = new Uint8Array([1, 2, 3, 4]);
  const mac = signGrant(checksum, key, grant);
  expect(checkGrant(checksum, key, grant, mac)).toBe(true);
  expect(checkGrant(checksum, key, new Uint8Array([1, 2, 3, 5]), mac)).toBe(false);
  expect(checkGrant(checksum, new Uint8Array(32), grant, mac)).toBe(false);
  for (let at = 0; at < mac.length; at++) {
    const wrong = mac.slice();
    wrong[at]! ^= 1;
    expect(checkGrant(checksum, key, grant, wrong)).toBe(false);
  }
  expect(checkGrant(checksum, key, grant, mac.slice(0, 31))).toBe(false);
  expect(checkGrant(checksum, key, grant, new Uint8Array([...mac, 0]))).toBe(false);
  expect(checkGrant(checksum, key, grant, new Uint8Array(0))).toBe(false);
  // The cluster key itself signs no grants.
  expect(checkGrant(checksum, key, grant, checksum.hmacSha256(key, grant))).toBe(false);
});

test("names and sizes at their borders", () => {
  for (const name of ["a", "0", "vm-1.disk_0", "x".repeat(63)]) expect(isName(name)).toBe(true);
  for (const name of ["", ".", "..", "-a", "_a", "a/b", "a b", "ä", "a\n", "x".repeat(64), "a@b"]) {
    expect(isName(name)).toBe(false);
  }
  for (const size of [4096, 1024 ** 4 * 16]) expect(isImageSize(size)).toBe(true);
  for (const size of [0, -4096, 4095, 4097, 512, 1024 ** 4 * 16 + 4096, NaN, 1e30]) {
    expect(isImageSize(size)).toBe(false);
  }
});
