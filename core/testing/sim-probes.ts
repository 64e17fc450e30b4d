// cold: the simulator
import { type Group, GroupHealth } from "../pg/pg.ts";
import { groupsOf, type SimCluster, type SimOsd } from "./sim-cluster.ts";

/** Rare situations that runs must meet: a range of seeds that never met one is blind for it. */
const NAMES = [
  "log went round",
  "checkpoint during a fill",
  "fill begun anew",
  "units in quarantine",
  "entry appended again",
  "block healed",
  "checksum failed",
  "joint configuration",
  "leader changed in a joint configuration",
  "leader changed during a fill",
  "vote of a replica that does not count",
  "two leaders of different terms",
  "replica distrusted",
  "payloads missing",
  "device failed",
  "no space beneath a store",
  "request sent again",
  "client saw damage",
  "replica learns of its group",
  "parked leader woke",
  "parked follower woke",
  "image made again",
  "shrink without a replica",
  "shrink beside a fill",
  "shrink while a leader died",
  "removal without a replica",
  "removal beside a fill",
  "removal while a leader died",
  "growth refused during a shrink",
  "group refused a removed image",
  "group refused what is beyond an end",
  "monitor died in a change of an image",
  "segment lost",
  "bytes of a connection given up",
  "request answered again",
  "dialled somebody else's port",
  "session forgotten",
  "client was told that its session expired",
  "flush failed",
  "flush failed and dropped blocks",
  "operation never ended",
  "short transfer",
  "operation went astray",
  "scrub ran under faults",
  "scrub healed a block",
  "dial changed during a fill",
  "recovery paused during a fill",
  "osd went out",
  "stale batch refused",
  "vote remembered after a power cut",
] as const;

export type ProbeName = (typeof NAMES)[number];

/**
 * Counts rare situations, from state and counters that the processes have anyway: at each look at
 * the cluster, and when a process ends.
 */
export class SimProbes {
  readonly counts: Record<string, number> = Object.fromEntries(NAMES.map((name) => [name, 0]));
  private readonly cluster: SimCluster;
  private readonly logBytes: number;
  /** Leader of each group at the last look, and checkpoints of each shard. */
  private readonly leaders = new Map<number, number>();
  private readonly checkpoints = new Map<object, number>();

  constructor(cluster: SimCluster, logBytes: number) {
    this.cluster = cluster;
    this.logBytes = logBytes;
  }

  look(groups: readonly Group[]): void {
    const filled = new Set<number>();
    for (const group of groups) if (isFilled(group)) filled.add(group.pg);
    for (const group of groups) this.lookAt(group, filled);
    for (const osd of this.cluster.osds) {
      if (osd.world?.alive !== true) continue;
      for (const { pg } of osd.shards) {
        if (osd.session === null) continue;
        const { checkpoints } = pg.store.counters;
        const isNew = checkpoints > (this.checkpoints.get(pg) ?? 0);
        this.checkpoints.set(pg, checkpoints);
        if (isNew && pg.groups.awake().some(isFilled)) this.hit("checkpoint during a fill");
        if (pg.store.usage().bytesQuarantined > 0) this.hit("units in quarantine");
        if (pg.full) this.hit("no space beneath a store");
      }
    }
  }

  private lookAt(group: Group, filled: ReadonlySet<number>): void {
    const { node, pg } = group;
    if (group.silent) this.hit("replica distrusted");
    if (group.faulty.length > 0) this.hit("payloads missing");
    if (group.creating) this.hit("replica learns of its group");
    if (node.uncounted && node.vote !== 0) this.hit("vote of a replica that does not count");
    if (node.conf.joint) this.hit("joint configuration");
    if (group.sessions.forgotten > 0) this.hit("session forgotten");
    if (!group.isLeader) return;
    const { osd } = group.shard;
    const before = this.leaders.get(pg);
    this.leaders.set(pg, osd);
    if (before === undefined || before === osd) return;
    if (node.conf.joint) this.hit("leader changed in a joint configuration");
    if (filled.has(pg)) this.hit("leader changed during a fill");
    const old = this.cluster.osds[before]!;
    const stillLeads = (one: Group): boolean => one.pg === pg && one.isLeader;
    if (old.world?.alive === true && groupsOf(old).some(stillLeads)) {
      this.hit("two leaders of different terms");
    }
  }

  /** A process ends. */
  count(osd: SimOsd): void {
    if (osd.session === null) return;
    for (const shard of osd.shards) {
      const { store, fills, parking } = shard.pg;
      const { counters } = store;
      if (counters.bytesLog > this.logBytes) this.hit("log went round");
      this.hit("entry appended again", counters.entriesAppendedAgain);
      this.hit("block healed", counters.blocksHealed);
      this.hit("checksum failed", counters.checksumFailures);
      if (fills.counters.fillsBegun > fills.counters.fillsEnded) this.hit("fill begun anew");
      if (store.failed) this.hit("device failed");
      this.hit("request answered again", shard.pg.duplicates);
      this.hit("parked leader woke", parking.leadersWoken);
      this.hit("parked follower woke", parking.woken - parking.leadersWoken);
    }
  }

  /** Somebody was reached where somebody else was meant. */
  onMistaken(): void {
    this.hit("dialled somebody else's port");
  }

  /** Operations that ended because groups had forgotten their session. */
  countExpired(times: number): void {
    this.hit("client was told that its session expired", times);
  }

  /** A run ends. */
  countDevices(): void {
    for (const { strikes } of this.cluster.simulation.disks) {
      this.hit("flush failed", strikes.flushesFailed);
      if (strikes.blocksDropped > 0) this.hit("flush failed and dropped blocks");
      this.hit("operation never ended", strikes.hung);
      this.hit("short transfer", strikes.short);
      this.hit("operation went astray", strikes.strayed);
    }
  }

  /** A run ends. */
  countClients(): void {
    const { segmentsLost, segmentsLate } = this.cluster.simulation.networkCounts;
    this.hit("segment lost", segmentsLost);
    this.hit("bytes of a connection given up", segmentsLate);
    for (const { client } of this.cluster.clients) {
      this.hit("request sent again", client.counts.resends);
      this.hit("client saw damage", client.counts.damaged);
    }
  }

  /** A rare situation was met, so many times. */
  hit(name: ProbeName, times = 1): void {
    this.counts[name]! += times;
  }
}

/** Whether a replica is filled by difference. */
export function isFilled(group: Group): boolean {
  return group.shard.store.healthOf(group.row) === GroupHealth.Filling;
}
