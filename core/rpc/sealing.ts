// data path
import {
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
 * One direction of an authenticated connection: key, counter, tags.
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

  /** Begin with a new key of at least 16 bytes. */
  reset(key: Uint8Array, keyId: number): void {
    this.mac.setKey(key);
    this.keyId = keyId;
    this.counter = 0;
    this.blocks = 0;
  }

  /** True when the key has signed enough: make a new connection. */
  get isUsedUp(): boolean {
    return this.blocks >= SIGNED_BLOCKS_MAX;
  }

  /** Write prefix and tag of `frame` at `at`; header and its padding are there already. */
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
    sealFrame(this.mac, words, at, frame.headerSize);
  }

  /** Check key, counter and tag of the whole frame that `parsePrefix` or `parseShort` read. */
  open(frame: Frame, words: Int32Array): FrameFault {
    if (frame.prefixSize !== PREFIX_SIZE) return this.openShort(frame, words);
    if (frame.keyId !== this.keyId) return FrameFault.KeyId;
    if (frame.counter !== this.counter + 1) return FrameFault.Counter;
    const at = frame.headerOffset - PREFIX_SIZE;
    if (!verifyFrame(this.mac, words, at, frame.headerSize)) return FrameFault.Tag;
    this.counter += 1;
    return FrameFault.None;
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
