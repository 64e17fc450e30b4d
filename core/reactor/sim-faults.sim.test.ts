import { drainMicrotasks } from "bun:jsc";
import { describe, expect, test } from "bun:test";
import { fillPattern, hasPattern, NotingHandler } from "./conformance.ts";
import { Simulation, SimulationError, type SimWorld } from "./reactor.ts";
import {
  type Acceptor,
  CallbackTimer,
  type Disk,
  DiskOp,
  DiskVerb,
  type Stream,
  Timer,
} from "./world.ts";

class Op extends DiskOp {
  done = false;
  onDone(): void {
    this.done = true;
  }
}

function submit(
  disk: Disk,
  verb: DiskVerb,
  arenaOffset: number,
  offsetBytes: number,
  lengthBytes: number,
): Op {
  const op = new Op();
  op.verb = verb;
  op.arenaOffset = arenaOffset;
  op.offsetBytes = offsetBytes;
  op.lengthBytes = lengthBytes;
  disk.submit(op);
  return op;
}

function begin(simulation: Simulation, name: string, address: string): SimWorld {
  const world = simulation.createWorld(name, address, { arenaBytes: 16 * 1_048_576 });
  world.start();
  return world;
}

/** Write `stamp` over one block and wait. */
function writeBlock(
  simulation: Simulation,
  world: SimWorld,
  disk: Disk,
  verb: DiskVerb,
  block: number,
  stamp: number,
): void {
  const memory = world.slots.take(4096);
  fillPattern(world.arena.bytes, memory, 4096, stamp);
  const op = submit(disk, verb, memory, block * 4096, 4096);
  expect(simulation.run(() => op.done)).toBe(true);
  expect(op.errno).toBe(0);
  world.slots.release(memory);
}

function flush(simulation: Simulation, disk: Disk): void {
  const op = submit(disk, DiskVerb.Flush, 0, 0, 0);
  expect(simulation.run(() => op.done)).toBe(true);
}

const MIB = 1_048_576;

