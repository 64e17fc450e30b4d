// data path
import { assert } from "../base/assert.ts";
import type { ImageId, LayerId, PgId, SessionId } from "../base/ids.ts";
import type { ImageHeader } from "../cluster/cluster.ts";
import { type Part, PartList } from "./part.ts";

/**
 * Changes of one (session, pg) that may be open.
 *
 * The groups remember 256 numbers from `base` on (`pg/session-window.ts`), and `base` follows the
 * `below` of what was applied. A request carries the `below` of when it is sent, and its entry moves
 * `base` there before it is marked: a number N with `below > N − 256` fits, whatever was applied
 * before it, and with at most 256 open every N that goes out is such a number.
 */
export const WINDOW_OPEN_MAX = 256;

/**
 * The numbers of one (session, pg): dense, from 1 on.
 *
 * A number that was given up while a lower one is open is not told by any `below` yet: the change could
 * come behind others that were answered since (G4). No more go out until the lower one has ended.
 *
 * Invariants: `below ≤ next ≤ below + WINDOW_OPEN_MAX`; all numbers before `below` are answered;
 * `below` is open or equal to `next`.
 */
export class PgNumbers {
  readonly pg: PgId;
  next = 1;
  below = 1;
  /** The highest number that was given up; 0: none was. */
  private givenUp = 0;
  /** The group has heard that nobody waits for numbers below this one. */
  private told = 1;
  /** Of `Uncertain`: it knows of these. */
  isMarked = false;
  /** Changes that wait for a number. */
  readonly waiting: PartList = new PartList();
  private readonly answered: Uint8Array = new Uint8Array(WINDOW_OPEN_MAX);

  constructor(pg: PgId) {
    this.pg = pg;
  }

  /** Give the part a number; false when too many are open. */
  take(part: Part): boolean {
    assert(part.number === -1, "PgNumbers.take: the part has a number");
    if (!this.hasRoom) return false;
    part.number = this.next;
    part.numbers = this;
    part.sends = 0;
    part.sendsOpen = 0;
    this.answered[this.next % WINDOW_OPEN_MAX] = 0;
    this.next++;
    return true;
  }

  get hasRoom(): boolean {
    return this.next - this.below < WINDOW_OPEN_MAX && this.givenUp < this.below;
  }

  /** A change was given up that may be made yet: the group was not told, as far as is known here. */
  get isUncertain(): boolean {
    return this.givenUp >= this.told;
  }

  /** The group has made a change that came with this `below`, or a higher one. */
  onTold(below: number): void {
    if (below > this.told) this.told = below;
  }

  /** The part's outcome is known, or nobody asks for it any more, though it may be made yet. */
  end(part: Part, isGivenUp: boolean): void {
    const number = part.number;
    if (isGivenUp && number > this.givenUp) this.givenUp = number;
    assert(number >= this.below && number < this.next, "PgNumbers.end: the number is not open");
    this.answered[number % WINDOW_OPEN_MAX] = 1;
    part.number = -1;
    while (this.below < this.next && this.answered[this.below % WINDOW_OPEN_MAX] === 1) {
      this.below++;
    }
  }
}

/**
 * One attachment of an image: what each request says of itself, and its numbers.
 *
 * `grant` and `mac` are what the mon signed; a link presents them once a connection (`isAttached`).
 * A renewed session (the cluster forgot the old one) is a new object with numbers of its own.
 */
export class ImageSession {
  readonly id: SessionId;
  readonly imageId: ImageId;
  /** Changes with a rollback of the image. */
  layer: LayerId;
  header: ImageHeader;
  snapSeq: number;
  lockEpoch: number;
  grant: Uint8Array;
  mac: Uint8Array;
  /** Raised by each new grant. */
  grantVersion = 1;
  private readonly numbers = new Map<PgId, PgNumbers>();
  /** By link: generation of the connection that has the grant, and which grant. */
  private readonly attachedGeneration: number[] = [];
  private readonly attachedVersion: number[] = [];

  constructor(id: SessionId, header: ImageHeader, grant: Uint8Array, mac: Uint8Array) {
    this.id = id;
    this.imageId = header.id;
    this.layer = header.layer;
    this.header = header;
    this.snapSeq = header.snapSeq;
    this.lockEpoch = header.lockEpoch;
    this.grant = grant;
    this.mac = mac;
  }

  /** Take a newer grant of the same session; links present it before the next request. */
  renew(header: ImageHeader, grant: Uint8Array, mac: Uint8Array): void {
    this.header = header;
    this.layer = header.layer;
    this.snapSeq = header.snapSeq;
    this.lockEpoch = header.lockEpoch;
    this.grant = grant;
    this.mac = mac;
    this.grantVersion++;
  }

  /** In some group a change was given up that may be made yet. */
  get isUncertain(): boolean {
    for (const numbers of this.numbers.values()) if (numbers.isUncertain) return true;
    return false;
  }

  numbersOf(pg: PgId): PgNumbers {
    return this.numbers.get(pg) ?? this.newNumbers(pg);
  }

  // cold: once per session and group
  private newNumbers(pg: PgId): PgNumbers {
    const numbers = new PgNumbers(pg);
    this.numbers.set(pg, numbers);
    return numbers;
  }

  /** True when this connection of the link has the newest grant. */
  isAttached(linkIndex: number, generation: number): boolean {
    return (
      this.attachedGeneration[linkIndex] === generation &&
      this.attachedVersion[linkIndex] === this.grantVersion
    );
  }

  setAttached(linkIndex: number, generation: number, grantVersion: number): void {
    while (this.attachedGeneration.length <= linkIndex) {
      this.attachedGeneration.push(-1);
      this.attachedVersion.push(-1);
    }
    this.attachedGeneration[linkIndex] = generation;
    this.attachedVersion[linkIndex] = grantVersion;
  }

  /** The osd does not know the session (any more). */
  clearAttached(linkIndex: number): void {
    if (linkIndex < this.attachedGeneration.length) this.attachedGeneration[linkIndex] = -1;
  }
}
