/**
 * Random runs of one group, everything drawn from one seed.
 *
 * `chaos`: messages are lost, doubled and reordered, replicas crash with any prefix of their writes
 * on disk, votes are blocked at random. `streams`: ordered connections that are cut, healed and
 * reset, combined heartbeats with lease promises on skewed clocks, pauses. Both: configuration
 * changes, transfers, compaction, filling, faulty logs; quiet replicas are parked and woken. With a
 * witness: the last of the first members has no data, nor has every third of those that come later.
 *
 * Checked all the time: one leader a term, leaders have what is committed, replicas apply the same,
 * what is committed lies on a quorum of disks; in `streams`, no leader with a valid lease misses a
 * commit. At the end faults stop and everything must converge; beside a witness also without one voter.
 *
 * RAFT_SIM_SEEDS=5000 runs more seeds, RAFT_SIM_SEED=17 one.
 */
import { expect, test } from "bun:test";
import { AssertionError } from "../base/assert.ts";
import { Prng } from "../base/prng.ts";
import {
  bootstrapConfiguration,
  CONFIGURATION_EMPTY,
  type ConfChange,
  formatConfiguration,
  ProgressState,
  RAFT_OPTIONS_DEFAULT,
  type RaftNode,
  Role,
} from "./raft.ts";
import { Cluster, type Frame, type Replica } from "./testdata/raft-cluster.ts";

const MEMBERS_TOTAL = 9;
const PROMISE_MS = 400;
const LEASE_MS = 396;
const HEARTBEAT_MS = 100;

interface Packet {
  due: number;
  from: number;
  to: number;
  frame: Frame | null;
  sent: number;
  echo: number;
  boot: number;
}

/** What a shard keeps for the pair with another one. */
class Pair {
  heardAt = 0;
  peerSent = 0;
  promisedUntil = 0;
  leaseUntil = 0;
  peerBoot = 0;
  active = true;
}

/** The connection between two shards. */
class Link {
  broken = false;
  /** Who of the two has noticed. Restored only after both. */
  readonly noticed: Set<number> = new Set();
  /** When the lower and the higher end notice by themselves; else by missing heartbeats. */
  readonly noticeAt: [number, number] = [0, 0];
  readonly ends: readonly [number, number];

  constructor(a: number, b: number) {
    this.ends = [a, b];
  }
}

class Shard {
  readonly pairs: Map<number, Pair> = new Map();
  startedAt = 0;
  boot = 1;
  pausedUntil = 0;
  downUntil = 0;
  /** Local clock = now · rate. */
  rate = 1;

  pair(id: number): Pair {
    let pair = this.pairs.get(id);
    if (pair === undefined) this.pairs.set(id, (pair = new Pair()));
    return pair;
  }
}

/** What happens how often in one run, per millisecond unless named otherwise: drawn per seed. */
class Mood {
  readonly crash: number;
  /** While a write of term or vote is under way. */
  readonly crashAtVote: number;
  readonly crashAtWrite: number;
  readonly cut: number;
  /** All ways to and from one replica. */
  readonly isolate: number;
  readonly heal: number;
  /** Share of cuts that cut one way only. */
  readonly oneWay: number;
  readonly reset: number;
  readonly pause: number;
  /** Share of writes that take up to 60 ms. */
  readonly slowDisk: number;
  readonly loss: number;
  readonly propose: number;
  readonly transfer: number;
  readonly change: number;
  readonly compact: number;
  readonly faulty: number;
  readonly fillEnd: number;
  /** Share of faults that hit the leader. */
  readonly leaderBias: number;

  constructor(random: Prng) {
    const pick = (...values: number[]): number => values[random.below(values.length)]!;
    this.crash = pick(0, 0.0005, 0.001, 0.003);
    this.crashAtVote = pick(0, 0.01, 0.05);
    this.crashAtWrite = pick(0, 0, 0, 0.004);
    this.cut = pick(0, 0.001, 0.002, 0.004);
    this.isolate = pick(0, 0.001, 0.003);
    this.heal = pick(0.0005, 0.0015, 0.004);
    this.oneWay = pick(0, 0.3, 0.8);
    this.reset = pick(0, 0.0005, 0.002, 0.005);
    this.pause = pick(0, 0, 0.0005, 0.002);
    this.slowDisk = pick(0, 0.05, 0.3);
    this.loss = pick(0, 0.05, 0.3);
    this.propose = pick(0.02, 0.15, 0.5);
    this.transfer = pick(0, 0, 0.0005, 0.005);
    this.change = pick(0, 0.006, 0.03, 0.1);
    this.compact = pick(0.002, 0.01, 0.05);
    this.faulty = pick(0, 0, 0.002);
    this.fillEnd = pick(0.02, 0.002, 0.0003);
    this.leaderBias = pick(0, 0.3, 0.7);
  }
}

