import { Argument, type CommandUnknownOpts } from "@commander-js/extra-typings";
import { ERRORS, FastblockError } from "../base/errors.ts";
import { complete, COMPLETION_SHELLS, completionScript, formatCandidates } from "./completion.ts";
import type { CliContext } from "./context.ts";
import { explain } from "./failure.ts";
import type { Row } from "./output.ts";

/** The most time that completion spends on asking the mon. */
const LIVE_MS_MAX = 300;

/** `explain`, `version`, `completion` and the hidden command that completion calls. */
export function selfCommands(root: CommandUnknownOpts, cli: CliContext): void {
  root
    .command("explain")
    .description("Say what an error code means, and what to do; without a code: list them")
    .helpGroup("Look:")
    .argument("[CODE]", "like FB2001")
    .action((code) => {
      if (code !== undefined)
        return cli.object(
          () => Promise.resolve(explain(code)),
          () => code,
        );
      const rows = Object.keys(ERRORS).map((one) => explain(one));
      return cli.rows(
        () => Promise.resolve(rows),
        [
          { name: "code" },
          { name: "exit", right: true },
          { name: "title" },
          { name: "hint", wide: true },
        ],
        (row) => String(row["code"]),
      );
    });
  root
    .command("version")
    .description("Show the version of this program")
    .helpGroup("Self:")
    .action(async () => {
      const { versions } = cli.ports;
      const { output, verbose } = cli.globals;
      if (verbose || (output !== "table" && output !== "wide")) {
        await cli.object(
          () => Promise.resolve(versions),
          () => versions["fastblock"] ?? "",
        );
      } else {
        cli.ports.out(`fastblock ${versions["fastblock"] ?? ""}\n`);
      }
    });
  root
    .command("completion")
    .description("Print a completion script: source <(fastblock completion bash)")
    .helpGroup("Self:")
    .addArgument(new Argument("<SHELL>").choices(COMPLETION_SHELLS))
    .action((shell) => cli.ports.out(completionScript(shell)));
  root
    .command("help")
    .description("Show how a command is called")
    .helpGroup("Self:")
    .argument("[COMMAND...]", "like image create")
    .action((words) => commandAt(root, words).help());
  root
    .command("__complete", { hidden: true })
    .argument("[words...]")
    .allowUnknownOption()
    .action(async (words) => {
      const live = { names: (kind: string) => liveNames(cli, kind) };
      cli.ports.out(formatCandidates(await complete(root, words, live)));
    });
}

/** The command that words lead to, by names and aliases. Throws FB1001. */
function commandAt(root: CommandUnknownOpts, words: readonly string[]): CommandUnknownOpts {
  let command = root;
  for (const word of words) {
    const below = root.createHelp().visibleCommands(command);
    const next = below.find((one) => one.name() === word || one.aliases().includes(word));
    if (next === undefined) {
      const names = below.map((one) => one.name()).join(", ");
      const where = command === root ? "fastblock" : command.name();
      const wanted = names === "" ? "no more words" : names;
      const message = `showing help: ${where} has no command ${word}, wanted ${wanted}`;
      throw new FastblockError("FB1001", message);
    }
    command = next;
  }
  return command;
}

/** Names of things in the cluster; none when the mon is silent: completion never complains. */
async function liveNames(cli: CliContext, kind: string): Promise<readonly string[]> {
  try {
    const api = cli.api(LIVE_MS_MAX);
    switch (kind) {
      case "POOL":
        return named(await api.list("/pools"), "name");
      case "POOL/IMAGE":
        return named(await api.list("/images"), "path");
      case "OSD":
        return (await api.list("/osds")).map((osd) => `osd.${String(osd["id"])}`);
      case "PG":
        return named(await api.list("/pgs"), "id");
      case "OPERATION":
        return named(await api.list("/operations"), "id");
      default:
        return [];
    }
  } catch {
    return [];
  }
}

function named(rows: readonly Row[], key: string): string[] {
  return rows.map((row) => String(row[key]));
}
