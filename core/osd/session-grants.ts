// data path
import { fromBinary } from "@bufbuild/protobuf";
import type { Checksum } from "../base/checksum.ts";
import { Status } from "../base/status.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { checkGrant, ImageRights } from "../cluster/cluster.ts";
import type { Connection } from "../rpc/rpc.ts";
import { SessionGrantSchema } from "../../proto/gen/control_pb.ts";

/** Sessions that one connection may attach. */
const GRANTS_MAX = 65_536;

/** What the monitor allowed a session. */
class Grant {
  layer = 0;
  sizeBlocks = 0;
  rights = 0;
  serial = 0;
}

/** What a client's connection has attached so far. */
export class ClientContext {
  readonly grants: Map<number, Grant> = new Map();
  /** The newest map that it was told here (`map-sharing.ts`). */
  toldGeneration = 0;
  toldEpoch = 0;
}

/**
 * Which sessions a client's connection may act for.
 *
 * The monitor signs each grant; a shard believes the signature and asks nobody. Bounds and rights
 * of every request are checked here, so that a gateway gone astray can not reach past its images.
 */
export class SessionGrants {
  private readonly checksum: Checksum;
  private readonly clusterKey: Uint8Array;

  constructor(checksum: Checksum, clusterKey: Uint8Array) {
    this.checksum = checksum;
    this.clusterKey = clusterKey;
  }

  // cold: once per session and connection.
  /** Attach a session to a connection. Ok, Denied (signature, too many), Invalid. Cold. */
  attach(context: ClientContext, encoded: Uint8Array, mac: Uint8Array): Status {
    if (!checkGrant(this.checksum, this.clusterKey, encoded, mac)) return Status.Denied;
    const message = fromBinary(SessionGrantSchema, encoded);
    const session = Number(message.session);
    let grant = context.grants.get(session);
    if (grant === undefined) {
      if (context.grants.size >= GRANTS_MAX) return Status.Denied;
      grant = new Grant();
      context.grants.set(session, grant);
    }
    if (message.serial < grant.serial) return Status.Ok;
    grant.layer = Number(message.layer);
    grant.sizeBlocks = Math.floor(Number(message.sizeBytes) / BLOCK_SIZE);
    grant.rights = message.rights;
    grant.serial = message.serial;
    return Status.Ok;
  }

  /** Whether the session may touch the layer up to `endBlock`. Denied: attach (again) first. */
  judge(
    connection: Connection,
    session: number,
    layer: number,
    endBlock: number,
    right: ImageRights,
  ): Status {
    const context = connection.context;
    if (!(context instanceof ClientContext)) return Status.Denied;
    const grant = context.grants.get(session);
    if (grant === undefined) return Status.Denied;
    if ((grant.rights & right) !== right || grant.layer !== layer) return Status.Denied;
    // The monitor zeroes beyond the new end, and deletes layers: it alone passes the size.
    if (endBlock > grant.sizeBlocks && (grant.rights & ImageRights.Manage) === 0) {
      return Status.Invalid;
    }
    return Status.Ok;
  }
}
