// cold: the simulator
import { Prng } from "../base/prng.ts";
import type { SimWorld } from "../reactor/reactor.ts";
import type { Listener, Stream, StreamHandler } from "../reactor/world.ts";
import { DATA_PORT, MON_ADDRESS, type SimCluster, type SimOsd } from "./sim-cluster.ts";
import type { FaultKind, SimFaults } from "./sim-faults.ts";

/**
 * What a network does that is old and busy, in some seeds only.
 *
 *   lossy wires             segments between some machines are lost: their streams stall, for longer
 *                           and longer, until they are sent again
 *   late requests           connections break off, and what was on its way arrives behind what their
 *                           ends send on the next ones: requests come twice, and late; also where
 *                           groups remember few sessions, which are there to tell such ones
 *   ports taken again       osds, and the shards of each, listen at once where others did a moment
 *                           ago, while peers and clients still dial there
 *   a stranger at the port  something else listens there while an osd is down
 *
 * Seeds that are recorded somewhere as finding something are not among those.
 */

/** In one of so many seeds wires are bad; in one of so many ports are taken again. */
const ROUGH_SEEDS = 4;
const PORT_SEEDS = 5;
const LOSS_PERCENT_MAX = 30;
const LATE_PERCENT_MAX = 50;
const LATE_US_MAX: readonly number[] = [20_000, 300_000, 2_000_000];
/** How long wires stand still before connections across them break off. */
const BREAK_US_MAX = 100_000;
const STRANGER_ARENA_BYTES = 32 * 1_048_576;
/** A process that is started again at once. */
const AGAIN_US_MAX = 3_000;

/** Whether wires are bad in a seed. */
function isRough(seed: number): boolean {
  return new Prng(seed * 71 + 17).below(ROUGH_SEEDS) === 0;
}

/** Whether ports are taken again in a seed. */
function takesPorts(seed: number): boolean {
  return new Prng(seed * 73 + 30).below(PORT_SEEDS) === 0;
}

export class SimRough {
  private readonly cluster: SimCluster;
  private readonly faults: SimFaults;
  /** By the address of the machine. */
  private readonly strangers = new Map<string, Stranger>();
  private strangersMade = 0;

  constructor(cluster: SimCluster, faults: SimFaults) {
    this.cluster = cluster;
    this.faults = faults;
    cluster.onStarting = (osd) => this.leave(osd.address);
  }

  get kinds(): FaultKind[] {
    const { seed } = this.cluster.simulation;
    const kinds: FaultKind[] = [];
    if (isRough(seed)) {
      kinds.push({ name: "lossy wires", weight: 9, run: () => this.lose() });
    }
    if (isRough(seed) || this.cluster.remembersFew) {
      kinds.push({ name: "late requests", weight: 12, run: () => this.delay() });
    }
    if (takesPorts(seed)) {
      kinds.push({ name: "ports taken again", weight: 12, run: (osd) => this.takePorts(osd) });
      kinds.push({ name: "a stranger at the port", weight: 6, run: (osd) => this.replace(osd) });
    }
    return kinds;
  }

  /** The end of what does not end by itself. */
  calm(): void {
    Object.assign(this.cluster.simulation.network, { lossOf: null, lateShare: 0 });
  }

  /* -------------------------------------------------------------------- wires */

  private get machines(): string[] {
    const { osds, clients } = this.cluster;
    const addresses = [...osds.map(({ address }) => address), MON_ADDRESS];
    for (const { world } of clients) addresses.push(world.address);
    return addresses;
  }

  /** Half of the wires lose a share of their own. */
  private lose(): boolean {
    const { network } = this.cluster.simulation;
    const { random } = this.faults;
    const shares = new Map<string, number>();
    const { machines } = this;
    for (const from of machines) {
      for (const to of machines) {
        if (from < to && random.below(2) === 0) {
          shares.set(wireOf(from, to), (1 + random.below(LOSS_PERCENT_MAX)) / 100);
        }
      }
    }
    network.lossOf = (from, to): number => (from === to ? 0 : (shares.get(wireOf(from, to)) ?? 0));
    this.faults.later(100_000 + random.below(1_000_000), () => {
      network.lossOf = null;
    });
    return true;
  }

