import { FastblockError } from "../base/errors.ts";
import { Status, statusText } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import {
  BlockState,
  type Image,
  OpKind,
  PromisedOp,
  type ReplicaPlace,
  STATE_BYTES,
} from "../client/client.ts";
import type { World } from "../reactor/world.ts";

/**
 * `image verify`: every replica of every block answers out of its own store, and all must agree.
 *
 * Per piece of 256 KiB: the states of all blocks (checksum, version, data/zero/lost) of each
 * replica are compared; where any holds data, the data too. A follower applies a write a little
 * after its leader, so a piece that differs is read again for some time before it counts.
 */
export interface VerifyOptions {
  /** How far, in bytes. */
  readonly onProgress: (doneBytes: number, totalBytes: number) => void;
}

export interface VerifyReport {
  readonly path: string;
  /** Every replica of every block answered, and all are the same. */
  readonly equal: boolean;
  readonly sizeBytes: number;
  readonly blocks: number;
  readonly dataBlocks: number;
  readonly zeroBlocks: number;
  readonly lostBlocks: number;
  /** Where the first 100 of them are. */
  readonly lostOffsets: readonly number[];
  /** Replicas of each block; the least of all groups. */
  readonly replicas: number;
  /** All that was found, though only the first 100 are listed. */
  readonly findingCount: number;
  readonly findings: readonly VerifyFinding[];
  readonly [key: string]: unknown;
}

export interface VerifyFinding {
  readonly offsetBytes: number;
  /** osds in the order of the replicas. */
  readonly osds: readonly number[];
  readonly what: string;
}

interface PieceFinding extends VerifyFinding {
  /** The replica said nothing about its blocks. */
  readonly isSilence?: boolean;
}

const PIECE_BYTES = 262_144;
const PIECE_BLOCKS = PIECE_BYTES / BLOCK_SIZE;
/** Pieces under way at a time. */
const WORKERS = 4;
const REPLICAS_MAX = 6;
const FINDINGS_MAX = 100;
/** A piece that differs is read again so often, with a pause before each time. */
const RETRIES_MAX = 20;
const RETRY_PAUSE_MS = 250;
/** A replica that kept silent so often, each time for as long as the client waits, is not asked on. */
const SILENT_MAX = 2;

/** Answers that came because the replica gave none, or is not there to give one. */
const SILENCES: ReadonlySet<Status> = new Set([
  Status.TimedOut,
  Status.Unreachable,
  Status.WrongReceiver,
  Status.MapStale,
  Status.Busy,
]);

/** Compare all replicas of an open image. Throws FB5001 when replicas keep silent. */
export async function verifyImage(
  image: Image,
  world: World,
  sleep: (ms: number) => Promise<void>,
  options: VerifyOptions,
): Promise<VerifyReport> {
  const run = new VerifyRun(image, world, sleep, options);
  const workers: Promise<void>[] = [];
  for (let worker = 0; worker < WORKERS; worker++) workers.push(run.work());
  await Promise.all(workers);
  return run.report();
}

class VerifyRun {
  private readonly image: Image;
  private readonly world: World;
  private readonly sleep: (ms: number) => Promise<void>;
  private readonly options: VerifyOptions;
  private readonly pieceBytes: number;
  private cursor = 0;
  private doneBytes = 0;
  private dataBlocks = 0;
  private zeroBlocks = 0;
  private lostBlocks = 0;
  private readonly lostOffsets: number[] = [];
  private replicas = REPLICAS_MAX;
  private findingCount = 0;
  private readonly findings: VerifyFinding[] = [];

  constructor(
    image: Image,
    world: World,
    sleep: (ms: number) => Promise<void>,
    options: VerifyOptions,
  ) {
    this.image = image;
    this.world = world;
    this.sleep = sleep;
    this.options = options;
    // Pieces never cross the border of an object: each lies in one group.
    this.pieceBytes = Math.min(PIECE_BYTES, image.objectSizeBytes);
  }

