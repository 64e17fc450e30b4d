import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { failOnBug } from "../base/assert.ts";
import type { Logger } from "../base/logger.ts";
import { ApplyResult, type ClusterMap } from "../cluster/cluster.ts";
import { CallbackTimer, type World } from "../reactor/world.ts";
import { MapUpdateSchema } from "../../proto/gen/control_pb.ts";

/** How long hints may wait to be kept: some thousand groups elect and go home in that time. */
const HINTS_US = 5_000_000;

/** Where an osd keeps its map over its own restarts. */
export interface KeptMap {
  /** What was saved last; null: nothing, or it can not be read. */
  load(): Uint8Array | null;
  /** Durable when it returns, whole or not at all. Throws when it can not be written. */
  save(bytes: Uint8Array): void;
}

/**
 * Keeps an osd's map, so that it serves before, and without, a monitor.
 *
 * What lasts is kept before shards follow it: a store that lost something takes the kept map for all
 * replicas that it ever made, and buries those of them that it does not know. Hints, who leads and in
 * which term, wait up to 5 s and are kept together: without them a start knows less of what the
 * monitor or a peer tells it again, under an epoch from which both can tell it. To keep each was too
 * much: every change of the map writes all of it, 1.7 MB at 10,000 groups, whose leaders come and go
 * home in hundreds of deltas.
 */
export class MapKeeper {
  private readonly world: World;
  private readonly logger: Logger;
  private readonly map: ClusterMap;
  private readonly kept: KeptMap;
  private readonly timer: CallbackTimer;
  /** Of the map that is kept; 0, 0: none. */
  private generation = 0;
  private epoch = 0;

  /** `map`: read only, may change between calls. */
  constructor(world: World, logger: Logger, map: ClusterMap, kept: KeptMap) {
    this.world = world;
    this.logger = logger;
    this.map = map;
    this.kept = kept;
    this.timer = new CallbackTimer(() => this.save());
  }

  /** Take the map over that was kept. Answers it encoded; null: there is none to go by. */
  load(): Uint8Array | null {
    const bytes = this.kept.load();
    if (bytes === null) return null;
    try {
      const update = fromBinary(MapUpdateSchema, bytes);
      if (this.map.apply(update) !== ApplyResult.Applied) return null;
    } catch (error) {
      if (failOnBug(this.world, error)) return null;
      this.logger.warn("the kept map can not be read", { reason: String(error) });
      return null;
    }
    this.note();
    return bytes;
  }

  /** The map has changed. When it returns shards may follow it: what lasts of it is kept, or can not be. */
  keep(): void {
    const { map, timer, world } = this;
    if (this.generation !== map.generation || this.epoch < map.lastingEpoch) this.save();
    else if (this.epoch < map.epoch && timer.timerDueUs < 0) world.timers.arm(timer, HINTS_US);
  }

  /** Keep what still waits, and nothing behind that. */
  stop(): void {
    if (this.timer.timerDueUs >= 0) this.save();
  }

  private save(): void {
    this.world.timers.disarm(this.timer);
    const full = this.map.deltaFrom(0, 0);
    if (full === undefined) return;
    try {
      this.kept.save(toBinary(MapUpdateSchema, create(MapUpdateSchema, full)));
    } catch (error) {
      if (failOnBug(this.world, error)) return;
      this.logger.warn("the map can not be kept", { reason: String(error) });
      return;
    }
    this.note();
  }

  private note(): void {
    this.generation = this.map.generation;
    this.epoch = this.map.epoch;
  }
}
