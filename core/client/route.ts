// data path
import type { PgId, ReplicaId } from "../base/ids.ts";
import type { Status } from "../base/status.ts";
import type { PgInfo, ReplicaInfo } from "../cluster/cluster.ts";
import { type Frame, RequestOp } from "../rpc/rpc.ts";
import type { Link } from "./link.ts";
import { PartList } from "./part.ts";

/**
 * What the client knows of one placement group, and its open requests.
 *
 * `leader` null: not known, the replicas are asked (`isProbing`) and parts wait in `unsent`. Parts
 * in `sent` are with a connection, oldest first.
 */
export class Route {
  readonly pg: PgId;
  info: PgInfo | null = null;
  leader: ReplicaInfo | null = null;
  link: Link | null = null;
  readonly unsent: PartList = new PartList();
  readonly sent: PartList = new PartList();
  /** Where the leader was when it fell silent or its connection ended; 0: nowhere. */
  suspect: ReplicaId = 0 as ReplicaId;
  /** The suspect's connection is up, it only does not answer. */
  isSuspectSilent = false;
  isProbing = false;
  /** µs. */
  probeDueUs = 0;
  probingSinceUs = 0;
  /** µs: a silent leader is not doubted before. */
  quietUntilUs = 0;
  /** Hints followed since the last good answer. */
  redirects = 0;
  readonly probes: Probe[] = [];
  /** Index in the router's list of active routes; -1: not in it. */
  activeAt = -1;
  /** Queue of a link. */
  waitsForLink: Link | null = null;
  linkNext: Route | null = null;

  constructor(pg: PgId) {
    this.pg = pg;
  }

  /** Parts that are on their way. */
  get isIdle(): boolean {
    return this.unsent.count === 0 && this.sent.count === 0;
  }
}

/** Who hears the answers to "who leads?". */
export interface ProbeOwner {
  onProbeReply(probe: Probe, frame: Frame): void;
}

/** The question to one replica who leads its group: a read of one block's state. */
export class Probe extends RequestOp {
  readonly route: Route;
  readonly replica: ReplicaInfo;
  private readonly owner: ProbeOwner;

  constructor(owner: ProbeOwner, route: Route, replica: ReplicaInfo) {
    super();
    this.owner = owner;
    this.route = route;
    this.replica = replica;
  }

  override onReply(frame: Frame): void {
    this.owner.onProbeReply(this, frame);
  }

  /** The next round asks again. */
  override onFail(_status: Status): void {}
}