  /** Take pieces until none is left. */
  async work(): Promise<void> {
    const states = this.world.arena.allocate(REPLICAS_MAX * PIECE_BLOCKS * STATE_BYTES);
    const data = this.world.arena.allocate(REPLICAS_MAX * PIECE_BYTES);
    while (this.cursor < this.image.sizeBytes) {
      const offset = this.cursor;
      const length = Math.min(this.pieceBytes, this.image.sizeBytes - offset);
      this.cursor += length;
      await this.piece(offset, length, states, data);
      this.doneBytes += length;
      this.options.onProgress(this.doneBytes, this.image.sizeBytes);
    }
  }

  report(): VerifyReport {
    this.findings.sort((left, right) => left.offsetBytes - right.offsetBytes);
    this.lostOffsets.sort((left, right) => left - right);
    return {
      path: this.image.path,
      equal: this.findingCount === 0,
      sizeBytes: this.image.sizeBytes,
      blocks: Math.ceil(this.image.sizeBytes / BLOCK_SIZE),
      dataBlocks: this.dataBlocks,
      zeroBlocks: this.zeroBlocks,
      lostBlocks: this.lostBlocks,
      lostOffsets: this.lostOffsets,
      replicas: this.replicas,
      findingCount: this.findingCount,
      findings: this.findings,
    };
  }

  private async piece(offset: number, length: number, states: number, data: number): Promise<void> {
    let found: PieceFinding[] = [];
    let silent = 0;
    for (let attempt = 0; attempt <= RETRIES_MAX; attempt++) {
      if (attempt > 0) await this.sleep(RETRY_PAUSE_MS);
      const places = this.image.replicasAt(offset).slice(0, REPLICAS_MAX);
      found = await this.compare(offset, length, places, states, data);
      if (found.length === 0) {
        this.replicas = Math.min(this.replicas, places.length);
        this.countStates(offset, states, length / BLOCK_SIZE);
        return;
      }
      const mute = found.find((one) => one.isSilence);
      if (mute !== undefined && ++silent >= SILENT_MAX) {
        throw new FastblockError("FB5001", `verifying ${this.image.path}: ${mute.what}`, {
          hint: "start all osds, wait until all replicas are whole, then verify again: fastblock health",
        });
      }
    }
    this.findingCount += found.length;
    for (const { offsetBytes, osds, what } of found) {
      if (this.findings.length < FINDINGS_MAX) this.findings.push({ offsetBytes, osds, what });
    }
  }

  /** Ask every replica, and name the blocks where they differ. */
  private async compare(
    offset: number,
    length: number,
    places: readonly ReplicaPlace[],
    states: number,
    data: number,
  ): Promise<PieceFinding[]> {
    if (places.length === 0)
      return [{ offsetBytes: offset, osds: [], what: "no replica is known" }];
    const osds = places.map((place) => place.osd as number);
    const found: PieceFinding[] = [];
    const rows = PIECE_BLOCKS * STATE_BYTES;
    const asked = await Promise.all(
      places.map((_place, at) => this.ask(OpKind.States, offset, length, states + at * rows, at)),
    );
    this.addFailures(asked, offset, osds, found);
    if (found.length > 0) return found;
    const blocks = length / BLOCK_SIZE;
    for (let block = 0; block < blocks; block++) {
      const what = this.stateDifference(states, rows, block, places.length);
      if (what !== "") found.push({ offsetBytes: offset + block * BLOCK_SIZE, osds, what });
    }
    if (found.length > 0) return found;
    // What is lost can not be read; every run of blocks between does not fail with it.
    let first = 0;
    while (first < blocks && found.length === 0) {
      const end = this.runEnd(states, first, blocks);
      const place = { offset, first, blocks: end - first };
      if (this.holdsData(states, first, end)) await this.compareData(place, osds, data, found);
      first = Math.max(end, first + 1);
    }
    return found;
  }

  /** End of the run of blocks from `first` on that are not lost. */
  private runEnd(states: number, first: number, blocks: number): number {
    let end = first;
    while (end < blocks && this.stateAt(states, end) !== BlockState.Lost) end++;
    return end;
  }

