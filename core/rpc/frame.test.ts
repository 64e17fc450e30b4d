import { describe, expect, test } from "bun:test";
import { Prng } from "../base/prng.ts";
import {
  DATA_LIMITS,
  FLAG_ENCRYPTED,
  FLAG_PAYLOAD_CRC,
  Frame,
  FrameFault,
  FrameKind,
  faultName,
  frameSize,
  HANDSHAKE_LIMITS,
  isShort,
  padded,
  parsePrefix,
  parseShort,
  SHORT_HEADER_SIZE_MAX,
  SHORT_PREFIX_SIZE,
  verifyFrame,
  writePrefix,
} from "./frame.ts";
import { Mac } from "./mac.ts";
import { FrameSealing } from "./sealing.ts";

const KEY = new Uint8Array(16).map((_, at) => at);

/** A sealed write request of three header bytes and one block. */
function sample(): { frame: Frame; words: Int32Array; bytes: Uint8Array; view: DataView } {
  const buffer = new ArrayBuffer(64 + 8 + 4096);
  const words = new Int32Array(buffer);
  const bytes = new Uint8Array(buffer);
  const frame = new Frame();
  frame.kind = FrameKind.Request;
  frame.method = 1;
  frame.requestId = 0x0001_0203_0405_0607;
  frame.headerSize = 3;
  frame.payloadSize = 4096;
  bytes.set([0xaa, 0xbb, 0xcc], 64);
  const sealing = new FrameSealing();
  sealing.reset(KEY, 1);
  sealing.seal(frame, words, 0);
  return { frame, words, bytes, view: new DataView(buffer) };
}

