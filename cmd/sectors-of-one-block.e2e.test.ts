/**
 * Writers of different sectors of the same block, on connections and gateways of their own: each
 * sector holds what was acknowledged for it last, whoever else wrote to the block meanwhile.
 */
import { expect, test } from "bun:test";
import { NbdCommand, NbdLink } from "./campaign-nbd.ts";
import { type TestCluster, withCluster } from "./e2e-harness.ts";

const SECTOR = 512;
const SECTORS = 8;
const BLOCK = SECTOR * SECTORS;
/** Blocks that all write to: few, so that they meet. */
const BLOCKS = 2;
const IMAGE = "rbd/sectors";
/** How long two connections write, and then those of several gateways, ms. */
const TWO_TIME_MS = 60_000;
const MORE_TIME_MS = 5000;
/** Nobody is left behind for good. */
const ROUNDS_MIN = 5;

/** One connection, and the sectors of each block that it alone writes. */
class Writer {
  rounds = 0;
  private readonly link: NbdLink;
  private readonly sectors: readonly number[];
  private readonly data = new Uint8Array(SECTOR);

  private constructor(link: NbdLink, sectors: readonly number[]) {
    this.link = link;
    this.sectors = sectors;
  }

  static async attach(port: number, sectors: readonly number[]): Promise<Writer> {
    return new Writer(await NbdLink.attach("127.0.0.1", port, IMAGE), sectors);
  }

  async run(endMs: number): Promise<void> {
    while (performance.now() < endMs) {
      const round = this.rounds + 1;
      for (let block = 0; block < BLOCKS; block++) {
        for (const sector of this.sectors) await this.write(block, sector, round);
      }
      this.rounds = round;
      await this.check();
    }
  }

  /** Every own sector holds its last value. */
  async check(): Promise<void> {
    for (let block = 0; block < BLOCKS; block++) {
      const seen = await this.read(block);
      for (const sector of this.sectors) {
        const values = valuesOf(seen, sector);
        const what = `block ${block} sector ${sector} of ${this.sectors.join(",")}`;
        expect(`${what}: ${values.join(" ")}`).toBe(`${what}: ${this.rounds}`);
      }
    }
  }

  async read(block: number): Promise<Buffer> {
    const { error, data } = await this.link.ask({
      command: NbdCommand.Read,
      offset: block * BLOCK,
      length: BLOCK,
      flags: 0,
      data: null,
    });
    expect(error).toBe(0);
    return data;
  }

  close(): void {
    this.link.close();
  }

  private async write(block: number, sector: number, value: number): Promise<void> {
    new Uint32Array(this.data.buffer).fill(value);
    const { error } = await this.link.ask({
      command: NbdCommand.Write,
      offset: block * BLOCK + sector * SECTOR,
      length: SECTOR,
      flags: 0,
      data: this.data,
    });
    expect(error).toBe(0);
  }
}

/** The different numbers within a sector: one, when it was written as a whole. */
function valuesOf(block: Buffer, sector: number): number[] {
  const words = new Uint32Array(block.buffer.slice(block.byteOffset, block.byteOffset + BLOCK));
  const length = SECTOR / 4;
  return [...new Set(words.subarray(sector * length, (sector + 1) * length))];
}

/** Let writers with these ports go at it; then everybody's sectors are whole for everybody. */
async function fight(
  ports: readonly number[],
  share: readonly (readonly number[])[],
  timeMs: number,
): Promise<void> {
  const writers = await Promise.all(ports.map((port, at) => Writer.attach(port, share[at]!)));
  try {
    const endMs = performance.now() + timeMs;
    await Promise.all(writers.map((writer) => writer.run(endMs)));
    for (const writer of writers) await writer.check();
    const blocks = await Promise.all(writers.map((writer) => writer.read(0)));
    for (const block of blocks) expect(Buffer.compare(block, blocks[0]!)).toBe(0);
    const rounds = writers.map((writer) => writer.rounds);
    console.log(`rounds of ${writers.length} writers in ${timeMs} ms: ${rounds.join(" ")}`);
    for (const count of rounds) expect(count).toBeGreaterThan(ROUNDS_MIN);
  } finally {
    for (const writer of writers) writer.close();
  }
}

function gateways(cluster: TestCluster): number[] {
  return ["nbd.0", "nbd.1"].map((name) => cluster.port(name, "nbd"));
}

test("G2, G4: sectors of one block are written over several connections and gateways: none is lost", async () => {
  await withCluster({ osds: 3, flags: ["--nbd", "2"] }, async (cluster) => {
    await cluster.image(IMAGE, "16MiB", 3);
    const [one, two] = gateways(cluster);
    // Two connections of one gateway.
    await fight(
      [one!, one!],
      [
        [0, 2, 5],
        [1, 3, 7],
      ],
      TWO_TIME_MS,
    );
    // Two gateways: neither hears of the other's writes.
    await fight(
      [one!, two!],
      [
        [0, 2, 5],
        [1, 3, 7],
      ],
      MORE_TIME_MS,
    );
    // Two connections of each.
    await fight(
      [one!, two!, one!, two!],
      [
        [0, 4],
        [1, 5],
        [2, 6],
        [3, 7],
      ],
      MORE_TIME_MS,
    );
    await cluster.run("image", "verify", IMAGE);
  });
}, 300_000);
