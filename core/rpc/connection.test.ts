import { describe, expect, test } from "bun:test";
import { Status } from "../base/status.ts";
import { CLIENT, CLUSTER, Ends, OSD, TO_OSD } from "./bun-test-ends.ts";
import { type Connection, ConnectionState, Method, Role } from "./rpc.ts";

const body = (text: string): Uint8Array => new TextEncoder().encode(text);

describe("connection", () => {
  test("a request is answered, and both ends know each other", () => {
    const ends = new Ends();
    ends.pair.settle();
    expect(ends.clientSide.events).toEqual(["open"]);
    expect(ends.osdSide.events).toEqual(["open"]);
    expect(ends.connection.peer).toMatchObject({ role: Role.Osd, id: 3, shard: 1, name: "osd.3" });
    expect(ends.connection.peer?.boot).toBe(ends.osd.boot);
    expect(ends.osdSide.connection?.peer).toMatchObject({ role: Role.Client, id: 77 });
    const op = ends.request(body("hello"))!;
    ends.pair.settle();
    expect(op.status).toBe(Status.Ok);
    expect(op.header).toEqual(body("hello"));
    expect(op.rpcRequestId).toBe(0);
    expect(ends.warnings).toEqual([]);
  });

  test("replies come in any order", () => {
    const ends = new Ends();
    ends.osdSide.hold = true;
    ends.pair.settle();
    const ops = [0, 1, 2, 3].map((number) => ends.request(body(`r${number}`))!);
    ends.pair.settle();
    for (const { requestId, body } of ends.osdSide.held.reverse()) {
      ends.osdSide.answer(ends.osdSide.connection!, requestId, body);
      ends.pair.settle();
    }
    expect(ops.map((op) => new TextDecoder().decode(op.header))).toEqual(["r0", "r1", "r2", "r3"]);
  });

  test("a request without an answer in time fails, and its late reply is dropped", () => {
    const ends = new Ends();
    ends.osdSide.hold = true;
    ends.pair.settle();
    const limited = ends.request(body("a"), 200_000)!;
    const patient = ends.request(body("b"))!;
    ends.pair.advance(150_000);
    expect(limited.status).toBeNull();
    ends.pair.advance(150_000);
    expect(limited.status).toBe(Status.TimedOut);
    expect(patient.status).toBeNull();
    for (const { requestId, body } of ends.osdSide.held) {
      ends.osdSide.answer(ends.osdSide.connection!, requestId, body);
    }
    ends.pair.settle();
    expect(limited.status).toBe(Status.TimedOut);
    expect(patient.status).toBe(Status.Ok);
    expect(ends.connection.lateReplies).toBe(1);
    expect(ends.connection.isOpen).toBe(true);
  });

  test("a request made because another ran out of time has a limit of its own", () => {
    const ends = new Ends();
    ends.osdSide.hold = true;
    ends.pair.settle();
    const first = ends.request(body("a"), 200_000)!;
    const again: { status: Status | null }[] = [];
    const fail = first.onFail.bind(first);
    first.onFail = (status) => {
      fail(status);
      again.push(ends.request(body("b"), 100_000)!);
    };
    ends.pair.advance(250_000, 10_000);
    expect(again.map((op) => op.status)).toEqual([null]);
    ends.pair.advance(150_000, 10_000);
    expect(again.map((op) => op.status)).toEqual([Status.TimedOut]);
  });

  test("a cancelled request fails at once", () => {
    const ends = new Ends();
    ends.pair.settle();
    const op = ends.request(body("a"))!;
    ends.connection.cancel(op);
    expect(op.status).toBe(Status.Cancelled);
    ends.pair.settle();
    expect(ends.connection.lateReplies).toBe(1);
    ends.connection.cancel(op);
  });

  test("the rpc layer's refusal reaches the op", () => {
    const ends = new Ends();
    ends.osdSide.hold = true;
    ends.pair.settle();
    const op = ends.request(body("a"))!;
    ends.pair.settle();
    const { requestId } = ends.osdSide.held[0]!;
    expect(ends.osdSide.connection!.refuse(requestId, Method.Echo, Status.Stopping)).toBe(true);
    ends.pair.settle();
    expect(op.status).toBe(Status.Stopping);
  });

  test("payloads arrive on 8-byte boundaries, whole blocks and odd bodies alike", () => {
    const ends = new Ends();
    const seen: string[] = [];
    ends.osdSide.onRequest = (connection: Connection, frame) => {
      expect(frame.payloadOffset % 8).toBe(0);
      const bytes = ends.osdWorld.arena.bytes;
      const end = frame.payloadOffset + frame.payloadSize;
      seen.push(Bun.hash.crc32(bytes.subarray(frame.payloadOffset, end)).toString(16));
      ends.osdSide.answer(connection, frame.requestId, new Uint8Array(1));
    };
    ends.pair.settle();
    const payloads = [4096, 262_144, 3001, 1, 8].map((size) =>
      new Uint8Array(size).map((_, at) => at * 31 + size),
    );
    for (const payload of payloads) ends.request(body("odd"), 0, payload);
    ends.pair.settle();
    expect(seen).toEqual(payloads.map((payload) => Bun.hash.crc32(payload).toString(16)));
    expect(ends.connection.isOpen).toBe(true);
  });

  test("frames larger than the peer takes are refused here", () => {
    const ends = new Ends();
    ends.pair.settle();
    expect(ends.request(new Uint8Array(8193))).toBeNull();
    expect(ends.connection.refusal).toBe(Status.Invalid);
    expect(ends.request(body("a"), 0, new Uint8Array(266_240))).toBeNull();
    expect(ends.connection.refusal).toBe(Status.Invalid);
  });

  test("without a connection requests are refused, and waiting ones fail when it ends", () => {
    const ends = new Ends();
    expect(ends.request(body("a"))).toBeNull();
    expect(ends.connection.refusal).toBe(Status.Unreachable);
    ends.osdSide.hold = true;
    ends.pair.settle();
    const op = ends.request(body("a"))!;
    ends.pair.settle();
    ends.pair.streams[0]!.reset();
    ends.pair.settle();
    expect(op.status).toBe(Status.Unreachable);
    expect(ends.clientSide.events).toEqual(["open", "close: reset"]);
    expect(ends.osdSide.events).toEqual(["open", "close: closed by the peer"]);
    // A late answer finds nobody.
    const { requestId } = ends.osdSide.held[0]!;
    expect(ends.osdSide.answer(ends.osdSide.connection!, requestId, body("a"))).toBe(false);
  });

  test("a dialled connection comes back, an accepted one does not", () => {
    const ends = new Ends();
    ends.pair.settle();
    const accepted = ends.osdSide.connection!;
    ends.pair.streams[0]!.reset();
    ends.pair.settle();
    expect(ends.connection.state).toBe(ConnectionState.Waiting);
    expect(accepted.state).toBe(ConnectionState.Closed);
    ends.pair.advance(50_000);
    expect(ends.clientSide.events).toEqual(["open", "close: reset", "open"]);
    expect(ends.connection.generation).toBe(2);
    const op = ends.request(body("again"))!;
    ends.pair.settle();
    expect(op.status).toBe(Status.Ok);
    expect(ends.osd.connections).toBe(1);
  });

  test("a stream that is given up is dialled anew, and what waits on it fails", () => {
    const ends = new Ends();
    ends.connection.renew("not open yet");
    ends.pair.settle();
    ends.osdSide.hold = true;
    const op = ends.request(body("a"))!;
    ends.connection.renew("silent");
    ends.pair.settle();
    expect(op.status).toBe(Status.Unreachable);
    ends.pair.advance(50_000);
    expect(ends.clientSide.events).toEqual(["open", "close: silent", "open"]);
    expect(ends.connection.generation).toBe(2);
  });

  test("attempts back off, with jitter, up to the longest pause", () => {
    const ends = new Ends();
    ends.pair.acceptors.clear();
    ends.pair.advance(10_000_000, 5000);
    const failures = ends.clientSide.events.length;
    // 20, 40 … 640 ms, then 1 s: 6 to 12 of the first, 8 to 18 of the longest.
    expect(failures).toBeGreaterThan(12);
    expect(failures).toBeLessThan(30);
    expect(new Set(ends.clientSide.events)).toEqual(new Set(["failed: connection refused"]));
  });

  test("an attempt is made at once when the peer showed itself elsewhere", () => {
    const ends = new Ends();
    const { acceptors } = ends.pair;
    const kept = new Map(acceptors);
    acceptors.clear();
    // 20, 40 … 640 ms: the next attempt is due in half a second or more.
    ends.pair.advance(1_300_000, 5000);
    for (const [address, acceptor] of kept) acceptors.set(address, acceptor);
    ends.connection.hurry();
    ends.pair.settle();
    expect(ends.connection.isOpen).toBe(true);
    ends.connection.hurry();
    ends.pair.settle();
    expect([ends.connection.isOpen, ends.connection.generation]).toEqual([true, 1]);
  });

  test("a closed connection stays closed", () => {
    const ends = new Ends();
    ends.pair.settle();
    const op = ends.request(body("a"))!;
    ends.connection.close("not needed");
    ends.pair.advance(5_000_000, 100_000);
    expect(op.status).toBe(Status.Unreachable);
    expect(ends.connection.state).toBe(ConnectionState.Closed);
    expect(ends.clientSide.events).toEqual(["open", "close: not needed"]);
    expect(ends.client.connections).toBe(0);
    expect(ends.osd.connections).toBe(0);
    // What was sent before the close did arrive.
    expect(ends.osdSide.requests).toBe(1);
  });

  test("a connection can be closed from every callback", () => {
    for (const hook of ["onOpen", "onClose"] as const) {
      const ends = new Ends();
      if (hook === "onClose") ends.pair.acceptors.clear();
      ends.clientSide[hook] = (connection: Connection) => connection.close("enough");
      ends.pair.advance(2_000_000, 100_000);
      expect(ends.connection.state).toBe(ConnectionState.Closed);
      expect(ends.client.connections).toBe(0);
    }
    const ends = new Ends();
    ends.osdSide.onRequest = (connection) => connection.close("enough");
    ends.pair.settle();
    const ops = [ends.request(body("a"))!, ends.request(body("b"))!];
    ends.pair.settle();
    expect(ops.map((op) => op.status)).toEqual([Status.Unreachable, Status.Unreachable]);
  });
});

