import { create } from "@bufbuild/protobuf";
import type { OsdId, PgId } from "../base/ids.ts";
import { type PgInfo, PgState } from "../cluster/cluster.ts";
import {
  type OsdCommand,
  PgRole,
  ScrubGroupSchema,
  type ScrubReport,
} from "../../proto/gen/control_pb.ts";
import type { Catalogue } from "./catalogue.ts";
import { groupStateOf } from "./group-state.ts";
import { leaderOf, type OsdService } from "./osd-service.ts";
import type { ScrubRecord } from "./records.ts";

const HOUR_MS = 3_600_000;
/** How often every group is scrubbed. */
const LIGHT_MS = 24 * HOUR_MS;
const DEEP_MS = 7 * 24 * HOUR_MS;
/** What a scrub could not put right is looked at again after this. */
const AGAIN_MS = 600_000;
/** An order is told again until it is reported as done: leaders change, and messages are lost. */
const TELL_US = 3_000_000;

/** A scrub that goes on. */
export interface ScrubOrder {
  readonly order: number;
  readonly deep: boolean;
}

interface Running extends ScrubOrder {
  toldUs: number;
  /** The replica that was told; 0: none led. */
  toldTo: number;
}

export interface ScrubServiceOptions {
  readonly catalogue: Catalogue;
  readonly osds: Pick<OsdService, "reportsOf">;
  readonly nowUs: () => number;
  /** Decides which group is next only: a wrong clock moves a scrub, and nothing else. */
  readonly wallMs: () => number;
  /** False: only what people ask for is scrubbed. */
  readonly isScheduled: boolean;
  /** Tell an osd. False: it is not connected. */
  readonly command: (osd: OsdId, command: OsdCommand["command"]) => boolean;
  readonly onFailed: (error: unknown) => void;
}

/**
 * Which group is scrubbed when: each one light once a day and deep once a week, spread evenly: whenever
 * that time divided by the number of groups has passed, the one that waited longest is next, if it is
 * whole and its leader has no other to do. The leader does the work (`core/pg/scrub.ts`).
 *
 * Results are in the catalogue, so that a restart of the monitor forgets no more than what goes on.
 */
export class ScrubService {
  private readonly options: ScrubServiceOptions;
  private readonly running = new Map<PgId, Running>();
  /** The highest order that was given or heard of. */
  private lastOrder = 0;
  private readonly startedMs = { light: 0, deep: 0 };

  constructor(options: ScrubServiceOptions) {
    this.options = options;
  }

  /** The scrub of a group that goes on; undefined: none does. */
  runningOf(pg: PgId): ScrubOrder | undefined {
    return this.running.get(pg);
  }

  /** Scrub a group now. One that goes on and is as deep is not begun anew. */
  request(pg: PgInfo, isDeep: boolean): void {
    const known = this.running.get(pg.id);
    if (known === undefined || (isDeep && !known.deep)) this.give(pg.id, isDeep);
    this.tell(pg, this.running.get(pg.id)!);
  }

  /** Once a second. */
  tick(): void {
    const { catalogue, nowUs, isScheduled } = this.options;
    for (const [id, running] of this.running) {
      const pg = catalogue.map.pgs.get(id);
      if (pg === undefined) this.running.delete(id);
      else if (pg.leader !== running.toldTo || nowUs() - running.toldUs >= TELL_US) {
        this.tell(pg, running);
      }
    }
    if (!isScheduled) return;
    this.schedule("deep", DEEP_MS);
    this.schedule("light", LIGHT_MS);
  }

  /** A leader says how its scrub stands. */
  note(id: PgId, report: ScrubReport): void {
    const order = Number(report.order);
    this.lastOrder = Math.max(this.lastOrder, order);
    const running = this.running.get(id);
    // The clock stepped back over a restart: a leader carries out no order below one that it knows.
    if (running !== undefined && running.order < order) this.give(id, running.deep);
    if (!report.done || running?.order !== order) return;
    this.running.delete(id);
    this.keep(id, report).catch(this.options.onFailed);
  }

