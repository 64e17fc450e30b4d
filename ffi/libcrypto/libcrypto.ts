// data path
import { CString, dlopen, FFIType, type Pointer, ptr } from "bun:ffi";
import { assert } from "../../core/base/assert.ts";
import { CIPHER_KEY_SIZE, type Cipher } from "../../core/base/cipher.ts";

/**
 * AES-256-GCM of OpenSSL 3, which Debian 12 has wherever systemd is.
 *
 * The runtime's own one makes a cipher, and buffers for what it answers, for every message. Here a
 * context lives as long as a direction of a connection, a message takes five calls, and nothing is
 * allocated. The library is looked for when the first connection is to be encrypted: it takes 7 ms and
 * 3.5 MiB, and without it everything else works.
 *
 * The scratch below belongs to the thread, and is used within one call only.
 */

const I32 = FFIType.i32;
const PTR = FFIType.ptr;

const FILE = "libcrypto.so.3";
const RTLD_NOW = 2;
const CTRL_GET_TAG = 0x10;
const CTRL_SET_TAG = 0x11;
const TAG_SIZE = 16;
/** Direction of a context that has one. */
const AS_BEFORE = -1;

/** Words 0 to 2: the nonce; 4: a length that is answered, which nobody needs; 8 to 15: a key. */
const scratch = new Uint32Array(new ArrayBuffer(128));
const nonceAddress: Pointer = ptr(scratch);
const lengthAddress: Pointer = (nonceAddress + 16) as Pointer;
const keyAddress: Pointer = (nonceAddress + 32) as Pointer;
const keyBytes = new Uint8Array(scratch.buffer, 32, CIPHER_KEY_SIZE);
/** The end of a message of this mode has no bytes: nothing is written there. */
const endAddress: Pointer = (nonceAddress + 64) as Pointer;

/** The functions of the library, and the cipher itself. */
interface Libcrypto {
  readonly symbols: ReturnType<typeof bind>;
  readonly algorithm: Pointer;
}

/**
 * Load the library by the system's loader, which knows where it may lie. The runtime would go on to look
 * for it in the working directory, where anybody may have put one. cold: once a thread
 */
function load(): void {
  const { symbols: loader } = dlopen("libc.so.6", {
    dlopen: { args: [PTR, I32], returns: PTR },
    dlerror: { args: [], returns: PTR },
  });
  const name = new Uint8Array(new ArrayBuffer(64));
  new TextEncoder().encodeInto(FILE, name);
  if (loader.dlopen(ptr(name), RTLD_NOW) !== null) return;
  const why = loader.dlerror();
  throw new Error(why === null ? `no ${FILE}` : new CString(why).toString());
}

/** cold: once a thread. Throws when the library lacks one of them. */
function bind() {
  const { symbols } = dlopen(FILE, {
    EVP_aes_256_gcm: { args: [], returns: PTR },
    EVP_CIPHER_CTX_new: { args: [], returns: PTR },
    EVP_CIPHER_CTX_free: { args: [PTR], returns: FFIType.void },
    EVP_CipherInit_ex: { args: [PTR, PTR, PTR, PTR, PTR, I32], returns: I32 },
    EVP_CipherUpdate: { args: [PTR, PTR, PTR, PTR, I32], returns: I32 },
    EVP_CipherFinal_ex: { args: [PTR, PTR, PTR], returns: I32 },
    EVP_CIPHER_CTX_ctrl: { args: [PTR, I32, I32, PTR], returns: I32 },
  });
  return symbols;
}

let library: Libcrypto | null = null;
/** Of the first look; empty: there was none, or it found the library. */
let fault = "";

/**
 * Why the library can not be used; empty: it can. cold: looks for it at the first call of a thread, and
 * never again: whoever asks for encryption asks for this, and each look leaves memory behind.
 */
export function libcryptoFault(): string {
  if (library !== null || fault !== "") return fault;
  try {
    load();
    const symbols = bind();
    library = { symbols, algorithm: symbols.EVP_aes_256_gcm() as Pointer };
    // What the machine's settings forbid shows with the first key only.
    new GcmCipher(new Uint8Array(CIPHER_KEY_SIZE), new Uint8Array(CIPHER_KEY_SIZE), "seal").end();
  } catch (error) {
    library = null;
    fault = `no cipher: ${error instanceof Error ? error.message : String(error)}`;
  }
  return fault;
}