describe("simulated device", () => {
  test("a crash keeps durable and flushed writes and mixes the others by sector", () => {
    const seen = { old: 0, fresh: 0, mixed: 0 };
    for (let seed = 1; seed <= 60; seed++) {
      const simulation = new Simulation(seed);
      const world = begin(simulation, "osd.0", "10.0.0.1");
      const disk = world.disks.open("osd.0/disk", { createBytes: MIB });
      const file = simulation.disk("osd.0/disk");
      for (const block of [0, 1, 2]) {
        writeBlock(simulation, world, disk, DiskVerb.Write, block, 1);
      }
      flush(simulation, disk);
      writeBlock(simulation, world, disk, DiskVerb.Write, 0, 2);
      writeBlock(simulation, world, disk, DiskVerb.WriteDurable, 1, 2);
      expect(hasPattern(file.peek(0, 4096), 0, 4096, 2)).toBe(true);
      world.crash();
      expect(hasPattern(file.peek(4096, 4096), 0, 4096, 2)).toBe(true);
      expect(hasPattern(file.peek(8192, 4096), 0, 4096, 1)).toBe(true);
      const block = file.peek(0, 4096);
      if (hasPattern(block, 0, 4096, 1)) seen.old += 1;
      else if (hasPattern(block, 0, 4096, 2)) seen.fresh += 1;
      else seen.mixed += 1;
      const again = begin(simulation, "osd.0", "10.0.0.1");
      const reopened = again.disks.open("osd.0/disk", {});
      const memory = again.slots.take(4096);
      const read = submit(reopened, DiskVerb.Read, memory, 4096, 4096);
      expect(simulation.run(() => read.done)).toBe(true);
      expect(hasPattern(again.arena.bytes, memory, 4096, 2)).toBe(true);
    }
    expect(seen.old).toBeGreaterThan(0);
    expect(seen.fresh).toBeGreaterThan(0);
    expect(seen.mixed).toBeGreaterThan(0);
  });

  test("a flush covers what was completed before it was submitted, and no more", () => {
    let lost = 0;
    for (let seed = 1; seed <= 40; seed++) {
      const simulation = new Simulation(seed);
      const world = begin(simulation, "osd.0", "10.0.0.1");
      const disk = world.disks.open("disk", { createBytes: MIB });
      writeBlock(simulation, world, disk, DiskVerb.Write, 0, 1);
      const barrier = submit(disk, DiskVerb.Flush, 0, 0, 0);
      const memory = world.slots.take(4096);
      fillPattern(world.arena.bytes, memory, 4096, 2);
      const later = submit(disk, DiskVerb.Write, memory, 4096, 4096);
      expect(simulation.run(() => barrier.done && later.done)).toBe(true);
      world.crash();
      const file = simulation.disk("disk");
      expect(hasPattern(file.peek(0, 4096), 0, 4096, 1)).toBe(true);
      if (!hasPattern(file.peek(4096, 4096), 0, 4096, 2)) lost += 1;
    }
    expect(lost).toBeGreaterThan(0);
  });

  test("a power cut keeps, as a whole, those writes on their way that it is told to", () => {
    const simulation = new Simulation(3);
    const world = begin(simulation, "osd.0", "10.0.0.1");
    const disk = world.disks.open("disk", { createBytes: MIB });
    const memory = world.slots.take(8192);
    for (const at of [0, 1]) {
      const from = memory + at * 4096;
      fillPattern(world.arena.bytes, from, 4096, at + 1);
      submit(disk, DiskVerb.WriteDurable, from, at * 4096, 4096);
    }
    const [first, second] = world.flying("disk");
    expect([first!.offsetBytes, second!.offsetBytes]).toEqual([0, 4096]);
    expect(second!.lengthBytes).toBe(4096);
    expect(hasPattern(second!.head, 0, 4096, 2)).toBe(true);
    world.powerCut((offsetBytes) => offsetBytes === 4096);
    expect(world.flying("disk")).toEqual([]);
    const file = simulation.disk("disk");
    expect(file.peekDurable(0, 4096).every((byte) => byte === 0)).toBe(true);
    expect(hasPattern(file.peekDurable(4096, 4096), 0, 4096, 2)).toBe(true);
  });

  test("faults: errors, stalls, lying flushes, lost writes, rot", () => {
    const simulation = new Simulation(7);
    const world = begin(simulation, "osd.0", "10.0.0.1");
    const disk = world.disks.open("disk", { createBytes: MIB });
    const file = simulation.disk("disk");
    writeBlock(simulation, world, disk, DiskVerb.WriteDurable, 0, 1);
    file.rot(0, 512);
    expect(hasPattern(file.peek(0, 512), 0, 512, 1)).toBe(false);
    expect(file.peek(512, 3584)).toEqual(
      (() => {
        const wanted = new Uint8Array(4096);
        fillPattern(wanted, 0, 4096, 1);
        return wanted.subarray(512);
      })(),
    );
    file.faults.readErrorShare = 1;
    const memory = world.slots.take(4096);
    const bad = submit(disk, DiskVerb.Read, memory, 0, 4096);
    simulation.run(() => bad.done);
    expect(bad.errno).toBe(5);
    file.faults.readErrorShare = 0;
    file.faults.stalled = true;
    const slow = submit(disk, DiskVerb.Read, memory, 0, 4096);
    expect(simulation.run(() => slow.done, 500_000)).toBe(false);
    file.faults.stalled = false;
    expect(simulation.run(() => slow.done)).toBe(true);
    file.faults.lyingFlush = true;
    writeBlock(simulation, world, disk, DiskVerb.WriteDurable, 3, 4);
    flush(simulation, disk);
    expect(file.peekDurable(3 * 4096, 4096)[1]).toBe(0);
    file.faults.lyingFlush = false;
    file.faults.lostWriteShare = 1;
    writeBlock(simulation, world, disk, DiskVerb.WriteDurable, 5, 4);
    expect(file.peek(5 * 4096, 4096)[1]).toBe(0);
  });

  test("a sector that can not be read is readable once it was written again", () => {
    const simulation = new Simulation(7);
    const world = begin(simulation, "osd.0", "10.0.0.1");
    const disk = world.disks.open("disk", { createBytes: MIB });
    const file = simulation.disk("disk");
    for (let block = 0; block < 3; block++) {
      writeBlock(simulation, world, disk, DiskVerb.WriteDurable, block, 1);
    }
    file.spoil(4096, 4096);
    const memory = world.slots.take(3 * 4096);
    const read = (block: number, blocks: number): number => {
      const op = submit(disk, DiskVerb.Read, memory, block * 4096, blocks * 4096);
      simulation.run(() => op.done);
      return op.errno;
    };
    expect([read(0, 1), read(1, 1), read(0, 3), read(2, 1)]).toEqual([0, 5, 5, 0]);
    writeBlock(simulation, world, disk, DiskVerb.Write, 1, 2);
    expect([read(1, 1), read(0, 3)]).toEqual([0, 0]);
  });

  test("a misdirected write leaves its place as it was, and is somewhere else", () => {
    const simulation = new Simulation(7);
    const world = begin(simulation, "osd.0", "10.0.0.1");
    const disk = world.disks.open("disk", { createBytes: MIB });
    const file = simulation.disk("disk");
    file.faults.misdirectedWriteShare = 1;
    writeBlock(simulation, world, disk, DiskVerb.WriteDurable, 5, 4);
    const written = [...file.image().keys()];
    expect(written).toHaveLength(1);
    expect(written).not.toEqual([5]);
    expect(hasPattern(file.peek(written[0]! * 4096, 4096), 0, 4096, 4)).toBe(true);
  });

  test("a misdirected read answers with what is somewhere else", () => {
    const simulation = new Simulation(7);
    const world = begin(simulation, "osd.0", "10.0.0.1");
    const disk = world.disks.open("disk", { createBytes: MIB });
    writeBlock(simulation, world, disk, DiskVerb.WriteDurable, 5, 4);
    const memory = world.slots.take(4096);
    const reads = (): boolean => {
      const op = submit(disk, DiskVerb.Read, memory, 5 * 4096, 4096);
      simulation.run(() => op.done);
      expect(op.errno).toBe(0);
      return hasPattern(world.arena.bytes, memory, 4096, 4);
    };
    expect(reads()).toBe(true);
    simulation.disk("disk").faults.misdirectedReadShare = 1;
    expect(reads()).toBe(false);
  });

  test("what the device holds stays when its memory is used again", () => {
    const simulation = new Simulation(7);
    const world = begin(simulation, "osd.0", "10.0.0.1");
    const disk = world.disks.open("disk", { createBytes: MIB });
    const file = simulation.disk("disk");
    writeBlock(simulation, world, disk, DiskVerb.WriteDurable, 0, 1);
    for (let round = 2; round < 600; round++) {
      writeBlock(simulation, world, disk, DiskVerb.Write, 1, round);
      if (round % 7 === 0) flush(simulation, disk);
    }
    expect(hasPattern(file.peek(0, 4096), 0, 4096, 1)).toBe(true);
    expect(hasPattern(file.peek(4096, 4096), 0, 4096, 599)).toBe(true);
    expect(hasPattern(file.peekDurable(4096, 4096), 0, 4096, 595)).toBe(true);
  });

  test("changing the memory of a write in flight is found", () => {
    const simulation = new Simulation(3);
    const world = begin(simulation, "osd.0", "10.0.0.1");
    const disk = world.disks.open("disk", { createBytes: MIB });
    const memory = world.slots.take(4096);
    const op = submit(disk, DiskVerb.Write, memory, 0, 4096);
    world.arena.bytes[memory] = 77;
    expect(() => simulation.run(() => op.done)).toThrow("memory of a write in flight");
  });
});

