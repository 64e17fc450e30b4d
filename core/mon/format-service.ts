import { FastblockError } from "../base/errors.ts";
import { FORMAT_FIRST, type FormatRange, type FormatState } from "../base/formats.ts";
import type { Catalogue } from "./catalogue.ts";

export interface FormatServiceOptions {
  readonly catalogue: Catalogue;
  /** Of this monitor. */
  readonly formats: FormatRange;
  /** Names of clients that follow the map, with the highest format that each knows. */
  readonly clients: () => Iterable<readonly [string, number]>;
}

/**
 * The format of the cluster (core/README.md, Versions).
 *
 * It says what may be written down and sent. Programs that know more run mixed with those that do not,
 * until people raise it: one step, once everybody who was ever in the map knows it. That is for good.
 */
export class FormatService {
  private readonly options: FormatServiceOptions;

  constructor(options: FormatServiceOptions) {
    this.options = options;
  }

  /** Refuse whoever does not fit the cluster. Throws FB1016, FB4003 when this monitor is too old itself. */
  judge(who: string, seen: Readonly<FormatState>): void {
    const { format } = this.options.catalogue.map;
    const { min, max } = seen.range;
    if (seen.wanted > this.options.formats.max) {
      throw new FastblockError(
        "FB4003",
        `${who} has format ${String(seen.wanted)}, this mon knows up to ${String(this.options.formats.max)}`,
      );
    }
    if (max < format) {
      throw new FastblockError(
        "FB1016",
        `${who} knows formats up to ${String(max)}, the cluster has ${String(format)}`,
      );
    }
    if (min > format) {
      throw new FastblockError(
        "FB1016",
        `${who} writes formats from ${String(min)} on, the cluster has ${String(format)}`,
        { hint: "first raise the cluster's format, with the version before this one" },
      );
    }
  }

  /** Raise the cluster by one. Throws FB1016 while somebody does not know the next format. */
  async raise(dryRun: boolean): Promise<number> {
    const { catalogue } = this.options;
    return await catalogue.change((change) => {
      const next = catalogue.map.format + 1;
      const behind = this.behind(next);
      if (behind.length > 0) {
        throw new FastblockError("FB1016", `raising the cluster to format ${String(next)}`, {
          why: `not known to ${behind.join(", ")}`,
          hint: "run a newer fastblock there, or remove what is gone for good",
        });
      }
      change.changeMap({ format: next });
      return next;
    }, dryRun);
  }

  /** Who does not know a format. */
  private behind(format: number): string[] {
    const { catalogue, formats, clients } = this.options;
    const behind = formats.max < format ? ["this mon"] : [];
    for (const id of catalogue.map.osds.keys()) {
      const max = catalogue.osds.get(id)?.formatMax ?? FORMAT_FIRST;
      if (max < format) behind.push(`osd.${String(id)}`);
    }
    for (const [name, max] of clients()) if (max < format) behind.push(name);
    return behind;
  }
}
