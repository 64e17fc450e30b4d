// cold path: once a second per shard.
import {
  type Group,
  isSettled,
  type LocalStore,
  type Parked,
  type PgShard,
  type ScrubState,
  type StoreUsage,
} from "../pg/pg.ts";
import { TRACE_ROWS, type TraceRows } from "../metrics/metrics.ts";
import { type Configuration, Role } from "../raft/raft.ts";
import type { World } from "../reactor/world.ts";
import type { FaultyEntries } from "./faulty-entries.ts";
import type { Healer } from "./healer.ts";

/** What a shard tells of one group: PgReport of `proto/control.proto` as plain values. */
export interface GroupReport {
  readonly pg: number;
  readonly replica: number;
  /** PgRole of `proto/control.proto`. */
  readonly role: number;
  readonly term: number;
  readonly leader: number;
  readonly commitIndex: number;
  readonly appliedIndex: number;
  readonly established: boolean;
  readonly witness: boolean;
  readonly usedBytes: number;
  /** Leaders only: the scrub that was ordered last. ScrubReport of `proto/control.proto`. */
  readonly scrub?: {
    readonly order: number;
    readonly deep: boolean;
    readonly done: boolean;
    readonly found: number;
    readonly healed: number;
    readonly left: number;
    readonly blocks: readonly { layer: number; block: number; undecided: boolean }[];
  };
  /** Replicas on their way back: this one, or those that this leader sends old entries. */
  readonly recovery?: readonly ReplicaRecovery[];
  /** Of leaders once it is settled; and of whoever knows no leader, as it has applied it. */
  readonly configuration?: {
    readonly index: number;
    readonly voters: number[];
    readonly outgoing: number[];
    readonly learners: number[];
  };
  /** With the configuration: ids below this were given out by then. */
  readonly nextReplicaId?: number;
}

/** RecoveryReport of `proto/control.proto` as plain values; what is absent is 0. */
export interface ReplicaRecovery {
  readonly replica: number;
  /** RecoveryStage of `proto/control.proto`. */
  readonly stage: number;
  readonly entriesLeft?: number;
  readonly pass?: number;
  readonly unitsDone?: number;
  readonly unitsLeft?: number;
  readonly passMs?: number;
  readonly blocksDiffering?: number;
  readonly blocksCopied?: number;
}

/** Blocks without a whole copy that are named in a report, of each shard. */
const REFUSED_LISTED_MAX = 64;

/** A block without a whole copy here: RefusedBlock of `proto/control.proto`. */
export interface RefusedBlock {
  readonly pg: number;
  readonly layer: number;
  readonly block: number;
  readonly lost: boolean;
}

/** What is damaged on a shard and not put right yet. */
export interface DamageReport {
  readonly blocksLost: number;
  readonly blocksWaiting: number;
  readonly entriesFaulty: number;
  /** The first of them, lost ones before those that wait for a peer. */
  readonly refused: readonly RefusedBlock[];
}

/** What a shard tells its osd's main thread: structured-clone-able. */
export interface ShardReport {
  readonly shard: number;
  readonly generation: number;
  readonly epoch: number;
  readonly pgs: GroupReport[];
  readonly unreachable: number[];
  /** Layers whose space is not as in the report before. */
  readonly layers: readonly LayerUsage[];
  /** Undefined: as in the report before, but for heartbeats. */
  readonly figures: ShardFigures | undefined;
  /** Rows of the trace of stages, when there are any. */
  readonly trace: ShardTrace | undefined;
}

/** What a shard has of the trace that was ordered. */
export interface ShardTrace extends TraceRows {
  readonly id: number;
}

/** All rows of a reactor that ended since it was asked last. Undefined: there are none. */
export function traceOf(world: World): ShardTrace | undefined {
  const { trace } = world;
  if (!trace.hasRows) return undefined;
  const { rows, lost } = trace.take(TRACE_ROWS, false);
  return rows.length === 0 && lost === 0 ? undefined : { id: trace.id, rows, lost };
}

/** What a shard holds and has done. */
export interface ShardFigures {
  readonly usage: StoreUsage;
  readonly counters: Readonly<Record<string, number>>;
  readonly requests: Readonly<Record<string, number>>;
  readonly damage: DamageReport;
  /** Units that fills have not compared yet, or not copied. */
  readonly recoveryUnitsLeft: number;
  readonly raft: {
    readonly elections: number;
    readonly groups: number;
    readonly leaders: number;
    readonly heartbeats: number;
  };
  /** `ReactorStats`, where they are known. */
  readonly reactor: Readonly<Record<string, number>>;
}