class Simulation {
  readonly random: Prng;
  readonly cluster: Cluster;
  readonly shards: Map<number, Shard> = new Map();
  readonly streams: boolean;
  now = 1;
  leadersParked = 0;
  followersParked = 0;
  lostOne = false;
  packets: Packet[] = [];
  quiet = false;
  nextValue = 1;
  committedMax = 0;
  readonly links: Map<string, Link> = new Map();
  readonly lastDue: Map<string, number> = new Map();
  readonly flushAt: Map<number, number> = new Map();
  readonly mood: Mood;

  private readonly witnessed: boolean;

  constructor(seed: number, streams: boolean, witnessed: boolean) {
    this.witnessed = witnessed;
    this.random = new Prng(seed * 2 + (streams ? 1 : 0));
    this.streams = streams;
    const windowEntries = 1 << this.random.below(5);
    this.cluster = new Cluster(seed, { ...RAFT_OPTIONS_DEFAULT, windowEntries, retryTicks: 10 });
    this.cluster.tracing = false;
    this.cluster.onLeaderCommit = (node) => this.leaderCommitted(node);
    this.mood = new Mood(this.random);
    const count = this.pick([3, 3, 3, 4, 5]);
    const addresses = Array.from({ length: count }, (_, at) => ({
      osd: at,
      storeUuid: uuid(at),
      witness: witnessed && at === count - 1,
    }));
    const conf = bootstrapConfiguration(addresses);
    for (const member of conf.members) this.boot(this.cluster.add(member.id, conf));
  }

  /** Milliseconds in which a leader held a lease, of all leaders. */
  leaseTime = 0;

  private boot(replica: Replica): void {
    let shard = this.shards.get(replica.id);
    if (shard === undefined) {
      shard = new Shard();
      shard.rate = 1 + (this.random.below(101) - 50) / 10_000;
      this.shards.set(replica.id, shard);
    }
    shard.pairs.clear();
    shard.startedAt = this.now;
    shard.boot++;
    shard.downUntil = 0;
    const mine = shard;
    replica.promised = (leader) => this.promised(mine, leader);
  }

  private promised(shard: Shard, leader: number): boolean {
    if (!this.streams) return !this.quiet && this.random.below(5) === 0;
    const local = this.local(shard);
    if (local < shard.startedAt * shard.rate + PROMISE_MS) return true;
    return leader !== 0 && local < shard.pair(leader).promisedUntil;
  }

  private local(shard: Shard): number {
    return this.now * shard.rate;
  }

  private chance(probability: number): boolean {
    return this.random.u32() < probability * 4_294_967_296;
  }

  private pick<T>(values: readonly T[]): T {
    return values[this.random.below(values.length)]!;
  }

  private *alive(): Generator<[number, RaftNode, Shard]> {
    for (const [id, replica] of this.cluster.replicas) {
      const shard = this.shards.get(id)!;
      if (replica.node !== null && shard.pausedUntil <= this.now) yield [id, replica.node, shard];
    }
  }

  // ---- leases ----------------------------------------------------------------------------------

  private leaseHolds(node: RaftNode, shard: Shard): boolean {
    if (!node.leaderReady) return false;
    const values = new Float64Array(16);
    for (const [slot, member] of node.conf.members.entries()) {
      if (member.id === node.id) values[slot] = Number.POSITIVE_INFINITY;
      else if (node.leaseCounts(slot)) values[slot] = shard.pair(member.id).leaseUntil;
    }
    return node.quorumValue(values) > this.local(shard);
  }

