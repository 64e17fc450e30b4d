import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Command, type CommandUnknownOpts } from "@commander-js/extra-typings";
import { ERRORS, type ErrorKind } from "../core/base/errors.ts";
import { buildTree, CliContext, type CliPorts } from "../core/cli/cli.ts";
import { benchCommands } from "./bench.ts";
import { devCommands } from "./dev.ts";
import { simCommand } from "./sim.ts";

/**
 * Every command that a hint, a note or the README names is one that the command tree has, with
 * options that it knows: advice that does not work is worse than none.
 */

const ROOT = join(import.meta.dir, "..");
/** Texts that are no advice: names of temporary folders, a version line, shells' own scripts. */
const NOT_ADVICE = /harness\.ts$|completion\.ts$|\.test\.ts$/;
/** The words behind `fastblock`, up to the end of the command or the sentence. */
const CALL = /\bfastblock ([a-z][^"`|;)\n]*)/g;

const tree = newTree();

function newTree(): CommandUnknownOpts {
  const root = new Command("fastblock");
  const ports = { versions: {}, programs: {} } as unknown as CliPorts;
  const never = (): Promise<never> => Promise.reject(new Error("a test runs no program"));
  buildTree(root, new CliContext(ports, root), {
    first: (top, cli) => devCommands(top, cli, never),
    last: (top, cli) => {
      benchCommands(top, cli, never);
      simCommand(top, cli, never);
    },
  });
  return root;
}

/** What is wrong with a call as it is written, prose behind it left out; empty: nothing. */
function faultOf(call: string): string {
  let command: CommandUnknownOpts = tree;
  const words = call.trim().split(/\s+/);
  let at = 0;
  for (; at < words.length; at++) {
    const word = words[at]!.replace(/[.,:]$/, "");
    const child = command.commands.find(
      (one) => one.name() === word || one.aliases().includes(word),
    );
    if (child === undefined) break;
    command = child;
  }
  if (command.commands.length > 0) return `${words[at] ?? "its end"} is no verb`;
  const given = words.slice(at).filter((word) => word.startsWith("--"));
  for (const flag of given) {
    const name = flag.replace(/[=.,].*$/, "");
    const known = [...command.options, ...tree.options].some((one) => one.long === name);
    if (!known && name !== "--help") return `it has no ${name}`;
  }
  const missing = command.options.find(
    (one) =>
      one.mandatory && one.long !== undefined && !given.some((flag) => flag.startsWith(one.long!)),
  );
  return missing === undefined || given.includes("--help") ? "" : `${missing.long!} is missing`;
}

/** Calls within string literals of a source, or within a page of text. */
function callsOf(text: string, isSource: boolean): string[] {
  const lines = isSource
    ? text.split("\n").filter((line) => !/^\s*(\*|\/\/|\/\*)/.test(line) && /["`]/.test(line))
    : text.split("\n");
  return lines.flatMap((line) => [...line.matchAll(CALL)].map((match) => match[1]!));
}

test("the check itself tells what exists from what does not", () => {
  expect(faultOf("pool ls shows the pools")).toBe("");
  expect(faultOf("pool create x --size 3")).toBe("");
  expect(faultOf("op ls.")).toBe("");
  expect(faultOf("pool create x")).toBe("--size is missing");
  expect(faultOf("pool crate x")).toBe("crate is no verb");
  expect(faultOf("pool ls --lots")).toBe("it has no --lots");
  expect(faultOf("scrub")).toBe("scrub is no verb");
});

test("a default is shown as people write it, or not at all", () => {
  const helps: string[] = [];
  const walk = (command: CommandUnknownOpts): void => {
    helps.push(command.helpInformation());
    command.commands.forEach(walk);
  };
  walk(tree);
  expect(helps.length).toBeGreaterThan(40);
  const odd = helps.flatMap(
    (help) => help.match(/<time>.*\(default: \d+\)|\(default:\s+""\)/g) ?? [],
  );
  expect(odd).toEqual([]);
});

test("every hint of an error names commands that exist", () => {
  const hints = Object.values<ErrorKind>(ERRORS).map(({ hint }) => hint);
  const calls = hints.flatMap((hint) => callsOf(hint, false));
  expect(calls.length).toBeGreaterThan(10);
  expect(calls.map((call) => [call, faultOf(call)]).filter(([, fault]) => fault !== "")).toEqual(
    [],
  );
});

test("every command that the sources or the README tell people exists", () => {
  const files = [...new Bun.Glob("{core,cmd}/**/*.ts").scanSync({ cwd: ROOT })].filter(
    (file) => !NOT_ADVICE.test(file),
  );
  const faults: string[] = [];
  let count = 0;
  for (const file of [...files, "README.md", "web/status.html"]) {
    const text = readFileSync(join(ROOT, file), "utf8");
    for (const call of callsOf(text, file.endsWith(".ts"))) {
      // "fastblock is …", `fastblock dev`: prose, and a noun by itself.
      const [noun = "", ...rest] = call.trim().split(/\s+/);
      if (rest.length === 0 || !tree.commands.some((one) => one.name() === noun)) continue;
      count++;
      const fault = faultOf(call);
      if (fault !== "") faults.push(`${file}: fastblock ${call}: ${fault}`);
    }
  }
  expect(count).toBeGreaterThan(40);
  expect(faults).toEqual([]);
});
