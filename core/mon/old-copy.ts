import { FastblockError } from "../base/errors.ts";
import type { OsdId } from "../base/ids.ts";
import type { Logger } from "../base/logger.ts";
import { compareMapIdentity } from "../cluster/cluster.ts";
import type { Catalogue } from "./catalogue.ts";

/** The map that somebody has. */
export interface SeenMap {
  readonly generation: number;
  readonly epoch: number;
}

export interface OldCopyOptions {
  readonly catalogue: Catalogue;
  readonly logger: Logger;
  readonly nowUs: () => number;
  /** The generation was raised: whoever was up may still be. */
  readonly onRaised: () => void;
}

/** Osds that a restored catalogue takes for up are waited for so long. */
const HEAR_US = 10_000_000;

/**
 * Whether the catalogue is an old copy, and the way back.
 *
 * Osds and clients keep the highest map that they were told. One that has a newer map than the
 * catalogue was told it by a monitor that knew more: the catalogue is held from then on. It tells
 * no map and changes nothing, for its next epochs would be another history under the same numbers, and
 * who took one of them for the next of his own would follow a map that never was.
 *
 * People end that. They put the right catalogue back; or they say that it is lost (`--restored`).
 * Then the catalogue is held until every osd that it takes for up was heard, 10 s at the latest, and
 * passes by a higher generation than any of them knows, and by as many jumps of all ids: a backup
 * that is restored a second time meets what was done since the first time. That it was restored is
 * written down before anything else, so that a monitor that dies meanwhile goes on with it.
 */
export class OldCopy {
  /** The highest map beyond the catalogue's that somebody has shown. */
  ahead: SeenMap | undefined;
  private readonly options: OldCopyOptions;
  private readonly catalogue: Catalogue;
  /** Osds to be heard before a restored catalogue serves; null: nobody is waited for. */
  private unheard: Set<OsdId> | null = null;
  private hearUntilUs = 0;
  private highest = 0;
  private raising: Promise<void> | undefined;

  constructor(options: OldCopyOptions) {
    this.options = options;
    this.catalogue = options.catalogue;
  }

  /** The catalogue is loaded. `restored`: people say that it comes from a backup. */
  async begin(restored: boolean): Promise<void> {
    if (restored) await this.catalogue.noteRestored();
    if (!this.catalogue.isRestored) return;
    const up = [...this.catalogue.map.osds.values()].filter((osd) => osd.up);
    this.unheard = new Set(up.map((osd) => osd.id));
    this.hearUntilUs = this.options.nowUs() + HEAR_US;
    this.catalogue.held = new FastblockError("FB1015", "the catalogue was restored", {
      why: "the osds are heard first, so that no number comes a second time",
      hint: "wait some seconds and repeat",
    });
    await this.proceed();
  }

  /** Osds that a restored catalogue waits for. */
  get waitsFor(): readonly OsdId[] {
    return [...(this.unheard ?? [])];
  }

  /** An osd registers, and shows the map that it has. The last one that is waited for is answered late. */
  async hear(osd: OsdId, seen: SeenMap): Promise<void> {
    this.note(seen);
    this.unheard?.delete(osd);
    await this.proceed();
  }

  /** Somebody shows the map that he has. */
  note(seen: SeenMap): void {
    const { generation, epoch } = seen;
    const { map } = this.catalogue;
    this.highest = Math.max(this.highest, generation);
    if (this.unheard !== null || compareMapIdentity(seen, map) <= 0) return;
    if (this.ahead !== undefined && compareMapIdentity(seen, this.ahead) <= 0) return;
    this.ahead = { generation, epoch };
    const facts = { ownGeneration: map.generation, ownEpoch: map.epoch };
    this.options.logger.error("somebody has a newer map than this mon: restored from a backup?", {
      generation,
      epoch,
      ...facts,
    });
    this.catalogue.held = new FastblockError(
      "FB1015",
      `the catalogue has map ${String(map.generation)}:${String(map.epoch)}, somebody was told ${String(generation)}:${String(epoch)}`,
    );
  }

  /** Once a second: nobody is waited for without end. */
  async tick(): Promise<void> {
    await this.proceed();
  }

  /** Raise the generation, once everybody was heard who is waited for. */
  private async proceed(): Promise<void> {
    const { unheard } = this;
    if (unheard === null) return;
    if (unheard.size > 0 && this.options.nowUs() < this.hearUntilUs) return;
    this.raising ??= this.raise().finally(() => {
      this.raising = undefined;
    });
    await this.raising;
  }

  private async raise(): Promise<void> {
    await this.catalogue.raiseGeneration(this.highest);
    this.unheard = null;
    this.catalogue.held = undefined;
    const { generation } = this.catalogue.map;
    this.options.logger.warn("generation raised", { generation });
    this.options.onRaised();
  }
}