/** Contexts of ciphers that nobody ended: of worlds that a simulation has crashed. */
const forgotten = new FinalizationRegistry<number>((context) => {
  library?.symbols.EVP_CIPHER_CTX_free(context as Pointer);
});

/** `Cipher` by a context of the library, which has to be there. */
export class GcmCipher implements Cipher {
  private readonly symbols: Libcrypto["symbols"];
  /** Kept: the context reads and writes there. */
  private readonly memory: Uint8Array;
  /** Address of the memory's first byte. */
  private readonly base: number;
  private context: number;

  // cold: once a connection
  constructor(memory: Uint8Array, key: Uint8Array, use: "seal" | "open") {
    assert(libcryptoFault() === "", "GcmCipher: there is no library");
    assert(library !== null, "GcmCipher: the library was not loaded");
    assert(key.length === CIPHER_KEY_SIZE, "GcmCipher: the key is not 32 bytes");
    const { symbols, algorithm } = library;
    this.symbols = symbols;
    this.memory = memory;
    this.base = ptr(memory);
    this.context = Number(symbols.EVP_CIPHER_CTX_new() ?? 0);
    assert(this.context !== 0, "GcmCipher: there is no memory for a context");
    forgotten.register(this, this.context, this);
    keyBytes.set(key);
    const context = this.context as Pointer;
    const direction = use === "seal" ? 1 : 0;
    const done = symbols.EVP_CipherInit_ex(context, algorithm, null, keyAddress, null, direction);
    keyBytes.fill(0);
    assert(done === 1, "GcmCipher: the key was refused");
  }

  seal(
    counter: number,
    boundAt: number,
    boundBytes: number,
    at: number,
    sizeBytes: number,
    tagAt: number,
  ): void {
    this.pass(counter, boundAt, boundBytes, at, sizeBytes);
    const context = this.context as Pointer;
    const ended = this.symbols.EVP_CipherFinal_ex(context, endAddress, lengthAddress);
    assert(ended === 1, "GcmCipher.seal: the message was not ended");
    const tag = (this.base + tagAt) as Pointer;
    const told = this.symbols.EVP_CIPHER_CTX_ctrl(context, CTRL_GET_TAG, TAG_SIZE, tag);
    assert(told === 1, "GcmCipher.seal: there is no tag");
  }

  open(
    counter: number,
    boundAt: number,
    boundBytes: number,
    at: number,
    sizeBytes: number,
    tagAt: number,
  ): boolean {
    this.pass(counter, boundAt, boundBytes, at, sizeBytes);
    const context = this.context as Pointer;
    const tag = (this.base + tagAt) as Pointer;
    const taken = this.symbols.EVP_CIPHER_CTX_ctrl(context, CTRL_SET_TAG, TAG_SIZE, tag);
    assert(taken === 1, "GcmCipher.open: the tag was not taken");
    return this.symbols.EVP_CipherFinal_ex(context, endAddress, lengthAddress) === 1;
  }

  // cold: once a connection
  end(): void {
    forgotten.unregister(this);
    this.symbols.EVP_CIPHER_CTX_free(this.context as Pointer);
    this.context = 0;
  }

  /** Nonce, what is bound, then the bytes themselves, in place. */
  private pass(
    counter: number,
    boundAt: number,
    boundBytes: number,
    at: number,
    sizeBytes: number,
  ): void {
    const { symbols } = this;
    assert(this.context !== 0, "GcmCipher: it was ended");
    assert(boundAt + boundBytes <= this.memory.length, "GcmCipher: beyond the memory");
    assert(at + sizeBytes <= this.memory.length, "GcmCipher: beyond the memory");
    const context = this.context as Pointer;
    scratch[1] = counter;
    scratch[2] = counter / 4_294_967_296;
    const begun = symbols.EVP_CipherInit_ex(context, null, null, null, nonceAddress, AS_BEFORE);
    assert(begun === 1, "GcmCipher: the nonce was refused");
    const bound = (this.base + boundAt) as Pointer;
    const isBound = symbols.EVP_CipherUpdate(context, null, lengthAddress, bound, boundBytes);
    assert(isBound === 1, "GcmCipher: what is bound was refused");
    if (sizeBytes === 0) return;
    const bytes = (this.base + at) as Pointer;
    const passed = symbols.EVP_CipherUpdate(context, bytes, lengthAddress, bytes, sizeBytes);
    assert(passed === 1, "GcmCipher: the bytes were refused");
  }
}
