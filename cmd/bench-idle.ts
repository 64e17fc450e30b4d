import { readFileSync } from "node:fs";
import { join } from "node:path";
import { FastblockError } from "../core/base/errors.ts";
import {
  type IdleOptions,
  type IdleOutside,
  type IdleReport,
  type IdleUsage,
  type PairUsage,
  poolsFor,
  runIdle,
  samplesOf,
} from "../core/bench/bench.ts";
import { type LinkEnd, pairsNow } from "../core/bench/bun-links.ts";
import { anonymousBytesOf, cpuUsOf } from "../core/bench/bun-meter.ts";
import type { CliContext } from "../core/cli/cli.ts";
import { parsePorts } from "../core/dev/dev.ts";
import { runCommand } from "../core/dev/bun-demo.ts";
import { lastLines, readPlan, runningPid } from "../core/dev/bun-processes.ts";
import { machineNow, OSDS, REPLICAS, withBenchCluster } from "./bench-cluster.ts";
import { askMon, monUrl } from "./bench-outside.ts";

/** `bench idle`: a cluster of its own with many groups, and nobody who asks anything of it. */
const LOOK_MS = 500;
const ACTIVE_MS_MAX = 600_000;

/** Run it; the cluster and its directory are gone afterwards. Throws FB1006, FB1009, FB4008, FB5001. */
export async function idleBench(
  cli: CliContext,
  program: readonly string[],
  options: IdleOptions,
): Promise<IdleReport> {
  return await withBenchCluster(program, options, async (directory) => {
    const bench = new IdleBench(cli, program, directory, options);
    return {
      kind: "idle",
      machine: machineNow(),
      version: cli.ports.versions["fastblock"] ?? "",
      osds: OSDS,
      shards: options.shards,
      groups: options.groups,
      seconds: options.timeMs / 1000,
      ...(await runIdle(bench, options)),
    };
  });
}

interface Status {
  readonly pgs: { readonly byState: Readonly<Record<string, number>> };
}

class IdleBench implements IdleOutside {
  private readonly cli: CliContext;
  private readonly program: readonly string[];
  private readonly directory: string;
  private readonly groups: number;
  private readonly http: string;
  private readonly ends: readonly LinkEnd[];

  constructor(
    cli: CliContext,
    program: readonly string[],
    directory: string,
    { groups }: IdleOptions,
  ) {
    this.cli = cli;
    this.program = program;
    this.directory = directory;
    this.groups = groups;
    this.http = monUrl(directory);
    this.ends = readPlan(directory).processes.map((process) => {
      const ports = parsePorts(readFileSync(join(directory, `${process.name}.ports`), "utf8"));
      const data = Object.entries(ports).filter(([key]) => key.split(".")[0] === "data");
      return {
        name: process.name,
        pid: runningPid(process, directory),
        ports: data.map(([, port]) => Number(port)),
      };
    });
  }

  async makeGroups(): Promise<void> {
    for (const [at, groups] of poolsFor(this.groups).entries()) {
      const words = ["pool", "create", `idle${at}`, "--size", String(REPLICAS)];
      const all = [...words, "--pgs", String(groups), "--cluster", this.directory];
      const { code, text } = await runCommand(this.program, all);
      if (code === 0) continue;
      const message = `making ${groups} groups: exit code ${code}, wanted 0`;
      throw new FastblockError("FB5001", message, { why: lastLines(text) });
    }
    const endMs = this.nowMs() + ACTIVE_MS_MAX;
    for (;;) {
      const { pgs } = JSON.parse(await this.ask("/api/v1/status")) as Status;
      const active = pgs.byState["active"] ?? 0;
      if (active === this.groups) return;
      if (this.nowMs() > endMs) {
        const seconds = String(ACTIVE_MS_MAX / 1000);
        const message = `waiting for groups to serve: ${active} of ${this.groups} in ${seconds} s`;
        throw new FastblockError("FB1006", message, { hint: "take fewer: --groups" });
      }
      this.say(`${active} of ${this.groups} groups serve`);
      await this.sleep(LOOK_MS);
    }
  }

  usage(): readonly IdleUsage[] {
    return this.ends.map(({ name, pid }) => ({ name, cpuUs: this.alive(name, cpuUsOf(pid)) }));
  }

  pairs(): readonly PairUsage[] | null {
    return pairsNow(this.ends.filter(({ ports }) => ports.length > 0));
  }

  memory(): ReadonlyMap<string, number> {
    return new Map(
      this.ends.map(({ name, pid }) => [name, this.alive(name, anonymousBytesOf(pid))]),
    );
  }

  async replicas(): Promise<ReadonlyMap<string, number>> {
    const counts = new Map<string, number>();
    for (const { labels, value } of await this.samples("fastblock_raft_groups")) {
      const name = `osd.${/osd="(\d+)"/.exec(labels)?.[1] ?? ""}`;
      counts.set(name, (counts.get(name) ?? 0) + value);
    }
    return counts;
  }

  async elections(): Promise<number> {
    const samples = await this.samples("fastblock_raft_elections_total");
    return samples.reduce((sum, { value }) => sum + value, 0);
  }

  sleep(ms: number): Promise<void> {
    return this.cli.ports.sleep(ms);
  }

  nowMs(): number {
    return performance.now();
  }

  say(words: string): void {
    this.cli.say(words);
  }

  private alive(name: string, figure: number | undefined): number {
    if (figure !== undefined) return figure;
    throw new FastblockError("FB5001", `measuring ${name}: its process is gone, wanted it alive`, {
      hint: `see ${join(this.directory, `${name}.log`)} of a run with --dir`,
    });
  }

  private async samples(name: string): Promise<ReturnType<typeof samplesOf>> {
    return samplesOf(await this.ask("/metrics"), name);
  }

  private async ask(path: string): Promise<string> {
    return await (await askMon(this.http, path)).text();
  }
}
