// data path
import { assert } from "../base/assert.ts";
import type { SlotTable } from "./slot-table.ts";
import { SlotState } from "./slot-zone.ts";

const CAPACITY_START = 1024;

/**
 * Freed slots that may not be used again yet (R5), oldest first.
 *
 * A unit given away too early: it is freed, taken by another image, and after a crash redo of a
 * record that is still in the log writes into it, or names it. So each freed slot waits until the
 * tail has passed the sequence at which the log stood when it was freed: then every record that
 * names it is out of the log, and the freeing itself is covered by a checkpoint. Reads that pin it
 * are waited for as a whole before the tail moves (`Eras`).
 *
 * Invariants, once begun: its slots are those that the table has as Quarantined, each once, in the
 * order of their sequences.
 */
export class Quarantine {
  private readonly table: SlotTable;
  private slots: Uint32Array = new Uint32Array(CAPACITY_START);
  private seqs: Float64Array = new Float64Array(CAPACITY_START);
  private head = 0;
  private count = 0;
  private begun = false;

  constructor(table: SlotTable) {
    this.table = table;
  }

  get size(): number {
    return this.count;
  }

  /** Free a taken slot. `version`: index of the freeing entry; `seq`: of the next batch. */
  put(slot: number, version: number, seq: number): void {
    this.table.quarantine(slot, version);
    if (this.begun) this.queue(slot, seq);
  }

  /**
   * Start-up has ended: redo may take slots out of quarantine again, so what is in it by now is
   * queued only here. `seq`: of the next batch.
   */
  begin(seq: number): void {
    assert(!this.begun, "Quarantine.begin: begun already");
    this.begun = true;
    const zones = this.table.zones;
    for (let number = 0; number < zones.length; number++) {
      const zone = zones[number]!;
      if (!zone.opened) continue;
      for (let index = 0; index < this.table.geometry.slotsPerZone; index++) {
        if (zone.state[index] !== SlotState.Quarantined) continue;
        this.queue(this.table.slotAt(number, index), seq);
      }
    }
  }

  private queue(slot: number, seq: number): void {
    if (this.count === this.slots.length) this.grow();
    const at = (this.head + this.count) & (this.slots.length - 1);
    this.slots[at] = slot;
    this.seqs[at] = seq;
    this.count += 1;
  }

  /** Make free whatever was freed before batch `tailSeq`; at most `max`. Answers how many. */
  release(tailSeq: number, max: number): number {
    let released = 0;
    while (this.count > 0 && released < max && this.seqs[this.head]! <= tailSeq) {
      this.table.release(this.slots[this.head]!);
      this.head = (this.head + 1) & (this.slots.length - 1);
      this.count -= 1;
      released += 1;
    }
    return released;
  }

  /** The sequence for which the oldest one waits; Infinity: there is none. */
  get oldestSeq(): number {
    return this.count === 0 ? Number.POSITIVE_INFINITY : this.seqs[this.head]!;
  }

  // cold: for `verifying` runs.
  /** Check what the type's comment promises. */
  invariants(): void {
    if (!this.begun) return;
    const { table } = this;
    const seen = new Set<number>();
    let before = 0;
    for (let which = 0; which < this.count; which++) {
      const at = (this.head + which) & (this.slots.length - 1);
      const slot = this.slots[at]!;
      assert(table.stateOf(slot) === SlotState.Quarantined, "Quarantine: a slot that is not in it");
      assert(!seen.has(slot), "Quarantine: a slot twice");
      assert(this.seqs[at]! >= before, "Quarantine: not in order");
      before = this.seqs[at]!;
      seen.add(slot);
    }
    assert(this.count === table.quarantined, "Quarantine: a slot waits for nobody");
  }

  // cold: doubles when it is full.
  private grow(): void {
    const size = this.slots.length;
    const slots = new Uint32Array(size * 2);
    const seqs = new Float64Array(size * 2);
    for (let at = 0; at < size; at++) {
      slots[at] = this.slots[(this.head + at) & (size - 1)]!;
      seqs[at] = this.seqs[(this.head + at) & (size - 1)]!;
    }
    this.slots = slots;
    this.seqs = seqs;
    this.head = 0;
  }
}

/**
 * Waits for reads as a whole: `flip` begins a new era; `quiet` tells when every read begun before
 * the flip has ended. Nothing that such a read may look at is reused before.
 */
export class Eras {
  private current = 0;
  private readonly open: Float64Array = new Float64Array(2);

  /** A read begins; keep the answer for `leave`. */
  enter(): number {
    this.open[this.current] = this.open[this.current]! + 1;
    return this.current;
  }

  leave(era: number): void {
    this.open[era] = this.open[era]! - 1;
  }

  /** Requires: `quiet`. */
  flip(): void {
    this.current ^= 1;
  }

  /** Every read of the era before the last flip has ended. */
  get quiet(): boolean {
    return this.open[this.current ^ 1] === 0;
  }
}
