// cold path: connections of the first moments of a start.
/**
 * Both sides of the question whether a store is an old copy (`core/store/starts.ts`), between shards.
 *
 * A shard that does not serve yet dials the shards that it shares groups with, shows its store's
 * starts in the handshake and hears a verdict: `Asking`. Who is asked, serving or not, judges by what
 * it remembers: `Vouching`. Nothing of a group passes on these connections.
 */
import { create } from "@bufbuild/protobuf";
import type { Logger } from "../base/logger.ts";
import type { ClusterMap } from "../cluster/cluster.ts";
import type { PeerLink } from "../pg/pg.ts";
import {
  type Connection,
  type ConnectionHandler,
  type ControlService,
  type Frame,
  Method,
  Role,
  type RpcEndpoint,
} from "../rpc/rpc.ts";
import { VerdictSchema } from "../../proto/gen/starts_pb.ts";
import type { PeerStarts } from "./peer-starts.ts";

/** What somebody said of our store: nothing against it, an objection, or nothing at all. */
export type Verdict =
  | { readonly kind: "fine" }
  | { readonly kind: "refused"; readonly why: string }
  | { readonly kind: "absent" };

/** The dialling side, while this shard does not serve. */
export class Asking implements ConnectionHandler {
  private readonly endpoint: RpcEndpoint;
  private readonly calls: ControlService;
  private readonly onAbsent: (osd: number) => void;
  /** By `host:port/storeUuid`, with the osd that is asked there. */
  private readonly connections = new Map<string, Connection>();
  private readonly osds = new Map<Connection, number>();

  constructor(endpoint: RpcEndpoint, calls: ControlService, onAbsent: (osd: number) => void) {
    this.endpoint = endpoint;
    this.calls = calls;
    this.onAbsent = onAbsent;
  }

  /** Ask whoever shares a group with this shard, at the addresses of the map. */
  ask(map: ClusterMap, links: Iterable<PeerLink>): void {
    for (const link of links) {
      const osd = map.osds.get(link.osd as never);
      const address = osd?.addresses[link.shard];
      if (osd === undefined || address === undefined || link.groups.size === 0) continue;
      const { host, port } = address;
      const { storeUuid } = osd;
      const name = `${host}:${String(port)}/${storeUuid}`;
      if (this.connections.has(name)) continue;
      const connection = this.endpoint.dial(
        { kind: "tcp", host, port },
        { role: Role.Osd, id: link.osd, shard: link.shard, storeUuid },
        this,
      );
      this.connections.set(name, connection);
      this.osds.set(connection, link.osd);
    }
  }

  /** Everything is known, or the shard stops. */
  end(): void {
    for (const connection of this.connections.values()) connection.close("asked enough");
    this.connections.clear();
    this.osds.clear();
  }

  onOpen(_connection: Connection): void {}

  onOneway(connection: Connection, frame: Frame): void {
    if (frame.method === Method.StartsVerdict) this.calls.onOneway(connection, frame);
  }

  onRequest(connection: Connection, frame: Frame): void {
    connection.close(`unexpected request, method ${String(frame.method)}`);
  }

  onWritable(_connection: Connection): void {}

  onClose(connection: Connection, reason: string, opened: boolean): void {
    this.calls.onClose(connection, reason, opened);
    const osd = this.osds.get(connection);
    if (osd !== undefined) this.onAbsent(osd);
  }
}

/**
 * The side that was dialled, by one that asks, one that is refused, or one that came before this
 * shard serves. What else they say is not listened to.
 */
export class Vouching implements ConnectionHandler {
  private readonly starts: PeerStarts;
  private readonly calls: ControlService;
  private readonly logger: Logger;
  /** Objections to those that were just admitted, until their connection is open. */
  private readonly refusals = new Map<Connection, string>();
  /** They serve and we do not yet: when we do, they shall come again. */
  private readonly early = new Set<Connection>();

  constructor(starts: PeerStarts, calls: ControlService, logger: Logger) {
    this.starts = starts;
    this.calls = calls;
    this.logger = logger;
  }

  /** A shard has connected. Answers the handler of its connection; null: it may join its groups. */
  accept(connection: Connection, serving: boolean): ConnectionHandler | null {
    const { storeUuid, starts, asking } = connection.peer!;
    const refusal = this.starts.meet(storeUuid, starts);
    if (serving && !asking && refusal === "") return null;
    if (asking || refusal !== "") this.refusals.set(connection, refusal);
    else this.early.add(connection);
    return this;
  }

  /** This shard serves from now on. */
  serve(): void {
    for (const connection of this.early) connection.close("serving now: dial again");
    this.early.clear();
  }

  onOpen(connection: Connection): void {
    const refusal = this.refusals.get(connection);
    if (refusal === undefined) return;
    this.refusals.delete(connection);
    const message = create(VerdictSchema, { refusal });
    this.calls.push(connection, Method.StartsVerdict, VerdictSchema, message);
    if (refusal === "") return;
    const { id, storeUuid } = connection.peer!;
    this.logger.warn("an old copy of a store is refused", { osd: id, storeUuid, why: refusal });
    connection.close(`an old copy of its store: ${refusal}`);
  }

  onOneway(_connection: Connection, _frame: Frame): void {}
  onRequest(_connection: Connection, _frame: Frame): void {}
  onWritable(_connection: Connection): void {}

  onClose(connection: Connection, reason: string, opened: boolean): void {
    this.refusals.delete(connection);
    this.early.delete(connection);
    this.calls.onClose(connection, reason, opened);
  }
}
