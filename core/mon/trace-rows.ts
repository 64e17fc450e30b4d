/**
 * Rows of one operation, which client, leader and followers have told, put together on one clock.
 *
 * Processes of one host read one clock. Of another host the clock is another one: what shows that is
 * an answer that left before its request came, or came before it left. Such a process is put in the
 * middle between what was sent to it and its answer: what travelled took as long there as back. That
 * moves only the two ways of the network against each other; each stage within a process, and the sum of
 * both ways, is as it was measured.
 */
import { formatPgId, type PgId } from "../base/ids.ts";
import { Status } from "../base/status.ts";
import {
  PEER_WIDTH,
  PEERS_AT,
  ROW_WIDTH,
  Stage,
  STAGE_COUNT,
  TRACE_PEERS_MAX,
  TraceColumn,
  TraceKind,
  TraceSide,
} from "../metrics/metrics.ts";
import type { TraceOpView } from "./schema-trace.ts";

/** When the leader sent an entry to a member, and when that acknowledged it; 0: it did not. */
export interface TracePeer {
  readonly replica: number;
  readonly sentUs: number;
  readonly acknowledgedUs: number;
}

/** What one process saw of an operation. */
export interface TraceRow {
  readonly process: string;
  readonly side: TraceSide;
  readonly kind: TraceKind;
  readonly session: number;
  readonly pg: number;
  readonly number: number;
  readonly replica: number;
  readonly status: number;
  /** By `Stage`; 0: not reached. */
  readonly stages: readonly number[];
  readonly peers: readonly TracePeer[];
}

/** Read what a process told. Columns of later programs are passed over; a part of a row is dropped. */
export function readTraceRows(process: string, width: number, told: readonly number[]): TraceRow[] {
  const rows: TraceRow[] = [];
  if (width < ROW_WIDTH) return rows;
  for (let at = 0; at + width <= told.length; at += width) {
    const cell = (column: number): number => told[at + column]!;
    const peers: TracePeer[] = [];
    for (let peer = 0; peer < TRACE_PEERS_MAX; peer++) {
      const first = PEERS_AT + peer * PEER_WIDTH;
      if (cell(first) === 0) continue;
      peers.push({
        replica: cell(first),
        sentUs: cell(first + 1),
        acknowledgedUs: cell(first + 2),
      });
    }
    const from = at + TraceColumn.Stages;
    rows.push({
      process,
      side: cell(TraceColumn.Side),
      kind: cell(TraceColumn.Kind),
      session: cell(TraceColumn.Session),
      pg: cell(TraceColumn.Pg),
      number: cell(TraceColumn.Number),
      replica: cell(TraceColumn.Replica),
      status: cell(TraceColumn.Status),
      stages: told.slice(from, from + STAGE_COUNT),
      peers,
    });
  }
  return rows;
}

/** What rows of one operation have in common. */
export function traceKeyOf({ kind, session, pg, number }: TraceRow): string {
  return `${kind}/${session}/${pg}/${number}`;
}

/**
 * Two rows of one process: the request came twice, and the later one was answered in the place of the
 * first. It came with the first, and was answered with the last.
 */
export function mergeTraceRows(one: TraceRow, other: TraceRow): TraceRow {
  const stages = one.stages.map((us, stage) => {
    const us2 = other.stages[stage]!;
    if (us === 0 || us2 === 0) return us + us2;
    return stage === Stage.Replied ? Math.max(us, us2) : Math.min(us, us2);
  });
  const status = one.status === Status.Ok ? other.status : one.status;
  const isOk = one.status === Status.Ok || other.status === Status.Ok;
  const peers = one.peers.length > 0 ? one.peers : other.peers;
  return { ...one, stages, peers, status: isOk ? Status.Ok : status };
}

/* ------------------------------------------------------------------ stages */

/** A stage as it is shown: between two stamps of one row, or of two of them. */
export interface TraceStage {
  readonly kind: TraceOpView["kind"];
  readonly name: string;
  readonly within: string | null;
  readonly who: "client" | "network" | "leader" | "follower" | "all";
  readonly what: string;
}

