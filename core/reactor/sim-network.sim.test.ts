/** What the simulated network does to requests besides cuts: loss, and what comes late. */
import { describe, expect, test } from "bun:test";
import { Simulation, type SimWorld } from "./sim-world.ts";
import type { Stream, StreamHandler } from "./world.ts";

const SERVER = "10.0.0.1";
const CLIENT = "10.0.0.2";
const TARGET = { kind: "tcp", host: SERVER, port: 7000 } as const;

/** Notes the bytes and the end of one connection. */
class Ear implements StreamHandler {
  readonly heard: number[] = [];
  readonly closes: string[] = [];
  opens = 0;
  private readonly world: SimWorld;
  private readonly log: number[];

  /** `log`: what all ears of a process hear, in its order. */
  constructor(world: SimWorld, log: number[] = []) {
    this.world = world;
    this.log = log;
  }

  onOpen(): void {
    this.opens += 1;
  }

  onReceive(stream: Stream): void {
    const { receiveOffset, receiveLength } = stream;
    const bytes = this.world.arena.bytes.subarray(receiveOffset, receiveOffset + receiveLength);
    this.heard.push(...bytes);
    this.log.push(...bytes);
    stream.consume(receiveLength);
  }

  onWritable(): void {}

  onClose(_stream: Stream, reason: string): void {
    this.closes.push(reason);
  }
}

class Bench {
  readonly simulation: Simulation;
  readonly client: SimWorld;
  /** What the server has heard, on any connection. */
  readonly log: number[] = [];
  readonly ears: Ear[] = [];

  constructor(seed: number) {
    this.simulation = new Simulation(seed);
    const server = this.simulation.createWorld("server", SERVER);
    this.client = this.simulation.createWorld("client", CLIENT);
    server.start();
    this.client.start();
    server.network.listen(TARGET, {
      onAccept: () => {
        const ear = new Ear(server, this.log);
        this.ears.push(ear);
        return ear;
      },
    });
  }

  connect(): { stream: Stream; ear: Ear } {
    const ear = new Ear(this.client);
    const stream = this.client.network.connect(TARGET, ear);
    expect(this.simulation.run(() => ear.opens === 1)).toBe(true);
    return { stream, ear };
  }

  send(stream: Stream, value: number): void {
    const at = stream.reserve(1);
    this.client.arena.bytes[at] = value;
    stream.commit(1);
  }
}

describe("loss", () => {
  test("a segment that is lost comes after 200 ms, or 600, and what is behind it waits", () => {
    const stalls = new Set<number>();
    for (let seed = 1; seed <= 40; seed++) {
      const bench = new Bench(seed);
      const { simulation } = bench;
      const { stream } = bench.connect();
      simulation.network.lossOf = (from, to) => (from === CLIENT && to === SERVER ? 0.5 : 0);
      const startUs = simulation.nowUs;
      bench.send(stream, 1);
      simulation.run(simulation.nowUs + 1_000);
      simulation.network.lossOf = null;
      bench.send(stream, 2);
      expect(simulation.run(() => bench.log.length === 2)).toBe(true);
      expect(bench.log).toEqual([1, 2]);
      stalls.add(Math.floor((simulation.nowUs - startUs) / 100_000));
    }
    expect([...stalls].sort((a, b) => a - b).slice(0, 3)).toEqual([0, 2, 6]);
  });

  test("a knock that is lost is repeated a second later", () => {
    const bench = new Bench(5);
    const { simulation, client } = bench;
    simulation.network.lossOf = () => 1;
    const ear = new Ear(client);
    client.network.connect(TARGET, ear);
    simulation.run(simulation.nowUs + 500_000);
    simulation.network.lossOf = null;
    expect(ear.opens).toBe(0);
    expect(simulation.run(() => ear.opens === 1, 700_000)).toBe(true);
    expect(simulation.networkCounts.segmentsLost).toBe(1);
  });
});

describe("a connection that is given up with bytes on their way", () => {
  /** What the server hears when a client closes a connection and sends anew on the next. */
  function resend(lateShare: number): Bench {
    const bench = new Bench(9);
    const { simulation } = bench;
    Object.assign(simulation.network, { lateShare, lateUsMax: 500_000 });
    const first = bench.connect();
    bench.send(first.stream, 1);
    bench.send(first.stream, 2);
    // They are on the wire.
    simulation.run(simulation.nowUs + 14);
    expect(bench.log).toEqual([]);
    first.stream.close("given up");
    const second = bench.connect();
    bench.send(second.stream, 3);
    simulation.run(simulation.nowUs + 1_000_000);
    expect(bench.ears[1]!.closes).toEqual([]);
    return bench;
  }

  test("they are lost in most runs", () => {
    expect(resend(0).log).toEqual([3]);
  });

  test("or they arrive behind what was sent on the next one; then the server hears of the end", () => {
    const bench = resend(1);
    expect(bench.log).toEqual([3, 1, 2]);
    expect(bench.ears[0]!.closes).toEqual(["closed by the peer"]);
    expect(bench.simulation.networkCounts.segmentsLate).toBeGreaterThan(0);
  });

  test("a cut holds them longer", () => {
    const bench = new Bench(10);
    const { simulation } = bench;
    Object.assign(simulation.network, { lateShare: 1, lateUsMax: 1_000 });
    const { stream, ear } = bench.connect();
    simulation.cut(CLIENT, SERVER);
    bench.send(stream, 1);
    simulation.run(simulation.nowUs + 1_000);
    simulation.reset(CLIENT, SERVER);
    simulation.run(simulation.nowUs + 5_000_000);
    expect([ear.closes, bench.ears[0]!.closes, bench.log]).toEqual([["connection reset"], [], []]);
    simulation.heal();
    expect(simulation.run(() => bench.ears[0]!.closes.length === 1)).toBe(true);
    expect(bench.log).toEqual([1]);
  });
});
