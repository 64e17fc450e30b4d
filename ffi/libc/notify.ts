import { dlopen, FFIType, ptr } from "bun:ffi";

/**
 * Tell systemd about the state of a service (`sd_notify`): one datagram to the unix socket that
 * `NOTIFY_SOCKET` names. The runtime has no unix datagram sockets, hence libc.
 */

const AF_UNIX = 1;
const SOCK_DGRAM_CLOEXEC = 0x80002;
const PATH_MAX_BYTES = 107;

/** Send `state` (like `READY=1`) to the socket at `path` (`@` begins an abstract one). False: failed. */
export function notifySystemd(path: string, state: string): boolean {
  const name = new TextEncoder().encode(path);
  if (name.length === 0 || name.length > PATH_MAX_BYTES) return false;
  const address = new Uint8Array(2 + PATH_MAX_BYTES + 1);
  address[0] = AF_UNIX;
  address.set(name, 2);
  const abstract = path.startsWith("@");
  if (abstract) address[2] = 0;
  const addressLength = 2 + name.length + (abstract ? 0 : 1);
  const message = new TextEncoder().encode(state);
  const libc = dlopen("libc.so.6", {
    socket: { args: [FFIType.i32, FFIType.i32, FFIType.i32], returns: FFIType.i32 },
    sendto: {
      args: [FFIType.i32, FFIType.ptr, FFIType.u64, FFIType.i32, FFIType.ptr, FFIType.u32],
      returns: FFIType.i64,
    },
    close: { args: [FFIType.i32], returns: FFIType.i32 },
  });
  try {
    const socket = libc.symbols.socket(AF_UNIX, SOCK_DGRAM_CLOEXEC, 0);
    if (socket < 0) return false;
    const sent = libc.symbols.sendto(
      socket,
      ptr(message),
      BigInt(message.length),
      0,
      ptr(address),
      addressLength,
    );
    libc.symbols.close(socket);
    return Number(sent) === message.length;
  } finally {
    libc.close();
  }
}
