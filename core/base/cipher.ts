/**
 * Authenticated encryption: AES-256-GCM, supplied by the process as checksums are
 * (`core/reactor/bun-system.ts`).
 *
 * A nonce is 4 zero bytes and a counter, 8 bytes little-endian. Two messages under one key and nonce
 * give away what differs between them, and how to forge tags: whoever holds a key never uses a counter
 * twice.
 */
export const CIPHER_KEY_SIZE = 32;

/** What the ciphers of a world are made by. */
export interface Ciphers {
  /** Why nothing can be encrypted here; empty: it can. Cold: may look for a library. */
  readonly missing: string;
  /**
   * A cipher for one direction, over `memory`, whose address never changes. Requires that nothing is
   * missing, and a key of 32 bytes, which is copied. Cold: once a connection.
   */
  create(memory: Uint8Array, key: Uint8Array, use: "seal" | "open"): Cipher;
}

/** One key in one direction. All offsets are into the memory that it was made for. */
export interface Cipher {
  /**
   * Encrypt `sizeBytes` at `at` in place, and write 16 bytes of tag at `tagAt`. The tag covers
   * `boundBytes` at `boundAt` as well, which stay as they are.
   */
  seal(
    counter: number,
    boundAt: number,
    boundBytes: number,
    at: number,
    sizeBytes: number,
    tagAt: number,
  ): void;
  /** The reverse. False: the tag is wrong, and what lies at `at` is rubbish now. */
  open(
    counter: number,
    boundAt: number,
    boundBytes: number,
    at: number,
    sizeBytes: number,
    tagAt: number,
  ): boolean;
  /** Forget the key. Nothing may follow. Cold. */
  end(): void;
}

/** Of a world that can not encrypt. */
export const NO_CIPHERS: Ciphers = {
  missing: "this process has no cipher",
  create() {
    throw new Error("NO_CIPHERS: nothing can be encrypted here");
  },
};
