// cold path: exhaustive fail points over the device calls of one store (campaign C3), for tests.
import type { LoggedError } from "../reactor/reactor.ts";
import { FastblockError } from "../base/errors.ts";
import { DiskVerb } from "../reactor/world.ts";
import {
  type CheckDepth,
  type Opened,
  StateChecker,
  wantedAt,
  type Wanted,
} from "./failpoint-check-harness.ts";
import {
  type Call,
  CallRecorder,
  FailWay,
  type Image,
  imageOf,
  type Moment,
  momentsOf,
  type Remains,
  remainsOf,
  Timeline,
} from "./failpoint-disk-harness.ts";
import { DeviceDown, Distrusted, Drive } from "./failpoint-drive-harness.ts";
import { BlockState } from "./local-store.ts";
import { SCRIPTS } from "./failpoint-scripts-harness.ts";
import { Machine, type MachineRuntime } from "./machine-harness.ts";

const MIB = 1024 * 1024;
const MEMORY_BYTES = 16 * MIB;
const LOG_BYTES = 4 * MIB;
/** After a failure: time for an acknowledgement that must not come. */
const AFTERMATH_US = 50_000;
const FAILURES_KEPT = 20;
/** Logged as an error when a write had no space. */
const FULL = "no space beneath the store: what the log holds waits there";
/** States that are written to when they were opened, and opened a second time. */
const TWICE_SHARE = 0.35;

/** Every second seed has an index that is paged, with memory for one page: each look loads another. */
function indexBytesOf(seed: number): number {
  return seed % 2 === 0 ? 4096 : 0;
}

/** What is run. Shares: 0 to 1, by name of the state, so that each share is the same every time. */
export interface FailpointOptions {
  readonly runtime: MachineRuntime;
  /** Power cuts during scripts. */
  readonly share: number;
  /** Calls that fail once during scripts. */
  readonly failShare: number;
  /** Each of those in every way that a call can fail; else in one that its name draws. */
  readonly allWays: boolean;
  /** States whose start is itself cut short and failed at every call. */
  readonly againShare: number;
  /** Seeds of each script: other latencies, other orders of completion. */
  readonly seeds: readonly number[];
  /** One state by its name, or all below a name. */
  readonly only?: string;
  /** Names of scripts; default: all. */
  readonly scripts?: readonly string[];
}

/** What was run. */
export interface FailpointReport {
  /** Device calls of all scripts. */
  calls: number;
  /** Different states that were opened: device and what was acknowledged. */
  states: number;
  /** Those by how they came to be. */
  readonly byMode: Record<string, number>;
  /** Starts of a store, those of the same state again included. */
  opened: number;
  failed: number;
  /** The first ones: name of the state, and what is wrong with it. */
  readonly failures: { readonly name: string; readonly error: string }[];
}

/** Run every chosen state of every script. Never throws for a state: it is in `failures`. */
export async function runFailpoints(options: FailpointOptions): Promise<FailpointReport> {
  const run = new FailpointRun(options);
  await run.format();
  for (const name of options.scripts ?? Object.keys(SCRIPTS)) {
    for (const seed of options.seeds) {
      const title = `${name}.${seed}`;
      if (run.mayHold(title)) await run.script(title, name, seed);
    }
  }
  return run.report;
}

/** One script as it went. */
interface Played {
  readonly drive: Drive;
  readonly calls: readonly Call[];
  readonly end: number;
  /** Why it ended early, or null. */
  readonly ended: unknown;
}

class FailpointRun {
  readonly report: FailpointReport = {
    calls: 0,
    states: 0,
    byMode: {},
    opened: 0,
    failed: 0,
    failures: [],
  };
  private readonly options: FailpointOptions;
  private readonly checker: StateChecker;
  private readonly memory = new ArrayBuffer(MEMORY_BYTES);
  private readonly seen = new Set<string>();
  private formatted: Image = new Map();

  constructor(options: FailpointOptions) {
    this.options = options;
    this.checker = new StateChecker(options.runtime, new ArrayBuffer(MEMORY_BYTES));
  }

