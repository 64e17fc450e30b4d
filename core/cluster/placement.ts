import { assert } from "../base/assert.ts";
import type { OsdId, PgId, ReplicaId, ShardIndex } from "../base/ids.ts";
import { hashObject } from "./hash.ts";
import type { FailureDomain } from "./pool.ts";

/**
 * Placement: which osds and shards hold the replicas of each group of a pool.
 *
 * A pure function of topology and of what is placed already, so that every monitor and every test
 * computes the same table. Rules, in order of weight:
 *
 * 1. Replicas of a group never share a failure domain.
 * 2. What is placed and may stay, stays (least movement): only empty seats are filled.
 * 3. Osds hold replicas in proportion to their weight, shards of an osd equally many, and osds
 *    and shards lead equally many groups (the first replica of a group leads it by preference).
 *
 * Groups of two get a witness as well, which votes and has no data, in a third domain where there is
 * one. It weighs nothing: osds hold equally many, whatever their weight. It stays where it is unless
 * its osd is out, or gone, or shares a domain with data, and another one can take it.
 *
 * Seats are filled group by group with the osd that is least full for its weight; among equals a
 * hash of osd and load decides, so that partners vary and a lost osd is rebuilt from many. A
 * second pass swaps leaders along the shortest path from the osd that leads most to one that
 * leads fewer, until none gains. Hashing alone (the simpler design) leaves osds 30 % apart at 32
 * groups.
 */
export interface PlacementInput {
  /** Replicas wanted per group. */
  readonly size: number;
  readonly failureDomain: FailureDomain;
  readonly osds: readonly PlacementOsd[];
  /** The groups of the pool with the replicas that they have; empty at creation. */
  readonly groups: readonly { readonly id: PgId; readonly seats: readonly PlacementSeat[] }[];
}

export interface PlacementOsd {
  readonly id: OsdId;
  readonly host: string;
  readonly up: boolean;
  readonly in: boolean;
  readonly weight: number;
  readonly shardCount: number;
  /** Replicas with data, and preferred leaders of other pools there, by shard index. */
  readonly otherReplicas: readonly number[];
  readonly otherLeaders: readonly number[];
}

/** A replica that stands already. */
export interface PlacementSeat {
  readonly replicaId: ReplicaId;
  readonly osd: OsdId;
  readonly shard: ShardIndex;
  readonly witness: boolean;
}

export interface PlacedReplica {
  readonly osd: OsdId;
  readonly shard: ShardIndex;
  /** 0: a new replica. */
  readonly replicaId: ReplicaId;
  readonly witness: boolean;
}

export interface RejectedOsd {
  readonly osd: OsdId;
  /** The rule that keeps it from receiving replicas, for people: `is down`. */
  readonly rule: string;
}

/** How one osd came off, for `explain`. Counts of this pool alone. */
export interface OsdShare {
  readonly osd: OsdId;
  readonly replicas: number;
  readonly leaders: number;
  readonly witnesses: number;
  /** Replicas that its weight would give it. */
  readonly target: number;
}

export interface PlacementResult {
  /** False: too few failure domains; then `rows` is empty. */
  readonly ok: boolean;
  /** Per group, in the order of the input: replicas, the preferred leader first, a witness last. */
  readonly rows: readonly (readonly PlacedReplica[])[];
  /** Failure domains that can receive replicas, and how many are wanted. */
  readonly domainsUsable: number;
  readonly domainsWanted: number;
  readonly rejected: readonly RejectedOsd[];
  readonly shares: readonly OsdShare[];
  /** Replicas with data that are new. */
  readonly moved: number;
  /** Groups that have a witness. */
  readonly witnessed: number;
}

/** Pools of this size have witnesses: with one more replica a majority survives a failure as it is. */
const WITNESSED_SIZE = 2;
const LEVEL_SWEEPS_MAX = 64;

/** Compute the placement of a pool. Same input, same result. */
export function place(input: PlacementInput): PlacementResult {
  const table = new Table(input);
  if (table.domainsUsable() < input.size) return table.failure();
  table.fill();
  table.balanceLeaders();
  table.assignShards();
  if (input.size === WITNESSED_SIZE) table.seatWitnesses();
  return table.result();
}