  /** Read a run of blocks from every replica, and name those that differ. */
  private async compareData(
    run: { readonly offset: number; readonly first: number; readonly blocks: number },
    osds: readonly number[],
    data: number,
    found: PieceFinding[],
  ): Promise<void> {
    const offset = run.offset + run.first * BLOCK_SIZE;
    const read = await Promise.all(
      osds.map((_osd, at) =>
        this.ask(OpKind.Read, offset, run.blocks * BLOCK_SIZE, data + at * PIECE_BYTES, at),
      ),
    );
    this.addFailures(read, offset, osds, found);
    if (found.length > 0) return;
    for (let block = 0; block < run.blocks; block++) {
      if (this.dataEqual(data, block, osds.length)) continue;
      found.push({ offsetBytes: offset + block * BLOCK_SIZE, osds, what: "the data differs" });
    }
  }

  private async ask(
    kind: OpKind,
    offset: number,
    length: number,
    arenaOffset: number,
    replica: number,
  ): Promise<Status> {
    const op = new PromisedOp();
    op.kind = kind;
    op.offsetBytes = offset;
    op.lengthBytes = length;
    op.arenaOffset = arenaOffset;
    op.replica = replica;
    return await this.image.run(op);
  }

  private addFailures(
    statuses: readonly Status[],
    offset: number,
    osds: readonly number[],
    found: PieceFinding[],
  ): void {
    statuses.forEach((status, at) => {
      if (status === Status.Ok) return;
      const what = `osd.${osds[at] ?? -1} answered: ${statusText(status)}`;
      found.push({ offsetBytes: offset, osds, what, isSilence: SILENCES.has(status) });
    });
  }

  /** How the replicas' words about a block differ; empty: they do not. */
  private stateDifference(states: number, rows: number, block: number, count: number): string {
    const { words } = this.world.arena;
    const first = (states + block * STATE_BYTES) >>> 2;
    for (let replica = 1; replica < count; replica++) {
      const other = (states + replica * rows + block * STATE_BYTES) >>> 2;
      const state = words[first + 2]! >>> 30;
      if (state !== words[other + 2]! >>> 30) return "data, zero and lost differ";
      // A hole may stand for what was never written: its version says nothing.
      if ((state as BlockState) === BlockState.Zero) continue;
      if (words[first] !== words[other]) return "the checksums differ";
      if (words[first + 1] !== words[other + 1] || words[first + 2] !== words[other + 2]) {
        return "the versions differ";
      }
    }
    return "";
  }

  private stateAt(states: number, block: number): BlockState {
    return this.world.arena.words[((states + block * STATE_BYTES) >>> 2) + 2]! >>> 30;
  }

  private holdsData(states: number, first: number, end: number): boolean {
    for (let block = first; block < end; block++) {
      if (this.stateAt(states, block) === BlockState.Data) return true;
    }
    return false;
  }

  private countStates(offset: number, states: number, blocks: number): void {
    for (let block = 0; block < blocks; block++) {
      switch (this.stateAt(states, block)) {
        case BlockState.Zero:
          this.zeroBlocks++;
          break;
        case BlockState.Data:
          this.dataBlocks++;
          break;
        case BlockState.Lost:
          this.lostBlocks++;
          if (this.lostOffsets.length < FINDINGS_MAX) {
            this.lostOffsets.push(offset + block * BLOCK_SIZE);
          }
          break;
      }
    }
  }

  private dataEqual(data: number, block: number, count: number): boolean {
    const { words } = this.world.arena;
    const first = (data + block * BLOCK_SIZE) >>> 2;
    for (let replica = 1; replica < count; replica++) {
      const other = (data + replica * PIECE_BYTES + block * BLOCK_SIZE) >>> 2;
      for (let at = 0; at < BLOCK_SIZE / 4; at++) {
        if (words[first + at] !== words[other + at]) return false;
      }
    }
    return true;
  }
}
