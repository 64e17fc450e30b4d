// cold: a stand-in for tests of gateways
import { Status } from "../../base/status.ts";
import { BLOCK_SIZE } from "../../base/units.ts";
import {
  BlockState,
  type ImageOp,
  type ImageTarget,
  OpKind,
  STATE_BYTES,
} from "../../client/client.ts";
import { DrainOrder, type Drain, type World } from "../../reactor/world.ts";
import type { ExportSource, OpenExport } from "./export-source.ts";

/**
 * An image in memory, for the tests of gateways: sparse, answers out of order, and fails where it
 * is told to. It judges its callers: memory must be congruent to the range.
 */
export class MemoryImage implements ImageTarget, Drain {
  readOnly = false;
  sizeBytes: number;
  readonly blocks: Map<number, Uint8Array> = new Map();
  /** Operations on these blocks fail. */
  readonly failing: Map<number, Status> = new Map();
  /** Operations stay open while this is true. */
  isHeld = false;
  /** Done operations by kind. */
  readonly done: Map<OpKind, number> = new Map();
  private readonly world: World;
  private open: ImageOp[] = [];

  constructor(world: World, sizeBytes: number) {
    this.world = world;
    this.sizeBytes = sizeBytes;
    world.turns.addDrain(DrainOrder.Apply, this);
  }

  get openCount(): number {
    return this.open.length;
  }

  submit(op: ImageOp): void {
    const isMoving = op.kind === OpKind.Read || op.kind === OpKind.Write;
    if (isMoving && op.arenaOffset % BLOCK_SIZE !== op.offsetBytes % BLOCK_SIZE) {
      throw new Error("MemoryImage: memory and range differ modulo 4096");
    }
    this.open.push(op);
    this.world.turns.again();
  }

  /** Finish about half of what is open in each turn, in any order. */
  drain(): void {
    if (this.isHeld || this.open.length === 0) return;
    const kept: ImageOp[] = [];
    const finished: ImageOp[] = [];
    for (const op of this.open) {
      // A flush is behind what came before it.
      const waits = op.kind === OpKind.Flush && kept.length > 0;
      (waits || this.world.random.below(2) === 0 ? kept : finished).push(op);
    }
    this.open = kept;
    for (let at = finished.length - 1; at >= 0; at--) this.finish(finished[at]!);
    if (this.open.length > 0) this.world.turns.again();
  }

  private finish(op: ImageOp): void {
    op.status = this.execute(op);
    this.done.set(op.kind, (this.done.get(op.kind) ?? 0) + 1);
    op.onDone();
  }

  private execute(op: ImageOp): Status {
    if (op.kind === OpKind.Flush) return Status.Ok;
    const end = op.offsetBytes + op.lengthBytes;
    if (end > this.sizeBytes) return Status.Invalid;
    op.isZero = true;
    const first = Math.floor(op.offsetBytes / BLOCK_SIZE);
    const last = Math.ceil(end / BLOCK_SIZE);
    for (let block = first; block < last; block++) {
      const failure = this.failing.get(block);
      if (failure !== undefined) return failure;
      const from = Math.max(op.offsetBytes - block * BLOCK_SIZE, 0);
      const to = Math.min(end - block * BLOCK_SIZE, BLOCK_SIZE);
      this.executeBlock(op, block, block - first, from, to);
    }
    return Status.Ok;
  }

  private executeBlock(op: ImageOp, block: number, index: number, from: number, to: number): void {
    const { bytes, view } = this.world.arena;
    const memory = op.arenaOffset - (op.offsetBytes % BLOCK_SIZE) + index * BLOCK_SIZE;
    const data = this.blocks.get(block);
    switch (op.kind) {
      case OpKind.Read:
        if (data === undefined) bytes.fill(0, memory, memory + BLOCK_SIZE);
        else bytes.set(data, memory);
        if (data !== undefined) op.isZero = false;
        break;
      case OpKind.Write:
        this.blockOf(block).set(bytes.subarray(memory + from, memory + to), from);
        break;
      case OpKind.Zero:
      case OpKind.Discard:
        if (to - from === BLOCK_SIZE) this.blocks.delete(block);
        else if (op.kind === OpKind.Zero) data?.fill(0, from, to);
        break;
      case OpKind.States: {
        const at = op.arenaOffset + index * STATE_BYTES;
        const state = data === undefined ? BlockState.Zero : BlockState.Data;
        view.setUint32(at, 0, true);
        view.setUint32(at + 4, 0, true);
        view.setUint32(at + 8, (state << 30) >>> 0, true);
        break;
      }
      case OpKind.Flush:
        break;
    }
  }

  private blockOf(block: number): Uint8Array {
    let data = this.blocks.get(block);
    if (data === undefined) {
      data = new Uint8Array(BLOCK_SIZE);
      this.blocks.set(block, data);
    }
    return data;
  }
}

/** Exports by name, with counts of who uses them. */
export class MemoryExports implements ExportSource {
  readonly images: Map<string, MemoryImage> = new Map();
  opened = 0;
  released = 0;
  /** What `list` and `open` fail with, as when no mon answers. */
  failure: Error | null = null;

  list(): Promise<readonly string[]> {
    if (this.failure !== null) return Promise.reject(this.failure);
    return Promise.resolve([...this.images.keys()].sort());
  }

  open(name: string): Promise<OpenExport | null> {
    if (this.failure !== null) return Promise.reject(this.failure);
    const target = this.images.get(name);
    if (target === undefined) return Promise.resolve(null);
    this.opened++;
    return Promise.resolve({ target, release: () => void this.released++ });
  }
}