function stagesOf(
  kind: TraceStage["kind"],
  within: string | null,
  rows: readonly (readonly [string, TraceStage["who"], string])[],
): TraceStage[] {
  return rows.map(([name, who, what]) => ({ kind, name, within, who, what }));
}

/** The whole, as a row of the table. */
export const TRACE_TOTAL = "total";

/** Those without `within` follow each other, from the submission to the end, before the total. */
export const TRACE_STAGES: readonly TraceStage[] = [
  ...stagesOf("write", null, [
    ["client", "client", "cut up, checksummed, waits for its turn and for its leader to be known"],
    ["request", "network", "on its way to the leader"],
    ["admit", "leader", "checked, copied, proposed"],
    ["replicate", "leader", "until enough replicas have it durably"],
  ]),
  ...stagesOf("write", "replicate", [
    ["log-wait", "leader", "waits for the log's next batch"],
    ["log-write", "leader", "its batch is written, durably"],
    ["append", "network", "on its way to a follower"],
    ["follower-wait", "follower", "checked, copied, waits for the log's next batch"],
    ["follower-write", "follower", "its batch is written, durably"],
    ["acknowledge", "network", "the follower's word is on its way to the leader"],
  ]),
  ...stagesOf("write", null, [
    ["answer", "leader", "committed: the answer is made"],
    ["reply", "network", "on its way to the client"],
    ["finish", "client", "the client tells its user"],
    [TRACE_TOTAL, "all", "from its submission to its answer"],
  ]),
  ...stagesOf("write", TRACE_TOTAL, [
    ["apply", "leader", "behind the answer: committed and durable here, until it is applied"],
  ]),
  ...stagesOf("read", null, [
    ["client", "client", "cut up, waits for its turn and for its leader to be known"],
    ["request", "network", "on its way to the leader"],
    ["look", "leader", "waits for what is to be applied, and for the store"],
    ["answer", "leader", "waits for the end of the turn and for the lease"],
    ["reply", "network", "on its way to the client"],
    ["finish", "client", "checksums; the client tells its user"],
    [TRACE_TOTAL, "all", "from its submission to its answer"],
  ]),
];

/* --------------------------------------------------------------- timelines */

/** All rows of one operation. */
export interface TraceOp {
  client: TraceRow | undefined;
  /** Who led at some time, by process. */
  readonly leaders: Map<string, TraceRow>;
  readonly followers: Map<string, TraceRow>;
}

interface Place {
  readonly row: TraceRow;
  /** What its clock shows less than the client's. */
  readonly offsetUs: number;
  readonly isAligned: boolean;
}

type Bar = TraceOpView["bars"][number];

/**
 * An operation from its submission to its end. Undefined: it failed, or client or leader did not tell
 * enough of it.
 */
export function timelineOf(op: TraceOp): TraceOpView | undefined {
  const { client } = op;
  if (client === undefined || client.status !== Status.Ok) return undefined;
  const leader = [...op.leaders.values()].find((row) => row.status === Status.Ok && isWhole(row));
  if (leader === undefined || !has(client, [Stage.Submitted, Stage.Sent, Stage.Done])) return;
  const answeredUs = client.stages[Stage.Answered]!;
  if (answeredUs === 0) return undefined;
  const outer = { fromUs: client.stages[Stage.Sent]!, toUs: answeredUs };
  const place = placeIn(leader, Stage.Replied, outer);
  return drawn(client, place, followersOf(op, place));
}

function isWhole(row: TraceRow): boolean {
  const between = row.kind === TraceKind.Write ? [Stage.Proposed, Stage.Committed] : [Stage.Looked];
  return has(row, [Stage.Received, ...between, Stage.Replied]);
}

function has(row: TraceRow, stages: readonly Stage[]): boolean {
  return stages.every((stage) => row.stages[stage]! > 0);
}

/** Where the times of a row lie between what was sent to its process and what came back. */
function placeIn(row: TraceRow, last: Stage, outer: { fromUs: number; toUs: number }): Place {
  const fromUs = row.stages[Stage.Received]!;
  const toUs = row.stages[last]!;
  if (fromUs >= outer.fromUs && toUs <= outer.toUs) return { row, offsetUs: 0, isAligned: false };
  const offsetUs = (outer.fromUs + outer.toUs - fromUs - toUs) / 2;
  return { row, offsetUs, isAligned: true };
}