class OsdLoad {
  readonly info: PlacementOsd;
  readonly domain: string;
  readonly usable: boolean;
  replicas = 0;
  leaders = 0;
  witnesses = 0;
  /** With one replica more: how full in this pool, and in all; relative to the weight. */
  fullness = 0;
  private overall = 0;
  /** Decides among equals; another one for each replica, so that partners vary. */
  private lot = 0;
  /** Replicas and leaders per shard, other pools included. */
  readonly shardReplicas: number[];
  readonly shardLeaders: number[];
  /** Of this pool. */
  readonly shardWitnesses: number[];
  private readonly others: number;
  private readonly otherLeaders: number;

  constructor(info: PlacementOsd, failureDomain: FailureDomain) {
    this.info = info;
    this.domain = failureDomain === "osd" ? `osd.${String(info.id)}` : info.host;
    this.usable = rejectionOf(info) === undefined;
    this.shardReplicas = Array.from(
      { length: info.shardCount },
      (_, at) => info.otherReplicas[at] ?? 0,
    );
    this.shardLeaders = Array.from(
      { length: info.shardCount },
      (_, at) => info.otherLeaders[at] ?? 0,
    );
    this.shardWitnesses = new Array<number>(info.shardCount).fill(0);
    this.others = sum(this.shardReplicas);
    this.otherLeaders = sum(this.shardLeaders);
    this.add(0);
  }

  /** Give it one replica more, or one less. */
  add(replicas: number): void {
    this.replicas += replicas;
    const weight = Math.max(this.info.weight, 1e-9);
    this.fullness = (this.replicas + 1) / weight;
    this.overall = (this.others + this.replicas + 1) / weight;
    this.lot = hashObject(this.info.id, this.replicas);
  }

  /** This pool decides, then all pools, then the lot. */
  isLessFull(than: OsdLoad): boolean {
    const difference = this.fullness - than.fullness;
    if (Math.abs(difference) > 1e-12) return difference < 0;
    const overall = this.overall - than.overall;
    if (Math.abs(overall) > 1e-12) return overall < 0;
    return this.lot === than.lot ? this.info.id < than.info.id : this.lot < than.lot;
  }

  /** Witnesses of this pool decide, then a lot that is another one for each. */
  hasFewerWitnesses(than: OsdLoad): boolean {
    if (this.witnesses !== than.witnesses) return this.witnesses < than.witnesses;
    const lot = hashObject(this.info.id, this.witnesses);
    const other = hashObject(than.info.id, than.witnesses);
    return lot === other ? this.info.id < than.info.id : lot < other;
  }

  overallLeaderLoad(): number {
    return this.otherLeaders + this.leaders;
  }
}

/** Loads by fullness, the least full first: a binary heap. */
class LoadQueue {
  private readonly heap: OsdLoad[] = [];

  constructor(loads: readonly OsdLoad[]) {
    for (const load of loads) this.push(load);
  }

  push(load: OsdLoad): void {
    const { heap } = this;
    let at = heap.length;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!load.isLessFull(heap[parent]!)) break;
      heap[at] = heap[parent]!;
      at = parent;
    }
    heap[at] = load;
  }

  pop(): OsdLoad | undefined {
    const { heap } = this;
    const top = heap[0];
    const last = heap.pop();
    if (last === undefined || last === top) return top;
    let at = 0;
    for (;;) {
      let child = at * 2 + 1;
      if (child + 1 < heap.length && heap[child + 1]!.isLessFull(heap[child]!)) child++;
      if (child >= heap.length || !heap[child]!.isLessFull(last)) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = last;
    return top;
  }
}

/** One link of a chain of leaders: `from` leads `group` and hands it on. */
interface ChainStep {
  readonly group: Group;
  readonly from: OsdLoad;
}

interface Group {
  readonly id: PgId;
  /** With data. */
  seats: Seat[];
  witness: Seat | undefined;
}

interface Seat {
  readonly load: OsdLoad;
  shard: ShardIndex | -1;
  readonly replicaId: ReplicaId;
}