  private async keep(id: PgId, report: ScrubReport): Promise<void> {
    const { catalogue, wallMs } = this.options;
    await catalogue.change((change) => {
      const record = catalogue.pgs.get(id);
      if (record === undefined) return;
      const { deep, found, healed, left } = report;
      const nowMs = wallMs();
      const scrub: ScrubRecord = {
        lightMs: nowMs,
        deepMs: deep ? nowMs : (record.scrub?.deepMs ?? 0),
        deep,
        found,
        healed,
        left,
        blocks: report.blocks.map(({ layer, block, undecided }) => ({
          layer: Number(layer),
          block: Number(block),
          undecided,
        })),
      };
      change.putPg({ ...record, scrub });
    });
  }

  private give(id: PgId, isDeep: boolean): void {
    this.lastOrder = Math.max(this.options.wallMs(), this.lastOrder + 1);
    const toldUs = Number.NEGATIVE_INFINITY;
    this.running.set(id, { order: this.lastOrder, deep: isDeep, toldUs, toldTo: 0 });
  }

  private tell(pg: PgInfo, running: Running): void {
    const leader = leaderOf(this.options.catalogue, pg);
    running.toldUs = this.options.nowUs();
    running.toldTo = pg.leader;
    if (leader === undefined) return;
    const { order, deep } = running;
    const value = create(ScrubGroupSchema, { pg: pg.id, order: BigInt(order), deep });
    // Not connected: it is told again.
    this.options.command(leader.osd, { case: "scrub", value });
  }

  /* ----------------------------------------------------------------- schedule */

  private schedule(kind: "light" | "deep", periodMs: number): void {
    const { catalogue, wallMs } = this.options;
    const nowMs = wallMs();
    const pgs = [...catalogue.map.pgs.values()];
    const stampOf = (pg: PgInfo): number => {
      const scrub = catalogue.pgs.get(pg.id)?.scrub;
      return scrub === undefined ? 0 : kind === "deep" ? scrub.deepMs : scrub.lightMs;
    };
    let newest = Math.max(this.startedMs[kind], this.firstMs());
    for (const pg of pgs) newest = Math.max(newest, stampOf(pg));
    const intervalMs = periodMs / Math.max(1, pgs.length);
    const isDue = nowMs - newest >= intervalMs;
    const busy = this.busyLeaders();
    let next: PgInfo | undefined;
    for (const pg of pgs) {
      if (!this.isReady(pg, busy)) continue;
      if (kind === "light" && this.isToRepeat(pg, nowMs)) {
        this.request(pg, catalogue.pgs.get(pg.id)!.scrub!.deep);
        busy.add(leaderOf(catalogue, pg)!.osd);
        continue;
      }
      if (!isDue || nowMs - stampOf(pg) < periodMs - intervalMs) continue;
      if (next === undefined || stampOf(pg) < stampOf(next)) next = pg;
    }
    if (next === undefined || busy.has(leaderOf(catalogue, next)!.osd)) return;
    this.startedMs[kind] = nowMs;
    this.request(next, kind === "deep");
  }

  /** When the cluster began: nothing is overdue before. */
  private firstMs(): number {
    let first = Number.POSITIVE_INFINITY;
    for (const osd of this.options.catalogue.osds.values())
      first = Math.min(first, osd.firstSeenMs);
    return first;
  }

  private isToRepeat(pg: PgInfo, nowMs: number): boolean {
    const scrub = this.options.catalogue.pgs.get(pg.id)?.scrub;
    return scrub !== undefined && scrub.left > 0 && nowMs - scrub.lightMs >= AGAIN_MS;
  }

  private busyLeaders(): Set<OsdId> {
    const { catalogue } = this.options;
    const busy = new Set<OsdId>();
    for (const id of this.running.keys()) {
      const pg = catalogue.map.pgs.get(id);
      const leader = pg === undefined ? undefined : leaderOf(catalogue, pg);
      if (leader !== undefined) busy.add(leader.osd);
    }
    return busy;
  }

  /** Whole, as far as is known here; nothing else is to be done by its leader. */
  private isReady(pg: PgInfo, busy: ReadonlySet<OsdId>): boolean {
    const { catalogue, osds } = this.options;
    if (this.running.has(pg.id)) return false;
    const reports = osds.reportsOf(pg);
    if (groupStateOf(pg, catalogue.map.osds, reports) !== PgState.Active) return false;
    const leader = leaderOf(catalogue, pg);
    if (leader === undefined || busy.has(leader.osd)) return false;
    for (const report of reports.values()) {
      if (report.role === PgRole.FILLING || report.role === PgRole.DISTRUSTED) return false;
    }
    return true;
  }
}