  async format(): Promise<void> {
    const machine = await Machine.make(1, this.options.runtime, 256 * MIB, LOG_BYTES);
    this.formatted = machine.simulation.disk("disk").image();
  }

  /* -------------------------------------------------------------- choosing */

  /** May a state whose name begins like this be wanted? */
  mayHold(title: string): boolean {
    const { only } = this.options;
    if (only === undefined) return true;
    return only === title || only.startsWith(`${title}/`) || title.startsWith(`${only}/`);
  }

  private chosen(name: string, share: number): boolean {
    if (this.options.only !== undefined) return this.mayHold(name);
    return fractionOf(name) < share;
  }

  /** False when an equal state was looked at before. */
  private isNew(key: string): boolean {
    if (this.seen.has(key)) return false;
    this.seen.add(key);
    return true;
  }

  /** Counts a state. False when something is wrong with it. */
  private async guarded(name: string, mode: string, body: () => Promise<void>): Promise<boolean> {
    this.report.states += 1;
    this.report.byMode[mode] = (this.report.byMode[mode] ?? 0) + 1;
    try {
      await body();
      return true;
    } catch (error) {
      this.report.failed += 1;
      const text = error instanceof Error ? error.message : String(error);
      if (this.report.failures.length < FAILURES_KEPT) {
        this.report.failures.push({ name, error: text.slice(0, 600) });
      }
      return false;
    }
  }

  /* --------------------------------------------------------------- scripts */

  async script(title: string, name: string, seed: number): Promise<void> {
    this.checker.indexBytes = indexBytesOf(seed);
    const { drive, calls, end } = await this.play(name, seed);
    this.report.calls += calls.length;
    for (const moment of momentsOf(drive.recorder, end)) {
      await this.moment(title, drive, moment);
    }
    for (let call = 0; call < calls.length; call++) {
      for (const way of this.waysOf(`${title}/fail/${call}`)) {
        const failing = `${title}/fail/${call}/${FailWay[way]}`;
        if (!this.chosen(failing, this.options.failShare)) continue;
        await this.fail(failing, name, seed, call, way);
      }
    }
  }

  /** Each call fails in one way, another one in the next seed; or, if wanted, in all of them. */
  private waysOf(call: string): readonly FailWay[] {
    if (this.options.allWays || this.options.only !== undefined) return ALL_WAYS;
    return [Math.floor(fractionOf(call) * ALL_WAYS.length)];
  }

  private async play(
    name: string,
    seed: number,
    failCall = -1,
    way: FailWay = FailWay.Eio,
  ): Promise<Played> {
    const { runtime } = this.options;
    const isExcused = ({ message }: LoggedError): boolean =>
      way === FailWay.NoSpace && message === FULL;
    const excusing = { ...runtime, isExcused };
    const machine = Machine.over(seed, excusing, this.formatted, this.memory);
    machine.indexBytes = indexBytesOf(seed);
    const drive = new Drive(machine, failCall, way);
    let ended: unknown = null;
    try {
      await SCRIPTS[name]!(drive);
    } catch (error) {
      if (failCall < 0 || !isRefusal(error, drive)) throw error;
      ended = error;
    }
    return { drive, calls: drive.recorder.calls, end: drive.timeline.next(), ended };
  }

  private async moment(title: string, drive: Drive, moment: Moment): Promise<void> {
    const prefix = `${title}/${moment.number}`;
    const { until } = moment;
    if (!this.mayHold(prefix)) return;
    const keys = drive.groups.map((group) => group.keyAt(until)).join(" ");
    const wanted = wantedAt(drive.groups, until);
    for (const remains of remainsOf(moment)) {
      const name = `${prefix}/${remains.name}`;
      if (!this.chosen(name, this.options.share)) continue;
      const { image, hash } = imageOf(moment, remains);
      // Another seed may have come to the same.
      const { indexBytes } = this.checker;
      if (!this.isNew(`${scriptOf(title)} ${hash} ${keys} ${String(indexBytes)}`)) continue;
      await this.state(name, modeOf(remains), image, wanted);
    }
  }

