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

test("a status is on the ring when osds and clients are there and each is uring", () => {
  const status = (osds: object, clients: object): string => {
    const backends = { mons: { file: 1 }, osds, clients };
    return JSON.stringify({ backend: "uring", backends }, undefined, 2);
  };
  expect(isOnRing(status({ uring: 3 }, { uring: 1 }))).toBe(true);
  expect(isOnRing(status({ uring: 2, file: 1 }, { uring: 1 }))).toBe(false);
  expect(isOnRing(status({ uring: 3 }, { file: 1 }))).toBe(false);
  expect(isOnRing(status({ uring: 3 }, {}))).toBe(false);
  expect(isOnRing('{"backend":"uring"}')).toBe(false);
});