describe("back-pressure", () => {
  test("G15: a full request table refuses, and says when a row came back", () => {
    const ends = new Ends({ clientOptions: { requestsMax: 4 } });
    ends.pair.settle();
    const ops = [0, 1, 2, 3].map(() => ends.request(body("a"))!);
    expect(ends.request(body("a"))).toBeNull();
    expect(ends.connection.refusal).toBe(Status.Busy);
    ends.pair.settle();
    expect(ops.every((op) => op.status === Status.Ok)).toBe(true);
    expect(ends.clientSide.events).toEqual(["open", "writable"]);
    expect(ends.request(body("a"))).not.toBeNull();
  });

  test("G15, N23: a peer that does not read fills a bounded space, then hears of nothing more", () => {
    const ends = new Ends({ clientOptions: { sendBytes: 1_048_576 } });
    ends.pair.settle();
    for (const stream of ends.pair.streams) if (!stream.isDialler) stream.frozen = true;
    let sent = 0;
    while (ends.request(body("a"), 0, new Uint8Array(65_536)) !== null) sent += 1;
    expect(ends.connection.refusal).toBe(Status.Busy);
    expect(sent).toBe(15);
    const order: number[] = [];
    for (const name of [1, 2, 3]) {
      const waiter = {
        writableNext: null,
        onWritable: (): void => {
          order.push(name);
          if (ends.request(body("b"), 0, new Uint8Array(65_536)) === null) {
            ends.connection.wait(waiter);
          }
        },
      };
      ends.connection.wait(waiter);
    }
    ends.pair.advance(1_000_000, 50_000);
    expect(order).toEqual([]);
    for (const stream of ends.pair.streams) stream.frozen = false;
    ends.pair.settle();
    expect(order).toEqual([1, 2, 3]);
    expect(ends.osdSide.requests).toBe(sent + 3);
    expect(ends.clientSide.events).toEqual(["open", "writable"]);
  });

  test("a peer that takes nothing for 15 s is dropped, with all that waits", () => {
    const ends = new Ends({ clientOptions: { sendBytes: 524_288 } });
    ends.pair.settle();
    for (const stream of ends.pair.streams) if (!stream.isDialler) stream.frozen = true;
    const ops = [];
    for (;;) {
      const op = ends.request(body("a"), 0, new Uint8Array(65_536));
      if (op === null) break;
      ops.push(op);
    }
    let told = 0;
    ends.connection.wait({
      writableNext: null,
      onWritable: (connection) => {
        expect(connection.isOpen).toBe(false);
        told += 1;
      },
    });
    ends.pair.advance(25_000_000, 500_000);
    expect(told).toBe(1);
    expect(ops.every((op) => op.status === Status.Unreachable)).toBe(true);
    expect(ends.warnings.join()).toContain("for 15 s");
  });

  test("too many requests in service stop receiving until half are answered", () => {
    const ends = new Ends({ osdOptions: { servingMax: 8 } });
    ends.osdSide.hold = true;
    ends.pair.settle();
    for (let number = 0; number < 20; number++) ends.request(body("a"));
    ends.pair.settle();
    expect(ends.osdSide.requests).toBe(8);
    const connection = ends.osdSide.connection!;
    for (let answered = 0; answered < 20; answered++) {
      const { requestId, body } = ends.osdSide.held.shift()!;
      ends.osdSide.answer(connection, requestId, body);
      ends.pair.settle();
      expect(connection.serving).toBeLessThanOrEqual(8);
    }
    expect(ends.osdSide.requests).toBe(20);
    expect(ends.connection.waiting).toBe(0);
  });

  test("a paused connection delivers nothing, then everything", () => {
    const ends = new Ends();
    ends.pair.settle();
    const connection = ends.osdSide.connection!;
    let pauseAfter = 2;
    const answer = ends.osdSide.onRequest.bind(ends.osdSide);
    ends.osdSide.onRequest = (from, frame) => {
      answer(from, frame);
      pauseAfter -= 1;
      if (pauseAfter === 0) from.pause();
    };
    for (let number = 0; number < 5; number++) ends.request(body("a"));
    ends.pair.settle();
    expect(ends.osdSide.requests).toBe(2);
    connection.resume();
    ends.pair.settle();
    expect(ends.osdSide.requests).toBe(5);
  });
});

