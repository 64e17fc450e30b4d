// cold: identities, read once a connection
import type { FormatState } from "../base/formats.ts";

/** What a process is. Numbers are proto/rpc.proto, Role. */
export enum Role {
  Mon = 1,
  Osd = 2,
  /** A gateway, the CLI, the load generator: whoever attaches images. */
  Client = 3,
}

/** The process itself (mon session, admin), not one of its reactors. */
export const SHARD_NONE = 0xffff_ffff;
/** A receiver whose id the dialler does not know yet. Only a mon answers to it. */
export const ID_ANY = 0xffff_ffff;

/** Who this endpoint is. */
export interface RpcIdentity {
  /** The cluster's uuid as text; case and dashes do not matter. */
  readonly clusterId: string;
  readonly role: Role;
  /** Osd id, index of the mon; a client draws a random u32. */
  readonly id: number;
  /** Index of the reactor, or `SHARD_NONE`. */
  readonly shard: number;
  /** For logs of the peers: `osd.3`, `nbd.0`. */
  readonly name: string;
  /** Identity of the osd's store, uuid as text. */
  readonly storeUuid?: string;
  /** What the osd's store has to show; read anew in each handshake. */
  readonly store?: StoreCredentials;
  /** What it speaks, and wants others to know; read anew in each handshake. Default: as this program, of nobody. */
  readonly formats?: FormatState;
}

/** What a store shows to those who may remember more of it than it knows. */
export interface StoreCredentials {
  /** Its starts, encoded (core/store/starts.ts). */
  starts: Uint8Array;
  /** It does not serve yet, and wants to hear whether it is an old copy. */
  asking: boolean;
}

/** Whom a dialler wants to reach: somebody else on that port refuses. */
export interface RpcReceiver {
  readonly role: Role;
  /** `ID_ANY` for a mon: any. */
  readonly id: number;
  readonly shard: number;
  /** When known: another store under the same osd id refuses. */
  readonly storeUuid?: string;
}

/** Who the peer proved to be. */
export interface RpcPeer {
  readonly role: Role;
  readonly id: number;
  readonly shard: number;
  /** Uuid as text, lower case with dashes; empty when the peer has no store. */
  readonly storeUuid: string;
  /** Random number of the peer's process start: a change means that it restarted. */
  readonly boot: number;
  readonly name: string;
  /** Starts of its store, encoded; empty when there are none. */
  readonly starts: Uint8Array;
  /** Its store does not serve yet, and wants to hear whether it is an old copy. */
  readonly asking: boolean;
  readonly formats: Readonly<FormatState>;
}
