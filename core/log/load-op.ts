// data path
import { Status } from "../base/status.ts";
import type { Entry } from "./entry.ts";

/** Read an entry back from the log, payload included, for a slow follower. Pooled by its owner. */
export abstract class StoreLoadOp {
  row = 0;
  index = 0;
  /** The record is enough: no payload is read. */
  isBare = false;
  /** Filled; a payload slot is taken and belongs to the entry. */
  entry: Entry | null = null;
  /** Ok; Invalid: not in the log; Damaged: fetch it from a peer; Busy: no slot free, or not durable yet. */
  status: Status = Status.Ok;

  /* Owned by the store. */
  pending = 0;
  replicaId = 0;
  stage = 0;
  buffer = -1;
  recordAt = 0;
  inlineCount = 0;
  tries = 0;
  era = 0;
  loadNext: StoreLoadOp | null = null;

  abstract onDone(): void;
}