  /** Open one state, sometimes twice, and sometimes cut that short at every call. */
  private async state(
    name: string,
    mode: string,
    image: Image,
    wanted: readonly Wanted[],
  ): Promise<void> {
    const good = await this.guarded(name, mode, () => this.openTwice(name, image, wanted));
    const again = `${name}/again`;
    const { only, againShare } = this.options;
    const isWanted = only === undefined ? fractionOf(again) < againShare : only.startsWith(again);
    if (isWanted && good) await this.again(again, image, wanted);
  }

  /** The next start must find what this one found. */
  private async openTwice(name: string, image: Image, wanted: readonly Wanted[]): Promise<void> {
    const grow = fractionOf(`${name}+`) < TWICE_SHARE;
    const opened = await this.open(image, wanted, { ...depthOf(name), grow });
    if (grow) await this.open(opened.image, opened.wanted, PLAIN);
  }

  private async open(
    image: Image,
    wanted: readonly Wanted[],
    depth: CheckDepth,
    record?: (machine: Machine) => CallRecorder,
  ): Promise<Opened> {
    this.report.opened += 1;
    return await this.checker.check(image, wanted, depth, record);
  }

  /* -------------------------------------------------------- starts cut short */

  private async again(title: string, image: Image, first: readonly Wanted[]): Promise<void> {
    const timeline = new Timeline();
    const recorders: CallRecorder[] = [];
    const record = (failCall: number) => (machine: Machine) => {
      const recorder = new CallRecorder(machine.simulation.disk("disk"), timeline, failCall);
      recorders.push(recorder);
      return recorder;
    };
    const { wanted } = await this.open(image, first, PLAIN);
    const { startCalls } = await this.open(image, wanted, SETTLED, record(-1));
    const whole = recorders[0]!;
    for (const moment of momentsOf(whole, timeline.next())) {
      for (const remains of remainsOf(moment)) {
        const name = `${title}/${moment.number}/${remains.name}`;
        if (!this.mayHold(name)) continue;
        const { image: left, hash } = imageOf(moment, remains);
        if (!this.isNew(`${title} ${hash}`)) continue;
        await this.guarded(name, `again ${modeOf(remains)}`, async () => {
          await this.open(left, wanted, depthOf(name));
        });
      }
    }
    for (let call = 0; call < whole.calls.length; call++) {
      const name = `${title}/fail/${call}`;
      if (!this.mayHold(name)) continue;
      await this.guarded(name, "again fail", async () => {
        const { verb } = whole.calls[call]!;
        const told = verb !== DiskVerb.Read || call >= startCalls ? isTellable(verb) : isTold;
        await this.failAgain(image, wanted, told, record(call), recorders, timeline);
      });
    }
  }

  /** A start in which one call fails: it refuses, or it is right; and the next one is right. */
  private async failAgain(
    image: Image,
    wanted: readonly Wanted[],
    told: (error: unknown) => boolean,
    record: (machine: Machine) => CallRecorder,
    recorders: CallRecorder[],
    timeline: Timeline,
  ): Promise<void> {
    try {
      await this.open(image, wanted, SETTLED, record);
    } catch (error) {
      if (!told(error)) throw error;
    }
    let last: Moment | null = null;
    for (const moment of momentsOf(recorders.at(-1)!, timeline.next())) last = moment;
    const left = imageOf(last!, { name: "none", kept: [] }).image;
    try {
      await this.open(left, wanted, PLAIN);
    } catch (error) {
      // What could not be read counts as damage, which the next start must know of.
      if (!String(error).includes("Distrusted")) throw error;
    }
  }

  /* ------------------------------------------------------------ failed calls */

