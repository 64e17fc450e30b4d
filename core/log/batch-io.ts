// data path
import { DeviceOp } from "../device/device.ts";
import type { Entry } from "./entry.ts";
import type { StoreFillOp } from "./fill-op.ts";
import type { ControlRecord } from "./record.ts";
import { RowList } from "./row-list.ts";

/** Who writes batches: told of each in the handler phase, in any order. */
export interface BatchSink {
  onBatchDone(io: BatchIo): void;
}

/**
 * One batch: composed in `buffer`, under way while `busy`, with what its completion has to tell.
 * The log has as many as may be under way, and uses them again.
 */
export class BatchIo extends DeviceOp {
  /** Arena offset of the batch's memory. */
  readonly buffer: number;
  /** Groups with a record in it. */
  readonly rows: RowList = new RowList();
  busy = false;
  done = false;
  seq = 0;
  /** What was chosen for it: how many of each kind, their bytes, their payload. */
  controls = 0;
  hardStates = 0;
  entries = 0;
  records = 0;
  recordBytes = 0;
  payloadBlocks = 0;
  fills = 0;
  /** With orphaned ones, which are dropped. */
  fillsLooked = 0;
  fillBlocks = 0;
  fillList: StoreFillOp | null = null;
  controlList: ControlRecord | null = null;
  /** Second copies of entries (R4). */
  againList: Entry | null = null;
  private readonly sink: BatchSink;
  private fillLast: StoreFillOp | null = null;
  private controlLast: ControlRecord | null = null;

  constructor(sink: BatchSink, buffer: number) {
    super();
    this.sink = sink;
    this.buffer = buffer;
  }

  begin(seq: number): void {
    this.busy = true;
    this.done = false;
    this.seq = seq;
    this.rows.count = 0;
    this.fillBlocks = 0;
    this.fillList = null;
    this.fillLast = null;
    this.controlList = null;
    this.controlLast = null;
  }

  addFill(op: StoreFillOp): void {
    op.fillNext = null;
    if (this.fillLast === null) this.fillList = op;
    else this.fillLast.fillNext = op;
    this.fillLast = op;
  }

  addControl(record: ControlRecord): void {
    record.controlNext = null;
    if (this.controlLast === null) this.controlList = record;
    else this.controlLast.controlNext = record;
    this.controlLast = record;
  }

  onComplete(): void {
    this.sink.onBatchDone(this);
  }
}
