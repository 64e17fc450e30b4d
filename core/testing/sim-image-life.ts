// cold: the simulator
import { assert } from "../base/assert.ts";
import { Status, statusName } from "../base/status.ts";
import { OpKind } from "../client/client.ts";
import { checkRegisters } from "./linearizable.ts";
import { RegisterHistory } from "./linearizable-history.ts";

/**
 * What one image must show from its creation to its removal, while its size changes: N8.
 *
 * Each of its blocks is a register that begins with zeros. A shrink is a write of zeros to every block
 * beyond the new end, at some moment between its call and the end of its operation; from then on,
 * until somebody asks for a growth, they are zero, and whoever reads or writes there is refused. What was refused there
 * takes effect before the shrink, or never. Once its removal has ended, everybody is refused.
 */

/** A change of the size, that was asked for. */
export interface SizeChange {
  readonly fromBlocks: number;
  readonly toBlocks: number;
  readonly callNs: number;
  /** When the monitor had it; when it had reached every group: a growth at once. */
  answeredNs: number;
  doneNs: number;
}

/** An operation that was answered, as far as it is judged. */
export interface ImageRequest {
  readonly client: number;
  readonly kind: OpKind;
  readonly first: number;
  readonly blocks: number;
  readonly status: Status;
  readonly callNs: number;
  /** Size of the image as the client knew it at the call, in blocks. */
  readonly knownBlocks: number;
  /** Stamps that were written or seen; 0: zeros. */
  readonly stamps: Float64Array;
}

/** A write to a block that was refused. */
interface Refused {
  readonly client: number;
  readonly key: number;
  readonly value: number;
  readonly callNs: number;
  /** It took effect before this one ended, if at all; null: it may have at any time. */
  readonly before: SizeChange | null;
  readonly wasSent: boolean;
}

export class ImageLife {
  readonly id: number;
  operations = 0;
  /** A replica may be damaged, or a device full. */
  mayRefuse = false;
  /** Groups remember few sessions: whoever was forgotten may be told that his has ended. */
  mayExpire = false;
  /** When its removal was asked for, and when that had ended. */
  removalNs = Infinity;
  goneNs = Infinity;
  private readonly changes: SizeChange[];
  private readonly history = new RegisterHistory();
  private readonly seen = new Set<number>();
  private readonly refused: Refused[] = [];

  constructor(id: number, blocks: number, nowNs: number) {
    this.id = id;
    this.changes = [
      { fromBlocks: 0, toBlocks: blocks, callNs: nowNs, answeredNs: nowNs, doneNs: nowNs },
    ];
  }

  /** As it was asked for last. */
  get sizeBlocks(): number {
    return this.changes.at(-1)!.toBlocks;
  }

  /** Another size is asked for. */
  resize(toBlocks: number, nowNs: number): SizeChange {
    const fromBlocks = this.sizeBlocks;
    const times = { callNs: nowNs, answeredNs: Infinity, doneNs: Infinity };
    const change = { fromBlocks, toBlocks, ...times };
    this.changes.push(change);
    return change;
  }

  /** The monitor did not do it. */
  takeBack(change: SizeChange): void {
    assert(this.changes.at(-1) === change, "ImageLife.takeBack: another one came later");
    this.changes.pop();
  }

  /** Judge an answer, and keep what it tells. */
  answered(request: ImageRequest, nowNs: number): void {
    const { kind, first, blocks, status, callNs, client, stamps } = request;
    if (status !== Status.Ok) {
      this.judgeRefusal(request, nowNs);
      if (kind !== OpKind.Read) this.keepRefused(request, nowNs);
      return;
    }
    assert(callNs <= this.goneNs, "an image that is removed was used");
    this.operations += 1;
    const isWrite = kind !== OpKind.Read;
    for (let at = 0; at < blocks; at++) {
      const key = first + at;
      const endNs = this.shrinkOf(key)?.doneNs ?? Infinity;
      assert(callNs <= endNs, `block ${String(key)} was used beyond the image's end`);
      const value = stamps[at]!;
      assert(value >= 0, `block ${String(key)} is no whole write`);
      if (!isWrite) this.seen.add(value);
      this.history.add({ key, client, isWrite, value, callNs, returnNs: nowNs });
    }
  }

  private judgeRefusal(request: ImageRequest, nowNs: number): void {
    const { status, kind } = request;
    const isOver = status === Status.Removed || status === Status.Fenced;
    const mayBe =
      (isOver && this.removalNs <= nowNs) ||
      (status === Status.Invalid && this.isBeyond(request)) ||
      (this.mayExpire && status === Status.SessionExpired && kind !== OpKind.Read) ||
      (this.mayRefuse && (status === Status.Damaged || status === Status.NoSpace));
    assert(mayBe, `operation on an image that changes answered ${statusName(status)}`);
  }

  /** Whether it reached beyond the size that the client knew, or that the image had meanwhile. */
  private isBeyond({ first, blocks, knownBlocks, callNs }: ImageRequest): boolean {
    const end = first + blocks;
    if (end > knownBlocks) return true;
    const known = this.changes.findLastIndex(({ answeredNs }) => answeredNs <= callNs);
    return this.changes.slice(Math.max(0, known)).some(({ toBlocks }) => toBlocks < end);
  }

  /** The change that put a block beyond the end, where it is now; null: it is not. */
  private shrinkOf(block: number): SizeChange | null {
    const inside = this.changes.findLastIndex(({ toBlocks }) => toBlocks > block);
    return this.changes[inside + 1] ?? null;
  }

  private keepRefused(request: ImageRequest, nowNs: number): void {
    const { client, first, blocks, stamps, callNs, knownBlocks, status } = request;
    const wasSent = status !== Status.Invalid || first + blocks <= knownBlocks;
    for (let at = 0; at < blocks; at++) {
      const key = first + at;
      const before = status === Status.Invalid ? this.shrinkOf(key) : null;
      assert(before === null || before.callNs <= nowNs, "ImageLife: a change is of later");
      this.refused.push({ client, key, value: stamps[at]!, callNs, before, wasSent });
    }
  }

  /** Every block was a register, from the first day on; ends with what is there now. */
  verify(): void {
    const all = new RegisterHistory();
    for (let at = 0; at < this.history.count; at++) all.add(this.history.at(at));
    for (const [at, change] of this.changes.entries()) {
      for (let key = change.toBlocks; key < change.fromBlocks; key++) {
        const { callNs, doneNs } = change;
        all.add({ key, client: -1, isWrite: true, value: 0, callNs, returnNs: doneNs });
        const next = this.changes[at + 1]?.callNs ?? doneNs;
        const zeros = { callNs: Math.min(doneNs, next), returnNs: Math.max(doneNs, next) };
        all.add({ key, client: -1, isWrite: false, value: 0, ...zeros });
      }
    }
    for (const { client, key, value, callNs, before, wasSent } of this.refused) {
      const returnNs = before?.doneNs ?? Infinity;
      const isSeen = value !== 0 && this.seen.has(value);
      const couldBe = wasSent && callNs <= returnNs;
      assert(couldBe || !isSeen, `a write to block ${String(key)} was refused, and took effect`);
      if (!couldBe || (value !== 0 && !isSeen)) continue;
      const isOpen = returnNs === Infinity || !isSeen;
      const endNs = isOpen ? Infinity : returnNs;
      all.add({ key, client, isWrite: true, value, callNs, returnNs: endNs });
    }
    const { violations } = checkRegisters(all);
    const name = `image ${String(this.id)} that changes`;
    assert(violations.length === 0, `${name}: not linearizable:\n${violations.join("\n")}`);
  }
}
