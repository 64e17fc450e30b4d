import { FastblockError } from "../core/base/errors.ts";
import { COLLECTIONS_TOLD } from "../core/bench/bench.ts";
import type { CliContext } from "../core/cli/cli.ts";
import { runCommand } from "../core/dev/bun-demo.ts";
import { lastLines, readPlan, stopOne } from "../core/dev/bun-processes.ts";
import { askMon, monUrl } from "./bench-outside.ts";

const LOOK_MS = 100;
/** For a step beside the loads; copying all of a large image takes long. */
const STEP_MS_MAX = 600_000;

interface PgAnswer {
  readonly state: string;
  readonly joining: readonly number[];
  readonly leaving: readonly number[];
  readonly filling: readonly number[];
}

/** What a benchmark does to its cluster beside the loads: commands, questions, waits. */
export class BenchControl {
  readonly http: string;
  private readonly cli: CliContext;
  private readonly program: readonly string[];
  private readonly directory: string;

  constructor(cli: CliContext, program: readonly string[], directory: string) {
    this.cli = cli;
    this.program = program;
    this.directory = directory;
    this.http = monUrl(directory);
  }

  /** Start those of the cluster's processes that do not run. Throws FB5001. */
  async up(): Promise<void> {
    const words = ["dev", "up", "--dir", this.directory, "--detach"];
    const { code, text } = await runCommand(this.program, words, COLLECTIONS_TOLD);
    if (code === 0) return;
    const message = `running ${words.slice(0, 2).join(" ")}: exit code ${code}, wanted 0`;
    throw new FastblockError("FB5001", message, { why: lastLines(text) });
  }

  /** Stop all osds in order, start them again, and wait until they serve. */
  async restartOsds(): Promise<void> {
    const { processes } = readPlan(this.directory);
    const osds = processes.filter(({ name }) => name.startsWith("osd."));
    await Promise.all(osds.map((osd) => stopOne(osd, this.directory)));
    await this.up();
    await this.whole();
  }

  /** Wait until all replicas of all groups are there and none is on its way. */
  async whole(): Promise<void> {
    await this.until("all replicas to be whole", async () => {
      const { replicas } = (await this.ask("/api/v1/recovery")) as { replicas: readonly unknown[] };
      const { items } = (await this.ask("/api/v1/pgs")) as { items: readonly PgAnswer[] };
      const isWhole = ({ state, joining, leaving, filling }: PgAnswer): boolean =>
        state === "active" && joining.length + leaving.length + filling.length === 0;
      return replicas.length === 0 && items.every(isWhole);
    });
  }

  /** The mon's answer. Throws FB1003. */
  async ask(path: string): Promise<unknown> {
    return await (await askMon(this.http, path)).json();
  }

  /** Throws FB1006. */
  async until(what: string, check: () => Promise<boolean>): Promise<void> {
    const endMs = performance.now() + STEP_MS_MAX;
    while (!(await check())) {
      if (performance.now() > endMs) {
        const seconds = STEP_MS_MAX / 1000;
        throw new FastblockError("FB1006", `waiting for ${what}: nothing in ${seconds} s`);
      }
      await this.cli.ports.sleep(LOOK_MS);
    }
  }
}