  /** One call of a script fails: nothing is acknowledged from then on, all before is there. */
  private async fail(
    title: string,
    name: string,
    seed: number,
    call: number,
    way: FailWay,
  ): Promise<void> {
    let played: Played | null = null;
    await this.guarded(title, `fail ${FailWay[way]}`, async () => {
      played = await this.play(name, seed, call, way);
      const { drive, ended } = played;
      const { verb } = drive.recorder.calls[call]!;
      // The script may have ended while the call was under way.
      drive.machine.simulation.run(drive.machine.simulation.nowUs + AFTERMATH_US);
      const isFailed = drive.owner.failed !== "" || isTold(ended);
      if (verb === DiskVerb.Discard && isFailed) throw new Error("a failed hint was no hint");
      if (mustFail(verb, way) && !isFailed) {
        throw new Error(`a failed ${DiskVerb[verb]} did not fail the device`);
      }
      if (drive.owner.acksAfterFailure > 0) throw new Error("acknowledged after the failure");
    });
    if (played === null || (played as Played).ended instanceof Distrusted) return;
    const { drive, end } = played as Played;
    let last: Moment | null = null;
    for (const moment of momentsOf(drive.recorder, end + 1)) last = moment;
    const failed = last!.loose.findIndex((one) => one.failed);
    for (const remains of remainsOf({ ...last!, submitted: last!.loose[failed] ?? null })) {
      const state = `${title}/${remains.name}`;
      if (!isOfFailure(remains, failed) || !this.mayHold(state)) continue;
      const { image } = imageOf(last!, remains);
      await this.state(state, "after fail", image, wantedAt(drive.groups, end));
    }
  }
}

const ALL_WAYS: readonly FailWay[] = [FailWay.Eio, FailWay.NoSpace, FailWay.Short];

/** A write that had no space waits for some, and is made again; a read, and a hint, fail for themselves. */
function mustFail(verb: DiskVerb, way: FailWay): boolean {
  if (verb === DiskVerb.Read || verb === DiskVerb.Discard) return false;
  return way !== FailWay.NoSpace || verb === DiskVerb.Flush;
}

const PLAIN: CheckDepth = { settle: false, fsck: false, grow: false };
const SETTLED: CheckDepth = { ...PLAIN, settle: true };

/** A fifth of the states is brought home and counted, another one is looked at by fsck. */
function depthOf(name: string): CheckDepth {
  const fraction = fractionOf(`${name}#`);
  return { ...PLAIN, settle: fraction < 0.2, fsck: fraction > 0.8 };
}

/** Whole, not at all, or the failed one in part. */
function isOfFailure(remains: Remains, failed: number): boolean {
  const { torn, name } = remains;
  if (torn === undefined) return name === "none" || name === "all";
  return torn.loose === failed && torn.from === 0 && torn.to % 8 === 4;
}

/** The title without its seed. */
function scriptOf(title: string): string {
  return title.slice(0, title.lastIndexOf("."));
}

function modeOf(remains: Remains): string {
  return remains.name.split(":")[0]!;
}

/** The script met the failure: it was told, or could not even start. */
function isRefusal(error: unknown, drive: Drive): boolean {
  return error instanceof DeviceDown || drive.owner.failed !== "" || isTold(error);
}

/** An error that people read: a start that refuses. */
function isTold(error: unknown): boolean {
  if (error instanceof FastblockError || error instanceof Distrusted) return true;
  const text = String(error);
  return text.includes("Distrusted") || text.includes("device has failed");
}

/** Behind the start a reader is told as well: of a damaged block, of a failed device. */
function isTellable(verb: DiskVerb): (error: unknown) => boolean {
  const text = verb === DiskVerb.Read ? `"state":${BlockState.Damaged}` : "failed";
  return (error) => isTold(error) || String(error).includes(text);
}

/** 0 to 1, a function of the text. */
function fractionOf(text: string): number {
  let hash = 0x811c_9dc5;
  for (let at = 0; at < text.length; at++) {
    hash = Math.imul(hash ^ text.charCodeAt(at), 0x0100_0193);
  }
  hash = Math.imul(hash ^ (hash >>> 15), 0x85eb_ca6b);
  return ((hash ^ (hash >>> 13)) >>> 0) / 4_294_967_296;
}