/** Figures in which nothing moved but heartbeats and the reactor are told in every so many reports. */
const FIGURES_REPORTS = 10;

/** Decides whether figures are news. An idle shard's are not: making and reading them has a cost. */
export class FigureNews {
  private told = "";
  private reports = 0;

  /** Answers what the report is to carry. `all`: in any case. */
  of(figures: ShardFigures, all: boolean): ShardFigures | undefined {
    const raft = { ...figures.raft, heartbeats: 0 };
    const text = JSON.stringify({ ...figures, raft, reactor: {} });
    this.reports += 1;
    if (!all && text === this.told && this.reports < FIGURES_REPORTS) return undefined;
    this.told = text;
    this.reports = 0;
    return figures;
  }
}

const ROLE_FOLLOWER = 1;
const ROLE_CANDIDATE = 2;
const ROLE_LEADER = 3;
const ROLE_LEARNER = 4;
const ROLE_FILLING = 5;
const ROLE_REMOVED = 6;
const ROLE_DISTRUSTED = 7;
const STAGE_LOG = 1;
const STAGE_WAITING = 2;
const STAGE_DIFFERENCE = 3;

/** What a layer takes on a shard; 0: nothing is left. */
export interface LayerUsage {
  readonly layer: number;
  readonly usedBytes: number;
}

/** Groups' bytes are told in every so many reports: they change with every write. */
const SPACE_REPORTS = 5;

/** What `SpaceNews` asks a store for. */
type GroupSpace = Pick<LocalStore, "bytesOf" | "appliedIndex">;

/** Decides which layers and groups take another space than was told. */
export class SpaceNews {
  private layers = new Map<number, number>();
  private readonly groups = new Map<number, number>();
  private reports = 0;

  /** Layers to tell of. `all`: every one that is there. */
  layersOf(store: LocalStore, all: boolean): LayerUsage[] {
    const before = this.layers;
    const now = store.layerBytes();
    this.layers = now;
    const news: LayerUsage[] = [];
    for (const [layer, usedBytes] of now) {
      if (all || before.get(layer) !== usedBytes) news.push({ layer, usedBytes });
    }
    for (const layer of before.keys()) if (!now.has(layer)) news.push({ layer, usedBytes: 0 });
    return news;
  }

  /** Groups to tell of; `groups`: row by group. */
  groupsOf(store: GroupSpace, groups: ReadonlyMap<number, number>): number[] {
    this.reports += 1;
    if (this.reports < SPACE_REPORTS) return [];
    this.reports = 0;
    const told = this.groups;
    const news: number[] = [];
    // No list of pairs: thousands of groups that rest would leave garbage for nobody to collect.
    groups.forEach((row, pg) => {
      // Nothing of a witness grows but its log.
      const bytes = store.bytesOf(row) || store.appliedIndex(row);
      if ((told.get(pg) ?? 0) === bytes) return;
      told.set(pg, bytes);
      news.push(pg);
    });
    for (const pg of told.keys()) if (!groups.has(pg)) told.delete(pg);
    return news;
  }
}

/** Describe a group as it is now; undefined: it is not here, or not made yet. */
export function reportOf(shard: PgShard, pg: number): GroupReport | undefined {
  const row = shard.groups.rowsOf().get(pg);
  if (row === undefined) return undefined;
  const group = shard.groups.awakeAt(row);
  if (group === null) return reportOfParked(shard, row, shard.parking.rows.get(row));
  return group.creating ? undefined : reportOfAwake(group, shard.store.bytesOf(row));
}

/** Nothing is under way in it: the whole of it follows from its row, and no object is made of it. */
function reportOfParked(shard: PgShard, row: number, parked: Parked): GroupReport {
  const { pg, replica, term, leader, conf, confIndex } = parked;
  const leads = leader === replica;
  const applied = shard.store.appliedIndex(row);
  return {
    pg,
    replica,
    role: leads ? ROLE_LEADER : roleIn(conf, 1 << conf.slotOf(replica)),
    term,
    leader,
    commitIndex: applied,
    appliedIndex: applied,
    established: leads,
    usedBytes: shard.store.bytesOf(row),
    witness: (conf.witnesses & (1 << conf.slotOf(replica))) !== 0,
    ...(leads ? configurationOf(conf, confIndex) : {}),
    ...(leads ? scrubOf(shard.scrubs.of(parked)) : {}),
  };
}

