import { Status } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { ImageOp, type ImageTarget, OpKind } from "../client/client.ts";
import type { Arena } from "../reactor/world.ts";

/** One block after the other, all over the image: an odd multiple and a sum visit each one. */
const STEP = 5;
const SUM = 3;

/** So many operations of one block each, of which `depth` are open at a time. It makes no garbage itself. */
export class CountedLoad {
  failed = 0;
  private readonly image: ImageTarget;
  private readonly ops: CountedOp[] = [];
  private readonly blocks: number;
  private kind = OpKind.Write;
  private left = 0;
  private open = 0;
  private block = 1;
  private done: () => void = () => {};

  /** The image has a power of two of blocks. */
  constructor(image: ImageTarget, arena: Arena, depthMax: number) {
    this.image = image;
    this.blocks = image.sizeBytes / BLOCK_SIZE;
    for (let at = 0; at < depthMax; at++) {
      this.ops.push(new CountedOp(this, arena.allocate(BLOCK_SIZE)));
    }
  }

  run(kind: OpKind, count: number, depth: number): Promise<void> {
    this.kind = kind;
    this.left = count;
    return new Promise((resolve) => {
      this.done = resolve;
      for (let at = 0; at < depth; at++) this.next(this.ops[at]!);
    });
  }

  onDone(op: CountedOp): void {
    this.open -= 1;
    if (op.status !== Status.Ok) this.failed += 1;
    this.next(op);
  }

  private next(op: CountedOp): void {
    if (this.left === 0) {
      if (this.open === 0) this.done();
      return;
    }
    this.left -= 1;
    this.open += 1;
    this.block = (this.block * STEP + SUM) % this.blocks;
    op.kind = this.kind;
    op.offsetBytes = this.block * BLOCK_SIZE;
    op.lengthBytes = BLOCK_SIZE;
    this.image.submit(op);
  }
}

class CountedOp extends ImageOp {
  private readonly load: CountedLoad;

  constructor(load: CountedLoad, arenaOffset: number) {
    super();
    this.load = load;
    this.arenaOffset = arenaOffset;
  }

  onDone(): void {
    this.load.onDone(this);
  }
}
