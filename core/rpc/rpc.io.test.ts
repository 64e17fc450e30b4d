import { create } from "@bufbuild/protobuf";
import { afterAll, describe, expect, test } from "bun:test";
import { connect as connectRaw, type Socket } from "node:net";
import { MapUpdateSchema } from "../../proto/gen/control_pb.ts";
import { Status } from "../base/status.ts";
import { createBunWorld } from "../reactor/bun-world.ts";
import { RealHarness } from "../reactor/bun-real-harness.ts";
import { createUringWorld } from "../reactor/uring-world.ts";
import type { Listener } from "../reactor/world.ts";
import { Tap } from "./bun-tap-harness.ts";
import { CLIENT, KEY, NotingHandler, NotingOp, OSD, TO_OSD } from "./bun-test-ends.ts";
import { type Connection, ControlService, Method, RpcEndpoint, type RpcOptions } from "./rpc.ts";

const harnesses = [
  ["io_uring", new RealHarness((options) => createUringWorld(options))],
  ["portable", new RealHarness((options) => createBunWorld(options))],
] as const;

/** Two endpoints of one world, talking through the kernel. */
class RealEnds {
  readonly server: NotingHandler;
  readonly client: NotingHandler;
  readonly listener: Listener;
  readonly connection: Connection;
  readonly endpoints: RpcEndpoint[];
  readonly harness: RealHarness;

  constructor(harness: RealHarness, options: RpcOptions = {}) {
    const world = harness.world;
    this.harness = harness;
    this.server = new NotingHandler(world);
    this.client = new NotingHandler(world);
    const osd = new RpcEndpoint(world, OSD, KEY, options);
    const client = new RpcEndpoint(world, CLIENT, KEY, options);
    this.endpoints = [osd, client];
    this.listener = osd.listen({ kind: "tcp", host: "127.0.0.1", port: 0 }, () => this.server);
    this.connection = client.dial(this.listener.address, TO_OSD, this.client);
  }

  get port(): number {
    const { address } = this.listener;
    return address.kind === "tcp" ? address.port : 0;
  }

  open(): Promise<void> {
    return this.harness.until(() => this.connection.isOpen, "the connection");
  }

  request(body: Uint8Array, payload: Uint8Array): NotingOp | null {
    const op = new NotingOp(this.harness.world);
    const at = this.connection.beginRequest(op, Method.Echo, body.length, payload.length, 0);
    if (at < 0) return null;
    this.harness.world.arena.bytes.set(body, at);
    this.harness.world.arena.bytes.set(payload, this.connection.payloadOffset);
    this.connection.finish();
    return op;
  }

  close(): void {
    this.listener.close();
    for (const endpoint of this.endpoints) endpoint.close("test is over");
  }
}

