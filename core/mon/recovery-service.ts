import { formatPgId, poolOfPg } from "../base/ids.ts";
import { BLOCK_SIZE, UNIT_SIZE } from "../base/units.ts";
import { type PgInfo, type RecoverySettings, RecoverySpeed } from "../cluster/cluster.ts";
import { type RecoveryReport, RecoveryStage } from "../../proto/gen/control_pb.ts";
import type { Catalogue } from "./catalogue.ts";
import type { OsdService } from "./osd-service.ts";
import type { RecoveryReplicaView, RecoverySpeedName, RecoveryView } from "./schema.ts";

const SPEEDS: Readonly<Record<RecoverySpeedName, RecoverySpeed>> = {
  low: RecoverySpeed.Low,
  medium: RecoverySpeed.Medium,
  high: RecoverySpeed.High,
};
const SPEED_NAMES: Readonly<Record<RecoverySpeed, RecoverySpeedName>> = {
  [RecoverySpeed.Low]: "low",
  [RecoverySpeed.Medium]: "medium",
  [RecoverySpeed.High]: "high",
};
const STAGES: Readonly<Record<RecoveryStage, RecoveryReplicaView["stage"]>> = {
  [RecoveryStage.UNSPECIFIED]: "waiting",
  [RecoveryStage.LOG]: "log",
  [RecoveryStage.WAITING]: "waiting",
  [RecoveryStage.DIFFERENCE]: "difference",
};

/** What somebody wants of the dial. Absent: as it is. */
export interface RecoveryWish {
  readonly speed?: RecoverySpeedName | undefined;
  readonly paused?: boolean | undefined;
}

/** The recovery dial, and how far replicas are on their way back. */
export class RecoveryService {
  private readonly catalogue: Catalogue;
  private readonly osds: Pick<OsdService, "live">;

  constructor(catalogue: Catalogue, osds: Pick<OsdService, "live">) {
    this.catalogue = catalogue;
    this.osds = osds;
  }

  /** Turn the dial: it is in the map, so that every osd has it at once and keeps it. */
  set(wish: RecoveryWish, dryRun: boolean): Promise<RecoverySettings> {
    return this.catalogue.change((change) => {
      const before = this.catalogue.map.recovery;
      const speed = wish.speed === undefined ? before.speed : SPEEDS[wish.speed];
      const next = { ...before, speed, paused: wish.paused ?? before.paused };
      const isSame = next.speed === before.speed && next.paused === before.paused;
      if (!isSame) change.changeMap({ recovery: next });
      return next;
    }, dryRun);
  }

  get paused(): boolean {
    return this.catalogue.map.recovery.paused;
  }

  /** With `settings`: as it would be after a dry run. */
  view(settings: RecoverySettings = this.catalogue.map.recovery): RecoveryView {
    const { speed, paused } = settings;
    const replicas: RecoveryReplicaView[] = [];
    for (const osd of this.osds.live.values()) {
      if (this.catalogue.map.osds.get(osd.id)?.up !== true) continue;
      for (const [id, report] of osd.pgs) {
        const pg = this.catalogue.map.pgs.get(id);
        if (pg === undefined) continue;
        for (const one of report.recovery) {
          const replica = this.replicaView(pg, one, paused);
          if (replica !== undefined) replicas.push(replica);
        }
      }
    }
    replicas.sort((a, b) => (a.pg === b.pg ? a.osd - b.osd : a.pg < b.pg ? -1 : 1));
    return { speed: SPEED_NAMES[speed], paused, replicas };
  }

  private replicaView(
    pg: PgInfo,
    report: RecoveryReport,
    paused: boolean,
  ): RecoveryReplicaView | undefined {
    const osd = pg.replicas.find((one) => one.replicaId === report.replica)?.osd;
    if (osd === undefined) return undefined;
    const differing = Number(report.blocksDiffering);
    const copied = Number(report.blocksCopied);
    const stage = STAGES[report.stage] ?? "waiting";
    return {
      pg: formatPgId(pg.id),
      pool: this.catalogue.map.pools.get(poolOfPg(pg.id))?.name ?? "?",
      osd,
      stage,
      entriesLeft: Number(report.entriesLeft),
      pass: report.pass,
      unitsDone: report.unitsDone,
      unitsLeft: report.unitsLeft,
      bytesLeft: report.unitsLeft * UNIT_SIZE,
      bytesDiffering: differing * BLOCK_SIZE,
      bytesCopied: copied * BLOCK_SIZE,
      amplification: differing === 0 ? null : Math.round((copied / differing) * 1000) / 1000,
      etaSeconds: paused && stage !== "log" ? null : etaOf(report),
    };
  }
}

/** By the pace of the pass so far; null: it has none yet. */
function etaOf({ unitsDone, unitsLeft, passMs }: RecoveryReport): number | null {
  if (unitsDone === 0 || passMs === 0) return null;
  return Math.ceil(((passMs / unitsDone) * unitsLeft) / 1000);
}