class Collect implements Acceptor {
  readonly handlers: NotingHandler[] = [];
  private readonly world: SimWorld;
  constructor(world: SimWorld) {
    this.world = world;
  }
  onAccept(stream: Stream): NotingHandler {
    const handler = new NotingHandler(this.world);
    handler.stream = stream;
    this.handlers.push(handler);
    return handler;
  }
}

function connected(simulation: Simulation): {
  server: SimWorld;
  client: SimWorld;
  acceptor: Collect;
  handler: NotingHandler;
  stream: Stream;
} {
  const server = begin(simulation, "server", "10.0.0.1");
  const client = begin(simulation, "client", "10.0.0.2");
  const acceptor = new Collect(server);
  server.network.listen({ kind: "tcp", host: "10.0.0.1", port: 7000 }, acceptor);
  const handler = new NotingHandler(client);
  const target = { kind: "tcp", host: "10.0.0.1", port: 7000 } as const;
  const stream = client.network.connect(target, handler);
  simulation.run(() => handler.opens === 1 && acceptor.handlers.length === 1);
  return { server, client, acceptor, handler, stream };
}

function send(world: SimWorld, stream: Stream, length: number): void {
  const at = stream.reserve(length);
  world.arena.bytes.fill(1, at, at + length);
  stream.commit(length);
}

