// data path
import { assert } from "../base/assert.ts";

/** No layer, no slot: the all-ones value of the 32-bit arrays. */
export const NONE = 0xffff_ffff;
const CAPACITY_START = 64;

/**
 * The layers that this shard holds anything of: 64-bit id ↔ small handle.
 *
 * A handle lives while slots use it or a parent is known; then it is given to another layer.
 * Parents (layer, snapSeq) are local knowledge, told by `setParent` and kept in checkpoints.
 */
export class LayerTable {
  private readonly handles = new Map<number, number>();
  private ids: Float64Array = new Float64Array(CAPACITY_START);
  private slotCounts: Float64Array = new Float64Array(CAPACITY_START);
  /** Hole slots of the layer: only then does a lookup ask for holes. */
  private holeCounts: Float64Array = new Float64Array(CAPACITY_START);
  private parents: Uint32Array = new Uint32Array(CAPACITY_START).fill(NONE);
  private parentSnapSeqs: Uint32Array = new Uint32Array(CAPACITY_START);
  /** Children that name the layer as parent keep its handle. */
  private children: Uint32Array = new Uint32Array(CAPACITY_START);
  private used = 0;
  private free: number[] = [];

  /** The handle of a layer, or NONE. */
  find(layer: number): number {
    const handle = this.handles.get(layer);
    return handle === undefined ? NONE : handle;
  }

  /** The handle of a layer, made when there is none. */
  obtain(layer: number): number {
    const known = this.handles.get(layer);
    if (known !== undefined) return known;
    let handle = this.free.pop();
    if (handle === undefined) {
      handle = this.used;
      this.used += 1;
      if (handle === this.ids.length) this.grow();
    }
    this.ids[handle] = layer;
    this.slotCounts[handle] = 0;
    this.holeCounts[handle] = 0;
    this.parents[handle] = NONE;
    this.children[handle] = 0;
    this.handles.set(layer, handle);
    return handle;
  }

  idOf(handle: number): number {
    return this.ids[handle]!;
  }

  addSlot(handle: number, hole: boolean): void {
    this.slotCounts[handle] = this.slotCounts[handle]! + 1;
    if (hole) this.holeCounts[handle] = this.holeCounts[handle]! + 1;
  }

  removeSlot(handle: number, hole: boolean): void {
    this.slotCounts[handle] = this.slotCounts[handle]! - 1;
    if (hole) this.holeCounts[handle] = this.holeCounts[handle]! - 1;
    assert(this.slotCounts[handle]! >= 0, "LayerTable: more slots removed than added");
    this.dropUnused(handle);
  }

  /** Units of a layer on this shard; cold. */
  unitsOf(handle: number): number {
    return this.slotCounts[handle]! - this.holeCounts[handle]!;
  }

  hasHoles(handle: number): boolean {
    return this.holeCounts[handle]! > 0;
  }

  parentOf(handle: number): number {
    return this.parents[handle]!;
  }

  parentSnapSeqOf(handle: number): number {
    return this.parentSnapSeqs[handle]!;
  }

  /** True when something new was learned. */
  setParent(layer: number, parent: number, parentSnapSeq: number): boolean {
    assert(layer !== parent, "LayerTable.setParent: a layer is its own parent");
    const handle = this.obtain(layer);
    if (this.parents[handle] !== NONE) return false;
    const above = this.obtain(parent);
    this.parents[handle] = above;
    this.parentSnapSeqs[handle] = parentSnapSeq;
    this.children[above] = this.children[above]! + 1;
    return true;
  }

  /** Forget the parent of a layer that is gone. */
  dropParent(layer: number): void {
    const handle = this.find(layer);
    if (handle === NONE) return;
    const above = this.parents[handle]!;
    if (above === NONE) return;
    this.parents[handle] = NONE;
    this.children[above] = this.children[above]! - 1;
    this.dropUnused(handle);
    this.dropUnused(above);
  }

  /** Handles in use, in no order; cold. */
  list(): number[] {
    return Array.from(this.handles.values());
  }

  private dropUnused(handle: number): void {
    if (this.slotCounts[handle]! > 0) return;
    if (this.parents[handle] !== NONE) return;
    if (this.children[handle]! > 0) return;
    if (!this.handles.delete(this.ids[handle]!)) return;
    this.free.push(handle);
  }

  // cold: doubles when it is full.
  private grow(): void {
    const size = this.ids.length * 2;
    const ids = new Float64Array(size);
    ids.set(this.ids);
    this.ids = ids;
    const slots = new Float64Array(size);
    slots.set(this.slotCounts);
    this.slotCounts = slots;
    const holes = new Float64Array(size);
    holes.set(this.holeCounts);
    this.holeCounts = holes;
    const parents = new Uint32Array(size).fill(NONE);
    parents.set(this.parents);
    this.parents = parents;
    const snapSeqs = new Uint32Array(size);
    snapSeqs.set(this.parentSnapSeqs);
    this.parentSnapSeqs = snapSeqs;
    const children = new Uint32Array(size);
    children.set(this.children);
    this.children = children;
  }
}
