import { describe, expect, test } from "bun:test";
import type { FormatRange } from "../base/formats.ts";
import { Prng } from "../base/prng.ts";
import { Status } from "../base/status.ts";
import { Simulation } from "../reactor/reactor.ts";
import { CLIENT, KEY, NotingHandler, NotingOp, OSD, TO_OSD } from "./bun-test-ends.ts";
import { Method, RpcEndpoint } from "./rpc.ts";

const PORT = 6800;

/** A client and an osd under cuts and resets; what became of each request. */
function run(seed: number): { trace: string; outcomes: Record<string, number> } {
  const simulation = new Simulation(seed);
  const prng = new Prng(seed);
  const osdWorld = simulation.createWorld("osd", "10.0.0.1");
  const clientWorld = simulation.createWorld("client", "10.0.0.2");
  const server = new NotingHandler(osdWorld);
  const client = new NotingHandler(clientWorld);
  const osd = new RpcEndpoint(osdWorld, OSD, KEY);
  osd.listen({ kind: "tcp", host: "10.0.0.1", port: PORT }, () => server);
  const dialler = new RpcEndpoint(clientWorld, CLIENT, KEY);
  const target = { kind: "tcp", host: "10.0.0.1", port: PORT } as const;
  osdWorld.start();
  clientWorld.start();
  const connection = dialler.dial(target, TO_OSD, client);
  const ops: { op: NotingOp; number: number }[] = [];
  const act = (step: number): void => {
    if (step === 400) return;
    const dice = prng.below(40);
    if (dice === 1) simulation.cut("10.0.0.1", "10.0.0.2");
    if (dice === 2) simulation.cut("10.0.0.2", "10.0.0.1");
    if (dice > 36) simulation.heal();
    const op = new NotingOp(clientWorld);
    const at = connection.beginRequest(op, Method.Echo, 4, prng.below(3) * 4096, 200_000);
    if (at >= 0) {
      clientWorld.arena.view.setUint32(at, step, true);
      connection.finish();
      clientWorld.turns.again();
      ops.push({ op, number: step });
    }
    if (dice === 3) simulation.after(60, () => simulation.reset("10.0.0.1", "10.0.0.2"));
    simulation.after(prng.below(50_000), () => act(step + 1));
  };
  simulation.after(100_000, () => act(0));
  simulation.run(simulation.nowUs + 30_000_000);
  simulation.heal();
  const settled = simulation.run(() => ops.every(({ op }) => op.status !== null), 60_000_000);
  expect({ seed, settled }).toEqual({ seed, settled: true });
  for (const { op, number } of ops) {
    if (op.status !== Status.Ok) continue;
    expect({ seed, answer: new DataView(op.header.buffer).getUint32(0, true) }).toEqual({
      seed,
      answer: number,
    });
  }
  const open = simulation.run(() => connection.isOpen, 60_000_000);
  expect({ seed, open }).toEqual({ seed, open: true });
  expect(server.requests).toBeLessThanOrEqual(ops.length);
  const outcomes: Record<string, number> = {};
  for (const { op } of ops) {
    const name = Status[op.status!]!;
    outcomes[name] = (outcomes[name] ?? 0) + 1;
  }
  return { trace: simulation.traceHash, outcomes };
}

describe("cuts and resets", () => {
  test.each([1, 2, 3, 4, 5, 6, 7, 8])("seed %d: every request ends once, rightly", (seed) => {
    const { outcomes } = run(seed);
    expect(outcomes["Ok"]).toBeGreaterThan(20);
    expect(outcomes["TimedOut"]).toBeGreaterThan(0);
    expect(outcomes["Unreachable"]).toBeGreaterThan(0);
  });

  test("a seed runs the same way twice", () => {
    expect(run(77)).toEqual(run(77));
  });
});

test("a process whose machine lost power is silent, and dropped", () => {
  const simulation = new Simulation(3);
  const osdWorld = simulation.createWorld("osd", "10.0.0.1");
  const clientWorld = simulation.createWorld("client", "10.0.0.2");
  const server = new NotingHandler(osdWorld);
  const client = new NotingHandler(clientWorld);
  const osd = new RpcEndpoint(osdWorld, OSD, KEY);
  osd.listen({ kind: "tcp", host: "10.0.0.1", port: PORT }, () => server);
  const dialler = new RpcEndpoint(clientWorld, CLIENT, KEY);
  osdWorld.start();
  clientWorld.start();
  const target = { kind: "tcp", host: "10.0.0.1", port: PORT } as const;
  const connection = dialler.dial(target, TO_OSD, client);
  expect(simulation.run(() => connection.isOpen)).toBe(true);
  osdWorld.powerCut();
  expect(simulation.run(() => client.events.length > 1, 25_000_000)).toBe(true);
  expect(client.events[1]).toContain("silent");
});

describe("G17: formats", () => {
  const TARGET = { kind: "tcp", host: "10.0.0.1", port: PORT } as const;
  const OLD = { min: 2, max: 2 };
  const NEXT = { min: 2, max: 3 };

  /** An osd of a cluster that is at `wanted`, as far as it knows, and a client. */
  function meet(osd: FormatRange, wanted: number, client: FormatRange, clientWanted = 0) {
    const simulation = new Simulation(5);
    const osdWorld = simulation.createWorld("osd", "10.0.0.1");
    const clientWorld = simulation.createWorld("client", "10.0.0.2");
    const formats = { range: osd, wanted };
    const server = new RpcEndpoint(osdWorld, { ...OSD, formats }, KEY);
    server.listen(TARGET, () => new NotingHandler(osdWorld));
    const own = { range: client, wanted: clientWanted };
    const dialler = new RpcEndpoint(clientWorld, { ...CLIENT, formats: own }, KEY);
    osdWorld.start();
    clientWorld.start();
    const connection = dialler.dial(TARGET, TO_OSD, new NotingHandler(clientWorld));
    simulation.run(simulation.nowUs + 3_000_000);
    return { simulation, server, connection };
  }

  test.each([
    ["both know more than the cluster has", NEXT, 2, NEXT, 2, ""],
    ["the client knows no more than the cluster has", NEXT, 2, OLD, 0, ""],
    ["the osd knows no more than the cluster has", OLD, 2, NEXT, 2, ""],
    [
      "the client is too old",
      NEXT,
      3,
      OLD,
      0,
      "too old: it knows formats up to 2, the cluster has 3",
    ],
    [
      "the osd is too old",
      OLD,
      2,
      NEXT,
      3,
      "too new: its cluster has format 3, this program knows 2",
    ],
    ["the client writes what the osd does not know", OLD, 2, { min: 3, max: 4 }, 0, "too new"],
  ])("%s", (_what, osd, wanted, client, clientWanted, reason) => {
    const { connection } = meet(osd, wanted, client, clientWanted);
    expect(connection.isOpen).toBe(reason === "");
    expect(connection.handshakeRefusal).toContain(reason);
  });

  test.each([
    [OLD, false],
    [NEXT, true],
  ])("whoever does not know the next format is gone when it is wanted: %o", (client, stays) => {
    const { simulation, server, connection } = meet(NEXT, 2, client);
    expect(connection.isOpen).toBe(true);
    server.wantFormat(3);
    simulation.run(simulation.nowUs + 3_000_000);
    expect(connection.isOpen).toBe(stays);
    expect(connection.generation).toBe(1);
  });
});