  /** Wires stand still for a while; then the connections across them break off. Again and again. */
  private delay(): boolean {
    const { osds, simulation } = this.cluster;
    const { random } = this.faults;
    const { machines } = this;
    const { network } = simulation;
    network.lateShare = (10 + random.below(LATE_PERCENT_MAX - 9)) / 100;
    network.lateUsMax = LATE_US_MAX[random.below(LATE_US_MAX.length)]!;
    const breakOff = (left: number): void => {
      if (left === 0) {
        network.lateShare = 0;
        return;
      }
      const from = machines[random.below(machines.length)]!;
      const to = osds[random.below(osds.length)]!.address;
      simulation.cut(from, to);
      this.faults.later(500 + random.below(BREAK_US_MAX), () => {
        simulation.reset(from, to);
        simulation.heal(from, to);
        breakOff(left - 1);
      });
    };
    breakOff(3 + random.below(10));
    return true;
  }

  /* -------------------------------------------------------------------- ports */

  /** Several osds die and start again at once, each where another one was; so do the shards of each. */
  private takePorts(osd: SimOsd): boolean {
    const { faults } = this;
    const { random } = faults;
    const { osds } = this.cluster;
    const others = osds.filter((one) => one !== osd && random.below(3) > 0);
    const all = [osd, ...others].filter((one) => !faults.isHeld(one) && faults.kill(one, true));
    const last = all.at(-1);
    if (last === undefined) return false;
    let { address } = last;
    for (const one of all) {
      [one.address, address] = [address, one.address];
      one.portTurn += random.below(3);
      faults.later(random.below(AGAIN_US_MAX), () => faults.start(one));
    }
    return true;
  }

  /** An osd dies; until it is started something listens in its place that is no part of the cluster. */
  private replace(osd: SimOsd): boolean {
    const { cluster, faults } = this;
    if (faults.isHeld(osd) || !faults.kill(osd, true)) return false;
    this.strangersMade += 1;
    const name = `stranger.${String(this.strangersMade)}`;
    const world = cluster.simulation.createWorld(name, osd.address, {
      arenaBytes: STRANGER_ARENA_BYTES,
    });
    this.strangers.set(
      osd.address,
      new Stranger(world, cluster.shardCount, faults.random.below(3)),
    );
    faults.later(100_000 + faults.random.below(1_000_000), () => faults.start(osd));
    return true;
  }

  /** An osd starts at the address: its ports are free again. */
  private leave(address: string): void {
    this.strangers.get(address)?.end();
    this.strangers.delete(address);
  }
}

function wireOf(one: string, other: string): string {
  return one < other ? `${one} ${other}` : `${other} ${one}`;
}

/** Listens at the ports of an osd, and says nothing, what it hears, or nonsense. */
class Stranger implements StreamHandler {
  private readonly world: SimWorld;
  private readonly manner: number;
  private readonly listeners: Listener[] = [];

  constructor(world: SimWorld, ports: number, manner: number) {
    this.world = world;
    this.manner = manner;
    world.start();
    for (let at = 0; at < ports; at++) {
      const address = { kind: "tcp", host: world.address, port: DATA_PORT + at } as const;
      this.listeners.push(world.network.listen(address, { onAccept: () => this }));
    }
  }

  end(): void {
    this.world.crash();
  }

  onOpen(_stream: Stream): void {}

  onReceive(stream: Stream): void {
    const { bytes } = this.world.arena;
    const count = stream.receiveLength;
    const at = this.manner === 0 ? -1 : stream.reserve(count);
    if (at >= 0) {
      bytes.copyWithin(at, stream.receiveOffset, stream.receiveOffset + count);
      if (this.manner === 2) this.world.random.fill(bytes.subarray(at, at + count));
      stream.commit(count);
    }
    stream.consume(count);
  }

  onWritable(_stream: Stream): void {}

  onClose(_stream: Stream): void {}
}