describe("frame", () => {
  test("the prefix has these bytes", () => {
    const { bytes } = sample();
    expect(bytes.toHex().slice(0, 144)).toBe(
      [
        "46424631", // "FBF1"
        "01010000", // version, kind, flags
        "01000000", // method, status
        "03000000", // header size
        "0706050403020100", // request id
        "00100000", // payload size
        "01000000", // key id
        "0100000000000000", // counter
        "00000000", // payload crc
        "00000000", // reserved
        "8483be8777d255abb1445895d72c569f", // tag
        "aabbcc0000000000", // header, padding
      ].join(""),
    );
  });

  test("what is written is read", () => {
    const { frame, words } = sample();
    const read = new Frame();
    expect(parsePrefix(read, words, 0, DATA_LIMITS)).toBe(FrameFault.None);
    expect(read).toMatchObject({
      kind: frame.kind,
      method: 1,
      status: 0,
      requestId: frame.requestId,
      counter: 1,
      keyId: 1,
      headerOffset: 64,
      headerSize: 3,
      payloadOffset: 72,
      payloadSize: 4096,
      sizeBytes: 64 + 8 + 4096,
    });
    const mac = new Mac();
    mac.setKey(KEY);
    expect(verifyFrame(mac, words, 0, 3)).toBe(true);
  });

  const U16 = 16;
  const U32 = 32;
  const U8 = 8;
  test.each([
    ["magic", 0, U32, 0x3146_4247, FrameFault.Magic],
    ["version of the future", 4, U8, 2, FrameFault.Version],
    ["kind 0", 5, U8, 0, FrameFault.Kind],
    ["kind above the last", 5, U8, 6, FrameFault.Kind],
    ["unknown flag", 6, U16, 4, FrameFault.Flags],
    ["crc flag of what is encrypted", 6, U16, FLAG_ENCRYPTED | FLAG_PAYLOAD_CRC, FrameFault.Flags],
    ["highest flag", 6, U16, 0x8000, FrameFault.Flags],
    ["crc flag with whole blocks", 6, U16, FLAG_PAYLOAD_CRC, FrameFault.Flags],
    ["odd payload without crc flag", 24, U32, 4095, FrameFault.Flags],
    ["status of a request", 10, U16, 1, FrameFault.Status],
    ["header above the limit", 12, U32, 8193, FrameFault.HeaderSize],
    ["header of 4 GiB", 12, U32, 0xffff_ffff, FrameFault.HeaderSize],
    ["payload above the limit", 24, U32, 266_240, FrameFault.PayloadSize],
    ["payload of 4 GiB", 24, U32, 0xffff_ffff, FrameFault.PayloadSize],
    ["request id of 2^53", 20, U32, 0x20_0000, FrameFault.RequestId],
    ["counter of 2^53", 36, U32, 0x20_0000, FrameFault.Counter],
    ["crc without its flag", 40, U32, 1, FrameFault.PayloadCrc],
    ["reserved bytes", 44, U32, 1, FrameFault.Reserved],
  ])("%s is refused", (_name, at, width, value, fault) => {
    const { words, view } = sample();
    if (width === U8) view.setUint8(at, value);
    else if (width === U16) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    const seen = parsePrefix(new Frame(), words, 0, DATA_LIMITS);
    expect(faultName(seen)).toBe(faultName(fault));
  });

  test("what is encrypted has no crc, whatever its size", () => {
    for (const [size, crc, fault] of [
      [4096, 0, FrameFault.None],
      [13, 0, FrameFault.None],
      [13, 1, FrameFault.PayloadCrc],
    ] as const) {
      const { words, view } = sample();
      view.setUint16(6, FLAG_ENCRYPTED, true);
      view.setUint32(24, size, true);
      view.setUint32(40, crc, true);
      const seen = parsePrefix(new Frame(), words, 0, DATA_LIMITS);
      expect(faultName(seen)).toBe(faultName(fault));
    }
  });

  test("before the handshake only small frames pass", () => {
    const { words, view } = sample();
    expect(parsePrefix(new Frame(), words, 0, HANDSHAKE_LIMITS)).toBe(FrameFault.PayloadSize);
    view.setUint32(24, 0, true);
    view.setUint32(12, 1025, true);
    expect(parsePrefix(new Frame(), words, 0, HANDSHAKE_LIMITS)).toBe(FrameFault.HeaderSize);
  });

  test("N4: every flipped bit of prefix, header and padding is refused", () => {
    const frame = new Frame();
    for (let bit = 0; bit < 72 * 8; bit++) {
      const { words, bytes } = sample();
      bytes[bit >> 3]! ^= 1 << (bit & 7);
      const sealing = new FrameSealing();
      sealing.reset(KEY, 1);
      let fault = parsePrefix(frame, words, 0, DATA_LIMITS);
      if (fault === FrameFault.None) fault = sealing.open(frame, words);
      expect({ bit, refused: fault !== FrameFault.None }).toEqual({ bit, refused: true });
    }
  });

  test("N4, N18: 100,000 changed frames are refused, and none claims more than the largest frame", () => {
    const prng = new Prng(11);
    const { words, bytes } = sample();
    const original = bytes.slice(0, 72);
    const frame = new Frame();
    const sealing = new FrameSealing();
    sealing.reset(KEY, 1);
    let refused = 0;
    for (let round = 0; round < 100_000; round++) {
      bytes.set(original);
      // Change distinct bytes, so that no two changes cancel out.
      const first = prng.below(72);
      const changes = 1 + prng.below(4);
      for (let change = 0; change < changes; change++) {
        bytes[(first + change * 7) % 72]! ^= 1 + prng.below(255);
      }
      const fault = parsePrefix(frame, words, 0, DATA_LIMITS);
      if (fault !== FrameFault.None) refused += 1;
      else {
        expect(frame.sizeBytes).toBeLessThanOrEqual(frameSize(8192, 262_144));
        if (frame.sizeBytes > bytes.length || sealing.open(frame, words) !== FrameFault.None) {
          refused += 1;
        }
      }
    }
    expect(refused).toBe(100_000);
  });

  test("a frame is opened once, in its place", () => {
    const { words } = sample();
    const frame = new Frame();
    const sealing = new FrameSealing();
    sealing.reset(KEY, 1);
    parsePrefix(frame, words, 0, DATA_LIMITS);
    expect(sealing.open(frame, words)).toBe(FrameFault.None);
    expect(sealing.open(frame, words)).toBe(FrameFault.Counter);
    sealing.reset(KEY, 2);
    expect(sealing.open(frame, words)).toBe(FrameFault.KeyId);
  });

  test("sizes are multiples of 8", () => {
    expect([0, 1, 7, 8, 9].map(padded)).toEqual([0, 8, 8, 8, 16]);
    expect(frameSize(0, 0)).toBe(64);
    expect(frameSize(99, 4096)).toBe(64 + 104 + 4096);
  });

  test("negative words keep their value", () => {
    const words = new Int32Array(16);
    const frame = new Frame();
    frame.kind = FrameKind.Reply;
    frame.method = 0xffff;
    frame.status = 0xffff;
    frame.requestId = 0xffff_ffff;
    frame.counter = 0xffff_fffe;
    frame.keyId = 0xffff_fffd;
    frame.payloadSize = 1;
    frame.flags = FLAG_PAYLOAD_CRC;
    frame.payloadCrc = 0xffff_fffc;
    writePrefix(frame, words, 0);
    const read = new Frame();
    expect(parsePrefix(read, words, 0, DATA_LIMITS)).toBe(FrameFault.None);
    expect(read).toMatchObject({
      method: 0xffff,
      status: 0xffff,
      requestId: 0xffff_ffff,
      counter: 0xffff_fffe,
      keyId: 0xffff_fffd,
      payloadCrc: 0xffff_fffc,
    });
  });
});