function reportOfAwake(group: Group, usedBytes: number): GroupReport {
  const node = group.node;
  return {
    pg: group.pg,
    replica: group.replica,
    role: roleOf(group),
    term: node.term,
    leader: node.leader,
    commitIndex: group.commitIndex,
    appliedIndex: group.appliedIndex,
    established: group.serving,
    usedBytes,
    witness: group.witness,
    ...(isSettled(group) || isLost(group) ? configurationOf(node.conf, group.confIndex) : {}),
    ...(group.isLeader ? scrubOf(group.shard.scrubs.of(group)) : {}),
    ...recoveryOf(group),
  };
}

/** It knows of no leader: whoever the map has forgotten may be missing for one. */
function isLost({ node }: Group): boolean {
  return node.leader === 0 && node.conf.members.length > 0;
}

/** Whether a replica of the group is on its way back, as far as is known here. */
export function isRecovering(group: Group): boolean {
  if (group.fill !== null) return true;
  return group.isLeader && group.shard.peers.isBehind(group);
}

function recoveryOf(group: Group): Pick<GroupReport, "recovery"> {
  const { fill, replica } = group;
  if (fill !== null && !group.witness) {
    const { waiting, passUs, ...state } = fill.state;
    const stage = waiting ? STAGE_WAITING : STAGE_DIFFERENCE;
    return { recovery: [{ replica, stage, passMs: Math.round(passUs / 1000), ...state }] };
  }
  if (!group.isLeader) return {};
  const behind = group.shard.peers.behind(group);
  if (behind.length === 0) return {};
  return { recovery: behind.map((one) => ({ ...one, stage: STAGE_LOG })) };
}

function scrubOf(scrub: ScrubState | undefined): Pick<GroupReport, "scrub"> {
  if (scrub === undefined) return {};
  const { order, deep, done, tally } = scrub;
  const { found, left, blocks } = tally;
  return { scrub: { order, deep, done, found, healed: found - left, left, blocks } };
}

function configurationOf(
  conf: Configuration,
  index: number,
): Pick<GroupReport, "configuration" | "nextReplicaId"> {
  const pick = (mask: number): number[] =>
    conf.members.filter((_, slot) => (mask & (1 << slot)) !== 0).map((member) => member.id);
  return {
    configuration: {
      index,
      voters: pick(conf.voters),
      outgoing: pick(conf.outgoing),
      learners: pick(conf.learners),
    },
    nextReplicaId: conf.nextReplicaId,
  };
}

/** Tell that a replica is gone. */
export function reportOfGone(pg: number, replica: number): GroupReport {
  return reportOfAbsent(pg, replica, ROLE_REMOVED);
}

/** Tell that a replica is not there although it must be. */
export function reportOfMissing(pg: number, replica: number): GroupReport {
  return reportOfAbsent(pg, replica, ROLE_DISTRUSTED);
}

function reportOfAbsent(pg: number, replica: number, role: number): GroupReport {
  return {
    pg,
    replica,
    role,
    term: 0,
    leader: 0,
    commitIndex: 0,
    appliedIndex: 0,
    witness: false,
    established: false,
    usedBytes: 0,
  };
}

/** Collect what is damaged. */
export function damageOf(store: LocalStore, healer: Healer, faulty: FaultyEntries): DamageReport {
  const lost = store.lost(REFUSED_LISTED_MAX);
  const refused: RefusedBlock[] = lost.blocks.map(({ row, layer, block }) => ({
    pg: store.pgOf(row),
    layer,
    block,
    lost: true,
  }));
  for (const one of healer.listWaiting(REFUSED_LISTED_MAX - refused.length)) {
    refused.push({ pg: one.group.pg, layer: one.layer, block: one.block, lost: false });
  }
  return {
    blocksLost: lost.count,
    blocksWaiting: healer.waitingCount,
    entriesFaulty: faulty.count,
    refused,
  };
}

function roleOf(group: Group): number {
  const node = group.node;
  if (group.isLeader) return ROLE_LEADER;
  if (group.silent) return ROLE_DISTRUSTED;
  if (node.filling) return ROLE_FILLING;
  if (node.role !== Role.Follower) return ROLE_CANDIDATE;
  return roleIn(node.conf, node.selfBit);
}

function roleIn(conf: Configuration, selfBit: number): number {
  return ((conf.voters | conf.outgoing) & selfBit) !== 0 ? ROLE_FOLLOWER : ROLE_LEARNER;
}
