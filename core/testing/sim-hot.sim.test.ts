/** What `SimHot.verify` takes for a difference between replicas, told with three copies in memory. */
import { expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { type ImageOp, type ImageTarget, LEADER, OpKind } from "../client/client.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { SimCluster } from "./sim-cluster.ts";
import { SimHot } from "./sim-hot.ts";

const THINKING = { times: 1, livelyOperations: 400 };
const IMAGE_BYTES = 4 * 1_048_576;
const REPLICAS = 3;
/** The one that leads. */
const LEADING = 2;
const ANSWER_US = 500;
const TIMEOUT_MS = 300;

/** A write on its way, or what it put into a copy. */
interface Kept {
  readonly offsetBytes: number;
  readonly content: Uint8Array;
}

/** An image of three replicas, whose wires keep writes for themselves when they are told to. */
class Copies implements ImageTarget {
  readonly sizeBytes = IMAGE_BYTES;
  readonly readOnly = false;
  readonly cluster: SimCluster;
  readonly hot: SimHot;
  readonly kept: Kept[] = [];
  /** The last write of data that was answered. */
  last: Kept | null = null;
  keeps = false;
  /** Happens once, when all is read at rest. */
  beforeRead: () => void = () => {};
  private readonly copies = Array.from({ length: REPLICAS }, () => new Uint8Array(IMAGE_BYTES));

  constructor() {
    this.cluster = new SimCluster(1, {
      osds: 1,
      replicas: 1,
      pgCount: 1,
      imageBytes: IMAGE_BYTES,
      checksum: new SystemChecksum(),
      drainMicrotasks,
    });
    this.hot = new SimHot(this.cluster, [this], TIMEOUT_MS, THINKING);
  }

  submit(op: ImageOp): void {
    this.cluster.simulation.after(ANSWER_US, () => {
      this.answer(op);
      op.onDone();
    });
  }

  private answer(op: ImageOp): void {
    const { offsetBytes, lengthBytes, arenaOffset } = op;
    const { bytes } = this.cluster.clientWorld.arena;
    op.status = Status.Ok;
    if (op.kind === OpKind.Flush) return;
    if (op.kind === OpKind.Read) {
      this.beforeRead();
      this.beforeRead = (): void => {};
      const copy = this.copies[op.replica === LEADER ? LEADING : op.replica]!;
      bytes.set(copy.subarray(offsetBytes, offsetBytes + lengthBytes), arenaOffset);
      return;
    }
    const content = bytes.slice(arenaOffset, arenaOffset + lengthBytes);
    if (op.kind === OpKind.Zero) content.fill(0);
    const write = { offsetBytes, content };
    if (this.keeps) {
      this.kept.push(write);
      op.status = Status.TimedOut;
      return;
    }
    this.applyEverywhere(write);
    if (op.kind === OpKind.Write) this.last = write;
  }

  apply({ offsetBytes, content }: Kept, replica: number): void {
    this.copies[replica]!.set(content, offsetBytes);
  }

  applyEverywhere(write: Kept): void {
    for (let replica = 0; replica < REPLICAS; replica++) this.apply(write, replica);
  }

  /** Clients write and read; at the end no write is answered. Answers the last one of these. */
  work(): Kept {
    const { hot, cluster } = this;
    const { simulation } = cluster;
    hot.start();
    simulation.run(simulation.nowUs + 200_000);
    this.keeps = true;
    simulation.run(simulation.nowUs + 50_000);
    hot.stop();
    expect(simulation.run(() => hot.idle)).toBe(true);
    const late = this.kept.at(-1);
    assert(late !== undefined, "Copies.work: every write was answered");
    return late;
  }
}

test("G4: a write that was given up and comes while replicas are read is read anew at rest", () => {
  const copies = new Copies();
  const late = copies.work();
  copies.beforeRead = (): void => copies.apply(late, LEADING);
  let rests = 0;
  copies.hot.verify(REPLICAS, () => {
    rests += 1;
    copies.applyEverywhere(late);
  });
  expect(rests).toBe(1);
});

test("a write that was given up: a replica that does not get it is found", () => {
  const copies = new Copies();
  const late = copies.work();
  copies.apply(late, LEADING);
  let rests = 0;
  const verify = (): void => copies.hot.verify(REPLICAS, () => (rests += 1));
  expect(verify).toThrow("hot blocks of replica 0");
  expect(rests).toBe(1);
});

test("a write that was answered: a replica without it is found at once", () => {
  const copies = new Copies();
  copies.work();
  const { offsetBytes, content } = copies.last!;
  copies.apply({ offsetBytes, content: content.slice().fill(0) }, 1);
  let rests = 0;
  const verify = (): void => copies.hot.verify(REPLICAS, () => (rests += 1));
  expect(verify).toThrow("hot blocks of replica 1");
  expect(rests).toBe(0);
});