class Table {
  private readonly input: PlacementInput;
  private readonly loads: OsdLoad[];
  private readonly byId: Map<OsdId, OsdLoad>;
  private readonly groups: Group[];

  constructor(input: PlacementInput) {
    assert(input.size >= 1, "place: size is below 1");
    this.input = input;
    const sorted = [...input.osds].sort((a, b) => a.id - b.id);
    this.loads = sorted.map((osd) => new OsdLoad(osd, input.failureDomain));
    this.byId = new Map(this.loads.map((load) => [load.info.id, load]));
    this.groups = input.groups.map((group) => ({
      id: group.id,
      seats: this.kept(group.seats.filter((seat) => !seat.witness)),
      witness: this.standing(group.seats.find((seat) => seat.witness)),
    }));
  }

  domainsUsable(): number {
    return new Set(this.loads.filter((load) => load.usable).map((load) => load.domain)).size;
  }

  failure(): PlacementResult {
    return {
      ok: false,
      rows: [],
      domainsUsable: this.domainsUsable(),
      domainsWanted: this.input.size,
      rejected: this.rejected(),
      shares: [],
      moved: 0,
      witnessed: 0,
    };
  }

  /** Fill the empty seats, least full osd first. */
  fill(): void {
    const queue = new LoadQueue(this.loads.filter((load) => load.usable));
    const set: OsdLoad[] = [];
    for (const group of this.groups) {
      const taken = domainsOf(group);
      while (group.seats.length < this.input.size) {
        const load = queue.pop();
        if (load === undefined) break;
        set.push(load);
        if (taken.has(load.domain)) continue;
        taken.add(load.domain);
        load.add(1);
        group.seats.push({ load, shard: -1, replicaId: 0 as ReplicaId });
      }
      for (const load of set.splice(0)) queue.push(load);
    }
    this.levelNewSeats();
  }

  /** Choose and then even out the preferred leaders. Leaders move freely: nothing is copied. */
  balanceLeaders(): void {
    for (const group of this.groups) {
      const first = this.lightestLeader(group.seats);
      group.seats = putFirst(group.seats, first);
      const leader = group.seats[0];
      if (leader !== undefined) leader.load.leaders++;
    }
    // Each pass shortens the distance between the extremes; the bound only guards against a bug.
    for (let pass = 0; pass < this.groups.length; pass++) {
      if (!this.shiftLeader()) return;
    }
  }

  /** Spread replicas over the shards of each osd: leaders first, they cost more. */
  assignShards(): void {
    for (const group of this.groups) {
      for (const seat of group.seats) {
        if (seat.shard >= 0) seat.load.shardReplicas[seat.shard]!++;
      }
      const leader = group.seats[0];
      if (leader !== undefined && leader.shard >= 0) leader.load.shardLeaders[leader.shard]!++;
    }
    for (const group of this.groups) {
      const leader = group.seats[0];
      if (leader === undefined || leader.shard >= 0) continue;
      const load = leader.load;
      leader.shard = lightest(load.shardLeaders, load.shardReplicas);
      load.shardLeaders[leader.shard]!++;
      load.shardReplicas[leader.shard]!++;
    }
    for (const group of this.groups) {
      for (const seat of group.seats) {
        if (seat.shard >= 0) continue;
        seat.shard = lightest(seat.load.shardReplicas, seat.load.shardLeaders);
        seat.load.shardReplicas[seat.shard]!++;
      }
    }
  }

  /** Keep the witnesses that may stay, and give each group one that lacks it. */
  seatWitnesses(): void {
    for (const group of this.groups) {
      const domains = new Set(group.seats.map((seat) => seat.load.domain));
      const { witness } = group;
      const mayStay = witness !== undefined && !domains.has(witness.load.domain);
      if (!mayStay || !witness.load.info.in) {
        const seat = this.newWitness(domains);
        group.witness = seat ?? (mayStay ? witness : undefined);
      }
      if (group.witness === undefined) continue;
      const { load, shard } = group.witness;
      load.witnesses++;
      load.shardWitnesses[shard]!++;
    }
  }

