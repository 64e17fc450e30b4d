import { assert } from "./assert.ts";

/**
 * Uuids of clusters and stores: 16 bytes on disk and on the wire; for people and in messages lower
 * case text with dashes, `01234567-89ab-cdef-0123-456789abcdef`. Where the brevity counts, 32
 * digits. None is empty, in all three forms.
 */
export const UUID_SIZE = 16;

/** The bytes of 32 hexadecimal digits, with or without dashes; none of nothing. */
export function uuidBytes(text: string | undefined): Uint8Array {
  if (text === undefined || text === "") return new Uint8Array(0);
  const digits = text.replaceAll("-", "");
  assert(/^[0-9a-fA-F]{32}$/.test(digits), "uuidBytes: not a uuid");
  return Uint8Array.fromHex(digits);
}

/** The text with dashes; empty for what is not 16 bytes. */
export function uuidText(bytes: Uint8Array): string {
  if (bytes.length !== UUID_SIZE) return "";
  const digits = bytes.toHex();
  const part = (from: number, to: number): string => digits.slice(from, to);
  return `${part(0, 8)}-${part(8, 12)}-${part(12, 16)}-${part(16, 20)}-${part(20, 32)}`;
}

/** The 32 digits of a text in either form. */
export function uuidDigits(text: string): string {
  return uuidBytes(text).toHex();
}
