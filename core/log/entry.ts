// data path
import { BLOCKS_PER_UNIT, PAYLOAD_BLOCKS_MAX } from "../base/units.ts";

/** What a log entry does when it is applied. Numbers are disk and wire format. */
export enum EntryType {
  /** A new leader's first entry: commits what earlier terms left. */
  Noop = 1,
  /** Blocks with payload. */
  Write = 2,
  /** Blocks become zero (write-zeroes, discard). No payload; `blocks` may exceed one frame. */
  Zero = 3,
  /** The layer is deleted: all of its blocks in this group are freed in the background. */
  LayerGone = 4,
  /** Raises the layer's lock epoch: requests with a lower one are refused from here on. */
  Fence = 5,
  /** Opens, refreshes or ends a client session's window (`data`). */
  Session = 6,
  /** A configuration of the group (`data`, `core/raft/conf-change.ts`). */
  Conf = 7,
  /** A named point of the log: scrub digests and catch-up are taken at it. */
  Cut = 8,
}

/**
 * One raft entry with everything that is replicated, and where it lies on this replica.
 *
 * Pooled by the shard and reference-counted: the log holds one reference until the entry is
 * durable here, the group until it is applied and sent. `release()` to zero returns payload slot
 * and object to their pools.
 *
 * Invariants: `payload >= 0` exactly when type is Write and the bytes are in memory, never when bare;
 * `blocks ≤ PAYLOAD_BLOCKS_MAX` for Write; `below ≤ number`.
 */
export class Entry {
  /** Local row of the group on this shard (not replicated). */
  group = 0;
  index = 0;
  term = 0;
  type: EntryType = EntryType.Noop;
  /** Client session, and the request's dense number in (session, pg); below = lowest unanswered. */
  session = 0;
  number = 0;
  below = 0;
  layer = 0;
  /** 4 KiB block number within the layer, and how many. */
  firstBlock = 0;
  blocks = 0;
  snapSeq = 0;
  lockEpoch = 0;
  /** Version the (single) block must have, plus one; 0 = unconditional. Checked by the leader. */
  ifVersion = 0;
  /** crc32 of each block as the client computed it; `blocks` of them for Write. */
  readonly crcs: Uint32Array = new Uint32Array(PAYLOAD_BLOCKS_MAX);
  /** Arena offset of the contiguous payload slot, or -1. */
  payload = -1;
  /** Body of Conf and Session entries, at most 3 KiB; null otherwise. */
  data: Uint8Array | null = null;
  references = 0;
  /** Row of the trace of stages, 0: none (`core/metrics/metrics.ts`). Not replicated. */
  trace = 0;

  /* Where the entry lies on this replica: set by the local store, not replicated. */

  /** Slots of the whole units that were written directly, in order of their units; `unitCount` used. */
  readonly units: Uint32Array = new Uint32Array(PAYLOAD_BLOCKS_MAX / BLOCKS_PER_UNIT);
  unitCount = 0;
  /** This replica is a witness: the entry changes no block here, and its payload is nowhere. */
  bare = false;
  /** Log block (grows for ever, ring position = modulo) of the first inline block, or -1. */
  inlineBlock = -1;
  /** Sequence of the batch that holds the record, 0 until it is composed. */
  batchSeq = 0;
  /** Byte offset of the record in its batch. */
  recordAt = 0;
  /** Direct writes under way. */
  directPending = 0;
  /** True when the append replaced a suffix of the group's log (`RecordFlag.Truncates`). */
  truncates = false;
  /** The suffix that it belongs to was cut while writes of it were under way. */
  orphaned = false;
  /** A copy of an entry in the log, appended again at the head (R4). */
  again = false;
  /** What `reserve` set aside and `append` or `unreserve` takes back. */
  reservedUnits = 0;
  reservedLogBlocks = 0;
  /** Of the reserved units, those that `append` writes beside the log; 0: all goes through it. */
  reservedDirect = 0;
  /** Owned by whichever queue holds the entry. */
  entryNext: Entry | null = null;
}
