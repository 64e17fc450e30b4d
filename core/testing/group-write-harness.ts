import { Status } from "../base/status.ts";
import { EntryType } from "../log/log.ts";
import { type Group, WriteRequestOp } from "../pg/pg.ts";

/** A layer and a session that no client of a simulated cluster has. */
export const LAYER = 77;
const SESSION = 1_000_000;

/** A request that was handed to a group itself, and what became of it. */
export class Written extends WriteRequestOp {
  /** Ok: it is carried out. */
  refused: Status = Status.Ok;
  done = false;

  override onDone(): void {
    this.done = true;
  }
}

/** What a request says of itself. */
export interface WriteWords {
  readonly number: number;
  readonly below?: number;
  readonly lockEpoch?: number;
}

/** Have a group judge and carry out zeros for the first block of `LAYER`. */
export function writeTo(group: Group, words: WriteWords): Written {
  const op = new Written();
  const { store, world } = group.shard;
  const entry = store.entries.take();
  op.entry = entry;
  entry.type = EntryType.Zero;
  entry.session = SESSION;
  entry.number = words.number;
  entry.below = words.below ?? 0;
  entry.layer = LAYER;
  entry.blocks = 1;
  entry.lockEpoch = words.lockEpoch ?? 0;
  op.refused = group.requests.write(op);
  if (op.refused !== Status.Ok) store.entries.release(entry);
  world.turns.again();
  return op;
}
