import { describe, expect, test } from "bun:test";
import { formatClusterFile, parseClusterFile, parseKeyFile } from "./cluster-file.ts";
import {
  argumentsOf,
  formatDevPlan,
  growPlan,
  makePlan,
  parseDevPlan,
  parsePorts,
  type PlanOptions,
  startScript,
} from "./plan.ts";

const OPTIONS: PlanOptions = {
  clusterId: "01234567-89ab-cdef-0123-456789abcdef",
  osds: 3,
  shards: 2,
  nbds: 1,
  spread: false,
  osdBytes: 1024 ** 3,
  backend: "auto",
  logLevel: "info",
  encrypt: false,
  spreadFirst: 250,
  socketPath: (name) => `/run/${name}.sock`,
};

function picker(): (host: string) => number {
  let port = 10_000;
  return () => port++;
}

describe("plan", () => {
  const plan = makePlan(OPTIONS, picker());

  test("mon first, then osds, then gateways, each with ports of its own", () => {
    expect(plan.processes.map(({ name }) => name)).toEqual([
      "mon.a",
      "osd.0",
      "osd.1",
      "osd.2",
      "nbd.0",
    ]);
    expect(plan.processes[1]!.ports).toEqual({ data: 10_002, "data.1": 10_003 });
    expect(plan.processes[4]!.ports).toEqual({ nbd: 10_008, unix: "/run/nbd.0.sock" });
    const ports = plan.processes
      .flatMap((one) => Object.values(one.ports))
      .filter((port) => typeof port === "number");
    expect(new Set(ports).size).toBe(ports.length);
    expect(plan.cluster.mons[0]!.http.port).toBe(Number(plan.processes[0]!.ports["http"]));
  });

  test("it reads back as it was written", () => {
    expect(parseDevPlan(formatDevPlan(plan), "dev.json")).toEqual(plan);
    expect(parseClusterFile(formatClusterFile(plan.cluster), "x")).toEqual(plan.cluster);
  });

  test("growing keeps what is there and adds osds before the gateways", () => {
    const pick = picker();
    const grown = growPlan(plan, { ...OPTIONS, osds: 4 }, () => pick("") + 5000);
    expect(grown.processes.map(({ name }) => name)).toEqual([
      "mon.a",
      "osd.0",
      "osd.1",
      "osd.2",
      "osd.3",
      "nbd.0",
    ]);
    expect(grown.processes.filter(({ name }) => name !== "osd.3")).toEqual([...plan.processes]);
  });

  test.each<[Partial<PlanOptions>, string]>([
    [{ osds: 2 }, "its --osds is 3, wanted 2"],
    [{ shards: 1 }, "its --shards is 2, wanted 1"],
    [{ nbds: 0 }, "its --nbd is 1, wanted 0"],
    [{ spread: true }, "its --spread is no, wanted yes"],
    [{ osdBytes: 300 * 2 ** 20 }, "its --osd-size is 1 GiB, wanted 300 MiB"],
    [{ osds: 65 }, "counting osds: 65"],
  ])("%p is refused: %s", (change, why) => {
    expect(() => growPlan(plan, { ...OPTIONS, ...change }, picker())).toThrow(why);
  });

  test("osds that are added may have another size; how processes run changes while none does", () => {
    const change = { ...OPTIONS, osds: 4, osdBytes: 300 * 2 ** 20 };
    expect(growPlan(plan, change, picker()).osdBytes).toBe(300 * 2 ** 20);
    for (const [change, why] of [
      [{ backend: "file" }, `its --backend is ${plan.backend}, wanted file`],
      [{ logLevel: "debug" }, `its --log-level is ${plan.logLevel}, wanted debug`],
      [{ encrypt: true }, "its --encrypt is no, wanted yes"],
    ] as const) {
      expect(growPlan(plan, { ...OPTIONS, ...change }, picker())).toMatchObject(change);
      expect(() => growPlan(plan, { ...OPTIONS, ...change }, picker(), true)).toThrow(why);
    }
  });

  test("a spread cluster has an address of its own for each process", () => {
    const spread = makePlan({ ...OPTIONS, spread: true }, picker());
    const addresses = spread.processes.map(({ bind }) => bind);
    expect(addresses).toEqual([
      "127.0.0.250",
      "127.0.0.251",
      "127.0.0.252",
      "127.0.0.253",
      "127.0.0.2",
    ]);
    expect(spread.cluster.mons[0]!.control.host).toBe("127.0.0.250");
  });

  test("G18: every process of an encrypted cluster wants it, and of another none", () => {
    const encrypted = makePlan({ ...OPTIONS, encrypt: true }, picker());
    for (const one of encrypted.processes) {
      expect(argumentsOf(encrypted, one, "/c")).toContain("--encrypt");
      expect(argumentsOf(plan, one, "/c")).not.toContain("--encrypt");
    }
    const { encrypt: _, ...before } = plan;
    expect(argumentsOf(before, plan.processes[1]!, "/c")).not.toContain("--encrypt");
    expect(growPlan(before, OPTIONS, picker(), true).encrypt).toBe(false);
  });

  test("arguments name the cluster, the address, the data and every port", () => {
    const words = argumentsOf(plan, plan.processes[2]!, "/a b");
    expect(words.join(" ")).toBe(
      "osd run --cluster /a b --name osd.1 --bind 127.0.0.1 --log-level info " +
        "--data /a b/osd.1.img --backend auto --id 1 --shards 2 --data-ports 10004,10005",
    );
    expect(argumentsOf(plan, plan.processes[0]!, "/c")).toContain("--http-port");
    for (const one of plan.processes) {
      expect(argumentsOf(plan, one, "/c").join(" ")).toContain("--backend auto");
    }
    expect(argumentsOf(plan, plan.processes[4]!, "/c").slice(0, 3)).toEqual([
      "client",
      "nbd",
      "serve",
    ]);
  });
});

