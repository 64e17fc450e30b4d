import { assert } from "../base/assert.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { BlockState, ImageOp, type ImageTarget, OpKind, STATE_BYTES } from "../client/client.ts";
import { sleep, type World } from "../reactor/world.ts";
import { LoadFailures, loadError } from "./load-failures.ts";

const PIECE_BYTES = 1_048_576;
const DEPTH = 8;
const LOOK_MS = 1;

/**
 * Whether any block of the first `rangeBytes` of an image is in a state, asked without reading
 * data; ends with the first one found. Throws FB1006 or FB5001 when a block's state is not told.
 */
export async function anyBlockIs(
  wanted: BlockState,
  image: ImageTarget,
  rangeBytes: number,
  world: World,
): Promise<boolean> {
  const survey = new Survey(wanted, image, rangeBytes, world);
  survey.start();
  while (survey.open > 0) await sleep(world.timers, LOOK_MS * 1000);
  survey.end();
  return survey.found;
}

class Survey {
  found = false;
  open = 0;
  private readonly wanted: BlockState;
  private readonly image: ImageTarget;
  private readonly rangeBytes: number;
  private readonly world: World;
  private readonly failures = new LoadFailures();
  private readonly memory: number;
  private cursor = 0;

  constructor(wanted: BlockState, image: ImageTarget, rangeBytes: number, world: World) {
    this.wanted = wanted;
    this.image = image;
    this.rangeBytes = rangeBytes;
    this.world = world;
    this.memory = world.slots.take(DEPTH * BLOCK_SIZE);
    assert(this.memory >= 0, "Survey: no slot for the states of blocks");
  }

  start(): void {
    for (let at = 0; at < DEPTH; at++) this.next(new SurveyOp(this, this.memory + at * BLOCK_SIZE));
  }

  /** Give the memory back. */
  end(): void {
    this.world.slots.release(this.memory);
    const failure = this.failures.statusTexts[0];
    if (failure !== undefined) throw loadError("looking at the image", failure, this.failures);
  }

  next(op: SurveyOp): void {
    if (this.found || this.failures.statusTexts.length > 0 || this.cursor >= this.rangeBytes)
      return;
    op.offsetBytes = this.cursor;
    op.lengthBytes = Math.min(PIECE_BYTES, this.rangeBytes - this.cursor);
    this.cursor += op.lengthBytes;
    this.open++;
    this.image.submit(op);
  }

  onDone(op: SurveyOp): void {
    this.open--;
    if (op.status === Status.Ok) this.look(op);
    else this.failures.addStatus(false, op.offsetBytes, op.status);
    this.next(op);
  }

  private look(op: SurveyOp): void {
    const { view } = this.world.arena;
    const last = op.arenaOffset + Math.ceil(op.lengthBytes / BLOCK_SIZE) * STATE_BYTES;
    for (let at = op.arenaOffset; at < last; at += STATE_BYTES) {
      if (view.getUint32(at + 8, true) >>> 30 === this.wanted) this.found = true;
    }
  }
}

/** The states of one piece after another. */
class SurveyOp extends ImageOp {
  override readonly kind = OpKind.States;
  private readonly survey: Survey;

  constructor(survey: Survey, memory: number) {
    super();
    this.survey = survey;
    this.arenaOffset = memory;
  }

  override onDone(): void {
    this.survey.onDone(this);
  }
}
