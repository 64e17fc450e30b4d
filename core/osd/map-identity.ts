// data path

/** Which map this shard has: what requests are compared with. */
export class MapIdentity {
  generation = 0;
  epoch = 0;

  /** True when a request was made with a map that this shard does not have yet. */
  isNewer(generation: number, epoch: number): boolean {
    return generation > this.generation || (generation === this.generation && epoch > this.epoch);
  }
}