describe("signs of life", () => {
  test("idle connections stay open by pings", () => {
    const ends = new Ends();
    ends.pair.advance(120_000_000, 500_000);
    expect(ends.clientSide.events).toEqual(["open"]);
    expect(ends.osdSide.events).toEqual(["open"]);
  });

  test("a silent peer is dropped after 15 s", () => {
    const ends = new Ends();
    ends.pair.settle();
    ends.pair.tamper = () => new Uint8Array(0);
    ends.pair.advance(22_000_000, 500_000);
    expect(ends.osdSide.events[1]).toContain("silent");
    expect(ends.clientSide.events[1]).toMatch(/silent|closed by the peer/);
  });

  test("N1: a connection without a handshake is closed after 3 s", () => {
    const ends = new Ends();
    ends.pair.tamper = (bytes, fromDialler) => (fromDialler ? new Uint8Array(0) : bytes);
    ends.pair.settle();
    ends.pair.acceptors.clear();
    ends.pair.advance(2_900_000, 100_000);
    expect(ends.osd.connections).toBe(1);
    ends.pair.advance(200_000, 100_000);
    expect(ends.osd.connections).toBe(0);
    expect(ends.osdSide.events).toEqual([]);
    expect(ends.warnings.join()).toContain("no handshake within 3 s");
  });

  test("G15, N23: connections beyond the limits are closed at once", () => {
    const ends = new Ends({ osdOptions: { greetingsMax: 2, connectionsMax: 3 } });
    ends.pair.settle();
    const more = [1, 2, 3, 4].map(() =>
      ends.client.dial({ kind: "tcp", host: "127.0.0.1", port: 6800 }, TO_OSD, ends.clientSide),
    );
    ends.pair.settle();
    expect(more.filter((connection) => connection.isOpen).length).toBe(2);
    expect(ends.osd.connections).toBe(3);
    expect(ends.warnings.join()).toContain("too many connections");
  });
});

