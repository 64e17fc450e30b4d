// data path
/**
 * The wire: authenticated, framed connections between fastblock processes (proto/frame.md).
 *
 * Two ways in: `Connection` for the data path (frames in place, pooled `RequestOp`s, no promises),
 * and `ControlService` on top of it for cold calls with promises. Both work on one connection.
 */
export { Connection } from "./connection.ts";
export {
  type ConnectionHandler,
  ConnectionState,
  type WritableWaiter,
} from "./connection-types.ts";
export { type CallOptions, ControlService } from "./control.ts";
export { RpcEndpoint, type RpcOptions } from "./endpoint.ts";
export {
  FLAG_PAYLOAD_CRC,
  Frame,
  FrameFault,
  FrameKind,
  frameSize,
  HANDSHAKE_LIMITS,
  isShort,
  PREFIX_SIZE,
  PREFIX_TAGGED_SIZE,
  parsePrefix,
  parseShort,
  SHORT_PREFIX_SIZE,
  writePrefix,
  writeShort,
} from "./frame.ts";
export { HandshakeStep, refusalCode } from "./handshake.ts";
export { Method } from "./method.ts";
export {
  ID_ANY,
  Role,
  type RpcIdentity,
  type RpcReceiver,
  SHARD_NONE,
  type StoreCredentials,
} from "./peer.ts";
export { RequestOp } from "./request.ts";
export { FrameSealing } from "./sealing.ts";
