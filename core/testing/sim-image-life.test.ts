import { describe, expect, test } from "bun:test";
import { Status } from "../base/status.ts";
import { OpKind } from "../client/client.ts";
import { ImageLife, type ImageRequest } from "./sim-image-life.ts";

const OTHER = 7;

/** An image of 8 blocks, made at 0; times of an operation: its call and its answer. */
class Bench {
  readonly life = new ImageLife(1, 8, 0);

  answer(
    kind: OpKind,
    block: number,
    value: number,
    [callNs, endNs]: [number, number],
    more: Partial<ImageRequest> = {},
  ): void {
    const request = { client: 0, kind, first: block, blocks: 1, status: Status.Ok, callNs };
    const stamps = Float64Array.of(value);
    this.life.answered({ ...request, knownBlocks: 8, stamps, ...more }, endNs);
  }

  write(block: number, value: number, times: [number, number]): void {
    this.answer(OpKind.Write, block, value, times);
  }

  read(block: number, value: number, times: [number, number]): void {
    this.answer(OpKind.Read, block, value, times);
  }

  refuse(block: number, value: number, times: [number, number], status = Status.Invalid): void {
    this.answer(OpKind.Write, block, value, times, { status });
  }

  resize(blocks: number, callNs: number, doneNs: number): void {
    const change = this.life.resize(blocks, callNs);
    change.answeredNs = callNs + 1;
    change.doneNs = doneNs;
  }
}

describe("an image that changes", () => {
  test("a shrink zeroes at some moment of its own; a growth shows zeros", () => {
    const bench = new Bench();
    bench.write(5, 1, [10, 20]);
    bench.resize(4, 30, 60);
    // Who has not heard of it may still be answered, before it is done.
    bench.write(5, 2, [40, 50]);
    bench.refuse(6, 3, [45, 70]);
    bench.resize(8, 80, 81);
    bench.read(5, 0, [90, 100]);
    bench.read(6, 0, [90, 100]);
    bench.write(5, 4, [110, 120]);
    bench.read(5, 4, [130, 140]);
    bench.life.verify();
  });

  test.each([1, 2])("what was there before a shrink does not come back: %d", (value) => {
    const bench = new Bench();
    bench.write(5, 1, [10, 20]);
    bench.resize(4, 30, 60);
    bench.write(5, 2, [40, 50]);
    bench.resize(8, 80, 81);
    bench.read(5, value, [90, 100]);
    expect(() => bench.life.verify()).toThrow("not linearizable");
  });

  test("nobody uses what is beyond the end, or a removed image", () => {
    const bench = new Bench();
    bench.resize(4, 30, 60);
    expect(() => bench.write(5, 1, [61, 70])).toThrow("beyond the image's end");
    expect(() => bench.read(5, 0, [61, 70])).toThrow("beyond the image's end");
    bench.life.removalNs = 80;
    bench.write(3, 2, [85, 88]);
    bench.life.goneNs = 90;
    expect(() => bench.write(3, 3, [91, 95])).toThrow("removed was used");
  });

  test("what was refused beyond the end takes effect before the shrink, or never", () => {
    const early = new Bench();
    early.resize(4, 30, 60);
    early.refuse(5, 1, [40, 70]);
    early.read(5, 1, [50, 55]);
    early.life.verify();
    const late = new Bench();
    late.resize(4, 30, 60);
    late.refuse(5, 1, [65, 70]);
    late.resize(8, 80, 81);
    late.read(5, 1, [90, 95]);
    expect(() => late.life.verify()).toThrow("was refused, and took effect");
  });

  test("what another image held is not seen", () => {
    const bench = new Bench();
    bench.read(0, OTHER, [10, 20]);
    expect(() => bench.life.verify()).toThrow("nobody wrote that");
  });

  test("a refusal needs a reason", () => {
    const bench = new Bench();
    expect(() => bench.refuse(3, 1, [10, 20])).toThrow("Invalid");
    expect(() => bench.refuse(3, 1, [10, 20], Status.Removed)).toThrow("Removed");
    expect(() => bench.refuse(3, 1, [10, 20], Status.Fenced)).toThrow("Fenced");
    expect(() => bench.refuse(3, 1, [10, 20], Status.NoSpace)).toThrow("NoSpace");
    bench.life.mayRefuse = true;
    bench.refuse(3, 1, [10, 20], Status.NoSpace);
    bench.life.removalNs = 15;
    bench.refuse(3, 2, [10, 20], Status.Removed);
    bench.life.verify();
  });
});