  private newWitness(taken: ReadonlySet<string>): Seat | undefined {
    let best: OsdLoad | undefined;
    for (const load of this.loads) {
      if (!load.usable || taken.has(load.domain)) continue;
      if (best === undefined || load.hasFewerWitnesses(best)) best = load;
    }
    if (best === undefined) return undefined;
    const shard = lightest(best.shardWitnesses, best.shardReplicas);
    return { load: best, shard, replicaId: 0 as ReplicaId };
  }

  result(): PlacementResult {
    let moved = 0;
    const placed = (seat: Seat, witness: boolean): PlacedReplica => {
      const { load, replicaId } = seat;
      return { osd: load.info.id, shard: seat.shard as ShardIndex, replicaId, witness };
    };
    const rows = this.groups.map(({ seats, witness }) => {
      for (const seat of seats) if (seat.replicaId === 0) moved++;
      const row = seats.map((seat) => placed(seat, false));
      return witness === undefined ? row : [...row, placed(witness, true)];
    });
    return {
      ok: true,
      rows,
      domainsUsable: this.domainsUsable(),
      domainsWanted: this.input.size,
      rejected: this.rejected(),
      shares: this.shares(),
      moved,
      witnessed: this.groups.filter((group) => group.witness !== undefined).length,
    };
  }

  /** Seats that may stay. An osd that is down or out keeps what it has: only people move it. */
  private kept(seats: readonly PlacementSeat[]): Seat[] {
    const kept: Seat[] = [];
    for (const seat of seats) {
      const load = this.byId.get(seat.osd);
      if (load === undefined || seat.shard >= load.info.shardCount) continue;
      load.add(1);
      kept.push({ load, shard: seat.shard, replicaId: seat.replicaId });
    }
    return kept;
  }

  private standing(seat: PlacementSeat | undefined): Seat | undefined {
    const load = seat === undefined ? undefined : this.byId.get(seat.osd);
    if (seat === undefined || load === undefined || seat.shard >= load.info.shardCount) {
      return undefined;
    }
    return { load, shard: seat.shard, replicaId: seat.replicaId };
  }

  private leastFull(taken: ReadonlySet<string>): OsdLoad | undefined {
    let best: OsdLoad | undefined;
    for (const load of this.loads) {
      if (!load.usable || taken.has(load.domain)) continue;
      if (best === undefined || load.isLessFull(best)) best = load;
    }
    return best;
  }

  /**
   * Move new seats from fuller to emptier osds while that levels them. Greedy filling needs this
   * when domains differ in size: the last groups then find the right domains taken. Each move
   * lowers the sum of squared loads, so that sweeps end; the bound only guards against a bug.
   */
  private levelNewSeats(): void {
    for (let sweep = 0; sweep < LEVEL_SWEEPS_MAX; sweep++) {
      const floor = this.leastFull(new Set())?.fullness ?? 0;
      let changed = false;
      for (const group of this.groups) changed = this.levelGroup(group, floor) || changed;
      if (!changed) return;
    }
  }

  /** `floor`: no osd is emptier, which spares looking at seats that can not gain. */
  private levelGroup(group: Group, floor: number): boolean {
    let changed = false;
    for (let at = 0; at < group.seats.length; at++) {
      const { load, replicaId } = group.seats[at]!;
      const now = load.replicas / Math.max(load.info.weight, 1e-9);
      if (replicaId !== 0 || floor >= now - 1e-9) continue;
      const others = group.seats.filter((_, index) => index !== at);
      const best = this.leastFull(domainsOf({ ...group, seats: others }));
      // Moving helps only when the receiver stays emptier than the giver was.
      if (best === undefined || best === load || best.fullness >= now - 1e-9) continue;
      load.add(-1);
      best.add(1);
      group.seats[at] = { load: best, shard: -1, replicaId };
      changed = true;
    }
    return changed;
  }

  private lightestLeader(seats: readonly Seat[]): number {
    let best = 0;
    for (let at = 1; at < seats.length; at++) {
      const one = seats[at]!.load;
      const other = seats[best]!.load;
      const difference = one.leaders - other.leaders;
      const overall = one.overallLeaderLoad() - other.overallLeaderLoad();
      if (difference < 0 || (difference === 0 && overall < 0)) best = at;
    }
    return best;
  }