  private leaderCommitted(node: RaftNode): void {
    this.committedMax = Math.max(this.committedMax, node.commitIndex);
    if (!this.streams) return;
    for (const [id, other, shard] of this.alive()) {
      // A paused leader of an older term may commit late what the newer one has since its election.
      if (other.role !== Role.Leader || other.term >= node.term) continue;
      if (!this.leaseHolds(other, shard)) continue;
      throw new AssertionError(`leader ${id} holds a lease while ${node.id} commits`);
    }
  }

  private checkLeases(): void {
    for (const [id, node, shard] of this.alive()) {
      if (node.role !== Role.Leader || !this.leaseHolds(node, shard)) continue;
      this.leaseTime++;
      if (node.commitIndex < this.committedMax)
        throw new AssertionError(`leader ${id} would read stale`);
    }
  }

  private heartbeat(): void {
    for (const [id, , shard] of this.alive()) {
      if ((this.now + id * 37) % HEARTBEAT_MS !== 0) continue;
      for (const peer of this.cluster.replicas.keys()) {
        if (peer === id) continue;
        const pair = shard.pair(peer);
        if (pair.peerSent !== 0) pair.promisedUntil = this.local(shard) + PROMISE_MS;
        this.enqueue({
          due: 0,
          from: id,
          to: peer,
          frame: null,
          sent: this.local(shard),
          echo: pair.peerSent,
          boot: shard.boot,
        });
        if (pair.active && this.now - pair.heardAt > 3 * HEARTBEAT_MS) this.report(id, peer, false);
      }
    }
  }

  private report(id: number, peer: number, active: boolean): void {
    const pair = this.shards.get(id)!.pair(peer);
    pair.active = active;
    const node = this.cluster.replica(id).node;
    if (active) node?.peerReset(peer);
    node?.setPeerActive(peer, active);
  }

  private onHeartbeat(packet: Packet): void {
    const shard = this.shards.get(packet.to)!;
    const replica = this.cluster.replica(packet.to);
    const pair = shard.pair(packet.from);
    pair.heardAt = this.now;
    if (pair.peerBoot !== packet.boot) {
      pair.peerBoot = packet.boot;
      pair.leaseUntil = 0;
      replica.up.peerRestarted(packet.from);
    }
    if (!pair.active) this.report(packet.to, packet.from, true);
    pair.peerSent = packet.sent;
    if (packet.echo === 0 || packet.echo < shard.startedAt * shard.rate) return;
    pair.leaseUntil = packet.echo + LEASE_MS;
    replica.echoes.set(packet.from, (replica.echoes.get(packet.from) ?? 0) + 1);
  }

  // ---- network and disks -------------------------------------------------------------------------

  private enqueue(packet: Packet): void {
    const way = `${packet.from}>${packet.to}`;
    if (this.streams ? this.link(packet.from, packet.to).broken : this.cluster.cuts.has(way))
      return;
    const delay = this.chance(0.02) ? this.random.below(60) : 1 + this.random.below(3);
    packet.due = this.now + delay;
    if (this.streams) {
      packet.due = Math.max(packet.due, this.lastDue.get(way) ?? 0);
      this.lastDue.set(way, packet.due);
    } else if (!this.quiet) {
      if (this.chance(this.mood.loss)) return;
      if (this.chance(0.1)) {
        this.packets.push({ ...packet, due: this.now + 1 + this.random.below(200) });
      }
    }
    this.packets.push(packet);
  }

  private collect(): void {
    for (const frame of this.cluster.network) {
      const { from, to } = frame.message;
      this.enqueue({ due: 0, from, to, frame, sent: 0, echo: 0, boot: 0 });
    }
    this.cluster.network = [];
  }

  private deliver(): void {
    const due = this.packets.filter((packet) => packet.due <= this.now);
    if (due.length === 0) return;
    this.packets = this.packets.filter((packet) => packet.due > this.now);
    for (const packet of due) {
      const shard = this.shards.get(packet.to);
      if (shard === undefined || this.cluster.replica(packet.to).node === null) continue;
      if (shard.pausedUntil > this.now) {
        packet.due = shard.pausedUntil;
        this.packets.push(packet);
      } else if (packet.frame === null) this.onHeartbeat(packet);
      else this.cluster.deliver(packet.frame);
    }
  }

