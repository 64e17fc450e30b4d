import { create } from "@bufbuild/protobuf";
import {
  type TraceOrder,
  TraceOrderSchema,
  type TraceTellRequest,
} from "../../proto/gen/control_pb.ts";
import { TraceSide } from "../metrics/metrics.ts";
import type { TraceOpView, TraceStageView, TraceView } from "./schema-trace.ts";
import {
  mergeTraceRows,
  readTraceRows,
  timelineOf,
  TRACE_STAGES,
  TRACE_TOTAL,
  traceKeyOf,
  type TraceOp,
  type TraceRow,
} from "./trace-rows.ts";

const SAMPLE_DEFAULT = 100;
const TIME_MS_DEFAULT = 60_000;
/** Operations that are kept, some KB each; the oldest go first. */
const OPS_MAX = 4096;
/** Processes that are named, and members of a group, whatever is told. */
const PROCESSES_MAX = 4096;
const MEMBERS_MAX = 16;

export interface TraceServiceOptions {
  readonly nowUs: () => number;
  readonly wallMs: () => number;
  readonly formatTime: (ms: number) => string;
  /** Tell everybody who is connected. */
  readonly order: (order: TraceOrder) => void;
}

interface Taken {
  readonly id: number;
  readonly sample: number;
  readonly startedMs: number;
  endsUs: number;
}

/**
 * The trace of stages: one for the whole cluster, in memory. A mon that starts anew knows of none: who
 * tells it something is told to stop, and all others end when their time is over.
 *
 * Osds, gateways and clients are told over their connection to the mon, also those that come while it
 * is taken, and tell what they saw about once a second. So what a process has seen outlives it, and to
 * show a trace nobody has to be asked. Who has no connection to the mon takes no part: an operation is
 * shown when its client and its leader have told of it.
 */
export class TraceService {
  private readonly options: TraceServiceOptions;
  private taken: Taken | undefined;
  private readonly ops = new Map<string, TraceOp>();
  private readonly processes = new Set<string>();
  private rowsLost = 0;

  constructor(options: TraceServiceOptions) {
    this.options = options;
  }

  /** What is to be told now to whoever comes; undefined: no trace is taken. */
  get order(): TraceOrder | undefined {
    const { taken } = this;
    const leftMs = this.leftMs();
    if (taken === undefined || leftMs <= 0) return undefined;
    return create(TraceOrderSchema, { id: BigInt(taken.id), sample: taken.sample, leftMs });
  }

  private leftMs(): number {
    const { taken } = this;
    if (taken === undefined) return 0;
    return Math.max(0, Math.ceil((taken.endsUs - this.options.nowUs()) / 1000));
  }

  /** Take a trace, and forget the one before. */
  start(wish: {
    readonly sample?: number | undefined;
    readonly timeMs?: number | undefined;
  }): void {
    const { nowUs, wallMs } = this.options;
    const { sample = SAMPLE_DEFAULT, timeMs = TIME_MS_DEFAULT } = wish;
    const startedMs = Math.floor(wallMs());
    const id = Math.max(startedMs, (this.taken?.id ?? 0) + 1);
    this.taken = { id, sample, startedMs, endsUs: nowUs() + timeMs * 1000 };
    this.ops.clear();
    this.processes.clear();
    this.rowsLost = 0;
    this.options.order(this.order!);
  }

  /** End it, if one is taken; what was seen can be shown on. */
  stop(): void {
    const { taken } = this;
    if (taken === undefined) return;
    taken.endsUs = Math.min(taken.endsUs, this.options.nowUs());
    this.options.order(create(TraceOrderSchema, { id: BigInt(taken.id), sample: 0, leftMs: 0 }));
  }

  /**
   * A process tells what it saw; whoever is no osd, as a client alone. False: of a trace that nobody
   * wants.
   */
  hear(process: string, isOsd: boolean, request: TraceTellRequest): boolean {
    if (this.taken === undefined || Number(request.id) !== this.taken.id) return false;
    const name = isOsd && request.shard > 0 ? `${process}/${request.shard}` : process;
    if (this.processes.size < PROCESSES_MAX) this.processes.add(name);
    this.rowsLost += Number(request.lost);
    for (const row of readTraceRows(name, request.width, request.rows)) {
      if (isOsd || row.side === TraceSide.Client) this.add(row);
    }
    return true;
  }