interface Follower extends Place {
  readonly peer: TracePeer;
}

function followersOf(op: TraceOp, leader: Place): Follower[] {
  const found: Follower[] = [];
  for (const row of op.followers.values()) {
    const peer = leader.row.peers.find((one) => one.replica === row.replica);
    if (peer === undefined || peer.acknowledgedUs === 0) continue;
    if (!has(row, [Stage.Received, Stage.Logged, Stage.Durable, Stage.Acknowledged])) continue;
    const outer = { fromUs: peer.sentUs, toUs: peer.acknowledgedUs };
    const place = placeIn(row, Stage.Acknowledged, outer);
    const offsetUs = place.offsetUs + leader.offsetUs;
    found.push({ row, offsetUs, isAligned: place.isAligned, peer });
  }
  return found.sort((a, b) => a.peer.acknowledgedUs - b.peer.acknowledgedUs);
}

function drawn(client: TraceRow, leader: Place, followers: readonly Follower[]): TraceOpView {
  const zeroUs = client.stages[Stage.Submitted]!;
  const own = (stage: Stage): number => client.stages[stage]! - zeroUs;
  const led = (stage: Stage): number => leader.row.stages[stage]! + leader.offsetUs - zeroUs;
  const bars: Bar[] = [];
  const bar = (lane: number, stage: string, fromUs: number, toUs: number): void => {
    bars.push({ lane, stage, fromUs, toUs: Math.max(fromUs, toUs) });
  };
  const isWrite = client.kind === TraceKind.Write;
  bar(0, "client", 0, own(Stage.Sent));
  bar(0, "request", own(Stage.Sent), led(Stage.Received));
  if (isWrite) {
    bar(1, "admit", led(Stage.Received), led(Stage.Proposed));
    bar(1, "replicate", led(Stage.Proposed), led(Stage.Committed));
    bar(1, "answer", led(Stage.Committed), led(Stage.Replied));
  } else {
    bar(1, "look", led(Stage.Received), led(Stage.Looked));
    bar(1, "answer", led(Stage.Looked), led(Stage.Replied));
  }
  bar(0, "reply", led(Stage.Replied), own(Stage.Answered));
  bar(0, "finish", own(Stage.Answered), own(Stage.Done));
  const stagesUs = Object.fromEntries(bars.map((one) => [one.stage, one.toUs - one.fromUs]));
  if (has(leader.row, [Stage.Logged, Stage.Durable])) {
    bar(1, "log-wait", led(Stage.Proposed), led(Stage.Logged));
    bar(1, "log-write", led(Stage.Logged), led(Stage.Durable));
  }
  if (isWrite && has(leader.row, [Stage.Durable, Stage.Applied])) {
    const fromUs = Math.max(led(Stage.Committed), led(Stage.Durable));
    bar(1, "apply", fromUs, led(Stage.Applied));
  }
  followers.forEach(({ row, offsetUs, peer }, at) => {
    const there = (stage: Stage): number => row.stages[stage]! + offsetUs - zeroUs;
    const here = (us: number): number => us + leader.offsetUs - zeroUs;
    bar(at + 2, "append", here(peer.sentUs), there(Stage.Received));
    bar(at + 2, "follower-wait", there(Stage.Received), there(Stage.Logged));
    bar(at + 2, "follower-write", there(Stage.Logged), there(Stage.Durable));
    bar(at + 2, "acknowledge", there(Stage.Durable), here(peer.acknowledgedUs));
  });
  return {
    kind: isWrite ? "write" : "read",
    pg: formatPgId(client.pg as PgId),
    session: client.session,
    number: client.number,
    totalUs: own(Stage.Done),
    leader: leader.row.process,
    slowestFollower: followers.at(-1)?.row.process ?? null,
    stagesUs,
    lanes: [
      { process: client.process, role: "client", isAligned: false },
      { process: leader.row.process, role: "leader", isAligned: leader.isAligned },
      ...followers.map(({ row, isAligned }) => ({
        process: row.process,
        role: "follower" as const,
        isAligned,
      })),
    ],
    bars,
  };
}
