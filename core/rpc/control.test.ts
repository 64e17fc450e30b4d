import { create } from "@bufbuild/protobuf";
import { describe, expect, test } from "bun:test";
import {
  type MapUpdate,
  MapGetReplySchema,
  MapGetRequestSchema,
  MapUpdateSchema,
} from "../../proto/gen/control_pb.ts";
import { AssertionError } from "../base/assert.ts";
import { FastblockError } from "../base/errors.ts";
import { CLUSTER, Ends, KEY, TO_OSD } from "./bun-test-ends.ts";
import { Pair } from "./bun-pair.ts";
import {
  type CallOptions,
  type Connection,
  ControlService,
  ID_ANY,
  Method,
  Role,
  RpcEndpoint,
  SHARD_NONE,
} from "./rpc.ts";

/** A process and its mon. */
class Control {
  readonly pair = new Pair();
  readonly monWorld = this.pair.createWorld(64 * 1_048_576);
  readonly world = this.pair.createWorld(64 * 1_048_576);
  readonly subscribers: Connection[] = [];
  readonly monService = new ControlService(this.monWorld, {
    onOpen: (connection) => this.subscribers.push(connection),
  });
  readonly service = new ControlService(this.world);
  readonly connection: Connection;

  constructor(timeouts: { sendBytes?: number } = {}) {
    const identity = {
      clusterId: CLUSTER,
      role: Role.Mon,
      id: 0,
      shard: SHARD_NONE,
      name: "mon.a",
    };
    const options = { control: true, ...timeouts };
    const mon = new RpcEndpoint(this.monWorld, identity, KEY, options);
    const own = { ...identity, role: Role.Client, id: 9, name: "cli" };
    const endpoint = new RpcEndpoint(this.world, own, KEY, options);
    const listener = mon.listen({ kind: "tcp", host: "127.0.0.1", port: 0 }, () => this.monService);
    const to = { role: Role.Mon, id: ID_ANY, shard: SHARD_NONE };
    this.connection = endpoint.dial(listener.address, to, this.service);
    this.pair.settle();
  }

  async get(epoch: number, options: CallOptions = {}): Promise<number> {
    const request = create(MapGetRequestSchema, { epoch });
    const answer = this.service.call(
      this.connection,
      Method.MapGet,
      MapGetRequestSchema,
      request,
      MapGetReplySchema,
      options,
    );
    const run = this.run();
    try {
      return (await answer).update?.epoch ?? -1;
    } finally {
      run.stop();
    }
  }

  /** Let time pass beside the promises. */
  private run(): { stop: () => void } {
    let running = true;
    const step = (): void => {
      if (!running) return;
      this.pair.advance(20_000, 20_000);
      setImmediate(step);
    };
    step();
    return {
      stop: () => {
        running = false;
      },
    };
  }
}

const replyOf = (epoch: number): { update: MapUpdate } => ({
  update: create(MapUpdateSchema, { epoch }),
});

/** One that takes so many bytes and a few more. */
function largeUpdate(epoch: number, bytes: number): MapUpdate {
  return create(MapUpdateSchema, { epoch, osds: [{ host: "x".repeat(bytes) }] });
}

async function failureOf(promise: Promise<unknown>): Promise<FastblockError> {
  try {
    await promise;
  } catch (error) {
    expect(error).toBeInstanceOf(FastblockError);
    return error as FastblockError;
  }
  throw new Error("the call did not fail");
}

describe("control calls", () => {
  test("a call is answered, now or later", async () => {
    const control = new Control();
    control.monService.serve(
      Method.MapGet,
      MapGetRequestSchema,
      MapGetReplySchema,
      async (request) => {
        await Promise.resolve();
        return create(MapGetReplySchema, replyOf(request.epoch + 1));
      },
    );
    expect(await control.get(41)).toBe(42);
    const [a, b] = await Promise.all([control.get(1), control.get(2)]);
    expect([a, b]).toEqual([2, 3]);
  });

  test("the peer's error arrives with code, message, why and hint", async () => {
    const control = new Control();
    control.monService.serve(Method.MapGet, MapGetRequestSchema, MapGetReplySchema, () => {
      throw new FastblockError("FB2001", "pool not found: rbd, wanted one", { why: "it is gone" });
    });
    const failure = await failureOf(control.get(1));
    expect(failure.code).toBe("FB2001");
    expect(failure.message).toBe("pool not found: rbd, wanted one");
    expect(failure.why).toBe("it is gone");
    expect(failure.hint).toContain("fastblock pool ls");
  });

  test("a bug in the handler is FB1003 without its text, and a logged error there", async () => {
    const control = new Control();
    control.monService.serve(Method.MapGet, MapGetRequestSchema, MapGetReplySchema, () => {
      throw new TypeError("secret");
    });
    const failure = await failureOf(control.get(1));
    expect(failure.code).toBe("FB1003");
    expect(failure.message).not.toContain("secret");
    expect(control.monWorld.logger.lines.join()).toContain("secret");
  });

  test("an unknown method is refused", async () => {
    const failure = await failureOf(new Control().get(1));
    expect(failure.code).toBe("FB1007");
    expect(failure.message).toContain("unknown method");
  });

  test("no answer in time, an abort, and a lost connection are told apart", async () => {
    const control = new Control();
    control.monService.serve(
      Method.MapGet,
      MapGetRequestSchema,
      MapGetReplySchema,
      () => new Promise<never>(() => {}),
    );
    expect((await failureOf(control.get(1, { timeoutMs: 500 }))).code).toBe("FB1006");
    const controller = new AbortController();
    const aborted = control.get(1, { signal: controller.signal });
    controller.abort();
    expect((await failureOf(aborted)).code).toBe("FB1006");
    expect((await failureOf(control.get(1, { signal: controller.signal }))).code).toBe("FB1006");
    const lost = control.get(1);
    control.pair.streams[0]!.reset();
    expect((await failureOf(lost)).code).toBe("FB1004");
    control.connection.close("over");
    expect((await failureOf(control.get(1))).code).toBe("FB1004");
  });

  test("messages of up to 1 MiB pass; larger ones fail here", async () => {
    const control = new Control();
    const seen: number[] = [];
    control.monService.take(Method.MapUpdate, MapUpdateSchema, (update) =>
      seen.push(update.osds[0]!.host.length),
    );
    const push = (update: MapUpdate): boolean =>
      control.service.push(control.connection, Method.MapUpdate, MapUpdateSchema, update);
    expect(push(largeUpdate(1, 1_000_000))).toBe(true);
    control.pair.settle();
    expect(seen).toEqual([1_000_000]);
    expect(push(largeUpdate(1, 1_100_000))).toBe(false);
    expect(control.connection.isOpen).toBe(true);
  });
});

