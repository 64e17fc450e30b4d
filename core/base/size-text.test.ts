import { expect, test } from "bun:test";
import { exactSize } from "./size-text.ts";

test.each<[number, string]>([
  [0, "0 bytes"],
  [512, "512 bytes"],
  [4096, "4 KiB"],
  [300 * 2 ** 20, "300 MiB"],
  [100 * 2 ** 40, "100 TiB"],
  [100 * 2 ** 40 + 1, "109951162777601 bytes"],
  [9999 * 1024, "9999 KiB"],
  [10_001 * 4096, "40964096 bytes"],
])("%d is %s: never a rounded number", (bytes, text) => {
  expect(exactSize(bytes)).toBe(text);
});
