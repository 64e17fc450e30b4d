import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { boottimeUs } from "../../ffi/libc/libc.ts";
import { GcmCipher, libcryptoFault } from "../../ffi/libcrypto/libcrypto.ts";
import type { Checksum } from "../base/checksum.ts";
import type { Cipher, Ciphers } from "../base/cipher.ts";
import type { Random } from "../base/prng.ts";
import { TurnClock } from "./reactor-base.ts";

/** Clock, randomness, checksums and ciphers of a real process, and what a reactor needs of the runtime. */

/** CLOCK_BOOTTIME. */
export class SystemClock extends TurnClock {
  nowUs(): number {
    return boottimeUs();
  }

  wallMs(): number {
    return Date.now();
  }
}

const RANDOM_WORDS = 1024;

/** The operating system's generator, drawn in batches. */
export class SystemRandom implements Random {
  private readonly words = new Uint32Array(RANDOM_WORDS);
  private used = RANDOM_WORDS;

  u32(): number {
    if (this.used === RANDOM_WORDS) {
      crypto.getRandomValues(this.words);
      this.used = 0;
    }
    const word = this.words[this.used]!;
    // What was given out is not kept in memory.
    this.words[this.used] = 0;
    this.used += 1;
    return word;
  }

  below(bound: number): number {
    return Math.floor((this.u32() / 4_294_967_296) * bound);
  }

  fill(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; at += 65_536) {
      const part = bytes.subarray(at, at + 65_536);
      // The runtime's generator wants a buffer that is not shared.
      const fresh = new Uint8Array(part.length);
      crypto.getRandomValues(fresh);
      part.set(fresh);
    }
  }
}

/** CRC-32 and HMAC of the runtime. */
export class SystemChecksum implements Checksum {
  crc32(bytes: Uint8Array, seed: number): number {
    return Bun.hash.crc32(bytes, seed);
  }

  hmacSha256(key: Uint8Array, data: Uint8Array): Uint8Array {
    const hasher = new Bun.CryptoHasher("sha256", key);
    hasher.update(data);
    return new Uint8Array(hasher.digest());
  }
}

/** AES-256-GCM of the system's libcrypto, which is loaded when somebody asks first. */
export class SystemCiphers implements Ciphers {
  get missing(): string {
    return libcryptoFault();
  }

  create(memory: Uint8Array, key: Uint8Array, use: "seal" | "open"): Cipher {
    return new GcmCipher(memory, key, use);
  }
}

/**
 * The epoll descriptor of the runtime's event loop in the calling thread, or -1: the one whose
 * interest list holds a listener that this thread has just opened (each thread has a loop).
 */
export function findGuestEpoll(): number {
  // A name in the abstract space leaves no file behind.
  const name = `\0fastblock-probe-${process.pid}-${crypto.randomUUID()}`;
  const probe = Bun.listen({ unix: name, socket: { data() {} } });
  try {
    const fd = (probe as unknown as { readonly fd?: number }).fd;
    if (fd === undefined) return -1;
    const wanted = new RegExp(`^tfd:\\s+${fd}\\s`, "m");
    for (const entry of readdirSync("/proc/self/fd")) {
      if (linkOf(entry).includes("eventpoll") && wanted.test(infoOf(entry))) return Number(entry);
    }
    return -1;
  } catch {
    return -1;
  } finally {
    probe.stop(true);
  }
}

function linkOf(entry: string): string {
  try {
    return readlinkSync(`/proc/self/fd/${entry}`);
  } catch {
    return "";
  }
}

function infoOf(entry: string): string {
  try {
    return readFileSync(`/proc/self/fdinfo/${entry}`, "utf8");
  } catch {
    return "";
  }
}

/** A reactor that gives the runtime's loop a turn now and then. */
export interface GuestHost {
  /** Take turns until the guest is due one; false at the end of the reactor's life. */
  runUntilGuest(): boolean;
  /** A turn threw. */
  fail(error: unknown): void;
}

/** Run a reactor beside the runtime's own loop, until it ends or throws. */
export async function runBesideGuest(host: GuestHost): Promise<void> {
  try {
    while (host.runUntilGuest()) await new Promise<void>((resolve) => setImmediate(resolve));
  } catch (error) {
    host.fail(error);
  }
}

/** Make an error an uncaught exception of this thread: the process ends, unless a test listens. */
export function throwUncaught(error: unknown): void {
  setTimeout(() => {
    throw error;
  }, 0);
}