describe("pushes", () => {
  test("arrive in order, also when they had to wait for space", () => {
    const control = new Control({ sendBytes: 1_100_000 });
    const seen: number[] = [];
    control.service.take(Method.MapUpdate, MapUpdateSchema, (update) => seen.push(update.epoch));
    for (let epoch = 1; epoch <= 50; epoch++) {
      const update = largeUpdate(epoch, 100_000);
      const connection = control.subscribers[0]!;
      expect(control.monService.push(connection, Method.MapUpdate, MapUpdateSchema, update)).toBe(
        true,
      );
    }
    control.pair.settle();
    expect(seen).toEqual(Array.from({ length: 50 }, (_, at) => at + 1));
  });

  test("a subscriber that does not read is closed, not fed without end", () => {
    const control = new Control({ sendBytes: 1_100_000 });
    for (const stream of control.pair.streams) if (stream.isDialler) stream.frozen = true;
    const connection = control.subscribers[0]!;
    let pushed = 0;
    while (
      control.monService.push(
        connection,
        Method.MapUpdate,
        MapUpdateSchema,
        largeUpdate(pushed + 1, 100_000),
      )
    ) {
      pushed += 1;
      if (pushed > 1000) break;
    }
    expect(pushed).toBeGreaterThan(80);
    expect(pushed).toBeLessThan(100);
    expect(connection.isOpen).toBe(false);
  });

  test("one that nobody takes, or that is malformed, is dropped with a line in the log", () => {
    const control = new Control();
    const push = (): boolean =>
      control.service.push(
        control.connection,
        Method.OsdCommand,
        MapUpdateSchema,
        create(MapUpdateSchema, { epoch: 1 }),
      );
    expect(push()).toBe(true);
    control.pair.settle();
    control.monService.take(Method.OsdCommand, MapUpdateSchema, () => {
      throw new Error("no");
    });
    push();
    control.pair.settle();
    expect(control.monWorld.logger.lines).toHaveLength(2);
    expect(control.connection.isOpen).toBe(true);
  });
});

// G19: whoever broke an invariant answers nobody any more.
describe("a broken invariant in a handler ends the process", () => {
  test("of a request", async () => {
    const control = new Control();
    control.monService.serve(Method.MapGet, MapGetRequestSchema, MapGetReplySchema, () => {
      throw new AssertionError("an invariant is broken");
    });
    const answer = control.get(1, { timeoutMs: 100 });
    control.pair.settle();
    await new Promise(setImmediate);
    expect(control.monWorld.failure).toContain("an invariant is broken");
    control.pair.advance(1_000_000, 10_000);
    expect(answer).rejects.toMatchObject({ code: "FB1006" });
  });

  test("of a one-way message", () => {
    const control = new Control();
    control.service.take(Method.MapUpdate, MapUpdateSchema, () => {
      throw new AssertionError("an invariant is broken");
    });
    const [subscriber] = control.subscribers;
    const update = create(MapUpdateSchema, {});
    control.monService.push(subscriber!, Method.MapUpdate, MapUpdateSchema, update);
    control.pair.settle();
    expect(control.world.failure).toContain("an invariant is broken");
    expect(control.world.logger.lines).toEqual([]);
  });
});

test("control calls work on a data connection too", async () => {
  const ends = new Ends();
  const served = new ControlService(ends.osdWorld);
  served.serve(Method.MapGet, MapGetRequestSchema, MapGetReplySchema, (request) =>
    create(MapGetReplySchema, replyOf(request.epoch)),
  );
  ends.osdSide.onRequest = (connection, frame) => served.onRequest(connection, frame);
  ends.pair.settle();
  const caller = new ControlService(ends.clientWorld);
  const answer = caller.call(
    ends.connection,
    Method.MapGet,
    MapGetRequestSchema,
    create(MapGetRequestSchema, { epoch: 5 }),
    MapGetReplySchema,
  );
  for (let turn = 0; turn < 10; turn++) {
    ends.pair.settle();
    await new Promise(setImmediate);
  }
  expect((await answer).update?.epoch).toBe(5);
  expect(TO_OSD.role).toBe(Role.Osd);
});