describe("simulated network", () => {
  test("a one-way cut holds bytes of that direction until it is healed", () => {
    const simulation = new Simulation(11);
    const { client, server, acceptor, handler, stream } = connected(simulation);
    simulation.cut("10.0.0.2", "10.0.0.1");
    send(client, stream, 64);
    send(server, acceptor.handlers[0]!.stream!, 128);
    expect(simulation.run(() => acceptor.handlers[0]!.receivedBytes > 0, 5_000_000)).toBe(false);
    expect(handler.receivedBytes).toBe(128);
    simulation.heal();
    expect(simulation.run(() => acceptor.handlers[0]!.receivedBytes === 64)).toBe(true);
  });

  test("connecting across a cut times out, to a dead process is refused", () => {
    const simulation = new Simulation(12);
    const { client, server } = connected(simulation);
    simulation.cut("*", "10.0.0.1");
    const lost = new NotingHandler(client);
    const target = { kind: "tcp", host: "10.0.0.1", port: 7000 } as const;
    client.network.connect(target, lost);
    expect(simulation.run(() => lost.closes.length > 0)).toBe(true);
    expect(lost.closes).toEqual(["connection timed out"]);
    simulation.heal();
    server.crash();
    const refused = new NotingHandler(client);
    client.network.connect(target, refused);
    simulation.run(() => refused.closes.length > 0);
    expect(refused.closes).toEqual(["connection refused"]);
  });

  test("a crash resets connections, a power cut says nothing", () => {
    const crashed = connected(new Simulation(13));
    const one = new Simulation(13);
    const first = connected(one);
    first.server.crash();
    expect(one.run(() => first.handler.closes.length === 1)).toBe(true);
    expect(first.handler.closes).toEqual(["connection reset"]);
    const two = new Simulation(14);
    const second = connected(two);
    second.server.powerCut();
    send(second.client, second.stream, 64);
    expect(two.run(() => second.handler.closes.length === 1, 10_000_000)).toBe(false);
    expect(crashed.handler.closes).toEqual([]);
  });

  test("a machine whose power is back resets the connections that it forgot", () => {
    const simulation = new Simulation(16);
    const { server, client, handler, stream } = connected(simulation);
    server.powerCut();
    begin(simulation, "server", "10.0.0.1");
    // It is asked nothing, and says nothing.
    expect(simulation.run(() => handler.closes.length > 0, 10_000_000)).toBe(false);
    send(client, stream, 64);
    expect(simulation.run(() => handler.closes.length > 0, 1_000_000)).toBe(true);
    expect(handler.closes).toEqual(["connection reset"]);
  });

  test("what was on its way to a machine without power is answered once it is back", () => {
    const simulation = new Simulation(17);
    const { server, client, handler, stream } = connected(simulation);
    send(client, stream, 64);
    simulation.run(simulation.nowUs + 1);
    server.powerCut();
    expect(simulation.run(() => handler.closes.length > 0, 10_000_000)).toBe(false);
    begin(simulation, "server", "10.0.0.1");
    expect(simulation.run(() => handler.closes.length > 0, 5_000_000)).toBe(true);
    expect(handler.closes).toEqual(["connection reset"]);
  });

  test("a paused process takes no turns and goes on where it was", () => {
    const simulation = new Simulation(15);
    const { client, server, acceptor, stream } = connected(simulation);
    let ticks = 0;
    const timer = new (class extends Timer {
      onTimer(): void {
        ticks += 1;
        server.timers.arm(this, 100_000);
      }
    })();
    server.timers.arm(timer, 100_000);
    simulation.run(simulation.nowUs + 1_000_000);
    expect(ticks).toBeGreaterThan(7);
    const before = ticks;
    server.pause();
    send(client, stream, 64);
    simulation.run(simulation.nowUs + 5_000_000);
    expect(ticks).toBe(before);
    expect(acceptor.handlers[0]!.receivedBytes).toBe(0);
    server.resume();
    simulation.run(simulation.nowUs + 1_000_000);
    expect(acceptor.handlers[0]!.receivedBytes).toBe(64);
    expect(ticks).toBeGreaterThan(before);
  });
});