  private disks(): void {
    for (const [id, replica] of this.cluster.replicas) {
      if (replica.writes.length === 0) continue;
      const at = this.flushAt.get(id) ?? 0;
      if (at === 0) this.flushAt.set(id, this.now + this.random.below(this.slow() ? 60 : 4));
      else if (at <= this.now) {
        this.cluster.flush(id);
        this.flushAt.set(id, 0);
      }
    }
  }

  private slow(): boolean {
    return !this.quiet && this.chance(this.mood.slowDisk);
  }

  private link(a: number, b: number): Link {
    const key = a < b ? `${a} ${b}` : `${b} ${a}`;
    let link = this.links.get(key);
    if (link === undefined) this.links.set(key, (link = new Link(a, b)));
    return link;
  }

  /** End of a connection: what is under way is lost; each side notices in its own time. */
  private breakLink(a: number, b: number): void {
    this.packets = this.packets.filter(
      ({ from, to }) => !((from === a && to === b) || (from === b && to === a)),
    );
    const link = this.link(a, b);
    link.broken = true;
    link.noticed.clear();
    for (const end of [0, 1]) {
      const soon = this.chance(0.5);
      link.noticeAt[end] = soon ? this.now + this.random.below(20) : Number.POSITIVE_INFINITY;
    }
  }

  private mendLinks(): void {
    for (const link of this.links.values()) {
      if (!link.broken) continue;
      const [a, b] = link.ends;
      for (const id of link.ends) {
        const peer = id === a ? b : a;
        const down = this.cluster.replica(id).node === null;
        if (link.noticed.has(id) || (!down && !this.notices(link, id, peer))) continue;
        link.noticed.add(id);
        if (!down) this.report(id, peer, false);
        this.shards.get(id)!.pair(peer).peerSent = 0;
      }
      const cut = this.cluster.cuts.has(`${a}>${b}`) || this.cluster.cuts.has(`${b}>${a}`);
      if (link.noticed.size < 2 || cut || !this.chance(0.05)) continue;
      link.broken = false;
      for (const id of link.ends) this.connected(id, id === a ? b : a);
    }
  }

  private notices(link: Link, id: number, peer: number): boolean {
    const shard = this.shards.get(id)!;
    if (shard.pausedUntil > this.now) return false;
    return !shard.pair(peer).active || link.noticeAt[id === link.ends[0] ? 0 : 1]! <= this.now;
  }

  private connected(id: number, peer: number): void {
    this.shards.get(id)!.pair(peer).heardAt = this.now;
    this.report(id, peer, true);
  }

  // ---- faults and work -----------------------------------------------------------------------------

  private crash(id: number): void {
    const replica = this.cluster.replica(id);
    if (replica.node === null) return;
    const survivors = this.random.below(replica.writes.length + 1);
    this.cluster.crash(id, survivors);
    this.flushAt.set(id, 0);
    this.packets = this.packets.filter((packet) => packet.to !== id);
    this.shards.get(id)!.downUntil = this.now + this.random.below(this.chance(0.5) ? 50 : 800);
    if (!this.streams) return;
    for (const peer of this.cluster.replicas.keys()) if (peer !== id) this.breakLink(id, peer);
  }

  /** A replica to hit: the leader, or anyone. */
  private victim(ids: readonly number[]): number {
    if (this.chance(this.mood.leaderBias)) {
      for (const [id, node] of this.alive()) if (node.role === Role.Leader) return id;
    }
    return this.pick(ids);
  }

  private faults(): void {
    const { mood } = this;
    const ids = [...this.cluster.replicas.keys()];
    this.crashes(ids);
    if (this.chance(mood.cut)) this.cut(this.victim(ids), this.pick(ids));
    if (this.chance(mood.isolate)) {
      const id = this.victim(ids);
      for (const peer of ids) if (this.chance(0.9)) this.cut(id, peer);
    }
    if (this.chance(mood.heal)) this.cluster.cuts.clear();
    if (this.streams && this.chance(mood.pause)) {
      this.shards.get(this.victim(ids))!.pausedUntil = this.now + this.random.below(1500);
    }
    if (this.streams && this.chance(mood.reset)) {
      const a = this.victim(ids);
      const b = this.pick(ids);
      if (a !== b) this.breakLink(a, b);
    }
    if (!this.streams && this.chance(0.01)) {
      const id = this.pick(ids);
      this.cluster.replica(id).node?.setPeerActive(this.pick(ids), this.chance(0.5));
    }
    if (this.chance(mood.faulty)) {
      this.cluster.replica(this.pick(ids)).node?.setFaulty(this.chance(0.3));
    }
  }

