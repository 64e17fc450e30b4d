// data path

/** The fence of a removed layer, in checkpoints and fills: above the lock epoch of any holder. */
export const LOCK_EPOCH_GONE = 0xffff_ffff;

/**
 * Removed layers that a group knows; of more, those with the highest ids: 16 bytes each in a
 * checkpoint and of a parked group. A client that asks for anything learns at once, so it would have to
 * rest while so many images of one pool go.
 */
export const LAYERS_GONE_MAX = 64;

/**
 * Fence and snapshot sequence of one layer in one group.
 *
 * `lockEpoch` and `snapSeq` are replicated state, moved by applying entries. The `proposed` ones
 * belong to the leader: what the entries in its log will make of them, so that a request that
 * comes behind such an entry is judged by it.
 *
 * Invariants: lockEpoch ≤ lockEpochProposed, snapSeq ≤ snapSeqProposed.
 */
export class LayerState {
  readonly layer: number;
  lockEpoch = 0;
  snapSeq = 0;
  lockEpochProposed = 0;
  snapSeqProposed = 0;

  constructor(layer: number) {
    this.layer = layer;
  }
}

/**
 * The layers that a group has seen a fence or a snapshot sequence above 0 of, and those that it has
 * seen removed: a client that does not hear of the removal is refused for good.
 *
 * Ids of layers ascend and are never used again, so the highest removed ones are the last removed:
 * which of them are known depends on what was applied, not on when or in how many lives of a replica.
 *
 * Invariants: a layer has a state or is in `gone`, never both; `gone` ascends.
 */
export class LayerTable {
  private readonly states = new Map<number, LayerState>();
  private readonly gone: number[] = [];

  get size(): number {
    return this.states.size + this.gone.length;
  }

  find(layer: number): LayerState | undefined {
    return this.states.get(layer);
  }

  // cold: made once per layer and group.
  /** The state of a layer that is not removed, made when it is new. */
  of(layer: number): LayerState {
    let state = this.states.get(layer);
    if (state === undefined) {
      state = new LayerState(layer);
      this.states.set(layer, state);
    }
    return state;
  }

  /** An applied entry carried these: both only grow. */
  apply(layer: number, lockEpoch: number, snapSeq: number): void {
    if ((lockEpoch === 0 && snapSeq === 0) || this.wasRemoved(layer)) return;
    if (lockEpoch === LOCK_EPOCH_GONE) {
      this.remove(layer);
      return;
    }
    const state = this.of(layer);
    if (lockEpoch > state.lockEpoch) state.lockEpoch = lockEpoch;
    if (snapSeq > state.snapSeq) state.snapSeq = snapSeq;
    if (state.lockEpochProposed < state.lockEpoch) state.lockEpochProposed = state.lockEpoch;
    if (state.snapSeqProposed < state.snapSeq) state.snapSeqProposed = state.snapSeq;
  }

  /** Whether it is removed once everything in this leader's log is applied. */
  isGone(layer: number): boolean {
    const state = this.states.get(layer);
    if (state !== undefined) return state.lockEpochProposed === LOCK_EPOCH_GONE;
    return this.wasRemoved(layer);
  }

  // cold: once per removed layer and group.
  /** Its removal was proposed. */
  proposeRemoval(layer: number): void {
    if (!this.wasRemoved(layer)) this.of(layer).lockEpochProposed = LOCK_EPOCH_GONE;
  }

  // cold: once per removed layer and group.
  /** Its removal was applied: its id never comes back. */
  remove(layer: number): void {
    this.states.delete(layer);
    const at = this.placeOf(layer);
    if (this.gone[at] === layer) return;
    this.gone.splice(at, 0, layer);
    if (this.gone.length > LAYERS_GONE_MAX) this.gone.shift();
  }

  private wasRemoved(layer: number): boolean {
    return this.gone.length > 0 && this.gone[this.placeOf(layer)] === layer;
  }

  /** Where it is in `gone`, or belongs. */
  private placeOf(layer: number): number {
    let from = 0;
    let to = this.gone.length;
    while (from < to) {
      const middle = (from + to) >>> 1;
      if (this.gone[middle]! < layer) from = middle + 1;
      else to = middle;
    }
    return from;
  }

  /** Leadership changed: what was proposed and not applied counts no more. */
  dropProposed(): void {
    for (const state of this.states.values()) {
      state.lockEpochProposed = state.lockEpoch;
      state.snapSeqProposed = state.snapSeq;
    }
  }

  // cold: for checkpoints.
  /** Every layer, in order of ids (the order of checkpoints). */
  list(): LayerState[] {
    const removed = this.gone.map((layer) => {
      const state = new LayerState(layer);
      state.lockEpoch = LOCK_EPOCH_GONE;
      return state;
    });
    return [...this.states.values(), ...removed].sort((a, b) => a.layer - b.layer);
  }
}
