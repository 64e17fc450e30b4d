import { describe, expect, test } from "bun:test";
import { type Ciphers, NO_CIPHERS } from "../base/cipher.ts";
import { Prng } from "../base/prng.ts";
import { Status } from "../base/status.ts";
import { SystemCiphers } from "../reactor/bun-system.ts";
import { ENCRYPTED, Ends, type EndsOptions, KEY, OSD, SMALL } from "./bun-test-ends.ts";
import { Method, refusalCode, RpcEndpoint } from "./rpc.ts";

/** What nothing else on the wire looks like. */
const PATTERN = new TextEncoder().encode("the tenant's own words");
const BODY = Uint8Array.from([...PATTERN, 1, 2, 3]);

/** `size` bytes of the pattern, over and over. */
function patternOf(size: number): Uint8Array {
  return Uint8Array.from({ length: size }, (_, at) => PATTERN[at % PATTERN.length]!);
}

/** Both ends with what passes between them, of each direction. */
function tapped(options: EndsOptions): { ends: Ends; wires: [Buffer, Buffer] } {
  const ends = new Ends(options);
  const wires: [Buffer, Buffer] = [Buffer.alloc(0), Buffer.alloc(0)];
  ends.pair.tamper = (bytes, fromDialler) => {
    const wire = fromDialler ? 0 : 1;
    wires[wire] = Buffer.concat([wires[wire], bytes]);
    return bytes;
  };
  ends.pair.settle();
  return { ends, wires };
}

/** Options of a client and an osd. */
function wanting(client: boolean, osd: boolean): EndsOptions {
  return {
    ...SMALL,
    clientOptions: { ...SMALL.clientOptions, encrypt: client },
    osdOptions: { ...SMALL.osdOptions, encrypt: osd },
  };
}