  /**
   * Hand one leadership from an osd that leads most, over others whose number stays, to one that
   * leads at least two fewer. Breadth first: the shortest such chain. False when there is none.
   */
  private shiftLeader(): boolean {
    const led = this.groupsByLeader();
    const from = [...this.loads].sort((a, b) => b.leaders - a.leaders || a.info.id - b.info.id);
    const fewest = from[from.length - 1]?.leaders ?? 0;
    for (const start of from) {
      if (start.leaders < fewest + 2) return false;
      if (this.shiftFrom(start, led)) return true;
    }
    return false;
  }

  private groupsByLeader(): Map<OsdLoad, Group[]> {
    const led = new Map<OsdLoad, Group[]>();
    for (const group of this.groups) {
      const leader = group.seats[0]?.load;
      if (leader === undefined) continue;
      const list = led.get(leader);
      if (list === undefined) led.set(leader, [group]);
      else list.push(group);
    }
    return led;
  }

  private shiftFrom(start: OsdLoad, led: ReadonlyMap<OsdLoad, Group[]>): boolean {
    const cameBy = new Map<OsdLoad, ChainStep>();
    const queue: OsdLoad[] = [start];
    for (let head = 0; head < queue.length; head++) {
      const from = queue[head]!;
      for (const group of led.get(from) ?? []) {
        for (const { load } of group.seats) {
          if (load === start || cameBy.has(load)) continue;
          cameBy.set(load, { group, from });
          if (load.leaders <= start.leaders - 2) {
            handOver(start, load, cameBy);
            return true;
          }
          queue.push(load);
        }
      }
    }
    return false;
  }

  private rejected(): RejectedOsd[] {
    const list: RejectedOsd[] = [];
    for (const load of this.loads) {
      const rule = rejectionOf(load.info);
      if (rule !== undefined) list.push({ osd: load.info.id, rule });
    }
    return list;
  }

  private shares(): OsdShare[] {
    const usable = this.loads.filter((load) => load.usable);
    const weight = sum(usable.map((load) => load.info.weight));
    const seats = this.groups.length * this.input.size;
    return this.loads.map((load) => ({
      osd: load.info.id,
      replicas: load.replicas,
      leaders: load.leaders,
      witnesses: load.witnesses,
      target: load.usable ? (seats * load.info.weight) / weight : 0,
    }));
  }
}

/** Where the group has something already: data goes nowhere to a witness that stands. */
function domainsOf(group: Group): Set<string> {
  const domains = new Set(group.seats.map((seat) => seat.load.domain));
  if (group.witness !== undefined) domains.add(group.witness.load.domain);
  return domains;
}

function rejectionOf(osd: PlacementOsd): string | undefined {
  if (!osd.in) return "is out";
  if (!osd.up) return "is down";
  if (osd.weight <= 0) return "has weight 0";
  if (osd.shardCount < 1) return "has no shards";
  return undefined;
}

/** Pass the leadership of every group of the chain on, from its end backwards. */
function handOver(start: OsdLoad, end: OsdLoad, cameBy: ReadonlyMap<OsdLoad, ChainStep>): void {
  let at = end;
  while (at !== start) {
    const step = cameBy.get(at);
    assert(step !== undefined, "placement: broken chain of leaders");
    const seats = step.group.seats;
    step.group.seats = putFirst(
      seats,
      seats.findIndex((seat) => seat.load === at),
    );
    at = step.from;
  }
  start.leaders--;
  end.leaders++;
}

function putFirst(seats: Seat[], at: number): Seat[] {
  const first = seats[at];
  return first === undefined ? seats : [first, ...seats.filter((seat) => seat !== first)];
}

function lightest(first: readonly number[], second: readonly number[]): ShardIndex {
  let best = 0;
  for (let at = 1; at < first.length; at++) {
    const difference = first[at]! - first[best]!;
    if (difference < 0 || (difference === 0 && second[at]! < second[best]!)) best = at;
  }
  return best as ShardIndex;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
