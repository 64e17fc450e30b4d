import type { CommandUnknownOpts } from "@commander-js/extra-typings";
import { FastblockError } from "../base/errors.ts";
import { Api } from "./api.ts";
import {
  type Column,
  type Format,
  FORMATS,
  renderObject,
  renderRows,
  type Renderers,
  type Row,
  type Shaping,
} from "./output.ts";
import type { BackendChoice, CliPorts } from "./ports.ts";
import type { Bar } from "./progress.ts";
import { durationMsOf } from "./units.ts";

/** Options that every command takes, before or after its own words. */
export interface Globals {
  readonly output: Format;
  readonly cluster: string;
  readonly api: string;
  readonly columns: readonly string[] | undefined;
  readonly sort: string | undefined;
  readonly filters: readonly string[];
  /** Milliseconds between two passes; 0: once. */
  readonly watchMs: number;
  readonly yes: boolean;
  readonly wait: boolean;
  /** Check every change, and change nothing. */
  readonly dryRun: boolean;
  readonly timeoutMs: number;
  readonly quiet: boolean;
  readonly verbose: boolean;
}

const WATCH_MS_DEFAULT = 2000;
const OPERATION_LOOK_MS = 200;
/** For the help of what destroys data. */
export const SCRIPT_HELP = "Where there is no terminal, --yes is needed.";

/** What the body of a command works with: globals, the mon, and the two outputs. */
export class CliContext {
  readonly ports: CliPorts;
  /** The code that the process exits with when the command ends without an error. */
  exitCode = 0;
  /** A role runs in this process: it ends by itself. */
  serving = false;
  private readonly root: CommandUnknownOpts;
  private readonly renderers: Renderers;

  constructor(ports: CliPorts, root: CommandUnknownOpts) {
    this.ports = ports;
    this.root = root;
    this.renderers = {
      yaml: (value) => ports.yaml(value),
      table: async (headings, rows, right) => {
        const { renderTable } = await import("./table.ts");
        return renderTable(
          headings.map((heading) => heading),
          rows,
          right,
        );
      },
    };
  }

  get globals(): Globals {
    const options = this.root.opts();
    const watch: unknown = options["watch"];
    return {
      output: FORMATS.find((format) => format === options["output"]) ?? "table",
      cluster: textOf(options["cluster"]) ?? this.ports.directoryDefault,
      api: textOf(options["api"]) ?? "",
      columns: textOf(options["columns"])
        ?.split(",")
        .map((name) => name.trim()),
      sort: textOf(options["sort"]),
      filters: Array.isArray(options["filter"]) ? options["filter"].map(String) : [],
      watchMs:
        watch === undefined
          ? 0
          : typeof watch === "string"
            ? Math.max(100, durationMsOf(watch, "--watch"))
            : WATCH_MS_DEFAULT,
      yes: options["yes"] === true,
      wait: options["wait"] !== false,
      dryRun: options["dryRun"] === true,
      timeoutMs: durationMsOf(textOf(options["timeout"]) ?? "30s", "--timeout"),
      quiet: options["quiet"] === true,
      verbose: options["verbose"] === true,
    };
  }

  /** The mon of this cluster. Throws FB1005 when the directory holds none. */
  api(timeoutMs = this.globals.timeoutMs): Api {
    const { api, cluster } = this.globals;
    const options = { timeoutMs, dryRun: this.globals.dryRun };
    if (api !== "") return new Api(this.ports, [api], options);
    const mons = this.ports.readMons(cluster);
    const bases = mons.map(({ host, port }) => `http://${hostText(host)}:${port}`);
    return new Api(this.ports, bases, options);
  }

  /**
   * The backend of a command's reactor and of all osds: one word when they agree, else `mixed`.
   * `own`: of the command. Throws FB1004, FB1006.
   */
  async backendWith(own: string): Promise<string> {
    const { backend } = await this.api().object("/status");
    return backend === own ? own : "mixed";
  }

  /** The directory that holds cluster.json and the key. Throws FB1005. */
  directory(): string {
    const { cluster } = this.globals;
    this.ports.readMons(cluster);
    return cluster;
  }

