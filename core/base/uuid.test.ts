import { expect, test } from "bun:test";
import { uuidBytes, uuidDigits, uuidText } from "./uuid.ts";

const TEXT = "01234567-89ab-cdef-0123-456789abcdef";
const DIGITS = "0123456789abcdef0123456789abcdef";

test("uuid: its three forms stand for each other", () => {
  for (const text of [TEXT, DIGITS, TEXT.toUpperCase()]) {
    expect(uuidBytes(text)).toHaveLength(16);
    expect(uuidText(uuidBytes(text))).toBe(TEXT);
    expect(uuidDigits(text)).toBe(DIGITS);
  }
  for (const none of ["", undefined]) expect(uuidBytes(none)).toHaveLength(0);
  expect(uuidText(uuidBytes(""))).toBe("");
  expect(uuidDigits("")).toBe("");
});

test("uuid: what is none is told apart", () => {
  for (const text of ["x", DIGITS.slice(1), `${DIGITS}0`, TEXT.replace("0", "g")]) {
    expect(() => uuidBytes(text)).toThrow("uuidBytes: not a uuid");
  }
  expect(uuidText(new Uint8Array(15))).toBe("");
});
