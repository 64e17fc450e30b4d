import { describe, expect, test } from "bun:test";
import { Prng } from "../base/prng.ts";
import { CLIENT, Ends, KEY, NotingHandler, OSD, SMALL, TO_OSD } from "./bun-test-ends.ts";
import { type Connection, type Frame, FrameKind, Method, RpcEndpoint } from "./rpc.ts";

/** What a heartbeat has: 18 bytes, padded to 24. */
const BODY = Uint8Array.from({ length: 18 }, (_, at) => 0xa0 + at);
const SHORT_BYTES = 48;
const FULL_BYTES = 88;

/** Both ends open, and what the acceptor is told. */
function open(options: typeof SMALL = SMALL): { ends: Ends; told: Uint8Array[] } {
  const ends = new Ends(options);
  const told: Uint8Array[] = [];
  ends.osdSide.onOneway = (...heard: unknown[]): void => {
    const { kind, method, headerOffset, headerSize, payloadSize } = heard[1] as Frame;
    expect([kind, method, payloadSize]).toEqual([FrameKind.Oneway, Method.RaftHeartbeat, 0]);
    told.push(ends.osdWorld.arena.bytes.slice(headerOffset, headerOffset + headerSize));
  };
  ends.pair.settle();
  return { ends, told };
}

function tell(ends: Ends, connection: Connection = ends.connection): void {
  const at = connection.beginShort(Method.RaftHeartbeat, BODY.length);
  ends.clientWorld.arena.bytes.set(BODY, at);
  connection.finish();
}

/** Bytes of one that is sent now, as they pass. */
function passing(ends: Ends): Uint8Array {
  let seen = new Uint8Array(0);
  ends.pair.tamper = (bytes) => (seen = bytes.slice());
  tell(ends);
  ends.pair.settle();
  ends.pair.tamper = (bytes) => bytes;
  return seen;
}

describe("a short frame between two ends", () => {
  test("takes 48 bytes, between others, and arrives as it was sent", () => {
    const { ends, told } = open();
    for (let count = 0; count < 3; count++) {
      expect(passing(ends).length).toBe(SHORT_BYTES);
      const op = ends.request(BODY, 0, new Uint8Array(13))!;
      ends.pair.settle();
      expect(op.header).toEqual(BODY);
    }
    expect(told).toEqual([BODY, BODY, BODY]);
    expect(ends.warnings).toEqual([]);
  });

  test.each([
    ["dialler", { ...SMALL, clientOptions: { ...SMALL.clientOptions, versionMax: 1 } }],
    ["acceptor", { ...SMALL, osdOptions: { ...SMALL.osdOptions, versionMax: 1 } }],
  ])("G17: is sent in full where the %s is of an older program", (_who, options) => {
    const { ends, told } = open(options);
    expect(passing(ends).length).toBe(FULL_BYTES);
    expect(told).toEqual([BODY]);
    expect(ends.warnings).toEqual([]);
  });

  test.each([
    ["dialler", { ...SMALL, clientOptions: { ...SMALL.clientOptions, versionMax: 2 } }],
    ["acceptor", { ...SMALL, osdOptions: { ...SMALL.osdOptions, versionMax: 2 } }],
  ])("G17: is sent short where the %s is of a program that can not encrypt", (_who, options) => {
    const { ends, told } = open(options);
    expect(passing(ends).length).toBe(SHORT_BYTES);
    expect(told).toEqual([BODY]);
    expect(ends.warnings).toEqual([]);
  });

  test("G17: is refused by an older program, and by one that agreed on less", () => {
    const newer = open();
    const bytes = passing(newer.ends);
    const { ends, told } = open({
      ...SMALL,
      clientOptions: { ...SMALL.clientOptions, versionMax: 1 },
    });
    ends.pair.tamper = (_full, fromDialler) =>
      // Enough for a prefix, which it is not.
      fromDialler ? Uint8Array.from([...bytes, ...bytes]) : _full;
    tell(ends);
    ends.pair.settle();
    expect(told).toEqual([]);
    expect(ends.osdSide.events[1]).toContain("Magic");
  });

  test("G17: the next connection agrees anew", () => {
    const { ends, told } = open();
    const old = new RpcEndpoint(ends.osdWorld, OSD, KEY, { ...SMALL.osdOptions, versionMax: 1 });
    const older = new NotingHandler(ends.osdWorld);
    const address = { kind: "tcp", host: "127.0.0.1", port: 6800 } as const;
    ends.pair.acceptors.clear();
    old.listen(address, () => older);
    ends.connection.renew("its program is another one");
    ends.pair.advance(200_000);
    expect(ends.connection.generation).toBe(2);
    expect(passing(ends).length).toBe(FULL_BYTES);
    expect([told.length, older.oneways]).toEqual([0, 1]);
  });
});

describe("N3, N4: a short frame that is not what was sent", () => {
  test("each flipped bit ends the connection, nothing is delivered", () => {
    for (let bit = 0; bit < SHORT_BYTES * 8; bit++) {
      const { ends, told } = open();
      let first = true;
      ends.pair.tamper = (bytes, fromDialler) => {
        if (fromDialler && first) bytes[bit >> 3]! ^= 1 << (bit & 7);
        if (fromDialler) first = false;
        return bytes;
      };
      tell(ends);
      // One that claims to be longer waits for what follows, and is refused then.
      for (let count = 0; count < 8; count++) ends.request(BODY);
      ends.pair.settle();
      expect({ bit, told: told.length }).toEqual({ bit, told: 0 });
      expect({ bit, events: ends.osdSide.events.length }).toEqual({ bit, events: 2 });
    }
  });

  test.each([
    ["sent twice", 2, 1],
    ["left out", 0, 0],
  ])("%s", (_what, times, delivered) => {
    const { ends, told } = open();
    let first = true;
    ends.pair.tamper = (bytes, fromDialler) => {
      if (!fromDialler || !first) return bytes;
      first = false;
      return Uint8Array.from(Array.from({ length: times }, () => [...bytes]).flat());
    };
    tell(ends);
    ends.pair.settle();
    if (ends.connection.isOpen) tell(ends);
    ends.pair.settle();
    expect(told.length).toBe(delivered);
    expect(ends.osdSide.events[1]).toContain("Tag");
  });

  test("of another connection", () => {
    const bytes = passing(open().ends);
    const { ends, told } = open({ ...SMALL, client: { ...CLIENT, name: "nbd.1" }, to: TO_OSD });
    ends.pair.tamper = (own, fromDialler) => (fromDialler ? bytes : own);
    tell(ends);
    ends.pair.settle();
    expect(told).toEqual([]);
    expect(ends.osdSide.events[1]).toContain("Tag");
  });

  test("in pieces of any size they are the same frames", () => {
    const prng = new Prng(3);
    const { ends, told } = open();
    let queue: number[] = [];
    ends.pair.tamper = (bytes, fromDialler) => {
      if (!fromDialler) return bytes;
      queue.push(...bytes);
      const part = queue.splice(0, prng.below(queue.length + 1));
      return Uint8Array.from(part);
    };
    for (let turn = 0; turn < 200; turn++) {
      tell(ends);
      if (prng.below(3) === 0) ends.request(BODY);
      ends.pair.turn();
    }
    ends.pair.tamper = (bytes, fromDialler) =>
      fromDialler ? Uint8Array.from([...queue.splice(0), ...bytes]) : bytes;
    tell(ends);
    ends.pair.settle();
    expect(told.length).toBe(201);
    expect(ends.warnings).toEqual([]);
  });
});