  /** Print rows; again and again with `--watch`. */
  async rows(
    fetchRows: () => Promise<readonly Row[]>,
    columns: readonly Column[],
    nameOf: (row: Row) => string,
  ): Promise<void> {
    await this.repeat(async () =>
      renderRows(await fetchRows(), columns, nameOf, this.shaping(), this.renderers),
    );
  }

  /** What shows one object has no columns and no rows to choose. Throws FB1001. */
  refuseListFlags(): void {
    const { columns, sort, filters } = this.globals;
    const given = [
      ...(columns === undefined ? [] : ["--columns"]),
      ...(sort === undefined ? [] : ["--sort"]),
      ...(filters.length === 0 ? [] : ["--filter"]),
    ];
    if (given.length === 0) return;
    const message = `showing one object: ${given.join(", ")}, wanted none of the flags of lists`;
    throw new FastblockError("FB1001", message, { hint: "leave it out, or take a list: ls" });
  }

  /** Print one object; again and again with `--watch`. */
  async object(
    fetchObject: () => Promise<Row>,
    nameOf: (row: Row) => string,
    columns: readonly Column[] = [],
  ): Promise<void> {
    this.refuseListFlags();
    await this.repeat(async () => {
      const object = await fetchObject();
      return renderObject(object, nameOf(object), this.shaping(), this.renderers, columns);
    });
  }

  /** Print one object, for people as `text` puts it; again and again with `--watch`. */
  async page(
    fetchObject: () => Promise<Row>,
    text: (object: Row) => string,
    nameOf: (object: Row) => string,
  ): Promise<void> {
    this.refuseListFlags();
    await this.repeat(async () => {
      const object = await fetchObject();
      const shaping = this.shaping();
      if (shaping.format === "table" || shaping.format === "wide") return text(object);
      return renderObject(object, nameOf(object), shaping, this.renderers);
    });
  }

  /** What a command that changes something says: the object as data for machines, else words. */
  async changed(object: Row, name: string, words: string): Promise<void> {
    const { output } = this.globals;
    if (output === "table" || output === "wide") {
      this.say(this.globals.dryRun ? `dry run, nothing changed: ${words}` : words);
    } else this.ports.out(await renderObject(object, name, this.shaping(), this.renderers));
  }

  /** Words for people, unless `-q`. */
  say(words: string): void {
    if (!this.globals.quiet) this.ports.err(words.endsWith("\n") ? words : `${words}\n`);
  }

  /** Whether a bar may be drawn. */
  get progress(): boolean {
    return this.ports.errIsTty && !this.globals.quiet;
  }

  /** A progress bar, which shows nothing without a terminal. */
  async bar(label: string): Promise<Bar> {
    if (!this.progress) return { at() {}, end() {} };
    const { drawnBar } = await import("./progress.ts");
    return drawnBar(label);
  }

  /**
   * Ask a person to type the name of what is destroyed. Where there is no terminal nobody can be
   * asked: a script states its intent with `--yes`. Throws FB1013.
   */
  async confirm(what: string, name: string): Promise<void> {
    if (this.globals.yes || this.globals.dryRun) return;
    if (!this.ports.errIsTty || !this.ports.outIsTty) {
      throw new FastblockError("FB1013", `${what}: no terminal to ask on, wanted --yes`);
    }
    const answer = await this.ports.ask(`${what}: its data is lost. Type ${name} to go on: `);
    if (answer.trim() === name) return;
    throw new FastblockError("FB1013", `${what}: not confirmed, wanted ${name}`);
  }