  private crashes(ids: readonly number[]): void {
    const { mood } = this;
    if (this.chance(mood.crash)) this.crash(this.victim(ids));
    for (const [id, replica] of this.cluster.replicas) {
      if (replica.writes.length === 0) continue;
      const voting = replica.writes.some((write) => write.hard !== null);
      if (this.chance(voting ? mood.crashAtVote : mood.crashAtWrite)) this.crash(id);
    }
  }

  private cut(a: number, b: number): void {
    if (a === b) return;
    this.cluster.cuts.add(`${a}>${b}`);
    if (!this.chance(this.mood.oneWay)) this.cluster.cuts.add(`${b}>${a}`);
    if (this.streams) this.breakLink(a, b);
  }

  /** Whoever is quiet is parked, and wakes at once. */
  private park(): void {
    for (const [id, node] of this.alive()) {
      if (!this.chance(0.05) || !this.cluster.park(id)) continue;
      if (node.role === Role.Leader) this.leadersParked++;
      else this.followersParked++;
    }
  }

  private restarts(): void {
    for (const [id, replica] of this.cluster.replicas) {
      if (replica.node !== null || this.shards.get(id)!.downUntil > this.now) continue;
      this.cluster.start(id);
      this.boot(replica);
    }
  }

  private work(): void {
    for (const [id, node] of this.alive()) {
      if (node.role !== Role.Leader) continue;
      if (this.chance(this.mood.propose)) this.cluster.propose(id, String(this.nextValue++));
      if (this.quiet) continue;
      if (this.chance(this.mood.transfer)) node.transferLeadership(this.pick(node.conf.members).id);
      if (this.chance(this.mood.change)) this.change(id, node);
      if (this.chance(0.01)) node.readIndex();
    }
    if (this.chance(this.mood.compact)) {
      const id = this.pick([...this.cluster.replicas.keys()]);
      const node = this.cluster.replica(id).node;
      const index = node === null ? 0 : node.appliedIndex - this.random.below(10);
      if (node !== null && index > node.log.baseIndex && index <= node.durableIndex) {
        this.cluster.compact(id, index);
      }
    }
    this.fills();
  }

  private change(id: number, node: RaftNode): void {
    const member = this.pick(node.conf.members).id;
    const other = this.pick(node.conf.members).id;
    const full = node.conf.nextReplicaId > MEMBERS_TOTAL;
    const options: ConfChange[] = [
      { promote: [member] },
      { promote: [member], remove: [other] },
      { promote: [member, other] },
      { demote: [member] },
      { remove: [member] },
    ];
    if (!full) {
      const { nextReplicaId } = node.conf;
      const witness = this.witnessed && nextReplicaId % 3 === 0;
      const address = { osd: 1, storeUuid: uuid(nextReplicaId), witness };
      options.push({ addLearners: [address] }, { addLearners: [address] });
    }
    try {
      this.cluster.change(id, this.pick(options));
    } catch (error) {
      if (error instanceof AssertionError) throw error;
    }
  }

  /** The owner makes the replicas that a configuration names. */
  private makeMembers(): void {
    for (const [, node] of this.alive()) {
      for (const member of node.conf.members) {
        if (this.cluster.replicas.has(member.id)) continue;
        const add = this.chance(0.5) ? "add" : "addRenewed";
        this.boot(this.cluster[add](member.id, CONFIGURATION_EMPTY));
      }
    }
  }

