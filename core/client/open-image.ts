import { FastblockError } from "../base/errors.ts";
import {
  formatPgId,
  type ImageId,
  type LayerId,
  type OsdId,
  type PgId,
  type ReplicaId,
  type SessionId,
  type ShardIndex,
} from "../base/ids.ts";
import { Status, statusText } from "../base/status.ts";
import { exactSize } from "../base/size-text.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { holdersOf, objectToPg, type PoolInfo } from "../cluster/cluster.ts";
import { sleep } from "../reactor/world.ts";
import type { ClientCore } from "./client-core.ts";
import { ImageCore } from "./image.ts";
import { ImageOp, OpKind } from "./image-op.ts";
import type { ImageSession } from "./session.ts";

export interface OpenOptions {
  /** Take the image's exclusive lock: other holders are fenced from here on. Default: shared. */
  readonly exclusive?: boolean;
  /** With `exclusive`: also from a living exclusive holder. */
  readonly takeOver?: boolean;
  readonly readOnly?: boolean;
  /** How long opening waits for a mon, and for its answer. Default 10 s. */
  readonly openMs?: number;
  /**
   * An operation without an answer for this long ends with `TimedOut`. Default 0: waits without
   * limit, as a disk that pauses does.
   */
  readonly timeoutMs?: number;
}

/** One replica of the group that holds a byte of an image. */
export interface ReplicaPlace {
  readonly replica: ReplicaId;
  readonly osd: OsdId;
  readonly shard: ShardIndex;
}

/** What an open image asks of the client. */
export interface ImageKeeper {
  /** Fetch header and grant again. */
  refresh(image: Image, timeoutMs: number): Promise<void>;
  /** Give the session back. */
  forget(image: Image): Promise<void>;
}

/** The most that one promise call moves at once: one slot. */
const CALL_BYTES_MAX = 1_048_576;
/** A refresh without a limit of its own. */
const REFRESH_MS = 10_000;
/** How long `close` waits for open operations before it cancels them. */
const CLOSE_MS_MAX = 5000;
const CLOSE_STEP_MS = 5;

/** An open image: `submit` for the data path, one promise a request for everybody else. */
export class Image extends ImageCore {
  readonly options: OpenOptions;
  private readonly core: ClientCore;
  private readonly keeper: ImageKeeper;

  /** By `Client.openImage`. */
  constructor(
    core: ClientCore,
    keeper: ImageKeeper,
    session: ImageSession,
    pool: PoolInfo,
    scratch: number,
    options: OpenOptions,
  ) {
    const timeoutUs = (options.timeoutMs ?? 0) * 1000;
    super(core, session, pool, scratch, options.readOnly === true, timeoutUs);
    this.core = core;
    this.keeper = keeper;
    this.options = options;
  }

  /** `POOL/IMAGE`, as the mon said last: images are renamed while they are attached. */
  get path(): string {
    return `${this.pool.name}/${this.session.header.name}`;
  }

  get id(): ImageId {
    return this.session.imageId;
  }

  get layer(): LayerId {
    return this.session.layer;
  }

  get sessionId(): SessionId {
    return this.session.id;
  }

  get objectSizeBytes(): number {
    return this.objectBlocks * BLOCK_SIZE;
  }

  /** Fetch the header again: size, snapshot sequence. Throws FB1004, FB1006, FB3007. */
  refresh(timeoutMs: number = REFRESH_MS): Promise<void> {
    return this.keeper.refresh(this, timeoutMs);
  }

  /**
   * The replicas with data of the group that holds the object at `offsetBytes`, in the map's order:
   * `ImageOp.replica` is an index into it. Empty when the map does not know the group.
   */
  replicasAt(offsetBytes: number): readonly ReplicaPlace[] {
    const pg = this.core.map.pgs.get(this.pgAt(offsetBytes));
    if (pg === undefined) return [];
    return holdersOf(pg).map((one) => ({ replica: one.replicaId, osd: one.osd, shard: one.shard }));
  }

  /** The connections to osds that this client has now are encrypted, all of them. */
  get isEncrypted(): boolean {
    return this.core.router.isEncrypted;
  }

  /** Run an operation that the caller has filled. Resolves with its status. */
  run(op: PromisedOp): Promise<Status> {
    return op.start(this.core, this);
  }

  /** Read bytes. Throws FB1006 after `timeoutMs` without an answer, FB5001 with the status' name. */
  async read(offsetBytes: number, lengthBytes: number): Promise<Uint8Array> {
    const data = new Uint8Array(lengthBytes);
    await this.move(OpKind.Read, offsetBytes, lengthBytes, data);
    return data;
  }

  /**
   * Write bytes; durable when the promise resolves. Throws FB1006, FB5001, FB5002 when no space is
   * left.
   */
  async write(offsetBytes: number, data: Uint8Array): Promise<void> {
    await this.move(OpKind.Write, offsetBytes, data.length, data);
  }

