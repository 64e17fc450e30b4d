import { formatPgId } from "../base/ids.ts";
import type { Logger } from "../base/logger.ts";
import type { PgInfo, PlacedReplica, PoolInfo, ReplicaInfo } from "../cluster/cluster.ts";
import type { Catalogue, Change } from "./catalogue.ts";
import type { PoolService } from "./pool-service.ts";
import { newReplica, withReplacement } from "./replica-change.ts";

/** Groups that change in one epoch. */
const AT_ONCE = 512;

export interface WitnessServiceOptions {
  readonly catalogue: Catalogue;
  readonly pools: Pick<PoolService, "explain" | "pgsOf">;
  readonly logger: Logger;
}

/**
 * Gives groups their witnesses where placement has one for them: to pools that are older than their
 * third failure domain, and in the place of one whose osd is out. Nothing of a witness has to be
 * copied, so nobody has to ask for it. One step of a group at a time: it waits until the group is
 * what the map wants, but for its witness.
 */
export class WitnessService {
  private readonly options: WitnessServiceOptions;
  /** The osds and pools that were looked at last, while nothing was left to do. */
  private judged = "";
  private isRunning = false;

  constructor(options: WitnessServiceOptions) {
    this.options = options;
  }

  /** Once a second. Rejects when the catalogue fails. */
  async tick(): Promise<void> {
    const present = this.present();
    if (this.isRunning || present === this.judged) return;
    this.isRunning = true;
    try {
      if (await this.settle()) this.judged = present;
    } finally {
      this.isRunning = false;
    }
  }

  /** What placement goes by. */
  private present(): string {
    const { generation, osds, pools } = this.options.catalogue.map;
    let epoch = 0;
    for (const { changeEpoch } of [...osds.values(), ...pools.values()]) {
      epoch = Math.max(epoch, changeEpoch);
    }
    return `${String(generation)}/${String(epoch)}/${String(osds.size)}/${String(pools.size)}`;
  }

  /** Change what may be changed now. Answers whether nothing is left. */
  private settle(): Promise<boolean> {
    const { catalogue } = this.options;
    return catalogue.change((change) => {
      const changed: PgInfo[] = [];
      let left = 0;
      for (const pool of catalogue.map.pools.values()) {
        for (const [pg, wanted] of this.unwitnessed(pool)) {
          if (!mayChange(pg) || changed.length === AT_ONCE) left++;
          else changed.push(this.next(change, pg, wanted));
        }
      }
      if (changed.length > 0) change.changeMap({ pgs: changed });
      return left + changed.length === 0;
    });
  }

  /** Groups that have another witness than they are to have, or none. */
  private unwitnessed(pool: PoolInfo): [PgInfo, PlacedReplica | undefined][] {
    const found: [PgInfo, PlacedReplica | undefined][] = [];
    if (pool.size !== 2) return found;
    const { rows } = this.options.pools.explain(pool);
    for (const [at, pg] of this.options.pools.pgsOf(pool.id).entries()) {
      const wanted = rows[at]?.find((one) => one.witness);
      const isNew = wanted?.replicaId === 0;
      const isTooMany =
        rows[at] !== undefined && wanted === undefined && witnessOf(pg) !== undefined;
      if (isNew || isTooMany) found.push([pg, wanted]);
    }
    return found;
  }

  private next(change: Change, pg: PgInfo, wanted: PlacedReplica | undefined): PgInfo {
    const { catalogue, logger } = this.options;
    const old = witnessOf(pg);
    const text = formatPgId(pg.id);
    if (wanted === undefined) {
      logger.warn("a group loses its witness: no failure domain is left for it", { pg: text });
      const replicas = pg.replicas.map((one) => (one === old ? { ...one, leaving: true } : one));
      return { ...pg, replicas };
    }
    const added = newReplica(catalogue, change, pg.id, wanted, true);
    logger.info("a group gets a witness", { pg: text, osd: added.osd, replica: added.replicaId });
    if (old !== undefined) return withReplacement(pg, old, added);
    return { ...pg, replicas: [...pg.replicas, added] };
  }
}

function witnessOf(pg: PgInfo): ReplicaInfo | undefined {
  return pg.replicas.find((one) => one.witness && !one.leaving);
}

/** Whether nobody leaves, and everybody with data votes. */
function mayChange(pg: PgInfo): boolean {
  const { creating, configuration, leader, replicas } = pg;
  if (creating || leader === 0 || configuration === undefined) return false;
  if (configuration.outgoing.length > 0 || replicas.some((one) => one.leaving)) return false;
  return replicas.every((one) => one.witness || configuration.voters.includes(one.replicaId));
}