  private fills(): void {
    for (const [id, node] of this.alive()) {
      const { filling } = this.cluster.replica(id).disk;
      if (filling && this.chance(this.quiet ? 0.02 : this.mood.fillEnd)) this.cluster.endFill(id);
      if (node.role !== Role.Leader) {
        if (this.chance(0.02)) this.cluster.waitForFill(id, !this.quiet && this.chance(0.1));
        continue;
      }
      for (let slot = 0; slot < node.peerSlots; slot++) {
        const peer = node.conf.members[slot]!.id;
        if (peer === id || node.peerState(slot) !== ProgressState.Fill || !this.chance(0.05)) {
          continue;
        }
        const follower = this.cluster.replicas.get(peer)?.node ?? null;
        const cut =
          this.cluster.cuts.has(`${id}>${peer}`) || this.shards.get(peer)!.pausedUntil > this.now;
        if (follower === null || cut || follower.role === Role.Leader) continue;
        const index = node.appliedIndex;
        this.cluster.beginFill(peer, index, node.log.termAt(index), node.conf);
      }
    }
  }

  private step(): void {
    this.now++;
    this.restarts();
    if (!this.quiet) this.faults();
    this.deliver();
    if (this.streams) {
      this.heartbeat();
      this.mendLinks();
    }
    if (this.now % 10 === 0) for (const [, node] of this.alive()) if (node.needsTick) node.tick();
    this.work();
    for (const [id] of this.alive()) this.cluster.process(id);
    this.park();
    this.makeMembers();
    this.collect();
    this.disks();
    if (this.streams) this.checkLeases();
  }

  run(steps: number): void {
    for (let step = 0; step < steps; step++) this.step();
  }

  /** Stop all faults; everything must converge. */
  settle(): void {
    this.quiet = true;
    this.cluster.cuts.clear();
    for (const [id, shard] of this.shards) {
      shard.downUntil = 0;
      shard.pausedUntil = 0;
      this.cluster.replica(id).node?.setFaulty(false);
      if (this.streams) continue;
      for (const peer of this.shards.keys()) this.report(id, peer, true);
    }
    const target = this.committedMax + 5;
    for (let step = 0; step < 20_000; step++) {
      this.step();
      if (step % 50 === 0 && this.converged(target)) break;
    }
    expect(this.converged(target)).toBe(true);
    this.checkLogs();
    if (this.witnessed) this.loseOne();
  }

  /**
   * Beside a witness one failure stops nothing, once nobody with data lacks what is committed, and
   * no witness has more.
   */
  private loseOne(): void {
    const leader = (): RaftNode | undefined =>
      [...this.alive()].find(([, node]) => node.role === Role.Leader)?.[1];
    const whole = (node: RaftNode | undefined): boolean =>
      node !== undefined &&
      node.confPendingIndex <= node.appliedIndex &&
      node.conf.members.every((member, slot) => {
        if (!node.conf.isVoter(member.id) || member.id === node.id) return true;
        const { match, next } = node.progress[slot]!;
        return member.witness === true ? next <= node.commitIndex + 1 : match >= node.commitIndex;
      });
    for (let step = 0; step < 20_000 && !whole(leader()); step++) this.step();
    const { conf } = leader()!;
    const voters = conf.members.filter(({ id }) => conf.isVoter(id));
    if (conf.witnesses === 0 || voters.length < 3) return;
    const lost = this.pick(voters).id;
    this.crash(lost);
    this.shards.get(lost)!.downUntil = Number.POSITIVE_INFINITY;
    const target = this.committedMax + 5;
    for (let step = 0; step < 20_000 && this.committedMax < target; step++) {
      if (!this.streams && step % 500 === 0) {
        for (const peer of this.shards.keys()) if (peer !== lost) this.report(peer, lost, false);
      }
      this.step();
    }
    expect(this.committedMax).toBeGreaterThanOrEqual(target);
    this.lostOne = true;
  }

  private converged(target: number): boolean {
    const leader = [...this.alive()].find(([, node]) => node.role === Role.Leader)?.[1];
    if (leader === undefined || leader.conf.joint) return false;
    return leader.conf.members.every(({ id }) => {
      const node = this.cluster.replicas.get(id)?.node ?? null;
      return node !== null && node.appliedIndex >= target && node.term === leader.term;
    });
  }

