import { dlopen, FFIType } from "bun:ffi";

const PR_SET_PDEATHSIG = 1;

/**
 * Have the kernel send `signal` to this process when the one that started it ends, however it ends.
 * False: refused. A parent that ended before is not noticed: look at the parent's pid afterwards.
 */
export function signalAtParentsEnd(signal: number): boolean {
  const U64 = FFIType.u64;
  const libc = dlopen("libc.so.6", {
    prctl: { args: [FFIType.i32, U64, U64, U64, U64], returns: FFIType.i32 },
  });
  try {
    return libc.symbols.prctl(PR_SET_PDEATHSIG, BigInt(signal), 0n, 0n, 0n) === 0;
  } finally {
    libc.close();
  }
}
