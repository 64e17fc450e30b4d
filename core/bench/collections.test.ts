import { expect, test } from "bun:test";
import {
  collectionsIn,
  collectionsOf,
  tellsCollections,
  withoutCollections,
} from "./collections.ts";

/** As an osd with two heaps wrote it; the marking is cut short. */
const TOLD = `[GC<0x52c55600118>: starting 0.038247ms]
{"level":"info","msg":"ready"}
Requesting GC because bytes allocated this cycle: 8404126 exceed bytes allowed: 8388608
[GC<0x52c55600118>: START M 1054885kb => EdenCollection, a=0kb hf=0.000 mu=0.600 v=0kb p=3.704360ms (max 3.704360)...]
[GC<0x52c55600118>: v=3939kb (C:382 M:0 P1:3557) => 1056546kb, p=0.295640ms (max 3.704360), cycle 5.472475ms END]
GC END!
[GC<0x52c55600118>: epilogue 0.029043ms]
[GC<0x3e6e779c118>: START M 73792kb => FullCollection, v=0kb (C:0) => 72050kb, p=1.500000ms (max 1.500000), cycle 1.400000ms END]
GC END!
`;

test("the pauses of collections are counted, each part of one", () => {
  expect(collectionsIn(TOLD)).toEqual({ count: 3, pauseUs: 5500, pauseUsMax: 3704 });
  expect(collectionsIn("")).toEqual({ count: 0, pauseUs: 0, pauseUsMax: 0 });
});

test("a process that tells nothing is known by that, and what else it wrote is found", () => {
  expect(tellsCollections(TOLD)).toBe(true);
  expect(tellsCollections('{"level":"info"}\n')).toBe(false);
  expect(withoutCollections(TOLD)).toBe('{"level":"info","msg":"ready"}\n');
});

test("pauses of several are summed, the longest of them is the longest", () => {
  const one = { count: 1, pauseUs: 30, pauseUsMax: 20 };
  const other = { count: 2, pauseUs: 50, pauseUsMax: 40 };
  expect(collectionsOf([one, other])).toEqual({ count: 3, pauseUs: 80, pauseUsMax: 40 });
});
