import { type CommandUnknownOpts, Option } from "@commander-js/extra-typings";
import {
  type CliContext,
  type Column,
  counted,
  parseDirectory,
  parseSize,
  parseWhole,
  type Row,
  SCRIPT_HELP,
} from "../core/cli/cli.ts";
import type { DevPrograms, DevStatus } from "../core/dev/dev.ts";

const BACKENDS = ["auto", "uring", "file"] as const;
const LEVELS = ["debug", "info", "warn", "error"] as const;

/** `fastblock dev …`; the programs are loaded when one is called. */
export function devCommands(
  root: CommandUnknownOpts,
  cli: CliContext,
  load: () => Promise<DevPrograms>,
): void {
  const dev = root
    .command("dev")
    .description("A whole cluster on this machine, without root; its data stays")
    .helpGroup("Start:");
  dev
    .command("up")
    .description("start a mon, osds and an NBD gateway; serve until Ctrl-C")
    .option("--dir <dir>", "cluster directory", parseDirectory)
    .option("--osds <count>", "osds (default 3)", count("--osds"))
    .option("--shards <count>", "reactors of each osd (default 1)", count("--shards"))
    .option("--nbd <count>", "NBD gateways (default 1)", (text) => parseWhole(text, "--nbd", 0, 16))
    .option("--spread", "give each process its own 127.0.0.x")
    .option("--osd-size <size>", "size of each osd's sparse file (default 8GiB)", parseSize)
    .addOption(new Option("--backend <backend>", "what carries disk and network").choices(BACKENDS))
    .addOption(new Option("--log-level <level>", "least to log").choices(LEVELS))
    .option("--encrypt", "encrypt all connections between the processes")
    .option("--no-encrypt", "no longer: sign them (the default)")
    .option("--demo", "make demo/disk1, and run a short verified load on it")
    .option("--detach", "return when it serves")
    .addHelpText("after", "\nExample:\n  fastblock dev up --dir /tmp/fb --osds 3 --detach")
    .action(async (options) => {
      const { osds, shards, spread, backend, logLevel, encrypt } = options;
      cli.exitCode = await (await load()).up({
        directory: directoryOf(cli, options.dir),
        ...{ osds, shards, spread, backend, logLevel, encrypt },
        nbds: options.nbd,
        osdBytes: options.osdSize,
        demo: options.demo === true,
        detach: options.detach === true,
        quiet: cli.globals.quiet,
      });
    });
  dev
    .command("down")
    .description("stop the cluster; its data stays")
    .option("--dir <dir>", "cluster directory", parseDirectory)
    .action(async (options) => {
      const directory = directoryOf(cli, options.dir);
      const stopped = await (await load()).down({ directory });
      cli.say(
        stopped === 0 ? "nothing ran" : `${counted(stopped, "process", "processes")} stopped`,
      );
    });
  dev
    .command("status")
    .description("show the processes of the cluster")
    .option("--dir <dir>", "cluster directory", parseDirectory)
    .action((options) => devStatus(cli, load, directoryOf(cli, options.dir)));
  dev
    .command("reset")
    .description("stop the cluster and remove it with its data")
    .option("--dir <dir>", "cluster directory", parseDirectory)
    .addHelpText("after", `\nAsks for the word reset. ${SCRIPT_HELP}`)
    .action(async (options) => {
      const directory = directoryOf(cli, options.dir);
      const programs = await load();
      programs.find({ directory });
      await cli.confirm(`removing the cluster in ${directory}`, "reset");
      await programs.reset({ directory });
      cli.say(`the cluster in ${directory} is removed`);
    });
}

async function devStatus(
  cli: CliContext,
  load: () => Promise<DevPrograms>,
  directory: string,
): Promise<void> {
  const { output } = cli.globals;
  const read = (): Promise<DevStatus> => load().then((programs) => programs.status({ directory }));
  if (output !== "table" && output !== "wide") {
    await cli.object(
      async () => ({ ...(await read()) }),
      () => directory,
    );
    return;
  }
  let status: DevStatus | undefined;
  await cli.rows(
    async () => {
      status = await read();
      return status.processes.map((process) => ({ ...process }));
    },
    PROCESS_COLUMNS,
    (row) => String(row["name"]),
  );
  if (status === undefined) return;
  const state = !status.serving
    ? "not serving"
    : status.missing.length === 0
      ? "serving"
      : `degraded, without ${status.missing.join(", ")}`;
  cli.say(`\n${state}  ${status.http}  ${status.nbd.join(" ")}`);
}

const PROCESS_COLUMNS: readonly Column[] = [
  { name: "name" },
  { name: "running" },
  { name: "pid", right: true, show: (pid) => (pid === 0 ? "-" : String(pid)) },
  { name: "address" },
  { name: "ports", show: portsText },
];

function portsText(value: unknown): string {
  const ports = value as Row;
  return Object.entries(ports)
    .map(([role, port]) => `${role}=${String(port)}`)
    .join(" ");
}

function directoryOf(cli: CliContext, flag: string | undefined): string {
  return flag ?? cli.globals.cluster;
}

function count(flag: string): (text: string) => number {
  return (text) => parseWhole(text, flag, 1, 64);
}