// N11: what is meant for one osd, shard or store is never taken by another one on its port.
describe("who talks to whom", () => {
  const OTHER = "11111111-1111-1111-1111-111111111111";
  test.each([
    ["cluster", { client: { ...CLIENT, clusterId: OTHER } }, "wrong cluster"],
    ["key", { clientKey: new Uint8Array(32).fill(8) }, "wrong key"],
    ["osd", { to: { ...TO_OSD, id: 4 } }, "wrong receiver"],
    ["shard", { to: { ...TO_OSD, shard: 0 } }, "wrong receiver"],
    ["role", { to: { ...TO_OSD, role: Role.Mon } }, "wrong receiver"],
    ["store", { to: { ...TO_OSD, storeUuid: OTHER } }, "wrong receiver"],
  ])("a wrong %s is refused on both sides, with the reason", (_what, options, reason) => {
    const ends = new Ends(options);
    ends.pair.settle();
    expect(ends.osdWorld.logger.lines.join()).toContain(reason);
    expect(ends.clientWorld.logger.lines.join()).toContain(reason);
    expect(ends.osdSide.events).toEqual([]);
    expect(ends.clientSide.events).toHaveLength(1);
    expect(ends.clientSide.events[0]).toStartWith("failed: ");
    expect(ends.osd.connections).toBe(0);
  });

  test("a store that the dialler does not know yet is accepted, and told", () => {
    const { storeUuid, ...to } = TO_OSD;
    const ends = new Ends({ to });
    ends.pair.settle();
    expect(ends.connection.peer?.storeUuid).toBe(storeUuid!);
  });

  test("G18, N2: an acceptor with another key than the dialler's learns nothing and serves nothing", () => {
    const ends = new Ends({ clientKey: new Uint8Array(32).fill(9) });
    const fromOsd: number[] = [];
    ends.pair.tamper = (bytes, fromDialler) => {
      if (!fromDialler) fromOsd.push(bytes[8]!);
      return bytes;
    };
    ends.pair.settle();
    // Challenge and refusal: never a proof.
    expect(fromOsd).toEqual([2, 5]);
  });

  test("a peer that is not admitted is closed", () => {
    const ends = new Ends();
    ends.osd.listen({ kind: "tcp", host: "127.0.0.1", port: 6801 }, () => null);
    const other = ends.client.dial(
      { kind: "tcp", host: "127.0.0.1", port: 6801 },
      TO_OSD,
      ends.clientSide,
    );
    ends.pair.settle();
    expect(other.isOpen).toBe(false);
    expect(ends.osd.connections).toBe(1);
  });

  test("only a mon answers to any id", () => {
    const ends = new Ends();
    expect(() =>
      ends.client.dial(
        { kind: "tcp", host: "a", port: 1 },
        { ...TO_OSD, id: 0xffff_ffff },
        ends.clientSide,
      ),
    ).toThrow();
    const mon = { clusterId: CLUSTER, role: Role.Mon, id: 2, shard: 0xffff_ffff, name: "mon.c" };
    const to = { role: Role.Mon, id: 0xffff_ffff, shard: 0xffff_ffff };
    const withMon = new Ends({ osd: mon, to });
    withMon.pair.settle();
    expect(withMon.connection.peer?.id).toBe(2);
  });

  test("the identity is checked when an endpoint is made", () => {
    expect(() => new Ends({ osd: { ...OSD, clusterId: "nonsense" } })).toThrow(
      "uuidBytes: not a uuid",
    );
    expect(() => new Ends({ clientKey: new Uint8Array(16) })).toThrow("32 bytes");
  });
});
