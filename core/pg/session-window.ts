// data path
import { assert } from "../base/assert.ts";

/** How many requests of one session may be open in one group. */
export const WINDOW_SIZE = 256;
const WINDOW_WORDS = WINDOW_SIZE / 32;
/** Sessions that one group remembers; beyond, the one used longest ago is forgotten for good. */
export const SESSIONS_MAX = 1024;

/** What a window knows of a request number. */
export enum NumberState {
  /** Not applied: propose it. */
  Fresh = 0,
  /** Applied already: answer again, apply nothing. */
  Applied = 1,
  /** Past the window: the client sends it later. */
  TooFar = 2,
}

/**
 * Which requests of one session this group has applied (exactly-once, `core/README.md`).
 *
 * Numbers are dense per (session, group). Everything below `base` is answered; bit
 * `number mod 256` tells of the 256 numbers from `base` on. Part of the replicated state: changes
 * only by applying entries, so that all replicas agree.
 *
 * Invariant: only bits of numbers in [base, base + 256) may be set.
 */
export class SessionWindow {
  readonly session: number;
  base = 0;
  readonly bits: Uint32Array = new Uint32Array(WINDOW_WORDS);
  /** Index of the last entry of this session, for forgetting the oldest. */
  lastIndex = 0;

  constructor(session: number) {
    this.session = session;
  }

  /** Classify a request number; `below` comes with it and will move the window. */
  stateOf(number: number, below: number): NumberState {
    if (number < this.base) return NumberState.Applied;
    if (number >= Math.max(this.base, below) + WINDOW_SIZE) return NumberState.TooFar;
    if (number >= this.base + WINDOW_SIZE) return NumberState.Fresh;
    const bit = number % WINDOW_SIZE;
    const set = (this.bits[bit >>> 5]! >>> (bit & 31)) & 1;
    return set === 1 ? NumberState.Applied : NumberState.Fresh;
  }

  /** Everything below `base` counts, at least. */
  follow(base: number): void {
    if (base > this.base) this.advance(base);
  }

  /** Record an applied request and what the client no longer waits for. */
  mark(number: number, below: number): void {
    assert(below <= number, "SessionWindow.mark: below passes the number");
    this.follow(below);
    if (number < this.base) return;
    assert(number < this.base + WINDOW_SIZE, "SessionWindow.mark: number past the window");
    const bit = number % WINDOW_SIZE;
    this.bits[bit >>> 5] = this.bits[bit >>> 5]! | (1 << (bit & 31));
  }

  private advance(below: number): void {
    if (below - this.base >= WINDOW_SIZE) {
      this.bits.fill(0);
    } else {
      for (let number = this.base; number < below; number++) {
        const bit = number % WINDOW_SIZE;
        this.bits[bit >>> 5] = this.bits[bit >>> 5]! & ~(1 << (bit & 31));
      }
    }
    this.base = below;
  }
}

/**
 * All session windows of one group.
 *
 * Bounded: when a session too many comes, the one used longest ago is forgotten, and from then on
 * an unknown session with an id up to the forgotten one's is refused (`SessionExpired`): it may be
 * the forgotten one, whose open writes have an unknown outcome. Ids grow, so new sessions pass.
 *
 * Beside what is applied, a leader keeps the same of what it has proposed: an entry that is not applied
 * yet makes its number an old one, and all that its `below` passes (`isProposed`). Those windows are
 * no part of the state: a leader serves once it has applied what it found, so all that is not applied
 * then is of its own making; they go with its term. Looking through the log was not enough: behind a
 * slow disk that has thousands of entries, and each request looked at all of them.
 *
 * Invariants: at most SESSIONS_MAX windows; each was used by an entry of its own that is applied.
 */
export class SessionTable {
  private readonly windows = new Map<number, SessionWindow>();
  /** What was proposed in this term; `lastIndex`: by entries up to there. */
  private readonly proposed = new Map<number, SessionWindow>();
  private readonly sessionsMax: number;
  /** Sessions that were forgotten for others, since this table was made. */
  forgotten = 0;
  /** Unknown sessions below this id are refused. */
  expiredBelow = 0;

  /** `sessionsMax`: the same at all replicas, for ever; only the simulator has another one. */
  constructor(sessionsMax: number = SESSIONS_MAX) {
    this.sessionsMax = sessionsMax;
  }

  get size(): number {
    return this.windows.size;
  }

  find(session: number): SessionWindow | undefined {
    return this.windows.get(session);
  }

