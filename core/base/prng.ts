/** Where random numbers come from: the operating system, or one seed in the simulator. */
export interface Random {
  /** Uniform in [0, 2^32). */
  u32(): number;
  /** Uniform in [0, bound), bound ≤ 2^32. */
  below(bound: number): number;
  /** Fill with random bytes. */
  fill(bytes: Uint8Array): void;
}

/**
 * A deterministic generator (xoshiro128**, Blackman and Vigna 2018), for simulation and workloads.
 * Never for keys.
 */
export class Prng implements Random {
  private a: number;
  private b: number;
  private c: number;
  private d: number;

  /** Two runs with the same seed (a safe integer) draw the same numbers. */
  constructor(seed: number) {
    let state = (seed ^ Math.floor(seed / 4_294_967_296)) >>> 0;
    const next = (): number => {
      state = (state + 0x9e37_79b9) >>> 0;
      let mixed = Math.imul(state ^ (state >>> 16), 0x85eb_ca6b);
      mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2_ae35);
      return (mixed ^ (mixed >>> 16)) >>> 0;
    };
    this.a = next();
    this.b = next();
    this.c = next();
    this.d = next() | 1;
  }

  u32(): number {
    const scaled = Math.imul(this.b, 5);
    const result = Math.imul((scaled << 7) | (scaled >>> 25), 9) >>> 0;
    const shifted = this.b << 9;
    this.c ^= this.a;
    this.d ^= this.b;
    this.b ^= this.c;
    this.a ^= this.d;
    this.c ^= shifted;
    this.d = (this.d << 11) | (this.d >>> 21);
    return result;
  }

  below(bound: number): number {
    return Math.floor((this.u32() / 4_294_967_296) * bound);
  }

  fill(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; at++) bytes[at] = this.u32() & 0xff;
  }
}