describe.each(harnesses)("%s", (_name, harness) => {
  afterAll(() => harness.close());

  test.each([
    ["in the clear", false],
    ["encrypted", true],
  ])("G18: what somebody sees who taps a connection, %s", async (_what, encrypt) => {
    const ends = new RealEnds(harness, { encrypt });
    const tap = await Tap.to(ends.port);
    const client = new RpcEndpoint(harness.world, CLIENT, KEY);
    const told = new NotingHandler(harness.world);
    const address = { kind: "tcp", host: "127.0.0.1", port: tap.port } as const;
    const connection = client.dial(address, TO_OSD, told);
    await harness.until(() => connection.isOpen, "the connection through the tap");
    expect(connection.isEncrypted).toBe(encrypt);
    const words = new TextEncoder().encode("nobody else is to read this");
    const payload = Uint8Array.from({ length: 131_072 }, (_, at) => words[at % words.length]!);
    const ops: NotingOp[] = [];
    for (let count = 0; count < 6; count++) {
      const op = new NotingOp(harness.world);
      const at = connection.beginRequest(op, Method.Echo, words.length, payload.length, 0);
      harness.world.arena.bytes.set(words, at);
      harness.world.arena.bytes.set(payload, connection.payloadOffset);
      connection.finish();
      ops.push(op);
    }
    await harness.until(() => ops.every((op) => op.status === Status.Ok), "the replies");
    expect(ops.every((op) => Buffer.compare(op.header, words) === 0)).toBe(true);
    const wire = tap.bytes;
    expect(wire.length).toBeGreaterThan(6 * payload.length);
    expect(wire.includes(words.subarray(0, 12))).toBe(!encrypt);
    client.close("test is over");
    ends.close();
    tap.close();
  });

  test("requests of all sizes are answered, in any order", async () => {
    const ends = new RealEnds(harness);
    ends.server.hold = true;
    await ends.open();
    const sizes = [0, 1, 4096, 65_536, 262_144, 4096, 100];
    const bodies = sizes.map((size) => Uint8Array.from([size & 255, size >> 8, 3, 4, 5]));
    const ops = sizes.map((size, at) => ends.request(bodies[at]!, new Uint8Array(size).fill(at)));
    await harness.until(() => ends.server.held.length === sizes.length, "the requests");
    for (const { requestId, body } of ends.server.held.reverse()) {
      ends.server.answer(ends.server.connection!, requestId, body);
    }
    await harness.until(() => ops.every((op) => op?.status === Status.Ok), "the replies");
    expect(ops.map((op) => op!.header)).toEqual(bodies);
    ends.close();
    await harness.until(() => ends.endpoints.every((one) => one.connections === 0), "the end");
  });

  test("a lost connection comes back", async () => {
    const ends = new RealEnds(harness);
    await ends.open();
    ends.server.connection!.close("the osd restarts");
    await harness.until(() => ends.connection.generation === 2, "the second connection");
    expect(ends.client.events[1]).toStartWith("close: ");
    const op = ends.request(Uint8Array.of(1), new Uint8Array(0));
    await harness.until(() => op?.status === Status.Ok, "the reply");
    ends.close();
  });

  test("a reader that stops fills bounded space; all arrives in order when it goes on", async () => {
    const ends = new RealEnds(harness, { sendBytes: 1_048_576 });
    await ends.open();
    const seen: number[] = [];
    const bytes = harness.world.arena.bytes;
    ends.client.onOneway = (...[, frame]: unknown[]) => {
      const { headerOffset, payloadOffset } = frame as {
        headerOffset: number;
        payloadOffset: number;
      };
      expect(bytes[payloadOffset]).toBe(bytes[headerOffset]!);
      seen.push(bytes[headerOffset]!);
    };
    ends.connection.pause();
    const server = ends.server.connection!;
    let sent = 0;
    let blocked = false;
    const send = (): boolean => {
      const at = server.beginOneway(Method.RaftAppend, 1, 65_536);
      if (at < 0) return false;
      bytes[at] = sent & 255;
      bytes[server.payloadOffset] = sent & 255;
      server.finish();
      sent += 1;
      return true;
    };
    // Until the kernel's buffers are full too.
    await harness.until(() => {
      while (send());
      const full = blocked && server.unsentBytes > 900_000;
      blocked = server.refusal === Status.Busy;
      return full && sent > 20;
    }, "a full connection");
    expect(server.unsentBytes).toBeLessThanOrEqual(1_048_576);
    expect(seen).toEqual([]);
    ends.connection.resume();
    await harness.until(() => seen.length === sent, "the rest");
    expect(seen).toEqual(seen.map((_, at) => at & 255));
    expect(ends.server.events).toContain("writable");
    ends.close();
  });

  test("G18, N1: strangers are closed: nonsense, half-closed, and those that go away", async () => {
    const ends = new RealEnds(harness);
    await ends.open();
    const raw = (act: (socket: Socket) => void): Promise<void> =>
      new Promise((resolve) => {
        const socket = connectRaw(ends.port, "127.0.0.1", () => act(socket));
        socket.resume();
        socket.on("error", () => {});
        socket.on("close", () => resolve());
      });
    await raw((socket) => socket.write(Buffer.alloc(64, 1)));
    await raw((socket) => socket.end());
    await raw((socket) => socket.end(Buffer.from("FBF1")));
    await raw((socket) => {
      socket.write("FB");
      socket.destroy();
    });
    await harness.until(() => ends.endpoints[0]!.connections === 1, "the strangers' end");
    expect(ends.server.events).toEqual(["open"]);
    const op = ends.request(Uint8Array.of(1), new Uint8Array(0));
    await harness.until(() => op?.status === Status.Ok, "the reply");
    ends.close();
  });

  test("a megabyte is pushed over a control connection", async () => {
    const world = harness.world;
    const seen: number[] = [];
    const service = new ControlService(world);
    service.take(Method.MapUpdate, MapUpdateSchema, (update) =>
      seen.push(update.osds[0]!.host.length),
    );
    const osd = new RpcEndpoint(world, OSD, KEY, { control: true });
    const client = new RpcEndpoint(world, CLIENT, KEY, { control: true });
    const listener = osd.listen({ kind: "tcp", host: "127.0.0.1", port: 0 }, () => service);
    const connection = client.dial(listener.address, TO_OSD, service);
    await harness.until(() => connection.isOpen, "the connection");
    const osds = [{ host: "x".repeat(1_000_000) }];
    const update = create(MapUpdateSchema, { osds });
    for (let count = 0; count < 5; count++) {
      expect(service.push(connection, Method.MapUpdate, MapUpdateSchema, update)).toBe(true);
    }
    await harness.until(() => seen.length === 5, "the pushes");
    listener.close();
    client.close("test is over");
  });
});