  private add(row: TraceRow): void {
    const key = traceKeyOf(row);
    let op = this.ops.get(key);
    if (op === undefined) {
      op = { client: undefined, leaders: new Map(), followers: new Map() };
      this.ops.set(key, op);
      if (this.ops.size > OPS_MAX) this.ops.delete(this.ops.keys().next().value!);
    }
    switch (row.side) {
      case TraceSide.Client:
        op.client = row;
        return;
      case TraceSide.Leader:
        keep(op.leaders, row);
        return;
      case TraceSide.Follower:
        keep(op.followers, row);
    }
  }

  /** What is known by now, with the slowest operations. */
  view(slowestMax: number): TraceView {
    const { taken, options } = this;
    const whole: TraceOpView[] = [];
    for (const op of this.ops.values()) {
      const timeline = timelineOf(op);
      if (timeline !== undefined) whole.push(timeline);
    }
    whole.sort((a, b) => a.totalUs - b.totalUs);
    const writes = whole.filter(({ kind }) => kind === "write");
    const reads = whole.filter(({ kind }) => kind === "read");
    const shown = writes.length > 0 ? writes : reads;
    const leftMs = this.leftMs();
    return {
      state: taken === undefined ? "never" : leftMs > 0 ? "on" : "ended",
      sample: taken?.sample ?? 0,
      startedAt: taken === undefined ? null : options.formatTime(taken.startedMs),
      secondsLeft: Math.ceil(leftMs / 1000),
      processes: [...this.processes].sort(),
      writes: writes.length,
      reads: reads.length,
      partial: this.ops.size - whole.length,
      rowsLost: this.rowsLost,
      stages: [...summaryOf("write", writes), ...summaryOf("read", reads)],
      typical: shown[(shown.length - 1) >> 1] ?? null,
      slowest: slowestMax === 0 ? [] : shown.slice(-slowestMax).reverse(),
    };
  }
}

function keep(rows: Map<string, TraceRow>, row: TraceRow): void {
  const before = rows.get(row.process);
  if (before === undefined && rows.size >= MEMBERS_MAX) return;
  rows.set(row.process, before === undefined ? row : mergeTraceRows(before, row));
}

/** A row for each stage. */
function summaryOf(kind: TraceOpView["kind"], ops: readonly TraceOpView[]): TraceStageView[] {
  if (ops.length === 0) return [];
  const values = new Map<string, number[]>([[TRACE_TOTAL, ops.map(({ totalUs }) => totalUs)]]);
  for (const { bars } of ops) {
    for (const { stage, fromUs, toUs } of bars) {
      const known = values.get(stage);
      if (known === undefined) values.set(stage, [toUs - fromUs]);
      else known.push(toUs - fromUs);
    }
  }
  const wholeUs = meanOf(values.get(TRACE_TOTAL)!);
  const rows: TraceStageView[] = [];
  for (const { kind: of, name, within, who, what } of TRACE_STAGES) {
    const found = of === kind ? values.get(name) : undefined;
    if (found === undefined) continue;
    rows.push({ kind, stage: name, within, who, what, ...figuresOf(found, wholeUs) });
  }
  return rows;
}

type Figures = Pick<TraceStageView, "count" | "meanUs" | "p50Us" | "p99Us" | "maxUs" | "share">;

function figuresOf(values: number[], wholeUs: number): Figures {
  values.sort((a, b) => a - b);
  const at = (share: number): number => rounded(values[Math.ceil(values.length * share) - 1]!);
  const meanUs = meanOf(values);
  return {
    count: values.length,
    meanUs: rounded(meanUs),
    p50Us: at(0.5),
    p99Us: at(0.99),
    maxUs: at(1),
    share: wholeUs === 0 ? 0 : Math.round((meanUs / wholeUs) * 10_000) / 10_000,
  };
}

function meanOf(values: readonly number[]): number {
  return values.reduce((sum, one) => sum + one, 0) / values.length;
}

function rounded(us: number): number {
  return Math.round(us * 10) / 10;
}
