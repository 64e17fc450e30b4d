// cold path: reads the whole log once per start.
import { BLOCK_SIZE, BLOCKS_PER_UNIT } from "../base/units.ts";
import {
  BATCH_BLOCKS_MAX,
  BATCH_HEADER_SIZE,
  BatchHeader,
  peekBatch,
  verifyBatch,
} from "./batch.ts";
import type { RawBatch, RawRecord, ScanInput } from "./log-scan-types.ts";
import { LogWindow } from "./log-window.ts";
import { headBlocks, RecordView } from "./record.ts";

const LOOK_AHEAD_BYTES = 64 * 1024 * 1024;

/**
 * Follows the chain of batches from the checkpoint's tail on, verifies headers and inline payload, and
 * tells where the log ends: at its torn end, or at damage in its middle (`scanLog` says which is which).
 */
export class ChainReader {
  readonly batches: RawBatch[] = [];
  readonly notes: string[] = [];
  private readonly input: ScanInput;
  private readonly window: LogWindow;
  /** Sees the beginning of the next run without moving the window. */
  private readonly probe: LogWindow;
  private readonly header = new BatchHeader();
  private readonly record: RecordView;
  private position: number;
  private seq: number;
  private prevCrc: number;
  private incarnation: number;

  constructor(input: ScanInput) {
    this.input = input;
    const { device, space, buffer, world } = input;
    const windowBytes = input.bufferBytes - BLOCK_SIZE;
    this.window = new LogWindow(world.arena, device, space, buffer, windowBytes);
    this.probe = new LogWindow(world.arena, device, space, buffer + windowBytes, BLOCK_SIZE);
    this.record = new RecordView(input.world.arena.view);
    this.position = input.tailPosition;
    this.seq = input.tailSeq;
    this.prevCrc = input.tailPrevCrc;
    this.incarnation = input.tailIncarnation;
  }

  async read(): Promise<void> {
    const { ringBlocks } = this.input.space;
    for (;;) {
      if (this.position - this.input.tailPosition >= ringBlocks) return;
      const batch = await this.nextBatch();
      if (batch === undefined) return;
      this.batches.push(batch);
      this.position = batch.position + batch.blocks;
      this.seq = batch.seq + 1;
      this.prevCrc = batch.crc;
      this.incarnation = batch.incarnation;
    }
  }

  /**
   * The next batch of the chain: here, or at the beginning of the next run, when it did not fit before
   * the end of this one.
   *
   * Both may hold one that fits the chain: a batch of k blocks was torn here, the next start wrote a
   * longer one in its place, which had to go to the next run. The newer incarnation counts; taking
   * the older one ended the log before what was acknowledged since.
   */
  private async nextBatch(): Promise<RawBatch | undefined> {
    const { space, tailPosition } = this.input;
    const contiguous = space.contiguous(this.position);
    const next = this.position + contiguous;
    const mayJump = contiguous < BATCH_BLOCKS_MAX && next - tailPosition < space.ringBlocks;
    const here = await this.batchAt(this.position);
    if (!mayJump || !(await this.mayContinueAt(next, here))) return here;
    return (await this.batchAt(next)) ?? here;
  }

  /** Does a header stand there that continues the chain, newer than the one found `here`? */
  private async mayContinueAt(position: number, here: RawBatch | undefined): Promise<boolean> {
    const header = this.header;
    const at = await this.probe.load(position, 1);
    if (at < 0 || !peekBatch(this.input.world.arena, at, header)) return false;
    if (header.seq !== this.seq || header.prevCrc !== this.prevCrc) return false;
    return here === undefined || header.incarnation > here.incarnation;
  }

  /** Sequence at which the log ends: the first batch with bad payload that nobody vouched for. */
  end(): number {
    const vouched = this.batches.reduce((most, batch) => Math.max(most, batch.durableSeq), 0);
    for (const batch of this.batches) {
      if (!batch.bad || batch.seq <= vouched) continue;
      this.notes.push(`log: batch ${String(batch.seq)} has a torn payload, the log ends before it`);
      return batch.seq;
    }
    return this.seq;
  }

  /**
   * Could a batch have stood behind `seq` that the device does not give? Then the log does not end there:
   * what was acknowledged is not to be taken for a torn write.
   */
  isHidden(seq: number): boolean {
    const { space } = this.input;
    const cut = this.batches.find((batch) => batch.seq === seq);
    const position = cut === undefined ? this.position : cut.position;
    if (this.window.hides(position, BATCH_BLOCKS_MAX)) return true;
    return this.probe.hides(position + space.contiguous(position), 1);
  }

