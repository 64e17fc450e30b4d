import { expect, test } from "bun:test";
import { isOnRing, subcommands } from "./smoke.ts";

test("subcommands are read from the sections that list them", () => {
  const help = `Usage: fastblock pool [options] [command]

Work with pools

Options:
  -h, --help             display help

Data:
  create [options] <name>  Create a pool
  ls|list                  List pools
  rm <name>                Remove a pool:
  help [command]           display help for command

Global options:
  output <o>              not a command

Examples:
  fastblock pool create a
`;
  expect(subcommands(help)).toEqual(["create", "ls", "rm"]);
});

test("a status is on the ring when it names backends and each is uring", () => {
  expect(isOnRing('{"processes":[{"backend":"uring"},{"backend": "uring"}]}')).toBe(true);
  expect(isOnRing('{"processes":[{"backend":"uring"},{"backend":"file"}]}')).toBe(false);
  expect(isOnRing('{"processes":[]}')).toBe(false);
});
