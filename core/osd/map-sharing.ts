// cold path: once per connection and map, and while the monitor can not be asked.
import { failOnBug } from "../base/assert.ts";
import { create, toBinary } from "@bufbuild/protobuf";
import type { Logger } from "../base/logger.ts";
import { type ClusterMap, MapTeller } from "../cluster/cluster.ts";
import type { World } from "../reactor/world.ts";
import { type Connection, type ControlService, Method } from "../rpc/rpc.ts";
import {
  MapGetReplySchema,
  MapGetRequestSchema,
  MapUpdateSchema,
} from "../../proto/gen/control_pb.ts";
import { ClientContext } from "./session-grants.ts";

/** Clients that know more of the map than this shard make it say so at most once in this time. */
const WANT_US = 100_000;
/** A peer that has not answered by then is not waited for. */
const ASK_MS = 2000;

/** What a shard hears of maps, for its osd. */
export interface MapSharingHost {
  /** Somebody has a newer map than this shard. */
  onMapWanted(): void;
  /** A peer told what the map lacks: an encoded MapUpdate. */
  onPeerMap(update: Uint8Array): void;
}

/**
 * How the map travels without the monitor: whoever is refused by an old map is told the newer one,
 * and an osd that can not ask the monitor asks its peers.
 *
 * What is told is built from the map itself, whose rows know the epoch of their last change: nothing
 * is kept for it. Keeping the monitor's deltas takes memory in every shard, and tells no more.
 */
export class MapSharing {
  private readonly world: World;
  private readonly logger: Logger;
  private readonly map: ClusterMap;
  private readonly teller: MapTeller;
  private readonly calls: ControlService;
  private readonly host: MapSharingHost;
  private wantedUs = -WANT_US;
  /** Whose turn it is to be asked. */
  private turn = 0;

  /** `map`: the shard's, read only. */
  constructor(
    world: World,
    logger: Logger,
    map: ClusterMap,
    calls: ControlService,
    host: MapSharingHost,
  ) {
    this.world = world;
    this.logger = logger;
    this.map = map;
    this.teller = new MapTeller(map);
    this.calls = calls;
    this.host = host;
    calls.serve(Method.MapGet, MapGetRequestSchema, MapGetReplySchema, ({ generation, epoch }) => {
      const delta = this.teller.lackOf(generation, epoch);
      const update = delta === undefined ? undefined : create(MapUpdateSchema, delta);
      return create(MapGetReplySchema, update === undefined ? {} : { update });
    });
  }

  /** A client is refused: what its map lacks goes to it first, once per connection and map. */
  tell(connection: Connection, generation: number, epoch: number): void {
    const { map } = this;
    const context = connection.context;
    if (!(context instanceof ClientContext)) return;
    if (context.toldGeneration === map.generation && context.toldEpoch === map.epoch) return;
    const delta = this.teller.lackOf(generation, epoch);
    if (delta === undefined) return;
    context.toldGeneration = map.generation;
    context.toldEpoch = map.epoch;
    const message = create(MapUpdateSchema, delta);
    this.calls.push(connection, Method.MapUpdate, MapUpdateSchema, message);
  }

  /** A client has a newer map, and what it asks for may be in there. */
  want(): void {
    const now = this.world.clock.turnUs;
    if (now - this.wantedUs < WANT_US) return;
    this.wantedUs = now;
    this.host.onMapWanted();
  }

  /** Ask one of the peers for what the map lacks; another one each time. */
  ask(peers: readonly Connection[]): void {
    if (peers.length === 0) return;
    this.turn += 1;
    const peer = peers[this.turn % peers.length]!;
    const { generation, epoch } = this.map;
    this.calls
      .call(
        peer,
        Method.MapGet,
        MapGetRequestSchema,
        create(MapGetRequestSchema, { generation, epoch }),
        MapGetReplySchema,
        { timeoutMs: ASK_MS },
      )
      .then(
        ({ update }) => {
          if (update === undefined) return;
          this.host.onPeerMap(toBinary(MapUpdateSchema, update));
          this.world.turns.again();
        },
        (error: unknown) => {
          if (failOnBug(this.world, error)) return;
          this.logger.debug("a peer told no map", { reason: String(error) });
        },
      )
      .catch((error: unknown) => this.world.fail(error));
  }
}