test("a start script survives spaces, quotes and dollars", () => {
  const words = ["printf", "%s|", "a b", "it's", "$HOME", "`x`", "\\", ""];
  const shell = Bun.spawnSync(["sh", "-c", startScript(words).replace("#!/bin/sh\n", "")]);
  expect(shell.stdout.toString()).toBe("a b|it's|$HOME|`x`|\\||");
});

test("ports are numbers, but for the paths of sockets", () => {
  expect(parsePorts("control=1\nhttp=2\nunix=/a=b\n\nx\n")).toEqual({
    control: 1,
    http: 2,
    unix: "/a=b",
  });
});

describe("cluster.json and cluster.key", () => {
  const good = {
    clusterId: OPTIONS.clusterId,
    name: "dev",
    mons: [
      {
        name: "mon.a",
        control: { host: "127.0.0.1", port: 1 },
        http: { host: "127.0.0.1", port: 2 },
      },
    ],
  };

  test.each<[string, unknown, string]>([
    ["a list", [], "not an object"],
    ["no id", { ...good, clusterId: "x" }, "clusterId is not a uuid"],
    ["no mons", { ...good, mons: [] }, "mons is empty"],
    ["a bad port", { ...good, mons: [{ ...good.mons[0], http: { host: "x", port: 0 } }] }, "port"],
    ["no address", { ...good, mons: [{ name: "mon.a" }] }, "address is missing"],
  ])("%s is refused", (_name, value, why) => {
    expect(() => parseClusterFile(JSON.stringify(value), "c.json")).toThrow(why);
  });

  test("damaged text names the file", () => {
    expect(() => parseClusterFile("{", "/d/cluster.json")).toThrow("reading /d/cluster.json");
  });

  test("a key is 64 hexadecimal digits", () => {
    expect(parseKeyFile(`${"0a".repeat(32)}\n`, "k")).toEqual(new Uint8Array(32).fill(10));
    for (const text of ["", "0a", "zz".repeat(32)]) {
      expect(() => parseKeyFile(text, "k")).toThrow("not 64 hexadecimal digits");
    }
  });
});
