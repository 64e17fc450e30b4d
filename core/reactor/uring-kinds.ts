// data path
import { type Ring, UringOp } from "../../ffi/uring/ring.ts";

/** High word of the user data of a submission: whose completion it is. */
export enum UserKind {
  /** Nobody waits for it (cancellations). */
  Ignored = 0,
  /** Low word: place of the operation. */
  Disk = 1,
  /** Low word: id of the stream. */
  Receive = 2,
  Send = 3,
  Connect = 4,
  /** Low word: id of the listener. */
  Accept = 5,
  /** The runtime's own event loop has work. */
  Guest = 6,
  /** Another thread put something into a channel. */
  Channel = 7,
}

/** Cancel the operation with this user data; its own completion (ECANCELED) still comes. */
export function prepareCancel(ring: Ring, id: number, kind: UserKind): void {
  const user = id + kind * 4_294_967_296;
  ring.prepare(UringOp.AsyncCancel, -1, user, 0, 0, 0, 0, UserKind.Ignored);
}
