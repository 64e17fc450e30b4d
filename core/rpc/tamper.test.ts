import { describe, expect, test } from "bun:test";
import { Prng } from "../base/prng.ts";
import { Status } from "../base/status.ts";
import { MemoryStream } from "./bun-pair.ts";
import { ENCRYPTED, Ends, type EndsOptions, SMALL } from "./bun-test-ends.ts";

const BODY = new Uint8Array(40).map((_, at) => at);
/** An odd payload: its bytes and padding are covered too. */
const PAYLOAD = new Uint8Array(13).fill(5);

/** For several connections at once. */
const ROOMY = 33_554_432;

/** Run the whole exchange; record what each end sends. */
function record(options: EndsOptions = SMALL): { dialler: Uint8Array; acceptor: Uint8Array } {
  const ends = new Ends(options);
  const parts: { dialler: number[]; acceptor: number[] } = { dialler: [], acceptor: [] };
  ends.pair.tamper = (bytes, fromDialler) => {
    (fromDialler ? parts.dialler : parts.acceptor).push(...bytes);
    return bytes;
  };
  ends.pair.settle();
  ends.request(BODY, 0, PAYLOAD);
  ends.pair.settle();
  return {
    dialler: Uint8Array.from(parts.dialler),
    acceptor: Uint8Array.from(parts.acceptor),
  };
}

/** The exchange with one bit of one end's bytes changed on its way. */
function runFlipped(
  options: EndsOptions,
  fromDialler: boolean,
  at: number,
): Ends & { status?: Status | null } {
  const ends: Ends & { status?: Status | null } = new Ends(options);
  let passed = 0;
  ends.pair.tamper = (bytes, from) => {
    if (from !== fromDialler) return bytes;
    const index = at - passed;
    passed += bytes.length;
    if (index >= 0 && index < bytes.length) bytes[index]! ^= 1 << (at & 7);
    return bytes;
  };
  ends.pair.settle();
  const op = ends.request(BODY, 0, PAYLOAD);
  // No time passes: the dialler does not try again.
  ends.pair.settle();
  ends.status = op === null ? null : op.status;
  return ends;
}

const KINDS: [string, EndsOptions][] = [
  ["signed", SMALL],
  ["encrypted", ENCRYPTED],
];

describe.each(KINDS)("N4: a bit flipped on its way, %s", (_kind, options) => {
  const { dialler, acceptor } = record(options);

  test.each([
    ["dialler", true, dialler.length],
    ["acceptor", false, acceptor.length],
  ])("from the %s: refused, the connection ends", (_name, fromDialler, size) => {
    let ended = 0;
    for (let at = 0; at < size; at++) {
      const ends = runFlipped(options, fromDialler, at);
      expect({ at, done: ends.status === Status.Ok }).toEqual({ at, done: false });
      if (fromDialler) expect({ at, requests: ends.osdSide.requests }).toEqual({ at, requests: 0 });
      if (ends.pair.streams.length === 0) ended += 1;
      else {
        // A size that grew: the receiver waits for bytes that do not come, and then no longer.
        ends.pair.acceptors.clear();
        ends.pair.advance(26_000_000, 1_000_000);
        expect({ at, streams: ends.pair.streams.length }).toEqual({ at, streams: 0 });
      }
    }
    expect(ended).toBeGreaterThan(size * 0.95);
  });
});

describe.each(KINDS)("replay, %s", (_kind, options) => {
  test("N3: the recorded bytes of a whole connection have no effect", () => {
    const { dialler } = record(options);
    const ends = new Ends({ ...options, arenaBytes: ROOMY });
    ends.pair.settle();
    const requests = ends.osdSide.requests;
    replay(ends, dialler);
    ends.pair.settle();
    expect(ends.osdSide.requests).toBe(requests);
    expect(ends.osdWorld.logger.lines.join()).toContain("wrong key");
  });

  test("N3: a frame sent twice within a connection ends it", () => {
    const ends = new Ends(options);
    ends.pair.settle();
    ends.pair.tamper = (bytes, fromDialler) =>
      fromDialler ? Uint8Array.from([...bytes, ...bytes]) : bytes;
    ends.request(BODY);
    ends.pair.settle();
    expect(ends.osdSide.requests).toBe(1);
    expect(ends.osdSide.events[1]).toContain("Counter");
  });

  test("a frame left out ends it too", () => {
    const ends = new Ends(options);
    ends.pair.settle();
    let drop = true;
    ends.pair.tamper = (bytes, fromDialler) => {
      if (!fromDialler || !drop) return bytes;
      drop = false;
      return new Uint8Array(0);
    };
    ends.request(BODY);
    ends.pair.settle();
    ends.request(BODY);
    ends.pair.settle();
    expect(ends.osdSide.requests).toBe(0);
    expect(ends.osdSide.events[1]).toContain("Counter");
  });

  test("a frame of the other direction is refused: each has its own key", () => {
    const ends = new Ends(options);
    ends.pair.settle();
    let reflected: Uint8Array | null = null;
    ends.pair.tamper = (bytes, fromDialler) => {
      if (fromDialler) {
        reflected = bytes.slice();
        return bytes;
      }
      return reflected ?? bytes;
    };
    const op = ends.request(BODY);
    ends.pair.settle();
    expect(op?.status).not.toBe(Status.Ok);
    expect(ends.clientSide.requests).toBe(0);
    expect(ends.clientSide.events[1]).toContain("Tag");
  });
});