describe("simulation", () => {
  test("an error in a handler ends the run and names the seed", () => {
    const simulation = new Simulation(4711);
    const world = begin(simulation, "osd.3", "10.0.0.1");
    const timer = new (class extends Timer {
      onTimer(): void {
        throw new Error("a violated invariant");
      }
    })();
    world.timers.arm(timer, 1_000);
    let error: unknown;
    try {
      simulation.run(1_000_000);
    } catch (caught) {
      error = caught;
    }
    expect(error).toBeInstanceOf(SimulationError);
    expect(String(error)).toContain("seed 4711, osd.3");
    expect(String(error)).toContain("a violated invariant");
    expect(world.alive).toBe(false);
  });

  test("an error in the log ends the run", () => {
    const simulation = new Simulation(5);
    begin(simulation, "osd.0", "10.0.0.1").logger.error("this must not happen");
    expect(() => simulation.run(1)).toThrow("seed 5, osd.0");
  });

  test("different seeds take different ways, the same seed the same", () => {
    const hashOf = (seed: number): string => {
      const simulation = new Simulation(seed, { drainMicrotasks, clockDriftShare: 0.01 });
      const { client, stream, acceptor } = connected(simulation);
      for (let round = 0; round < 20; round++) send(client, stream, 1000);
      simulation.run(() => acceptor.handlers[0]!.receivedBytes === 20_000);
      return simulation.traceHash;
    };
    expect(hashOf(1)).toBe(hashOf(1));
    expect(new Set([1, 2, 3, 4, 5].map(hashOf)).size).toBe(5);
  });

  test("G16: a clock whose rate changes goes on from where it is, and its timers are in time", () => {
    const simulation = new Simulation(10);
    const world = begin(simulation, "a", "10.0.0.1");
    const startUs = world.clock.nowUs();
    const startWallMs = world.clock.wallMs();
    let before = startUs;
    let expired = 0;
    world.timers.arm(new CallbackTimer(() => (expired += 1)), 1_000_000);
    for (let at = 0; at < 1_000; at++) {
      world.setRate(at % 2 === 0 ? 0.0045 : -0.0045);
      expect(world.clock.nowUs()).toBeGreaterThanOrEqual(before);
      before = world.clock.nowUs();
      simulation.run(simulation.nowUs + 994);
    }
    expect(expired).toBe(0);
    simulation.run(simulation.nowUs + 12_000);
    expect(expired).toBe(1);
    const passed = world.clock.nowUs() - startUs;
    expect(Math.abs(passed - 1_006_000)).toBeLessThan(100);
    world.stepWall(-3_000);
    expect(world.clock.wallMs()).toBe(startWallMs + 1_006 - 3_000);
  });

  test("G16: clocks of machines differ, and begin anew after a power cut", () => {
    const simulation = new Simulation(9, { clockDriftShare: 0.01 });
    const a = begin(simulation, "a", "10.0.0.1");
    const b = begin(simulation, "b", "10.0.0.2");
    expect(a.clock.nowUs()).not.toBe(b.clock.nowUs());
    const before = a.clock.nowUs();
    simulation.run(10_000_000);
    const passed = a.clock.nowUs() - before;
    expect(passed).toBeGreaterThan(9_890_000);
    expect(passed).toBeLessThan(10_110_000);
    a.crash();
    const again = begin(simulation, "a", "10.0.0.1");
    expect(again.clock.nowUs()).toBeGreaterThanOrEqual(before + passed);
    again.powerCut();
    expect(begin(simulation, "a", "10.0.0.1").clock.nowUs()).toBeLessThan(1_000);
  });
});
