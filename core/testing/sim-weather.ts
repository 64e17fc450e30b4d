// cold: the simulator
import { groupsOf, MON_ADDRESS, type SimCluster, type SimOsd } from "./sim-cluster.ts";
import type { FaultKind, SimFaults } from "./sim-faults.ts";

/** What happens to the wires of a simulated cluster. */
export class SimWeather {
  private readonly cluster: SimCluster;
  private readonly faults: SimFaults;

  constructor(cluster: SimCluster, faults: SimFaults) {
    this.cluster = cluster;
    this.faults = faults;
  }

  get kinds(): FaultKind[] {
    const { simulation } = this.cluster;
    return [
      { name: "cut", weight: 4, run: (osd) => this.cut(osd) },
      { name: "isolation", weight: 1, run: (osd) => this.isolate(osd) },
      { name: "sides", weight: 2, run: () => this.takeSides() },
      { name: "cut from peers", weight: 2, run: (osd) => this.cutFromPeers(osd) },
      { name: "restart beside a cut", weight: 4, run: () => this.restartBesideCut() },
      { name: "flapping", weight: 1, run: (osd) => this.flap(osd) },
      {
        name: "reset",
        weight: 2,
        run: (osd) => {
          // Or something between forgot the connections: the others find out when they send.
          if (this.faults.random.below(2) === 0) simulation.reset(osd.address, "*");
          else simulation.orphan(osd.address, "*");
          return true;
        },
      },
      { name: "storm", weight: 1, run: () => this.storm() },
    ];
  }

  private cut(osd: SimOsd): boolean {
    const { osds, clients, simulation } = this.cluster;
    const others = [...osds, ...clients.map(({ world }) => world)];
    const other = others[this.faults.random.below(others.length)]!;
    if (other === osd) return false;
    const [from, to] = [osd.address, other.address];
    simulation.cut(from, to);
    const both = this.faults.random.below(2) === 0;
    if (both) simulation.cut(to, from);
    this.faults.later(100_000 + this.faults.random.below(2_000_000), () => {
      simulation.heal(from, to);
      if (both) simulation.heal(to, from);
    });
    return true;
  }

  private isolate(osd: SimOsd): boolean {
    const { simulation } = this.cluster;
    const { address } = osd;
    const ways = this.faults.random.below(3);
    if (ways !== 0) simulation.cut(address, "*");
    if (ways !== 1) simulation.cut("*", address);
    this.faults.later(100_000 + this.faults.random.below(2_000_000), () => {
      simulation.heal(address, "*");
      simulation.heal("*", address);
    });
    return true;
  }

  /** Everybody is on one of two sides, the monitor and the clients too; they do not hear each other. */
  private takeSides(): boolean {
    const { osds, clients, simulation } = this.cluster;
    const { random } = this.faults;
    const all = [...osds.map((osd) => osd.address), MON_ADDRESS];
    for (const { world } of clients) all.push(world.address);
    const sides = all.map(() => random.below(2));
    const pairs = all.flatMap((from, at) =>
      all.filter((_, other) => sides[at] !== sides[other]).map((to) => [from, to] as const),
    );
    for (const [from, to] of pairs) simulation.cut(from, to);
    this.faults.later(100_000 + random.below(2_000_000), () => {
      for (const [from, to] of pairs) simulation.heal(from, to);
    });
    return pairs.length > 0;
  }

  /** No other osd is reached, all clients are: who leads there does not hear of a successor. */
  private cutFromPeers(osd: SimOsd): boolean {
    const { osds, simulation } = this.cluster;
    const pairs = osds
      .filter((other) => other !== osd)
      .flatMap((other) => [
        [osd.address, other.address] as const,
        [other.address, osd.address] as const,
      ]);
    for (const [from, to] of pairs) simulation.cut(from, to);
    this.faults.later(300_000 + this.faults.random.below(3_000_000), () => {
      for (const [from, to] of pairs) simulation.heal(from, to);
    });
    return true;
  }

  /**
   * One follower of a group does not hear its leader, and would lead. Another one does, until its wire
   * breaks too, and starts anew: it must not forget what it promised.
   */
  private restartBesideCut(): boolean {
    const { faults } = this;
    const { random } = faults;
    const { osds, pgs, simulation } = this.cluster;
    const pg = pgs[random.below(pgs.length)]!;
    const members = osds.filter(
      (osd) => osd.world?.alive === true && groupsOf(osd).some((group) => group.pg === pg.id),
    );
    const leads = (osd: SimOsd): boolean =>
      groupsOf(osd).some((group) => group.pg === pg.id && group.serving);
    const leader = members.find(leads);
    const followers = members.filter((osd) => osd !== leader);
    if (leader === undefined || followers.length < 2) return false;
    const at = random.below(followers.length);
    const [lost, other] = [followers[at]!, followers[(at + 1) % followers.length]!];
    const cut = (one: SimOsd): void => {
      simulation.cut(leader.address, one.address);
      simulation.cut(one.address, leader.address);
    };
    const downUs = 1_000 + random.below(40_000);
    cut(lost);
    faults.later(450_000 + random.below(500_000), () => {
      if (faults.isPeace) return;
      cut(other);
      if (!faults.isHeld(other) && faults.kill(other, true)) {
        faults.later(downUs, () => {
          if (!faults.isHeld(other)) faults.release(other);
        });
      }
    });
    faults.later(1_200_000 + random.below(600_000), () => {
      for (const { address } of [lost, other]) {
        simulation.heal(leader.address, address);
        simulation.heal(address, leader.address);
      }
    });
    return true;
  }

  /** A wire between two osds that comes and goes. */
  private flap(osd: SimOsd): boolean {
    const { osds, simulation } = this.cluster;
    const other = osds[this.faults.random.below(osds.length)]!;
    if (other === osd) return false;
    const [from, to] = [osd.address, other.address];
    const stepUs = 20_000 + this.faults.random.below(200_000);
    const flip = (left: number): void => {
      if (left % 2 === 0) simulation.heal(from, to);
      else simulation.cut(from, to);
      if (left > 0) this.faults.later(stepUs, () => flip(left - 1));
    };
    flip(3 + 2 * this.faults.random.below(4));
    return true;
  }

  /** Everything is late, in pieces, or breaks off. */
  private storm(): boolean {
    const { network } = this.cluster.simulation;
    network.spikeShare = 0.05;
    network.spikeUsMax = 40_000;
    network.resetShare = [0, 0.0005][this.faults.random.below(2)]!;
    network.shortReadShare = 0.5;
    this.faults.later(50_000 + this.faults.random.below(700_000), () => this.calm());
    return true;
  }

  calm(): void {
    const { network } = this.cluster.simulation;
    Object.assign(network, {
      spikeShare: 0.002,
      spikeUsMax: 5_000,
      resetShare: 0,
      shortReadShare: 0.05,
    });
  }
}
