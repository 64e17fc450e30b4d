// data path
import { assert } from "../base/assert.ts";
import type { Cipher } from "../base/cipher.ts";
import {
  FLAG_ENCRYPTED,
  type Frame,
  FrameFault,
  PREFIX_SIZE,
  PREFIX_TAGGED_SIZE,
  padded,
  sealFrame,
  sealShort,
  verifyFrame,
  verifyShort,
  writePrefix,
  writeShort,
} from "./frame.ts";
import { Mac } from "./mac.ts";

/** A key signs fewer than 2^48 blocks of 16 bytes (Chaskey's bound). Half of it, then a new one. */
const SIGNED_BLOCKS_MAX = 140_737_488_355_328;
/**
 * An encrypting key: 2^40 blocks of 16 bytes, which are 16 TiB. Whoever sees q blocks tells them from
 * noise with a chance of q²/2^129: that many with 2^-49.
 */
const ENCRYPTED_BLOCKS_MAX = 1_099_511_627_776;

/**
 * One direction of an authenticated connection: key, counter, tags; and its cipher, where header and
 * payload are encrypted. The counter is the cipher's nonce as well: it never comes again under a key.
 *
 * The counter of the first frame is 1 and grows by one: a frame left out, sent twice or put in
 * elsewhere is refused. The stream below keeps order, so exactly one value is right.
 */
export class FrameSealing {
  private readonly mac: Mac = new Mac();
  /** The prefix of a short frame, in full. */
  private readonly prefix: Int32Array = new Int32Array(PREFIX_SIZE >>> 2);
  private keyId = 0;
  private counter = 0;
  private blocks = 0;
  private blocksMax: number = SIGNED_BLOCKS_MAX;
  /** Null: nothing is encrypted. */
  private cipher: Cipher | null = null;

  /**
   * Begin with a new key of at least 16 bytes, and with a cipher over the memory of all frames to come,
   * which is ours then. Short frames are never encrypted, and signed with the key.
   */
  reset(key: Uint8Array, keyId: number, cipher: Cipher | null = null): void {
    this.end();
    this.mac.setKey(key);
    this.keyId = keyId;
    this.counter = 0;
    this.blocks = 0;
    this.blocksMax = cipher === null ? SIGNED_BLOCKS_MAX : ENCRYPTED_BLOCKS_MAX;
    this.cipher = cipher;
  }

  /** The connection is over. */
  end(): void {
    if (this.cipher !== null) this.cipher.end();
    this.cipher = null;
  }

  /** Frames in full are encrypted: they have `FLAG_ENCRYPTED`, and no crc. */
  get isEncrypting(): boolean {
    return this.cipher !== null;
  }

  /** True when the key has signed or encrypted enough: make a new connection. */
  get isUsedUp(): boolean {
    return this.blocks >= this.blocksMax;
  }

  /** Write prefix and tag of `frame` at `at`; header, payload and padding are there already. */
  seal(frame: Frame, words: Int32Array, at: number): void {
    this.counter += 1;
    this.blocks += (PREFIX_TAGGED_SIZE + padded(frame.headerSize)) / 16;
    frame.counter = this.counter;
    frame.keyId = this.keyId;
    if (frame.prefixSize !== PREFIX_SIZE) {
      writeShort(frame, words, at);
      writePrefix(frame, this.prefix, 0);
      sealShort(this.mac, this.prefix, words, at, frame.headerSize);
      return;
    }
    writePrefix(frame, words, at);
    if (this.cipher === null) sealFrame(this.mac, words, at, frame.headerSize);
    else this.encrypt(this.cipher, frame, at);
  }

  private encrypt(cipher: Cipher, frame: Frame, at: number): void {
    const sizeBytes = padded(frame.headerSize) + padded(frame.payloadSize);
    assert(frame.flags === FLAG_ENCRYPTED, "FrameSealing: the frame is to be encrypted");
    this.blocks += sizeBytes / 16;
    const tagAt = at + PREFIX_TAGGED_SIZE;
    cipher.seal(this.counter, at, PREFIX_TAGGED_SIZE, at + PREFIX_SIZE, sizeBytes, tagAt);
  }

  /**
   * Check key, counter and tag of the whole frame that `parsePrefix` or `parseShort` read, and decrypt it
   * in place: once. A frame with a wrong tag is rubbish afterwards.
   */
  open(frame: Frame, words: Int32Array): FrameFault {
    if (frame.prefixSize !== PREFIX_SIZE) return this.openShort(frame, words);
    if (frame.keyId !== this.keyId) return FrameFault.KeyId;
    if (frame.counter !== this.counter + 1) return FrameFault.Counter;
    const at = frame.headerOffset - PREFIX_SIZE;
    if ((frame.flags === FLAG_ENCRYPTED) !== (this.cipher !== null)) return FrameFault.Flags;
    const isRight =
      this.cipher === null
        ? verifyFrame(this.mac, words, at, frame.headerSize)
        : this.decrypt(this.cipher, frame, at);
    if (!isRight) return FrameFault.Tag;
    this.counter += 1;
    return FrameFault.None;
  }

  private decrypt(cipher: Cipher, frame: Frame, at: number): boolean {
    const sizeBytes = padded(frame.headerSize) + padded(frame.payloadSize);
    const tagAt = at + PREFIX_TAGGED_SIZE;
    return cipher.open(frame.counter, at, PREFIX_TAGGED_SIZE, frame.headerOffset, sizeBytes, tagAt);
  }

  /** The frame is the one that is due, under this key, or its tag is another. */
  private openShort(frame: Frame, words: Int32Array): FrameFault {
    frame.counter = this.counter + 1;
    frame.keyId = this.keyId;
    writePrefix(frame, this.prefix, 0);
    const at = frame.headerOffset - frame.prefixSize;
    if (!verifyShort(this.mac, this.prefix, words, at, frame.headerSize)) return FrameFault.Tag;
    this.counter += 1;
    return FrameFault.None;
  }
}
