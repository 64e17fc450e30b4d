import { type Subprocess, spawn, which } from "bun";

/**
 * Cuts, losses, resets and detours between loopback addresses, by a table of nftables that belongs to a process of ours: when
 * that ends, however it ends, the kernel takes the table away.
 */

const ANSWER_LIMIT_MS = 5_000;
/** How nft ends what it tells of a table. */
const TABLE_END = "\n}";

/** What of an address is lost on the way. */
export type Direction = "both" | "out" | "in";

export class CampaignNetwork {
  private readonly nft: Subprocess<"pipe", "pipe", "pipe">;
  private readonly table: string;
  private said = "";
  /** Packets that were lost, reset or led astray by what has been healed. */
  private struck = 0;

  private constructor(nft: Subprocess<"pipe", "pipe", "pipe">) {
    this.nft = nft;
    this.table = `fastblock_${process.pid}`;
    // Both end with the process, whose end is awaited.
    void Promise.all([this.listen(nft.stdout), this.listen(nft.stderr)]);
  }

  /** Answers why there is none, where there can be none. */
  static async open(): Promise<CampaignNetwork | string> {
    if (process.getuid?.() !== 0) return "cuts need root";
    const path = `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin`;
    const program = which("nft", { PATH: path });
    if (program === null) return "cuts need nft, of the package nftables";
    const pipe = { stdin: "pipe", stdout: "pipe", stderr: "pipe" } as const;
    const network = new CampaignNetwork(spawn([program, "-i"], pipe));
    const { table } = network;
    network.say(
      `add table inet ${table} { flags owner; }`,
      `add chain inet ${table} cut { type filter hook output priority 0; }`,
    );
    try {
      await network.wait("chain cut");
      return network;
    } catch (error) {
      await network.close();
      return `cuts need nftables: ${error instanceof Error ? error.message : String(error)}`;
    }
  }

  /** Lose everything between an address and others, one way or both. */
  async cut(address: string, others: readonly string[], direction: Direction): Promise<void> {
    const set = `{ ${others.join(", ")} }`;
    const rule = `add rule inet ${this.table} cut`;
    if (direction !== "in") this.say(`${rule} ip saddr ${address} ip daddr ${set} counter drop`);
    if (direction !== "out") this.say(`${rule} ip saddr ${set} ip daddr ${address} counter drop`);
    await this.wait("drop");
  }

  /** Lose a share of the packets between an address and all others. */
  async lose(address: string, percent: number): Promise<void> {
    const rule = `add rule inet ${this.table} cut`;
    const chance = `numgen random mod 100 < ${percent} counter drop`;
    this.say(`${rule} ip saddr ${address} ${chance}`, `${rule} ip daddr ${address} ${chance}`);
    await this.wait("drop");
  }

  /** Reset every connection of an address, and each that is tried. */
  async reset(address: string): Promise<void> {
    const rule = `add rule inet ${this.table} cut meta l4proto tcp`;
    const how = "counter reject with tcp reset";
    this.say(`${rule} ip saddr ${address} ${how}`, `${rule} ip daddr ${address} ${how}`);
    await this.wait("reset");
  }

  /**
   * Whoever but `exempt` talks to a port of an address talks to `exempt` at `port` instead; what is
   * connected already is reset.
   */
  async detour(address: string, to: number, exempt: string, port: number): Promise<void> {
    const { table } = this;
    this.say(
      `add chain inet ${table} detour { type nat hook output priority -100; }`,
      `add rule inet ${table} detour ip saddr != ${exempt} ip daddr ${address} tcp dport ${to} dnat ip to ${exempt}:${port}`,
    );
    await this.wait("dnat");
  }

  /** Answers how many packets all faults so far have met: one that meets none proves nothing. */
  async heal(): Promise<number> {
    const { table } = this;
    await this.wait(TABLE_END);
    for (const [, packets] of this.said.matchAll(/counter packets (\d+)/g)) {
      this.struck += Number(packets);
    }
    this.say(`flush chain inet ${table} cut`);
    if (this.said.includes("chain detour")) this.say(`delete chain inet ${table} detour`);
    await this.wait(TABLE_END);
    return this.struck;
  }

  async close(): Promise<void> {
    await this.nft.stdin.end();
    await this.nft.exited;
  }

  private say(...lines: readonly string[]): void {
    // Taken at once; `wait` flushes.
    void this.nft.stdin.write(`${lines.join("\n")}\n`);
  }

  /** Wait until the table, shown anew and in full, holds `text`: everything said before is in force then. */
  private async wait(text: string): Promise<void> {
    this.said = "";
    this.say(`list table inet ${this.table}`);
    await this.nft.stdin.flush();
    const endMs = performance.now() + ANSWER_LIMIT_MS;
    while (!this.said.includes(text) || !this.said.includes(TABLE_END)) {
      if (performance.now() > endMs || this.nft.exitCode !== null) {
        throw new Error(`nft said: ${this.said}, wanted ${text}`);
      }
      await Bun.sleep(5);
    }
  }

  private async listen(stream: ReadableStream<Uint8Array>): Promise<void> {
    const decoder = new TextDecoder();
    for await (const bytes of stream) this.said += decoder.decode(bytes, { stream: true });
  }
}