/** A one-way frame of three header bytes: the third under its key. */
function oneway(prefixSize: number) {
  const buffer = new ArrayBuffer(prefixSize + 8);
  const words = new Int32Array(buffer);
  const bytes = new Uint8Array(buffer);
  const frame = new Frame();
  frame.kind = FrameKind.Oneway;
  frame.method = 0x0112;
  frame.headerSize = 3;
  frame.prefixSize = prefixSize;
  const sealing = new FrameSealing();
  sealing.reset(KEY, 1);
  for (let count = 0; count < 3; count++) {
    bytes.set([0xaa, 0xbb, 0xcc], prefixSize);
    sealing.seal(frame, words, 0);
  }
  return { words, bytes, view: new DataView(buffer) };
}

/** A receiver that has sealed as many as its peer: both count alike. */
function receiver(): FrameSealing {
  const sealing = new FrameSealing();
  sealing.reset(KEY, 1);
  for (let count = 0; count < 2; count++) sealing.seal(new Frame(), new Int32Array(16), 0);
  return sealing;
}

describe("short frame", () => {
  test("it has these bytes, and the tag of the frame in full", () => {
    const { bytes } = oneway(SHORT_PREFIX_SIZE);
    const tag = oneway(64).bytes.slice(48, 64).toHex();
    expect(bytes.toHex()).toBe(
      [
        "46425331", // "FBS1"
        "12010300", // method, header size
        tag,
        "aabbcc0000000000", // header, padding
      ].join(""),
    );
    expect(tag).toBe("21343f99eb4b0783d628a0131dd6143e");
  });

  test("what is written is read, as a one-way frame of the counter that is due", () => {
    const { words } = oneway(SHORT_PREFIX_SIZE);
    const read = new Frame();
    expect(isShort(words, 0)).toBe(true);
    expect(isShort(oneway(64).words, 0)).toBe(false);
    expect(parseShort(read, words, 0, DATA_LIMITS)).toBe(FrameFault.None);
    expect(receiver().open(read, words)).toBe(FrameFault.None);
    expect(read).toMatchObject({
      kind: FrameKind.Oneway,
      flags: 0,
      method: 0x0112,
      status: 0,
      requestId: 0,
      counter: 3,
      keyId: 1,
      headerOffset: 24,
      headerSize: 3,
      payloadOffset: 32,
      payloadSize: 0,
      payloadCrc: 0,
      sizeBytes: 32,
    });
  });

  test("N4: every flipped bit is refused", () => {
    for (let bit = 0; bit < 32 * 8; bit++) {
      const { words, bytes } = oneway(SHORT_PREFIX_SIZE);
      bytes[bit >> 3]! ^= 1 << (bit & 7);
      const frame = new Frame();
      let refused = !isShort(words, 0);
      if (!refused) refused = parseShort(frame, words, 0, DATA_LIMITS) !== FrameFault.None;
      // Longer than what was sent: the receiver waits for what follows, which makes another tag.
      const longer = new Int32Array(128);
      longer.set(words);
      if (!refused) refused = receiver().open(frame, longer) === FrameFault.Tag;
      expect({ bit, refused }).toEqual({ bit, refused: true });
    }
  });

  test("a header above the limit is refused", () => {
    const { words, view } = oneway(SHORT_PREFIX_SIZE);
    view.setUint16(6, SHORT_HEADER_SIZE_MAX + 1, true);
    expect(parseShort(new Frame(), words, 0, DATA_LIMITS)).toBe(FrameFault.HeaderSize);
    view.setUint16(6, 9, true);
    const limits = { headerBytes: 8, payloadBytes: 0 };
    expect(parseShort(new Frame(), words, 0, limits)).toBe(FrameFault.HeaderSize);
  });

  test("it is opened once, in its place, under its key", () => {
    const { words } = oneway(SHORT_PREFIX_SIZE);
    const frame = new Frame();
    const early = new FrameSealing();
    early.reset(KEY, 1);
    parseShort(frame, words, 0, DATA_LIMITS);
    expect(early.open(frame, words)).toBe(FrameFault.Tag);
    const sealing = receiver();
    expect(sealing.open(frame, words)).toBe(FrameFault.None);
    expect(sealing.open(frame, words)).toBe(FrameFault.Tag);
    const other = receiver();
    other.reset(KEY, 2);
    expect(other.open(frame, words)).toBe(FrameFault.Tag);
  });
});
