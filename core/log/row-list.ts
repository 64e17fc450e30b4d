// data path
/** A growing list of group rows, reused. */
export class RowList {
  items: Uint32Array = new Uint32Array(64);
  count = 0;

  push(row: number): void {
    if (this.count === this.items.length) this.grow();
    this.items[this.count] = row;
    this.count += 1;
  }

  // cold: doubles when it is full.
  private grow(): void {
    const grown = new Uint32Array(this.items.length * 2);
    grown.set(this.items);
    this.items = grown;
  }

  dropFirst(count: number): void {
    this.items.copyWithin(0, count, this.count);
    this.count -= count;
  }
}
