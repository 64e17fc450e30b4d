// data path
import type { Logger } from "../base/logger.ts";
import type { StreamOptions, World } from "../reactor/world.ts";
import type { Connection } from "./connection.ts";
import type { Frame, FrameLimits } from "./frame.ts";
import type { HandshakeConfig } from "./handshake.ts";
import type { Link } from "./link.ts";

/** A connection without a finished handshake is closed after this long. */
export const HANDSHAKE_LIMIT_US = 3_000_000;
/**
 * A dialled stream that nobody answers is given up: the kernel asks again after 1, 2, 4 … s, and
 * would find out that late that a cut has ended.
 */
export const CONNECT_LIMIT_US = 1_000_000;
/** One that sent nothing for this long sends a sign of life. */
export const PING_INTERVAL_US = 5_000_000;
/** One that heard nothing, or whose peer took nothing, for this long is closed. */
export const SILENCE_LIMIT_US = 15_000_000;
/** The shortest time between two looks at the time limits of requests. */
export const SWEEP_INTERVAL_US = 50_000;

export enum ConnectionState {
  /** Dialled: waiting to try again. */
  Waiting = 0,
  Connecting = 1,
  Handshake = 2,
  Open = 3,
  /** The stream ends; `onClose` is to come. */
  Closing = 4,
  /** Over for good. */
  Closed = 5,
}

/** What the owner of a connection implements. Calls come in the handler phase of a turn. */
export interface ConnectionHandler {
  /** Both ends have proved the key; `connection.peer` is valid. Again after each reconnect. */
  onOpen(connection: Connection): void;
  /**
   * A request. Answer it exactly once: `beginReply` + `finish`, or `refuse`, now or later.
   * `frame` and the memory it points to are valid until this returns.
   */
  onRequest(connection: Connection, frame: Frame): void;
  /** A one-way frame, valid until this returns. */
  onOneway(connection: Connection, frame: Frame): void;
  /** Space or a request row came back after a `begin…` answered -1 with `Busy`. */
  onWritable(connection: Connection): void;
  /**
   * The connection ended (`opened`), or an attempt to make it failed. Requests that waited have
   * failed already. A dialled one tries again by itself, unless `close` is called.
   */
  onClose(connection: Connection, reason: string, opened: boolean): void;
}

/** Decides about an accepted connection whose peer has proved the key: its handler, or null. */
export type Admission = (connection: Connection) => ConnectionHandler | null;

/** Queue up for send space: see `Connection.wait`. */
export interface WritableWaiter {
  /** Owned by the connection. */
  writableNext: WritableWaiter | null;
  /** Called once: there may be space now, or the connection is no longer open. */
  onWritable(connection: Connection): void;
}

/** What a connection needs of its endpoint. */
export interface ConnectionOwner {
  readonly world: World;
  readonly logger: Logger;
  readonly handshake: HandshakeConfig;
  readonly limits: Readonly<FrameLimits>;
  readonly requestsMax: number;
  readonly servingMax: number;
  readonly streamOptions: StreamOptions;
  readonly backoff: { readonly minUs: number; readonly maxUs: number };
  /** An accepted connection has proved who it is. */
  onProved(): void;
  /** The connection is over for good. */
  onGone(connection: Link): void;
}
