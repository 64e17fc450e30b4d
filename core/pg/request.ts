// data path
import { Status } from "../base/status.ts";
import type { Entry } from "../log/log.ts";
import type { Group } from "./group.ts";
import { StoreReadOp } from "./local-store-types.ts";

/**
 * A write, zero or layer deletion on its way through a group; extended and pooled by the osd.
 *
 * The osd fills `entry` (type to ifVersion, crcs, payload) and hands the op to
 * `Requests.write`. From then on op and entry belong to the group until `onDone`.
 */
export abstract class WriteRequestOp {
  entry: Entry | null = null;
  group: Group | null = null;
  status: Status = Status.Ok;
  /** Index of the entry that did it: the version of its blocks. 0 unless status is Ok. */
  version = 0;
  /** Row of the trace of stages, 0: none. */
  trace = 0;
  /** Queue of the group's proposed writes, by index. */
  writeNext: WriteRequestOp | null = null;

  /** The outcome is known. The op belongs to its owner again; the entry is released already. */
  abstract onDone(): void;
}

/** A read on its way; extended and pooled by the osd. */
export abstract class ReadRequestOp extends StoreReadOp {
  group: Group | null = null;
  lockEpoch = 0;
  /** Row of the trace of stages, 0: none. */
  trace = 0;
  /** Read this replica's own store, whoever leads: for verification only. */
  own = false;
  /** What must be applied before the store is read. */
  readIndex = 0;
  /** Ticket of a leadership check, when the lease did not hold. */
  ticket = 0;
  readNext: ReadRequestOp | null = null;

  /** Answered: `status`, and the results of `StoreReadOp`. The op belongs to its owner again. */
  abstract onAnswer(): void;

  /** The store is done. */
  override onDone(): void {
    this.group!.requests.onStoreRead(this);
  }
}