/** A stranger connects and sends these bytes. */
function replay(ends: Ends, bytes: Uint8Array): void {
  const world = ends.clientWorld;
  const stream = world.network.connect(
    { kind: "tcp", host: "127.0.0.1", port: 6800 },
    {
      onOpen: () => {
        for (let at = 0; at < bytes.length; at += 65_536) {
          const part = bytes.subarray(at, at + 65_536);
          const offset = stream.reserve(part.length);
          world.arena.bytes.set(part, offset);
          stream.commit(part.length);
        }
      },
      onReceive: (from) => from.consume(from.receiveLength),
      onWritable: () => {},
      onClose: () => {},
    },
  );
  expect(stream).toBeInstanceOf(MemoryStream);
}

describe("nonsense", () => {
  test("N1: from strangers: closed, nothing delivered, no memory taken", () => {
    const prng = new Prng(5);
    const ends = new Ends();
    ends.pair.settle();
    const prefix = record().dialler.slice(0, 64);
    for (let round = 0; round < 40; round++) {
      const bytes = new Uint8Array(64 + prng.below(2000));
      prng.fill(bytes);
      // Some begin like a frame.
      if ((round & 1) === 0) bytes.set(prefix);
      replay(ends, bytes);
      ends.pair.settle();
    }
    ends.pair.advance(5_100_000, 500_000);
    expect(ends.osd.connections).toBe(1);
    expect(ends.osdSide.requests).toBe(0);
    expect(ends.connection.isOpen).toBe(true);
  });

  test.each([1, 2, 4])("a handshake message with flag %d is refused", (flag) => {
    const { dialler } = record();
    const ends = new Ends();
    ends.pair.settle();
    const hello = dialler.slice(0, 64 + ((dialler[12]! + dialler[13]! * 256 + 7) & ~7));
    hello[6]! |= flag;
    replay(ends, hello);
    ends.pair.settle();
    expect(ends.osdWorld.logger.lines.join()).toContain("Flags");
    expect(ends.osd.connections).toBe(1);
  });

  test("a handshake message out of order is refused", () => {
    const { dialler } = record();
    const helloSize = 64 + ((dialler[12]! + dialler[13]! * 256 + 7) & ~7);
    const ends = new Ends();
    ends.pair.settle();
    replay(ends, dialler.slice(helloSize));
    ends.pair.settle();
    expect(ends.osdWorld.logger.lines.join()).toContain("out of order");
    expect(ends.osd.connections).toBe(1);
  });

  test("N4: changed bytes on open connections: each ends or waits, none delivers what was not sent", () => {
    const prng = new Prng(11);
    for (let round = 0; round < 300; round++) {
      const ends = new Ends(SMALL);
      ends.pair.settle();
      ends.pair.tamper = (bytes, fromDialler) => {
        if (!fromDialler) return bytes;
        for (let change = prng.below(5); change >= 0; change--) {
          bytes[prng.below(bytes.length)]! ^= 1 + prng.below(255);
        }
        return bytes;
      };
      const seen: number[] = [];
      const onRequest = ends.osdSide.onRequest.bind(ends.osdSide);
      ends.osdSide.onRequest = (connection, frame) => {
        seen.push(frame.headerSize);
        onRequest(connection, frame);
      };
      for (let number = 0; number < 20; number++) ends.request(new Uint8Array(number));
      ends.pair.settle();
      // Frames in front of the first change pass, in order; nothing behind it does.
      expect(seen).toEqual(seen.map((_, number) => number));
      expect(seen.length).toBeLessThan(20);
    }
  });

  test("bytes in pieces of any size are the same frames", () => {
    const prng = new Prng(3);
    const ends = new Ends(SMALL);
    let queue: number[] = [];
    ends.pair.settle();
    ends.pair.tamper = (bytes, fromDialler) => {
      if (!fromDialler) return bytes;
      queue.push(...bytes);
      const part = queue.slice(0, prng.below(queue.length + 1));
      queue = queue.slice(part.length);
      return Uint8Array.from(part);
    };
    const ops = [];
    for (let turn = 0; turn < 400; turn++) {
      const op = ends.request(BODY, 0, PAYLOAD);
      if (op !== null) ops.push(op);
      ends.pair.turn();
    }
    ends.pair.tamper = (bytes, fromDialler) => {
      if (!fromDialler) return bytes;
      const all = Uint8Array.from([...queue, ...bytes]);
      queue = [];
      return all;
    };
    ops.push(ends.request(BODY)!);
    ends.pair.settle();
    expect(ops.length).toBeGreaterThan(300);
    expect(ops.every((op) => op.status === Status.Ok)).toBe(true);
  });
});