  /** The replicas' states, for people. */
  describe(): string {
    const lines: string[] = [`now ${this.now} committed ${this.committedMax}`];
    for (const [id, replica] of this.cluster.replicas) {
      const { node } = replica;
      if (node === null) {
        lines.push(`${id}: down`);
        continue;
      }
      lines.push(
        `${id}: ${Role[node.role]} term ${node.term} vote ${node.vote} leader ${node.leader}` +
          ` applied ${node.appliedIndex} commit ${node.commitIndex} durable ${node.durableIndex}` +
          ` matched ${node.matchedIndex} base ${node.log.baseIndex} last ${node.log.lastIndex}` +
          ` filling ${node.filling} faulty ${node.faulty} promisee ${node.promisee}` +
          ` inactive ${node.inactive} ${formatConfiguration(node.conf)}`,
      );
      for (const peer of node.progress) {
        lines.push(
          `   ${peer.id} ${ProgressState[peer.state]} match ${peer.match} next ${peer.next}` +
            ` filling ${peer.filling} probeSent ${peer.probeSent} known ${peer.commitKnown}`,
        );
      }
    }
    return lines.join("\n");
  }

  /** Log matching: the same term at an index means the same entries up to it. */
  private checkLogs(): void {
    const seen: Map<string, string> = new Map();
    for (const replica of this.cluster.replicas.values()) {
      if (replica.node === null) continue;
      const { log } = replica.node;
      for (let index = log.baseIndex + 1; index <= log.lastIndex; index++) {
        const key = `${index} ${log.termAt(index)}`;
        const before = index - 1 > log.baseIndex ? log.termAt(index - 1) : -1;
        const text = `${replica.entries.get(index)?.value}`;
        expect(seen.get(key) ?? text).toBe(text);
        seen.set(key, text);
        if (before < 0) continue;
        expect(seen.get(`${key} before`) ?? String(before)).toBe(String(before));
        seen.set(`${key} before`, String(before));
      }
    }
  }
}

function uuid(id: number): string {
  return id.toString(16).padStart(32, "0");
}

const only = Bun.env["RAFT_SIM_SEED"];
const seeds = Number(Bun.env["RAFT_SIM_SEEDS"] ?? 300);
const first = only === undefined ? 1 : Number(only);
const seedsEnd = only === undefined ? seeds : first;

for (const mode of ["chaos", "streams", "chaos with a witness", "streams with a witness"]) {
  const streams = mode.startsWith("streams");
  const witnessed = mode.endsWith("witness");
  const last = witnessed && only === undefined ? Math.ceil(seeds / 3) : seedsEnd;
  test(`raft keeps its promises in ${mode}, seeds ${first} to ${last}`, () => {
    let committed = 0;
    let elections = 0;
    let leaseTime = 0;
    let votesUncounted = 0;
    let leadersParked = 0;
    let followersParked = 0;
    let lost = 0;
    let left = 0;
    for (let seed = first; seed <= last; seed++) {
      const simulation = new Simulation(seed, streams, witnessed);
      try {
        simulation.run(3000);
        simulation.settle();
      } catch (error) {
        const stack = error instanceof Error ? (error.stack ?? error.message) : String(error);
        console.error(`raft simulation failed: mode ${mode}, RAFT_SIM_SEED=${seed}: ${stack}`);
        console.error(simulation.describe());
        throw error;
      }
      committed += simulation.committedMax;
      elections += simulation.cluster.leaderOfTerm.size;
      votesUncounted += simulation.cluster.votesUncounted;
      leadersParked += simulation.leadersParked;
      followersParked += simulation.followersParked;
      if (simulation.lostOne) lost++;
      left += simulation.cluster.leftWitness;
      leaseTime += simulation.leaseTime / simulation.now;
    }
    // The runs must have been real: work was done, leaders changed.
    expect(committed / (last - first + 1)).toBeGreaterThan(20);
    expect(followersParked / (last - first + 1)).toBeGreaterThan(10);
    // Without heartbeats no leader knows of promises.
    if (streams) expect(leadersParked / (last - first + 1)).toBeGreaterThan(1);
    expect(elections / (last - first + 1)).toBeGreaterThan(2);
    if (last - first >= 299) expect(votesUncounted).toBeGreaterThan(0);
    if (witnessed) expect(lost / (last - first + 1)).toBeGreaterThan(0.2);
    if (streams) expect(leaseTime / (last - first + 1)).toBeGreaterThan(0.2);
    console.log(
      `${mode}: ${leadersParked} times a leader was parked, ${followersParked} a follower, ` +
        `${lost} lost one at the end, ${left} leaders left beside a witness`,
    );
  }, 600_000);
}