  /**
   * Look at what goes on by itself until it is done, with a bar, unless `--no-wait`. Throws FB1006
   * when it takes longer than a `--timeout` that was given; without one it may take for ever.
   */
  async until(what: string, look: () => Promise<Stage>): Promise<void> {
    if (!this.globals.wait || this.globals.dryRun) return;
    const isGiven = this.root.getOptionValueSource("timeout") === "cli";
    const endMs =
      this.ports.nowMs() + (isGiven ? this.globals.timeoutMs : Number.POSITIVE_INFINITY);
    const bar = await this.bar(what);
    try {
      for (;;) {
        const { done, total, note, goesOn } = await look();
        if (done >= total) return;
        bar.at(done, total, note);
        if (this.ports.nowMs() >= endMs) {
          const hint = `it goes on: ${goesOn}`;
          throw new FastblockError("FB1006", `${what}: ${done} of ${total} done, wanted all`, {
            hint,
          });
        }
        await this.ports.sleep(OPERATION_LOOK_MS);
      }
    } finally {
      bar.end();
    }
  }

  /**
   * Wait for the operation that a reply names, if any, unless `--no-wait`. Answers the finished
   * operation. Throws FB1006 when it takes longer than `--timeout`, FB5001 when it failed.
   */
  async operation(reply: Row): Promise<Row> {
    const id = operationIdOf(reply);
    if (id === undefined || this.globals.dryRun) return reply;
    if (!this.globals.wait) {
      this.say(`operation ${id} goes on: fastblock op wait ${id}`);
      return reply;
    }
    return await this.waitOperation(id);
  }

  async waitOperation(id: string): Promise<Row> {
    const bar = await this.bar("waiting");
    try {
      return await this.waitWith(bar, id);
    } finally {
      bar.end();
    }
  }

  private async waitWith(bar: Bar, id: string): Promise<Row> {
    const api = this.api();
    const endMs = this.ports.nowMs() + this.globals.timeoutMs;
    for (;;) {
      const operation = await api.object(`/operations/${encodeURIComponent(id)}`);
      bar.at(Number(operation["done"]), Number(operation["total"]), textOf(operation["title"]));
      const state = operation["state"];
      if (state === "done") return operation;
      if (state === "failed" || state === "cancelled") {
        const why = textOf(operation["error"]);
        throw new FastblockError(
          "FB5001",
          `operation ${id}: ${String(state)}, wanted done`,
          why === undefined ? {} : { why },
        );
      }
      if (this.ports.nowMs() >= endMs) {
        throw new FastblockError("FB1006", `operation ${id}: ${String(state)}, wanted done`, {
          hint: `it goes on: fastblock op wait ${id}`,
        });
      }
      await this.ports.sleep(OPERATION_LOOK_MS);
    }
  }

  private async repeat(render: () => Promise<string>): Promise<void> {
    const { watchMs } = this.globals;
    for (let pass = 0; ; pass++) {
      const text = await render();
      if (watchMs > 0 && this.ports.outIsTty) this.ports.out("\u001b[H\u001b[2J");
      else if (pass > 0) this.ports.out("\n");
      this.ports.out(text);
      if (watchMs === 0) return;
      await this.ports.sleep(watchMs);
    }
  }

  private shaping(): Shaping {
    const { output, columns, sort, filters } = this.globals;
    return { format: output, columns, sort, filters };
  }
}

/** How far something is. */
export interface Stage {
  readonly done: number;
  /** Equal to `done`: it is through. */
  readonly total: number;
  readonly note: string;
  /** The command that shows it later. */
  readonly goesOn: string;
}

/** The id of the operation that a reply is, or names. */
function operationIdOf(reply: Row): string | undefined {
  const { kind, state } = reply;
  if (typeof kind === "string" && typeof state === "string") return String(reply["id"]);
  const nested = reply["operation"];
  const id =
    typeof nested === "object" && nested !== null
      ? (nested as Row)["id"]
      : (nested ?? reply["operationId"]);
  return typeof id === "string" || typeof id === "number" ? String(id) : undefined;
}

/** Narrow the text of `--backend`. */
export function backendOf(text: string): BackendChoice {
  return text === "uring" || text === "file" ? text : "auto";
}

/** An IPv6 address needs brackets in a URL. */
function hostText(host: string): string {
  return host.includes(":") ? `[${host}]` : host;
}

function textOf(value: unknown): string | undefined {
  return typeof value === "string" && value !== "" ? value : undefined;
}
