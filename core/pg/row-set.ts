// cold path: changes when replicas come, move and go.
/** A set of rows of the store: one bit each. */
export class RowSet {
  /** How many rows are in it. */
  size = 0;
  private words: Uint32Array = new Uint32Array(0);

  has(row: number): boolean {
    return ((this.words[row >>> 5] ?? 0) & (1 << (row & 31))) !== 0;
  }

  add(row: number): void {
    if (this.has(row)) return;
    if (row >>> 5 >= this.words.length) this.grow(row);
    this.words[row >>> 5] = this.words[row >>> 5]! | (1 << (row & 31));
    this.size += 1;
  }

  delete(row: number): void {
    if (!this.has(row)) return;
    this.words[row >>> 5] = this.words[row >>> 5]! & ~(1 << (row & 31));
    this.size -= 1;
  }

  /** What is in it now, in ascending order. */
  list(): number[] {
    const rows: number[] = [];
    for (let row = 0; row < this.words.length * 32; row++) if (this.has(row)) rows.push(row);
    return rows;
  }

  private grow(row: number): void {
    const words = new Uint32Array(Math.max((row >>> 5) + 1, this.words.length * 2));
    words.set(this.words);
    this.words = words;
  }
}