  async zero(offsetBytes: number, lengthBytes: number): Promise<void> {
    await this.plain(OpKind.Zero, offsetBytes, lengthBytes);
  }

  async discard(offsetBytes: number, lengthBytes: number): Promise<void> {
    await this.plain(OpKind.Discard, offsetBytes, lengthBytes);
  }

  async flush(): Promise<void> {
    await this.plain(OpKind.Flush, 0, 0);
  }

  /**
   * Let open operations end (5 s at most, then they are cancelled), give session and lock back.
   * Operations after it are `Cancelled`.
   */
  async close(): Promise<void> {
    if (this.isClosed) return;
    this.isClosed = true;
    const { world } = this.core;
    for (let waited = 0; this.opsOpen > 0 && waited < CLOSE_MS_MAX; waited += CLOSE_STEP_MS) {
      await sleep(world.timers, CLOSE_STEP_MS * 1000);
    }
    while (this.opsOpen > 0) {
      this.cancelAll();
      await sleep(world.timers, CLOSE_STEP_MS * 1000);
    }
    await this.keeper.forget(this);
  }

  private async plain(kind: OpKind, offsetBytes: number, lengthBytes: number): Promise<void> {
    const op = new PromisedOp();
    op.kind = kind;
    op.offsetBytes = offsetBytes;
    op.lengthBytes = lengthBytes;
    this.check(op, await this.run(op));
  }

  /** Move bytes through a slot, at most 1 MiB at a time. */
  private async move(
    kind: OpKind.Read | OpKind.Write,
    offsetBytes: number,
    lengthBytes: number,
    data: Uint8Array,
  ): Promise<void> {
    const { world } = this.core;
    const end = offsetBytes + lengthBytes;
    let cursor = offsetBytes;
    while (cursor < end) {
      const border = (Math.floor(cursor / CALL_BYTES_MAX) + 1) * CALL_BYTES_MAX;
      const to = Math.min(border, end);
      const within = cursor % BLOCK_SIZE;
      const slot = await this.takeSlot(within + to - cursor);
      const op = new PromisedOp();
      op.kind = kind;
      op.offsetBytes = cursor;
      op.lengthBytes = to - cursor;
      op.arenaOffset = slot + within;
      const part = data.subarray(cursor - offsetBytes, to - offsetBytes);
      try {
        if (kind === OpKind.Write) world.arena.bytes.set(part, op.arenaOffset);
        this.check(op, await this.run(op));
        const at = op.arenaOffset;
        if (kind === OpKind.Read) part.set(world.arena.bytes.subarray(at, at + op.lengthBytes));
      } finally {
        world.slots.release(slot);
      }
      cursor = to;
    }
  }

  private async takeSlot(lengthBytes: number): Promise<number> {
    const sizeBytes = Math.ceil(lengthBytes / BLOCK_SIZE) * BLOCK_SIZE;
    const { world } = this.core;
    for (;;) {
      const slot = world.slots.take(sizeBytes);
      if (slot >= 0) return slot;
      await sleep(world.timers, 1000);
    }
  }

  private check(op: ImageOp, status: Status): void {
    if (status === Status.Ok) return;
    const what = OpKind[op.kind] ?? "";
    const range = `${exactSize(op.lengthBytes)} at ${op.offsetBytes}`;
    if (status === Status.TimedOut) throw this.timedOut(op, `${what} of ${this.path}, ${range}`);
    const message = `${what} of ${this.path}, ${range}: ${statusText(status)}`;
    throw new FastblockError(status === Status.NoSpace ? "FB5002" : "FB5001", message);
  }

  private timedOut(op: ImageOp, what: string): FastblockError {
    const limit = `no answer in ${this.options.timeoutMs ?? 0} ms, wanted one`;
    // A flush tells of any write before it: it has no place.
    const why = op.kind === OpKind.Flush ? {} : { why: this.whoServes(op.offsetBytes) };
    const hint = "see which osds are away: fastblock health; a write may still happen";
    return new FastblockError("FB1006", `${what}: ${limit}`, { ...why, hint });
  }

  /** The group that a byte lies in, and its osds, in words. */
  private whoServes(offsetBytes: number): string {
    const osds = this.replicasAt(offsetBytes).map(({ osd }) => `osd.${osd}`);
    const group = formatPgId(this.pgAt(offsetBytes));
    return `byte ${offsetBytes} lies in group ${group} on ${osds.join(", ") || "no known osd"}`;
  }

  private pgAt(offsetBytes: number): PgId {
    const object = Math.floor(offsetBytes / this.objectSizeBytes);
    return objectToPg(this.pool, this.session.header.familyId, object);
  }
}

/** An operation with a promise. */
export class PromisedOp extends ImageOp {
  private resolve: ((status: Status) => void) | null = null;

  start(core: ClientCore, image: ImageCore): Promise<Status> {
    return new Promise((resolve) => {
      this.resolve = resolve;
      core.submitLater(image, this);
    });
  }

  override onDone(): void {
    this.resolve?.(this.status);
  }
}
