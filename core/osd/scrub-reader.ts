// cold path: deep scrub, in the background.
import { FastblockError } from "../base/errors.ts";
import { BLOCK_SIZE, BLOCKS_PER_UNIT, UNIT_SIZE } from "../base/units.ts";
import { Status, statusName } from "../base/status.ts";
import {
  type BlockPlace,
  BlockState,
  type Group,
  ReadRequestOp,
  type ScrubRead,
  UnitListing,
} from "../pg/pg.ts";
import { sleep, type World } from "../reactor/world.ts";
import { type DamagedBlock, type Healer, Healing } from "./healer.ts";

/** How fast a shard reads for scrubs, unless it is told otherwise: a disk of 8 TiB in three days. */
const BYTES_PER_SECOND = 33_554_432;
/** Units of one answer: 1 MiB. */
const PAGE_UNITS = 16;
/** Slices of the index that are looked at for one answer: it may be empty and not the last. */
const SLICES_MAX = 8;
/** Until there is a slot of memory again. */
const SLOT_US = 10_000;
/** Blocks of one answer that are named. */
const NAMED_MAX = 16;

/**
 * Reads the data of this shard's replicas against its checksums, for whichever leaders scrub: one
 * unit at a time, all of them together no faster than a rate. What does not match is healed.
 */
export class ScrubStoreReader {
  /** Since the start. */
  blocksRead = 0;
  blocksDamaged = 0;
  private readonly world: World;
  private readonly healer: Healer;
  private readonly bytesPerSecond: number;
  private readonly listing = new UnitListing();
  private queue: Promise<unknown> = Promise.resolve();
  /** Before that nothing is read: what was read last took its share. */
  private nextUs = 0;

  constructor(world: World, healer: Healer, bytesPerSecond: number = BYTES_PER_SECOND) {
    this.world = world;
    this.healer = healer;
    this.bytesPerSecond = bytesPerSecond;
  }

  /** Read a part of a replica, from `cursor` on. Rejects when the replica goes, or its device fails. */
  read(group: Group, cursor: number): Promise<ScrubRead> {
    group.users += 1;
    const page = this.queue.then(() => this.readPage(group, cursor));
    const ended = (): void => {
      group.users -= 1;
    };
    this.queue = page.then(ended, ended);
    return page;
  }

  private async readPage(group: Group, cursor: number): Promise<ScrubRead> {
    const { clock, timers } = this.world;
    const waitUs = this.nextUs - clock.nowUs();
    if (waitUs > 0) await sleep(timers, waitUs);
    const begunUs = clock.nowUs();
    const page = new Page();
    let next = cursor;
    for (let slice = 0; slice < SLICES_MAX && next >= 0; slice++) {
      next = group.shard.store.listUnits(group.row, next, this.listing, PAGE_UNITS);
      if (this.listing.count > 0) break;
    }
    for (let at = 0; at < this.listing.count; at++) await this.readUnit(group, at, page);
    page.healed = (await Promise.all(page.healing)).filter(Boolean).length;
    this.blocksRead += page.blocks;
    this.blocksDamaged += page.damaged;
    const shareUs = ((page.blocks * BLOCK_SIZE) / this.bytesPerSecond) * 1e6;
    this.nextUs = begunUs + shareUs;
    const { blocks, damaged, healed, left } = page;
    return { next, blocks, damaged, healed, left };
  }

  private async readUnit(group: Group, at: number, page: Page): Promise<void> {
    const { slots, timers } = this.world;
    let slot = slots.take(UNIT_SIZE);
    while (slot < 0) {
      await sleep(timers, SLOT_US);
      slot = slots.take(UNIT_SIZE);
    }
    const op = new UnitRead();
    op.layer = this.listing.layers[at]!;
    op.firstBlock = this.listing.units[at]! * BLOCKS_PER_UNIT;
    op.blocks = BLOCKS_PER_UNIT;
    op.snapSeq = this.listing.snapSeqs[at]!;
    op.arenaOffset = slot;
    try {
      const status = await op.run(group);
      if (status !== Status.Ok) {
        const why = `${statusName(status)}, wanted Ok`;
        throw new FastblockError("FB1007", "reading a unit for a scrub failed", { why });
      }
    } finally {
      slots.release(slot);
      this.world.turns.again();
    }
    for (let bit = 0; bit < BLOCKS_PER_UNIT; bit++) {
      const state: BlockState = op.states[bit]!;
      if (state === BlockState.Data) page.blocks += 1;
      if (state !== BlockState.Damaged) continue;
      page.blocks += 1;
      page.damaged += 1;
      const block = op.firstBlock + bit;
      const { layer, snapSeq } = op;
      this.heal({ group, layer, block, snapSeq, version: op.versions[bit]! }, page);
    }
  }

  private heal(damaged: DamagedBlock, page: Page): void {
    // No healing rejects.
    const healing = this.healer.heal(damaged).then((result) => {
      if (result === Healing.Right) return true;
      const { layer, block } = damaged;
      if (page.left.length < NAMED_MAX) page.left.push({ layer, block });
      return false;
    });
    page.healing.push(healing);
  }
}

class Page {
  blocks = 0;
  damaged = 0;
  healed = 0;
  readonly left: BlockPlace[] = [];
  readonly healing: Promise<boolean>[] = [];
}

/** Reads one unit of the own store. */
class UnitRead extends ReadRequestOp {
  private resolve!: (status: Status) => void;

  run(group: Group): Promise<Status> {
    this.own = true;
    return new Promise((resolve) => {
      this.resolve = resolve;
      const status = group.gone ? Status.NotLeader : group.requests.read(this);
      if (status !== Status.Ok) resolve(status);
      group.shard.world.turns.again();
    });
  }

  override onAnswer(): void {
    this.resolve(this.status);
  }
}
