import { FastblockError } from "../base/errors.ts";
import { formatPgId, type OsdId } from "../base/ids.ts";
import { type PgInfo, type ReplicaInfo, replicaOnOsd } from "../cluster/cluster.ts";
import { sleep, type Timers } from "../reactor/world.ts";
import { type OsdCommand, PgRole } from "../../proto/gen/control_pb.ts";
import type { Catalogue } from "./catalogue.ts";
import { leaderOf, type OsdService } from "./osd-service.ts";
import type { PoolService } from "./pool-service.ts";
import { noReplica } from "./replica-change.ts";

export interface LeaderTransferOptions {
  readonly timers: Timers;
  readonly catalogue: Catalogue;
  readonly pools: PoolService;
  readonly osds: OsdService;
  /** Tell an osd something. False when it is not connected. */
  readonly command: (osd: OsdId, command: OsdCommand["command"]) => boolean;
}

export interface TransferWish {
  readonly osd: OsdId;
  /** How long to wait until it leads; 0: only ask. */
  readonly waitMs: number;
  readonly dryRun: boolean;
}

const POLL_US = 20_000;
/** A leader gives a transfer up when it takes long; it is asked again. */
const ASK_US = 1_000_000;

/** Moves the leadership of groups by people's wish. */
export class LeaderTransfer {
  private readonly options: LeaderTransferOptions;

  constructor(options: LeaderTransferOptions) {
    this.options = options;
  }

  /**
   * Move the leadership of a group to its replica on an osd, where it is to stay, and wait for it.
   * Throws FB1001, FB2101, FB2201, FB2202, FB2203, and FB1006 with the reason when it takes too long.
   */
  async move(text: string, { osd, waitMs, dryRun }: TransferWish): Promise<PgInfo> {
    const { pools, catalogue, timers } = this.options;
    const pg = pools.pgOf(text);
    const target = replicaOnOsd(pg, osd);
    if (target === undefined) throw noReplica(catalogue, pg, osd);
    const leader = leaderOf(catalogue, pg);
    if (leader === undefined) throw new FastblockError("FB2202", `group ${text} has no leader`);
    this.checkMayLead(pg, target);
    if (dryRun) return pg;
    await pools.preferLeader(pg.id, target.replicaId);
    if (leader.replicaId === target.replicaId) return pools.pgOf(text);
    if (!this.ask(pg, target)) throw notConnected(text, leader.osd);
    for (let waitedUs = 0; waitedUs < waitMs * 1000; waitedUs += POLL_US) {
      await sleep(timers, POLL_US);
      const now = pools.pgOf(text);
      if (now.leader === target.replicaId) return now;
      this.checkMayLead(now, replicaOnOsd(now, osd) ?? target);
      if (waitedUs % ASK_US === ASK_US - POLL_US) this.ask(now, target);
    }
    const now = pools.pgOf(text);
    if (waitMs === 0) return now;
    throw new FastblockError("FB1006", `osd ${String(osd)} does not lead group ${text} yet`, {
      why: this.whyNot(now, target),
      hint: `it may still come to lead: fastblock pg info ${formatPgId(pg.id)}`,
    });
  }

  /** Ask whoever leads to hand over. False: nobody can be asked. */
  private ask(pg: PgInfo, target: ReplicaInfo): boolean {
    const leader = leaderOf(this.options.catalogue, pg);
    if (leader === undefined) return false;
    const value = { pg: pg.id, toReplica: target.replicaId };
    return this.options.command(leader.osd, {
      case: "transferLeader",
      value: { $typeName: "fastblock.control.TransferLeader", ...value },
    });
  }

  private whyNot(pg: PgInfo, target: ReplicaInfo): string {
    const leader = leaderOf(this.options.catalogue, pg);
    if (leader === undefined) return "no replica leads it now";
    const reports = this.options.osds.reportsOf(pg);
    const commit = Number(reports.get(leader.replicaId)?.commitIndex ?? 0n);
    const behind = commit - Number(reports.get(target.replicaId)?.appliedIndex ?? 0n);
    const lag = behind > 0 ? `, whose replica is ${String(behind)} entries behind` : "";
    return `osd ${String(leader.osd)} leads it on, and has not handed over to osd ${String(target.osd)}${lag}`;
  }

  private checkMayLead(pg: PgInfo, target: ReplicaInfo): void {
    const { catalogue, osds } = this.options;
    const voters = pg.configuration?.voters;
    const refuse = (why: string): FastblockError => {
      const where = `osd ${String(target.osd)}`;
      return new FastblockError("FB2203", `${where} can not lead group ${formatPgId(pg.id)} now`, {
        why: `its replica there ${why}`,
      });
    };
    if (target.leaving) throw refuse("is leaving");
    if (target.witness) throw refuse("is a witness, it has no data");
    if (catalogue.map.osds.get(target.osd)?.up !== true) throw refuse("is down");
    if (voters !== undefined && !voters.includes(target.replicaId))
      throw refuse("is still catching up");
    const role = osds.reportsOf(pg).get(target.replicaId)?.role;
    if (role === PgRole.FILLING) throw refuse("is still catching up");
    if (role === PgRole.DISTRUSTED) throw refuse("is not trusted by its store");
  }
}

function notConnected(text: string, leader: OsdId): FastblockError {
  const where = `osd ${String(leader)}`;
  return new FastblockError("FB2202", `group ${text} is led by ${where}, which is not connected`);
}