describe("G18: an encrypted connection", () => {
  test.each([
    ["a short one", 13],
    ["none", 0],
    ["a block", 4096],
    ["64 blocks", 262_144],
  ])("carries requests and answers, payload: %s; the wire shows nothing of them", (_what, size) => {
    const { ends, wires } = tapped(ENCRYPTED);
    const seen: Uint8Array[] = [];
    const { bytes } = ends.osdWorld.arena;
    const onRequest = ends.osdSide.onRequest.bind(ends.osdSide);
    ends.osdSide.onRequest = (connection, frame) => {
      const { payloadOffset, payloadSize } = frame;
      seen.push(bytes.slice(payloadOffset, payloadOffset + payloadSize));
      onRequest(connection, frame);
    };
    const payload = patternOf(size);
    for (let count = 0; count < 3; count++) {
      const op = ends.request(BODY, 0, payload)!;
      ends.pair.settle();
      expect(op.status).toBe(Status.Ok);
      expect(op.header).toEqual(BODY);
      expect(Buffer.compare(seen[count]!, payload)).toBe(0);
    }
    expect(ends.connection.isEncrypted).toBe(true);
    expect(wires[0].length).toBeGreaterThan(3 * size);
    // Two words of it are enough to find.
    for (const wire of wires) expect(wire.indexOf(PATTERN.subarray(0, 8))).toBe(-1);
    expect(ends.warnings).toEqual([]);
    // The same look finds it where nothing is encrypted.
    const clear = tapped(SMALL);
    clear.ends.request(BODY, 0, payload);
    clear.ends.pair.settle();
    for (const wire of clear.wires) expect(wire.indexOf(PATTERN.subarray(0, 8))).toBeGreaterThan(0);
  });

  test("never sends the same bytes twice, and nothing tells of a payload by a crc", () => {
    const { ends, wires } = tapped(ENCRYPTED);
    const payload = patternOf(40);
    const sent: Buffer[] = [];
    for (let count = 0; count < 4; count++) {
      wires[0] = Buffer.alloc(0);
      ends.request(BODY, 0, payload);
      ends.pair.settle();
      sent.push(wires[0]);
    }
    for (const frame of sent) {
      expect(frame.length).toBe(64 + 32 + 40);
      expect([frame[6], frame.readUInt32LE(40)]).toEqual([2, 0]);
    }
    const bodies = new Set(sent.map((frame) => frame.subarray(64, 72).toString("hex")));
    expect(bodies.size).toBe(4);
  });

  test("of the next connection has other keys", () => {
    const { ends, wires } = tapped(ENCRYPTED);
    const first: Buffer[] = [];
    for (let generation = 1; generation <= 2; generation++) {
      wires[0] = Buffer.alloc(0);
      ends.request(BODY);
      ends.pair.settle();
      first.push(wires[0].subarray(64, 88));
      ends.connection.renew("another one");
      ends.pair.advance(200_000);
      expect(ends.connection.generation).toBe(generation + 1);
    }
    expect(first[0]!.equals(first[1]!)).toBe(false);
  });

  test("in pieces of any size they are the same frames", () => {
    const prng = new Prng(7);
    const { ends } = tapped(ENCRYPTED);
    let queue: number[] = [];
    ends.pair.tamper = (bytes, fromDialler) => {
      if (!fromDialler) return bytes;
      queue.push(...bytes);
      return Uint8Array.from(queue.splice(0, prng.below(queue.length + 1)));
    };
    const ops = [];
    for (let turn = 0; turn < 300; turn++) {
      const op = ends.request(BODY, 0, patternOf(prng.below(200)));
      if (op !== null) ops.push(op);
      ends.pair.turn();
    }
    ends.pair.tamper = (bytes, fromDialler) =>
      fromDialler ? Uint8Array.from([...queue.splice(0), ...bytes]) : bytes;
    ops.push(ends.request(BODY)!);
    ends.pair.settle();
    expect(ops.length).toBeGreaterThan(200);
    expect(ops.every((op) => op.status === Status.Ok)).toBe(true);
    queue = [];
  });

  test("ends its ciphers with itself", () => {
    let live = 0;
    let made = 0;
    const system = new SystemCiphers();
    const counting: Ciphers = {
      missing: "",
      create(memory, key, use) {
        live += 1;
        made += 1;
        const cipher = system.create(memory, key, use);
        const end = cipher.end.bind(cipher);
        cipher.end = () => {
          live -= 1;
          end();
        };
        return cipher;
      },
    };
    const ends = new Ends({ ...ENCRYPTED, clientCiphers: counting, osdCiphers: counting });
    ends.pair.settle();
    expect(live).toBe(4);
    ends.connection.renew("another one");
    ends.pair.advance(200_000);
    expect([live, made]).toEqual([4, 8]);
    ends.connection.close("done");
    ends.pair.settle();
    expect(live).toBe(0);
  });

  test("is closed when its key was used for 16 TiB", () => {
    const ends = new Ends(ENCRYPTED);
    ends.pair.settle();
    const sealing = (ends.connection as unknown as { sendSealing: { blocks: number } }).sendSealing;
    sealing.blocks = 2 ** 40 - 1;
    ends.request(BODY);
    ends.pair.advance(11_000_000, 1_000_000);
    expect(ends.warnings.join()).toContain("the key was used for its most blocks");
    expect(ends.connection.generation).toBe(2);
    expect(ends.connection.isOpen).toBe(true);
  });

  test("heartbeats stay short, signed, and nothing else does", () => {
    const { ends, wires } = tapped(ENCRYPTED);
    wires[0] = Buffer.alloc(0);
    const at = ends.connection.beginShort(Method.RaftHeartbeat, 18);
    ends.clientWorld.arena.bytes.fill(9, at, at + 18);
    ends.connection.finish();
    ends.pair.settle();
    expect(wires[0].length).toBe(48);
    expect(ends.osdSide.oneways).toBe(1);
    ends.request(BODY);
    ends.pair.settle();
    expect(ends.osdSide.requests).toBe(1);
  });
});