  /** True when requests of this session may be applied. */
  accepts(session: number): boolean {
    return session >= this.expiredBelow || this.windows.has(session);
  }

  // cold: makes a window once per session and group.
  /**
   * Record an applied entry. Requires what `accepts` and `stateOf` allowed when it was proposed. Of a
   * session that was forgotten since, nothing is recorded: a new window would not know what the old
   * one knew, and take requests that come again for fresh ones.
   */
  apply(session: number, number: number, below: number, index: number): void {
    let window = this.windows.get(session);
    if (window === undefined) {
      if (session < this.expiredBelow) return;
      if (this.windows.size >= this.sessionsMax) this.forgetOldest();
      window = new SessionWindow(session);
      this.windows.set(session, window);
    }
    window.mark(number, below);
    window.lastIndex = index;
  }

  /** Record a request that was proposed at `index`; entries up to `applied` are applied. */
  propose(session: number, number: number, below: number, index: number, applied: number): void {
    const window = this.proposed.get(session) ?? this.newProposed(session, applied);
    // What is applied counts as proposed: so a number that the one window has room for, the other has.
    const known = this.windows.get(session);
    if (known !== undefined) window.follow(known.base);
    window.mark(number, below);
    window.lastIndex = index;
  }

  // cold: once per session and term of a leader.
  /** As many as sessions that are remembered, and one for each entry that is not applied yet. */
  private newProposed(session: number, applied: number): SessionWindow {
    if (this.proposed.size >= this.sessionsMax) {
      for (const [other, { lastIndex }] of this.proposed) {
        if (lastIndex <= applied) this.proposed.delete(other);
      }
    }
    const window = new SessionWindow(session);
    this.proposed.set(session, window);
    return window;
  }

  /**
   * Whether an entry that is proposed and not applied (above `applied`) has this number, or tells that
   * nobody waits for it any more. Requires: by what is applied, the number is Fresh.
   */
  isProposed(session: number, number: number, below: number, applied: number): boolean {
    const window = this.proposed.get(session);
    if (window === undefined || window.lastIndex <= applied) return false;
    return window.stateOf(number, below) === NumberState.Applied;
  }

  /** Leadership changed: what was proposed and not applied counts no more. */
  dropProposed(): void {
    this.proposed.clear();
  }

  /** Forget a session that ended; its late requests are refused. */
  end(session: number): void {
    this.proposed.delete(session);
    if (this.windows.delete(session) && session >= this.expiredBelow) {
      // Later sessions stay open: only an id that is gone and lower than this one is refused.
      this.expiredBelow = session + 1;
    }
  }

  // cold: at start.
  /** Put a window back as a checkpoint holds it. */
  restore(session: number, base: number, bits: Uint32Array, lastIndex: number): void {
    const window = new SessionWindow(session);
    window.base = base;
    window.bits.set(bits);
    window.lastIndex = lastIndex;
    this.windows.set(session, window);
  }

  // cold: for checkpoints.
  /** Every window, in order of session ids (the order of checkpoints and digests). */
  list(): SessionWindow[] {
    return [...this.windows.values()].sort((a, b) => a.session - b.session);
  }

  // cold: for `verifying` runs.
  /** Check what the comments promise, of a group that has applied up to `applied`. */
  invariants(applied: number): void {
    assert(this.windows.size <= SESSIONS_MAX, "SessionTable: more windows than it may have");
    const indexes = new Set<number>();
    for (const [session, window] of this.windows) {
      assert(session === window.session, "SessionTable: a window of another session");
      assert(Number.isSafeInteger(window.base), "SessionWindow: the base is no number");
      assert(window.base >= 0, "SessionWindow: the base is below all numbers");
      assert(window.bits.length === WINDOW_WORDS, "SessionWindow: a window of another size");
      assert(window.lastIndex <= applied, "SessionWindow: of an entry that is not applied");
      // An entry is of one session.
      assert(!indexes.has(window.lastIndex), "SessionTable: two sessions used by one entry");
      indexes.add(window.lastIndex);
    }
  }

  private forgetOldest(): void {
    let oldest: SessionWindow | null = null;
    for (const window of this.windows.values()) {
      if (
        oldest === null ||
        window.lastIndex < oldest.lastIndex ||
        (window.lastIndex === oldest.lastIndex && window.session < oldest.session)
      ) {
        oldest = window;
      }
    }
    assert(oldest !== null, "SessionTable.forgetOldest: there is a window");
    this.forgotten += 1;
    this.end(oldest.session);
  }
}