  private async batchAt(position: number): Promise<RawBatch | undefined> {
    const header = this.header;
    const arena = this.input.world.arena;
    let at = await this.window.load(position, 1);
    if (at < 0 || !peekBatch(arena, at, header)) return undefined;
    if (header.shard !== this.input.shard || header.seq !== this.seq) return undefined;
    if (header.prevCrc !== this.prevCrc || header.incarnation < this.incarnation) return undefined;
    if (header.incarnation > this.input.incarnationMax) return undefined;
    const blocks = header.headerBlocks + header.payloadBlocks;
    at = await this.window.load(position, blocks);
    if (at < 0) return undefined;
    const checksum = this.input.world.checksum;
    if (!verifyBatch(arena, at, header, this.input.seed, checksum)) return undefined;
    const records = this.recordsOf(at, position);
    if (records === undefined) return undefined;
    return {
      seq: header.seq,
      position,
      blocks,
      crc: header.crc,
      incarnation: header.incarnation,
      durableSeq: header.durableSeq,
      directSeq: header.directSeq,
      records,
      bad: records.some((record) => record.bad),
    };
  }

  /** Copy the records out of the window, payload verified; undefined when they are malformed. */
  private recordsOf(at: number, position: number): RawRecord[] | undefined {
    const header = this.header;
    const arena = this.input.world.arena;
    const end = at + BATCH_HEADER_SIZE + header.recordBytes;
    const copy = arena.bytes.slice(at + BATCH_HEADER_SIZE, end);
    const records: RawRecord[] = [];
    let from = at + BATCH_HEADER_SIZE;
    for (let count = 0; count < header.records; count++) {
      const record = this.record;
      if (!record.load(arena.view, from, end - from)) return undefined;
      if (record.inlineFirst + record.inlineCount > header.payloadBlocks) return undefined;
      const payload = at + (header.headerBlocks + record.inlineFirst) * BLOCK_SIZE;
      const first = position + header.headerBlocks + record.inlineFirst;
      const start = from - at - BATCH_HEADER_SIZE;
      records.push({
        view: new DataView(copy.buffer, start, record.size),
        recordAt: from - at,
        inlineBlock: record.inlineCount > 0 ? first : -1,
        bad: !this.inlineGood(record, payload),
      });
      from += record.size;
    }
    return records;
  }

  private inlineGood(record: RecordView, payload: number): boolean {
    if (record.inlineCount === 0) return true;
    const arena = this.input.world.arena;
    const direct = record.unitTotal();
    if (direct < 0 || record.inlineCount + direct * BLOCKS_PER_UNIT !== record.blocks) return false;
    const head = direct === 0 ? record.blocks : headBlocks(record.firstBlock, record.blocks);
    for (let inline = 0; inline < record.inlineCount; inline++) {
      const block = inline < head ? inline : inline + direct * BLOCKS_PER_UNIT;
      const bytes = arena.block(payload + inline * BLOCK_SIZE);
      if (this.input.world.checksum.crc32(bytes, 0) !== record.crc(block)) return false;
    }
    return true;
  }

  /** Is there a header behind the end that vouches for the missing batch? Then it is damage. */
  async lookAhead(): Promise<boolean> {
    const input = this.input;
    const limit = Math.min(
      this.position + LOOK_AHEAD_BYTES / BLOCK_SIZE,
      input.tailPosition + input.space.ringBlocks,
    );
    for (let position = this.position; position < limit; position++) {
      const at = await this.window.load(position, 1);
      if (at < 0 || !peekBatch(input.world.arena, at, this.header)) continue;
      const header = this.header;
      if (header.shard !== input.shard || header.seq <= this.seq) continue;
      if (header.incarnation < this.incarnation || header.durableSeq < this.seq) continue;
      if (header.incarnation > input.incarnationMax) continue;
      const whole = await this.window.load(position, header.headerBlocks);
      if (whole < 0) continue;
      const checksum = input.world.checksum;
      if (!verifyBatch(input.world.arena, whole, header, input.seed, checksum)) continue;
      this.notes.push(
        `log: batch ${String(this.seq)} is damaged; batch ${String(header.seq)} vouches for it`,
      );
      return true;
    }
    return false;
  }
}
