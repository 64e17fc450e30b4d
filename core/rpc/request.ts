// data path
import type { Status } from "../base/status.ts";
import type { Frame } from "./frame.ts";

/**
 * A request that waits for its reply: extended and pooled by its owner.
 *
 * Exactly one of `onReply` and `onFail` is called, once, for each successful `beginRequest` +
 * `finish`. Until then the op belongs to the connection.
 */
export abstract class RequestOp {
  /** Owned by the connection: its id on the wire; 0 while idle. */
  rpcRequestId = 0;
  /** Owned by the connection: µs of the clock; 0: no limit. */
  rpcDueUs = 0;
  /** Owned by the connection: µs of the clock when it was sent, for latency and the 300 ms rule. */
  rpcSentUs = 0;
  /** The reply with status Ok in its prefix. `frame` is valid until this returns. */
  abstract onReply(frame: Frame): void;
  /**
   * There is no reply: `TimedOut`, `Unreachable` (the connection ended; for a write the outcome is
   * unknown), `Cancelled`, or the status with which the peer's rpc layer refused it (`Busy`,
   * `Stopping`, `Denied`, `Invalid`: it was not executed).
   */
  abstract onFail(status: Status): void;
  /** A reply whose prefix tells a refusal. Cold callers override it to read the header. */
  onRefused(frame: Frame): void {
    this.onFail(frame.status);
  }
}
