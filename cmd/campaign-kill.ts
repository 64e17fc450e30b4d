import { mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { BunOpLog } from "../core/bench/bun-op-log.ts";
import { formatHistoryLine } from "../core/bench/bench.ts";
import { Prng } from "../core/base/prng.ts";
import { checkRegisters, RegisterHistory, type RegisterVerdict } from "../core/testing/testing.ts";
import { CampaignCluster, waitUntil } from "./campaign-cluster.ts";
import { CampaignClock } from "./campaign-clock.ts";
import { CampaignDevice } from "./campaign-device.ts";
import { CampaignDisk } from "./campaign-disk.ts";
import { FAULT_KINDS, type FaultKind, LEADER_KILL, type Scene } from "./campaign-faults.ts";
import { CampaignLoad } from "./campaign-load.ts";
import { CampaignNetwork } from "./campaign-network.ts";

/**
 * The kill loop: a cluster of real processes under a recorded load; one fault after the other, drawn
 * from a seed; at the end a verdict.
 *
 * Before a fault the load must be real. After it requests go on by themselves, within what the
 * table of pauses promises; no process is started by hand but those that were ended. Most faults
 * wait for a cluster that has healed, some strike while it does. At the end every block is read
 * through each gateway into the history, all of which must be linearizable; all replicas are equal,
 * and every store is whole.
 */
export interface KillOptions {
  readonly program: readonly string[];
  readonly seed: number;
  readonly osds: number;
  readonly shards: number;
  readonly gateways: number;
  /** Ends after so many faults that kill, or after the time. */
  readonly kills: number;
  readonly timeMs: number;
  /** Only kinds whose name holds one of these, split by commas. */
  readonly only: string;
  /** Below 1: faults last shorter, and so does the look at the load before them. */
  readonly pace: number;
  /** The history goes there when it is wrong, and when `keepHistory`. */
  readonly historyPath: string;
  readonly keepHistory: boolean;
  /** No fault begins after it is aborted; what was done is judged. */
  readonly interruption: AbortSignal;
  say(text: string): void;
}

export interface FaultRow {
  readonly kind: string;
  readonly victims: string;
  /** It struck before the cluster had healed from the one before. */
  readonly hurried: boolean;
  readonly holdMs: number;
  readonly opsPerSecBefore: number;
  /** The longest request in the time before, up to a second. */
  readonly longestBeforeMs: number;
  /** The longest wait of a request, from the fault (or from when all were back) on. */
  readonly stallMs: number;
  readonly promiseMs: number;
  /** The longest wait after the fault was taken back. */
  readonly afterMs: number;
  /** The longest start of a process. */
  readonly startMs: number;
  /** Until the mon found nothing wrong any more; 0: nobody waited for that. */
  readonly healedMs: number;
}

export interface KillReport {
  readonly seed: number;
  readonly osds: number;
  readonly shards: number;
  readonly gateways: number;
  readonly seconds: number;
  readonly kills: number;
  readonly faults: readonly FaultRow[];
  readonly history: RegisterVerdict;
  /** Answered with an error, by its number and kind. */
  readonly errors: Readonly<Record<string, number>>;
  /** Kinds that this machine can not make, and why. */
  readonly notMade: readonly string[];
  /** What is wrong for good. Empty, and `late` as well: passed. */
  readonly failures: readonly string[];
  /** Waits and starts that were longer than promised. */
  readonly late: readonly string[];
}

const IMAGE = "campaign/disk";
const IMAGE_BYTES = 128 * 1_048_576;
const CLIENTS_PER_GATEWAY = 8;
const BASELINE_MS = 1000;
/** A load below this is none: 16 clients on a machine that others use as well. */
const OPS_PER_SEC_MIN = 200;
const GOES_ON_LIMIT_MS = 30_000;
const HEALTHY_LIMIT_MS = 60_000;
/** One fault in so many does not wait until the cluster has healed. */
const HURRIED_ONE_IN = 4;
const HURRIED_PROMISE_MS = 10_000;
/** What the machine itself makes wait: so many times the longest wait of the last loads without a fault. */
const NOISE = 2;
const NOISE_LOADS = 10;
const NOISE_MS_MAX = 2000;
/** G9: of the waits after a leader's death all but one in a hundred, and in fewer all but one. */
const LEADER_P99_MS = 2000;
/** G14: from the start of a process until it serves. */
const START_MS = 5000;

/** Run it to its end. Never throws for what the cluster did: `failures` tells. */
export async function runKillCampaign(options: KillOptions): Promise<KillReport> {
  const run = new KillRun(options);
  return await run.go();
}

class KillRun {
  private readonly options: KillOptions;
  private readonly cluster: CampaignCluster;
  private readonly history = new RegisterHistory();
  private readonly random: Prng;
  private readonly failures: string[] = [];
  private readonly late: string[] = [];
  private readonly notMade: string[] = [];
  private readonly faults: FaultRow[] = [];
  private bag: FaultKind[] = [];
  private kills = 0;
  private network: CampaignNetwork | null = null;
  private disk: CampaignDisk | null = null;
  private device: CampaignDevice | null = null;
  private clock: CampaignClock | null = null;
  private load: CampaignLoad | undefined;

  constructor(options: KillOptions) {
    this.options = options;
    this.random = new Prng(options.seed);
    this.cluster = new CampaignCluster(options);
  }

  async go(): Promise<KillReport> {
    const startMs = performance.now();
    try {
      await this.prepare();
      await this.strike(startMs + this.options.timeMs);
      this.judgeLeaders();
      await this.finish();
    } catch (error) {
      this.fail(error instanceof Error ? error.message : String(error));
    } finally {
      await this.cleanUp();
    }
    const history = this.judge();
    const { seed, osds, shards, gateways } = this.options;
    const seconds = Math.round((performance.now() - startMs) / 1000);
    const errors = Object.fromEntries(this.load?.errors ?? []);
    const { kills, faults, notMade, failures, late } = this;
    const counts = { seed, osds, shards, gateways, seconds, kills };
    return { ...counts, faults, history, errors, notMade, failures, late };
  }

  /* ------------------------------------------------------------- start, end */

  private async prepare(): Promise<void> {
    const { cluster, options } = this;
    this.network = this.made(await CampaignNetwork.open());
    this.disk = this.made(CampaignDisk.open(cluster.folder));
    this.device = this.made(CampaignDevice.open(cluster.folder));
    this.clock = this.made(CampaignClock.open(cluster.folder));
    await cluster.up();
    if (this.disk !== null || this.device !== null) {
      await cluster.down();
      this.disk?.take(join(cluster.directory, `${this.diskOsd}.img`));
      await this.device?.take(join(cluster.directory, `${this.deviceOsd}.img`));
      await cluster.up();
    }
    await cluster.run("pool", "create", "campaign", "--size", "3");
    await cluster.run("image", "create", IMAGE, "--size", String(IMAGE_BYTES));
    await this.healthy();
    this.load = new CampaignLoad({
      gateways: cluster.gateways.map((name) => ({
        name,
        host: cluster.address(name),
        port: cluster.port(name, "nbd"),
      })),
      exportName: IMAGE,
      sizeBytes: IMAGE_BYTES,
      clientsPerGateway: CLIENTS_PER_GATEWAY,
      history: this.history,
      seed: options.seed,
    });
    this.load.start();
  }

  /** What can be made here; what can not is told. */
  private made<T>(part: T | string): T | null {
    if (typeof part !== "string") return part;
    this.notMade.push(part);
    return null;
  }

  /** Everything is read, compared and looked at on its device. */
  private async finish(): Promise<void> {
    const { cluster, load } = this;
    await this.healthy();
    await load!.stop();
    await load!.readBack();
    await cluster.run("image", "verify", IMAGE);
    await cluster.down();
    for (const name of cluster.osds) {
      await cluster.run("osd", "fsck", "--data", join(cluster.directory, `${name}.img`));
    }
  }

  private async cleanUp(): Promise<void> {
    const { cluster } = this;
    const steps: (() => Promise<unknown> | void)[] = [
      () => this.network?.heal(),
      () => this.disk?.thaw(),
      () => this.device?.set({}),
      () => this.load?.stop(),
      () => cluster.down(),
      () => this.disk?.close(!this.isClean),
      () => this.device?.close(!this.isClean),
      () => this.network?.close(),
    ];
    for (const step of steps) {
      try {
        await step();
      } catch (error) {
        this.fail(`cleaning up: ${error instanceof Error ? error.message : String(error)}`);
      }
    }
    if (this.isClean) cluster.remove();
    else this.options.say(`the cluster is left in ${cluster.directory}`);
  }

  private judge(): RegisterVerdict {
    const verdict = checkRegisters(this.history);
    for (const text of verdict.violations) this.fail(`not linearizable: ${text}`);
    for (const text of this.load?.damage ?? []) this.fail(text);
    for (const [what, count] of this.load?.errors ?? []) this.fail(`${count} × ${what}`);
    if (this.options.keepHistory || verdict.violations.length > 0) this.writeHistory();
    return verdict;
  }

  private writeHistory(): void {
    const { historyPath } = this.options;
    mkdirSync(dirname(historyPath), { recursive: true });
    const file = new BunOpLog(historyPath);
    for (let at = 0; at < this.history.count; at++) {
      const { key, isWrite, value, callNs, returnNs } = this.history.at(at);
      const answered = returnNs !== Infinity;
      const returnUs = answered ? returnNs / 1000 : -1;
      file.add(formatHistoryLine(key, isWrite, value, callNs / 1000, returnUs, answered));
    }
    file.close();
    this.options.say(`the history is in ${historyPath}`);
  }

  private fail(text: string): void {
    this.failures.push(text);
    this.options.say(`FAILED  ${text}`);
  }

  private get isClean(): boolean {
    return this.failures.length + this.late.length === 0;
  }

  private tooLate(text: string): void {
    this.late.push(text);
    this.options.say(`LATE    ${text}`);
  }

  /* ----------------------------------------------------------------- faults */

  private get diskOsd(): string {
    return this.cluster.osds.at(-1)!;
  }

  private get deviceOsd(): string {
    return this.cluster.osds[0]!;
  }

  private async strike(endMs: number): Promise<void> {
    let hurried = false;
    const { kills, interruption } = this.options;
    while (this.kills < kills && performance.now() < endMs && !interruption.aborted) {
      const kind = this.draw();
      const felt = await this.one(kind, hurried);
      if (kind.kills === true) this.kills += 1;
      hurried = this.random.below(HURRIED_ONE_IN) === 0;
      const backMs = performance.now();
      if (!hurried) {
        // A connection that was cut tries again after as long as it was cut, and nobody sees the
        // replica behind it wait: the mon hears from both ends.
        if (kind.needs === "network") await Bun.sleep(felt.holdMs);
        await this.healthy();
        this.load!.mayRefuse = 0;
      }
      const row = { ...felt, healedMs: hurried ? 0 : Math.round(performance.now() - backMs) };
      this.faults.push(row);
      this.judgeFault(row);
      this.options.say(formatFault(row));
      this.allRun();
    }
  }

  /** Each bag holds every kind that can be made here, in an order of the seed. */
  private draw(): FaultKind {
    if (this.bag.length === 0) {
      const { network, disk, device, clock } = this;
      const can = { network, disk, device, clock };
      const only = this.options.only.split(",");
      this.bag = FAULT_KINDS.filter(
        ({ name, needs }) =>
          only.some((words) => name.includes(words)) &&
          (needs === undefined || can[needs] !== null),
      ).flatMap((kind) => Array.from({ length: kind.share }, () => kind));
      if (this.bag.length === 0) throw new Error(`no kind of fault: ${this.options.only}`);
    }
    return this.bag.splice(this.random.below(this.bag.length), 1)[0]!;
  }

  private async one(kind: FaultKind, hurried: boolean): Promise<Omit<FaultRow, "healedMs">> {
    const { random } = this;
    const load = this.load!;
    const { cluster, network, disk, device, clock, diskOsd, deviceOsd } = this;
    const parts = { network, disk, device, clock, diskOsd, deviceOsd };
    const scene: Scene = { cluster, load, random, ...parts };
    await kind.prepare?.(scene);
    const baseMs = performance.now();
    const before = load.completed;
    await Bun.sleep(BASELINE_MS * this.options.pace);
    const faultMs = performance.now();
    const opsPerSecBefore = Math.round(((load.completed - before) * 1000) / (faultMs - baseMs));
    const longestBeforeMs = load.longestMs(baseMs, faultMs);
    if (opsPerSecBefore < OPS_PER_SEC_MIN) {
      throw new Error(`load before a fault: ${opsPerSecBefore} per s, wanted ${OPS_PER_SEC_MIN}`);
    }
    if (kind.refusal !== undefined) load.mayRefuse = kind.refusal;
    const injected = await kind.begin(scene);
    const [least, most] = kind.holdMs;
    const holdMs = Math.round((least + random.below(most - least)) * this.options.pace);
    await Bun.sleep(holdMs);
    const healMs = performance.now();
    const starts = await injected.end();
    const backMs = performance.now();
    const victims = injected.victims.join(" ");
    try {
      const goesOn = (): boolean => load.goesOnSince(backMs);
      await waitUntil("all requests to go on", goesOn, GOES_ON_LIMIT_MS);
    } catch {
      const health = await cluster.complaints();
      throw new Error(
        `${kind.name} (${victims}): a request has no answer ${GOES_ON_LIMIT_MS / 1000} s after it; ${health}`,
      );
    }
    const endMs = performance.now();
    const fromMs = kind.from === "fault" ? faultMs : backMs;
    return {
      kind: kind.name,
      victims,
      hurried,
      holdMs,
      opsPerSecBefore,
      longestBeforeMs: Math.round(longestBeforeMs),
      stallMs: Math.round(load.longestMs(fromMs, endMs, injected.gateway)),
      promiseMs: hurried ? HURRIED_PROMISE_MS : kind.promiseMs,
      afterMs: Math.round(load.longestMs(healMs, endMs, injected.gateway)),
      startMs: Math.round(Math.max(0, ...starts)),
    };
  }

  /** What a wait may be longer than promised, on a machine that is busy with other things. */
  private get noiseMs(): number {
    const waits = this.faults.slice(-NOISE_LOADS).map((row) => row.longestBeforeMs);
    return Math.min(NOISE * Math.max(0, ...waits), NOISE_MS_MAX);
  }

  private judgeFault({ kind, victims, stallMs, promiseMs, startMs }: FaultRow): void {
    const { noiseMs } = this;
    const who = `${kind} (${victims})`;
    const beside = `and ${noiseMs} ms for what this machine takes`;
    if (stallMs > promiseMs + noiseMs) {
      this.tooLate(
        `${who}: a request waited ${stallMs} ms, wanted at most ${promiseMs}, ${beside}`,
      );
    }
    if (startMs > START_MS + noiseMs) {
      this.tooLate(`${who}: a process served after ${startMs} ms, wanted ${START_MS}, ${beside}`);
    }
  }

  /** Of all deaths of leaders together, where the cluster was whole before. */
  private judgeLeaders(): void {
    const waits = this.faults
      .filter(({ kind, hurried }) => kind === LEADER_KILL && !hurried)
      .map(({ stallMs }) => stallMs)
      .sort((left, right) => right - left);
    const p99 = waits[Math.max(1, Math.floor(waits.length / 100))];
    if (p99 === undefined || p99 <= LEADER_P99_MS + this.noiseMs) return;
    this.tooLate(`${LEADER_KILL}: 99 of 100 waits are up to ${p99} ms, wanted ${LEADER_P99_MS}`);
  }

  /** Nothing ended that nobody ended. */
  private allRun(): void {
    const gone = this.cluster.names.find((name) => !this.cluster.isRunning(name));
    if (gone === undefined) return;
    throw new Error(`${gone} ended by itself:\n${this.cluster.lastWords(gone)}`);
  }

  /** The mon finds nothing wrong any more; nobody helps. */
  private async healthy(): Promise<void> {
    let complaints = "";
    try {
      await waitUntil(
        "the cluster to heal",
        async () => {
          complaints = await this.cluster.complaints();
          return complaints === "";
        },
        HEALTHY_LIMIT_MS,
      );
    } catch {
      throw new Error(`the cluster has not healed in ${HEALTHY_LIMIT_MS / 1000} s: ${complaints}`);
    }
  }
}

function formatFault(row: FaultRow): string {
  const { kind, victims, hurried, holdMs, opsPerSecBefore } = row;
  const { stallMs, afterMs, startMs, healedMs } = row;
  return [
    `${kind} (${victims})${hurried ? ", hurried" : ""}: ${opsPerSecBefore} ops/s before`,
    `held ${holdMs} ms, stall ${stallMs} ms, ${afterMs} ms after`,
    ...(startMs === 0 ? [] : [`start ${startMs} ms`]),
    ...(healedMs === 0 ? [] : [`healed in ${healedMs} ms`]),
  ].join(", ");
}

const COLUMNS = [
  "fault",
  "count",
  "ops/s before",
  "stall p50",
  "p99",
  "max",
  "promise",
  "after max",
  "start",
];

/** The report as people read it. */
export function formatKillReport(report: KillReport): string {
  const kinds = [...new Set(report.faults.map(({ kind }) => kind))];
  const rows = kinds.map((kind) => {
    const faults = report.faults.filter((one) => one.kind === kind);
    const stalls = faults.map(({ stallMs }) => stallMs).sort((left, right) => left - right);
    const of = (share: number): string => `${stalls[Math.ceil(share * stalls.length) - 1]} ms`;
    const rates = faults.map(({ opsPerSecBefore }) => opsPerSecBefore);
    const most = (of: (row: FaultRow) => number): string => `${Math.max(...faults.map(of))} ms`;
    const promise = FAULT_KINDS.find(({ name }) => name === kind)!.promiseMs;
    return [
      ...[kind, String(faults.length), `${Math.min(...rates)} to ${Math.max(...rates)}`],
      ...[of(0.5), of(0.99), of(1), `${promise} ms`],
      ...[most(({ afterMs }) => afterMs), most(({ startMs }) => startMs)],
    ];
  });
  const { history, failures, late, notMade } = report;
  const widths = COLUMNS.map((name, at) =>
    Math.max(name.length, ...rows.map((cells) => cells[at]!.length)),
  );
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, at) => cell.padEnd(widths[at]!))
      .join("  ")
      .trimEnd();
  return [
    `seed ${report.seed}: ${report.osds} osds × ${report.shards} shards, ${report.gateways} gateways, ${report.faults.length} faults (${report.kills} kills) in ${report.seconds} s`,
    line(COLUMNS),
    ...rows.map(line),
    `history: ${history.operations} operations on ${history.keys} blocks (${history.searched} searched), ${history.unanswered} writes without an answer, ${history.violations.length} blocks not linearizable`,
    ...notMade.map((why) => `not made here: ${why}`),
    ...late.map((text) => `LATE    ${text}`),
    ...failures.map((text) => `FAILED  ${text}`),
  ].join("\n");
}
