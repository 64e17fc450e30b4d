import { expect, test } from "bun:test";
import { Entry } from "../log/log.ts";
import { EntryRing } from "./entry-ring.ts";

function entryAt(index: number): Entry {
  const entry = new Entry();
  entry.index = index;
  return entry;
}

test("holds a run of entries while it grows and slides", () => {
  const ring = new EntryRing();
  for (let index = 5; index < 205; index++) ring.put(entryAt(index));
  for (let index = 5; index < 205; index++) expect(ring.get(index)!.index).toBe(index);
  expect(ring.get(4)).toBeNull();
  expect(ring.get(205)).toBeNull();
  for (let index = 5; index < 105; index++) expect(ring.shiftFirst()!.index).toBe(index);
  for (let index = 205; index < 300; index++) ring.put(entryAt(index));
  for (let index = 105; index < 300; index++) expect(ring.get(index)!.index).toBe(index);
});

test("a replaced suffix is taken from the end", () => {
  const ring = new EntryRing();
  for (let index = 1; index <= 10; index++) ring.put(entryAt(index));
  expect(ring.popLast()!.index).toBe(10);
  expect(ring.popLast()!.index).toBe(9);
  const other = entryAt(9);
  ring.put(other);
  expect(ring.get(9)).toBe(other);
  expect(ring.last).toBe(9);
});

test("a gap reads as absent", () => {
  const ring = new EntryRing();
  ring.put(entryAt(1));
  ring.put(entryAt(4));
  expect(ring.get(2)).toBeNull();
  expect(ring.get(4)!.index).toBe(4);
});
