// data path

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

/** The layers that a group has seen a fence or a snapshot sequence above 0 of. */
export class LayerTable {
  private readonly states = new Map<number, LayerState>();

  get size(): number {
    return this.states.size;
  }

  find(layer: number): LayerState | undefined {
    return this.states.get(layer);
  }

  // cold: made once per layer and group.
  /** The state of a layer, made when it is new. */
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
    if (lockEpoch === 0 && snapSeq === 0) return;
    const state = this.of(layer);
    if (lockEpoch > state.lockEpoch) state.lockEpoch = lockEpoch;
    if (snapSeq > state.snapSeq) state.snapSeq = snapSeq;
    if (state.lockEpochProposed < state.lockEpoch) state.lockEpochProposed = state.lockEpoch;
    if (state.snapSeqProposed < state.snapSeq) state.snapSeqProposed = state.snapSeq;
  }

  /** The layer is gone: its id never comes back. */
  forget(layer: number): void {
    this.states.delete(layer);
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
    return [...this.states.values()].sort((a, b) => a.layer - b.layer);
  }
}
