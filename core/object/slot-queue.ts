// data path
/** A growing first-in-first-out queue of slot ids. */
export class SlotQueue {
  count = 0;
  private items: Uint32Array = new Uint32Array(1024);
  private head = 0;

  push(slot: number): void {
    if (this.count === this.items.length) this.grow();
    this.items[(this.head + this.count) & (this.items.length - 1)] = slot;
    this.count += 1;
  }

  /** Requires: count > 0. */
  shift(): number {
    const slot = this.items[this.head]!;
    this.head = (this.head + 1) & (this.items.length - 1);
    this.count -= 1;
    return slot;
  }

  // cold: doubles when it is full.
  private grow(): void {
    const size = this.items.length;
    const grown = new Uint32Array(size * 2);
    for (let at = 0; at < size; at++) grown[at] = this.items[(this.head + at) & (size - 1)]!;
    this.items = grown;
    this.head = 0;
  }
}