describe("G18: who wants encryption", () => {
  test.each([
    ["both", true, true, true],
    ["the dialler", true, false, true],
    ["the acceptor", false, true, true],
    ["nobody", false, false, false],
  ])("%s", (_who, client, osd, isEncrypted) => {
    const { ends, wires } = tapped(wanting(client, osd));
    const op = ends.request(BODY)!;
    ends.pair.settle();
    expect(op.status).toBe(Status.Ok);
    const own = ends.osdSide.connection!.isEncrypted;
    expect([ends.connection.isEncrypted, own]).toEqual([isEncrypted, isEncrypted]);
    for (const wire of wires) expect(wire.includes(PATTERN)).toBe(!isEncrypted);
  });

  test.each([
    ["the dialler is of an older program", false, true, { client: 2 }],
    ["the acceptor is of an older program", true, false, { osd: 2 }],
  ])("%s: refused, never in the clear", (_what, client, osd, versions) => {
    const options = wanting(client, osd);
    const { client: clientMax, osd: osdMax } = versions as { client?: number; osd?: number };
    const { ends } = tapped({
      ...options,
      clientOptions: { ...options.clientOptions, versionMax: clientMax ?? 3 },
      osdOptions: { ...options.osdOptions, versionMax: osdMax ?? 3 },
    });
    expect(ends.connection.isOpen).toBe(false);
    expect(ends.osdSide.connection).toBe(null);
    const { handshakeRefusal } = ends.connection;
    expect(handshakeRefusal).toContain(
      "no encryption: both speak frames of version 2, wanted 3 or newer",
    );
    expect(refusalCode(handshakeRefusal)).toBe("FB1018");
    expect(refusalCode("refused by the peer: wrong key: the proof does not verify")).toBe("FB1007");
  });

  const without: Ciphers = { ...NO_CIPHERS, missing: "libcrypto.so.3 is not here" };

  test.each([
    ["the dialler", { ...wanting(false, true), clientCiphers: without }],
    ["the acceptor", { ...wanting(true, false), osdCiphers: without }],
  ])("%s has no cipher: refused, and both ends say why", (_who, options) => {
    const { ends } = tapped(options);
    expect(ends.connection.isOpen).toBe(false);
    const refusals = ends.warnings.filter((line) => line.includes("libcrypto.so.3 is not here"));
    expect(refusals.length).toBe(2);
  });

  test("nobody wants it, and nobody has a cipher: the connection is as ever", () => {
    const { ends } = tapped({ ...SMALL, clientCiphers: without, osdCiphers: without });
    expect(ends.connection.isOpen).toBe(true);
    expect(ends.connection.isEncrypted).toBe(false);
  });

  test("FB1018: a process that wants it and has no cipher does not start", () => {
    const ends = new Ends({ ...SMALL, osdCiphers: without });
    expect(() => new RpcEndpoint(ends.osdWorld, OSD, KEY, { encrypt: true })).toThrow(
      "encrypting connections of osd.3: libcrypto.so.3 is not here, wanted one",
    );
  });

  test.each([
    ["the dialler's wish", true, wanting(true, false), "no encryption: the peer goes on without"],
    ["the acceptor's decision", false, wanting(false, true), "wrong key"],
  ])("%s is turned off on its way: the handshake fails", (_what, fromDialler, options, why) => {
    const ends = new Ends(options);
    let turned = 0;
    ends.pair.tamper = (bytes, from) => {
      // Hello.encrypt is field 10, Challenge.encrypted field 8: the last one, and true.
      const field = fromDialler ? 0x50 : 0x40;
      const end = 64 + bytes[12]! + bytes[13]! * 256;
      if (from !== fromDialler || bytes[5] !== 4 || bytes[end - 2] !== field) return bytes;
      turned += 1;
      expect(bytes[end - 1]).toBe(1);
      bytes[end - 1] = 0;
      return bytes;
    };
    ends.pair.settle();
    expect(turned).toBe(1);
    expect(ends.connection.isOpen).toBe(false);
    expect([ends.osdSide.connection, ends.clientSide.connection]).toEqual([null, null]);
    expect(ends.warnings.join()).toContain(why);
  });

  test("a frame in the clear on an encrypted connection ends it, and the reverse", () => {
    for (const options of [ENCRYPTED, SMALL]) {
      const ends = new Ends(options);
      ends.pair.settle();
      ends.pair.tamper = (bytes, fromDialler) => {
        if (fromDialler) bytes[6]! ^= 2;
        return bytes;
      };
      ends.request(BODY);
      ends.pair.settle();
      expect(ends.osdSide.requests).toBe(0);
      expect(ends.osdSide.events[1]).toContain("Flags");
    }
  });
});
