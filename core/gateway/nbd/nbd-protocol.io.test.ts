import { afterEach, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { AssertionError } from "../../base/assert.ts";
import { FastblockError } from "../../base/errors.ts";
import { type Logger, silentLogger } from "../../base/logger.ts";
import { Prng } from "../../base/prng.ts";
import { Status } from "../../base/status.ts";
import { createUringWorld } from "../../reactor/uring-world.ts";
import { infoRequest, metaRequest, RawClient, u32 } from "./bun-raw-client.ts";
import type { MemoryImage } from "./memory-image.ts";
import { NbdHarness } from "./nbd-harness.ts";

setDefaultTimeout(30_000);
const MIB = 1_048_576;
const EIO = 5;
const EINVAL = 22;
const ENOSPC = 28;
const EOVERFLOW = 75;
const UNSUPPORTED = 0x8000_0001;
const POLICY = 0x8000_0002;
const INVALID = 0x8000_0003;
const UNKNOWN = 0x8000_0006;
const TOO_BIG = 0x8000_0009;

/** The reasons of the warnings of this test. */
const warned: string[] = [];
const logger: Logger = {
  ...silentLogger,
  warn: (message, fields) => warned.push(`${message}: ${String(fields?.["reason"])}`),
};

let harness: NbdHarness;
let image: MemoryImage;
const clients: RawClient[] = [];

beforeEach(() => {
  warned.length = 0;
  harness = new NbdHarness(createUringWorld, 32, logger);
  image = harness.addImage("demo/disk", 16 * MIB);
});
afterEach(async () => {
  image.isHeld = false;
  for (const client of clients.splice(0)) client.close();
  // Checks that no slot, request or export is left, and that no assertion failed.
  await harness.close();
});

async function greet(flags = 3): Promise<RawClient> {
  const client = await RawClient.open(harness.port);
  clients.push(client);
  client.flags(flags);
  return client;
}

async function attach(structured = true): Promise<RawClient> {
  const client = await RawClient.attach(harness.port, "demo/disk", structured);
  clients.push(client);
  return client;
}

function option(number: number, data: Uint8Array): Buffer {
  return Buffer.concat([Buffer.from("IHAVEOPT"), u32(number), u32(data.length), data]);
}

function request(
  command: number,
  offset: number,
  length: number,
  data: Uint8Array = Buffer.alloc(0),
): Buffer {
  const head = [u32(0x2560_9513), u32(command), u32(0), u32(command), u32(0)];
  return Buffer.concat([...head, u32(offset), u32(length), data]);
}

async function until(condition: () => boolean): Promise<void> {
  const end = Date.now() + 10_000;
  while (!condition()) {
    if (harness.fatal !== null) throw harness.fatal;
    if (Date.now() > end) throw new Error("the condition did not hold within 10 s");
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

/** The connection still answers. */
async function expectAlive(client: RawClient): Promise<void> {
  client.request(3, 777, 0, 0);
  expect(await client.simpleReply()).toEqual({ error: 0, cookie: 777 });
}

describe("nbd handshake", () => {
  test("unknown client flags end the connection", async () => {
    const client = await greet(0x10);
    await client.whenClosed();
  });

  test("a bad option magic ends the connection", async () => {
    const client = await greet();
    client.send(Buffer.alloc(16, 0x41));
    await client.whenClosed();
    expect(warned).toEqual(["nbd client cut off: it breaks the protocol: bad option magic"]);
  });

  test("N14: an option of 4 GiB ends the connection", async () => {
    const client = await greet();
    client.option(7, Buffer.alloc(0), 0xffff_ffff);
    await client.whenClosed();
  });

  test("N14: a long option is skipped, answered TooBig, and the connection goes on", async () => {
    const client = await greet();
    client.option(7, Buffer.alloc(100_000, 0x61));
    await client.expectReply(7, TOO_BIG);
    client.option(8, Buffer.alloc(0));
    await client.expectReply(8, 1);
  });

  test("G15: more than 64 options end the connection", async () => {
    const client = await greet();
    for (let count = 0; count < 65; count++) client.option(99, Buffer.alloc(0));
    for (let count = 0; count < 64; count++) await client.expectReply(99, UNSUPPORTED);
    await client.whenClosed();
  });

  test("N13: names that no image can have are unknown or malformed, never opened", async () => {
    const client = await greet();
    const cases: readonly (readonly [string | Uint8Array, number])[] = [
      ["../../etc/passwd", UNKNOWN],
      ["demo/../demo/disk", UNKNOWN],
      ["", UNKNOWN],
      ["demo", UNKNOWN],
      ["demo/di\0sk", INVALID],
      [Buffer.from([0xff, 0xfe, 0x2f, 0x61]), INVALID],
      ["a".repeat(4096), UNKNOWN],
      ["a".repeat(4097), INVALID],
    ];
    for (const [name, wanted] of cases) {
      client.option(7, infoRequest(name));
      await client.expectReply(7, wanted);
    }
    expect(harness.source.opened).toBe(0);
  });

  test("N14: lengths that do not add up are invalid", async () => {
    const client = await greet();
    const malformed = [
      Buffer.alloc(0),
      Buffer.alloc(3),
      u32(0xffff_ffff),
      Buffer.concat([u32(4), Buffer.from("demo")]),
      Buffer.concat([infoRequest("demo/disk"), Buffer.alloc(1)]),
      Buffer.concat([u32(0), Buffer.from([0, 9, 0, 1])]),
    ];
    for (const data of malformed) {
      for (const option of [6, 7]) {
        client.option(option, data);
        await client.expectReply(option, INVALID);
      }
    }
    client.option(3, Buffer.alloc(1));
    await client.expectReply(3, INVALID);
    client.option(8, Buffer.alloc(4));
    await client.expectReply(8, INVALID);
    client.option(8, Buffer.alloc(0));
    await client.expectReply(8, 1);
    for (const data of [
      Buffer.concat([u32(0), u32(0xffff_ffff)]),
      Buffer.concat([u32(0), u32(1), u32(0xffff_fff0)]),
      Buffer.concat([metaRequest("demo/disk", "base:"), Buffer.alloc(2)]),
    ]) {
      client.option(10, data);
      await client.expectReply(10, INVALID);
    }
  });

  test("block states need structured replies first", async () => {
    const client = await greet();
    client.option(10, metaRequest("demo/disk", "base:allocation"));
    await client.expectReply(10, INVALID);
  });

  test("contexts are listed by namespace and selected by exact name", async () => {
    const client = await greet();
    client.option(8, Buffer.alloc(0));
    await client.expectReply(8, 1);
    client.option(9, metaRequest("demo/disk"));
    expect((await client.expectReply(9, 4)).toString("latin1", 4)).toBe("base:allocation");
    await client.expectReply(9, 1);
    client.option(9, metaRequest("demo/disk", "base:"));
    await client.expectReply(9, 4);
    await client.expectReply(9, 1);
    client.option(10, metaRequest("demo/disk", "base:", "qemu:dirty-bitmap:x"));
    await client.expectReply(10, 1);
    client.option(10, metaRequest("demo/none", "base:allocation"));
    await client.expectReply(10, UNKNOWN);
  });

  test("N12: STARTTLS and unknown options are unsupported, and the handshake goes on", async () => {
    const client = await greet();
    for (const option of [0, 4, 5, 11, 0xffff_ffff]) {
      client.option(option, Buffer.alloc(0));
      await client.expectReply(option, UNSUPPORTED);
    }
  });

  test("N12: options behind a GO that opens an image are not parsed as options", async () => {
    const client = await greet();
    client.option(7, infoRequest("demo/disk"));
    client.request(3, 5, 0, 0);
    await client.expectReply(7, 3);
    await client.expectReply(7, 3);
    await client.expectReply(7, 1);
    expect(await client.simpleReply()).toEqual({ error: 0, cookie: 5 });
  });

  test("ABORT is acknowledged and ends the connection", async () => {
    const client = await greet();
    client.option(2, Buffer.alloc(0));
    await client.expectReply(2, 1);
    await client.whenClosed();
  });

  test("EXPORT_NAME answers size and flags, with zeroes unless refused", async () => {
    for (const [flags, size] of [
      [1, 134],
      [3, 10],
    ] as const) {
      const client = await greet(flags);
      client.option(1, Buffer.from("demo/disk"));
      const reply = await client.need(size);
      expect(reply.readBigUInt64BE(0)).toBe(BigInt(16 * MIB));
      expect(reply.readUInt16BE(8) & 1).toBe(1);
      expect(reply.subarray(10).every((byte) => byte === 0)).toBe(true);
      await expectAlive(client);
    }
    const client = await greet();
    client.option(1, Buffer.from("demo/none"));
    await client.whenClosed();
  });

  test("a mon that does not answer is told as policy, not as an empty list", async () => {
    harness.source.failure = new Error("no answer");
    const client = await greet();
    client.option(3, Buffer.alloc(0));
    await client.expectReply(3, POLICY);
    client.option(7, infoRequest("demo/disk"));
    await client.expectReply(7, POLICY);
    harness.source.failure = null;
    client.option(3, Buffer.alloc(0));
    expect((await client.expectReply(3, 2)).toString("latin1", 4)).toBe("demo/disk");
  });

  test.each([
    ["FB1004", "connecting to the mon: no answer of 10.0.0.1:7400", "the mon does not answer"],
    ["FB1006", "calling ImageOpen: no answer", "the mon does not answer"],
    ["FB3005", "opening demo/disk (exclusive): nbd.1 has it", undefined],
    ["FB4006", "/secret is damaged", "the export can not be opened now"],
  ] as const)(
    "%s while opening is told in words, and the client may go on",
    async (code, message, text) => {
      const client = await greet();
      harness.source.failure = new FastblockError(code, message);
      for (const number of [3, 6, 7]) {
        client.option(number, number === 3 ? Buffer.alloc(0) : infoRequest("demo/disk"));
        expect((await client.expectReply(number, POLICY)).toString()).toBe(text ?? message);
      }
      harness.source.failure = null;
      client.option(7, infoRequest("demo/disk"));
      await client.expectReply(7, 3);
      await client.expectReply(7, 3);
      await client.expectReply(7, 1);
      await expectAlive(client);
    },
  );

  test("a client that leaves in mid-option leaves nothing behind", async () => {
    const client = await greet();
    client.option(7, Buffer.alloc(10), 500);
    client.close();
    const other = await greet();
    other.option(7, infoRequest("demo/disk"));
    other.close();
    await until(() => harness.server.counts.connections === 0);
  });
});

describe("nbd transmission, malformed", () => {
  test("a bad request magic ends the connection", async () => {
    const client = await attach();
    client.send(Buffer.alloc(28, 0x25));
    await client.whenClosed();
    expect(warned).toEqual(["nbd client cut off: it breaks the protocol: bad request magic"]);
    const again = await attach();
    again.send(Buffer.alloc(28, 0x25));
    await again.whenClosed();
    expect(warned.length).toBe(1);
  });

  test("unknown commands and flags are invalid, and the connection goes on", async () => {
    const client = await attach();
    client.request(99, 1, 0, 0);
    expect(await client.simpleReply()).toEqual({ error: EINVAL, cookie: 1 });
    client.request(8, 2, 0, 4096);
    expect(await client.simpleReply()).toEqual({ error: EINVAL, cookie: 2 });
    client.request(4, 3, 0, 4096, 0x8000);
    expect(await client.simpleReply()).toEqual({ error: EINVAL, cookie: 3 });
    client.request(3, 4, 4096, 0);
    expect(await client.simpleReply()).toEqual({ error: EINVAL, cookie: 4 });
    await expectAlive(client);
  });

  test("N15: ranges past the end, near 2^32, 2^53, 2^63 and 2^64 are refused", async () => {
    const client = await attach();
    const offsets = [
      BigInt(16 * MIB - 4095),
      BigInt(16 * MIB),
      2n ** 32n - 1n,
      2n ** 32n,
      2n ** 53n - 1n,
      2n ** 53n,
      2n ** 63n - 1n,
      2n ** 63n,
      2n ** 64n - 4096n,
      2n ** 64n - 1n,
    ];
    let cookie = 0;
    for (const offset of offsets) {
      for (const [command, wanted] of [
        [4, EINVAL],
        [5, EINVAL],
        [6, ENOSPC],
      ] as const) {
        client.request(command, ++cookie, offset, 4096);
        expect(await client.simpleReply()).toEqual({ error: wanted, cookie });
      }
      for (const command of [0, 7]) {
        client.request(command, ++cookie, offset, 4096);
        const chunk = await client.chunk();
        expect(chunk.type).toBe(0x8001);
        expect(chunk.data.readUInt32BE(0)).toBe(EINVAL);
        expect(chunk.isDone).toBe(true);
      }
      client.request(1, ++cookie, offset, 4096, 0, Buffer.alloc(4096));
      expect(await client.simpleReply()).toEqual({ error: ENOSPC, cookie });
    }
    for (const command of [4, 6]) {
      client.request(command, ++cookie, 0, 0xffff_ffff);
      expect((await client.simpleReply()).error).not.toBe(0);
    }
    expect(image.done.size).toBe(0);
    await expectAlive(client);
  });

  test("a READ over 32 MiB is invalid", async () => {
    image.sizeBytes = 128 * MIB;
    const client = await attach();
    client.request(0, 1, 0, 32 * MIB + 1);
    expect((await client.chunk()).data.readUInt32BE(0)).toBe(EINVAL);
    await expectAlive(client);
  });

  test("a WRITE over 32 MiB is read, dropped and refused; the connection goes on", async () => {
    image.sizeBytes = 128 * MIB;
    const client = await attach();
    client.request(1, 1, 0, 33 * MIB, 0, Buffer.alloc(33 * MIB));
    expect(await client.simpleReply()).toEqual({ error: EINVAL, cookie: 1 });
    await expectAlive(client);
    expect(image.blocks.size).toBe(0);
  });

  test("N14: a WRITE of 4 GiB ends the connection", async () => {
    const client = await attach();
    client.request(1, 1, 0, 0xffff_ffff);
    await client.whenClosed();
  });

  test("N14: half a payload and a client that leaves free their memory", async () => {
    const client = await attach();
    client.request(1, 1, 0, 4 * MIB, 0, Buffer.alloc(3 * MIB + 12_345, 7));
    await until(() => (image.done.get(1) ?? 0) === 12);
    client.close();
    await until(() => harness.server.counts.connections === 0);
    expect(harness.server.counts.slotsBytes).toBe(0);
  });

  test("N14: a client that leaves with requests in flight frees them when they end", async () => {
    image.isHeld = true;
    const client = await attach();
    for (let at = 0; at < 32; at++)
      client.request(1, at, at * 65_536, 65_536, 0, Buffer.alloc(65_536));
    for (let at = 0; at < 32; at++) client.request(0, 100 + at, at * 65_536, 65_536);
    client.request(0, 200, 0, 4 * MIB);
    await until(() => image.openCount === 64 + 16);
    client.close();
    image.isHeld = false;
    harness.world.turns.again();
    await until(() => harness.server.counts.connections === 0);
    expect(harness.server.counts.slotsBytes).toBe(0);
  });

  test("a READ with DF that can not be one chunk overflows", async () => {
    const client = await attach();
    client.request(0, 1, 0, 2 * MIB, 4);
    expect((await client.chunk()).data.readUInt32BE(0)).toBe(EOVERFLOW);
    client.request(0, 2, 4096, MIB - 4096, 4);
    const chunk = await client.chunk();
    expect(chunk.isDone).toBe(true);
    expect(chunk.type).toBe(2);
  });

  test("BLOCK_STATUS without a context is invalid", async () => {
    const client = await attach(false);
    client.request(7, 1, 0, 4096);
    expect(await client.simpleReply()).toEqual({ error: EINVAL, cookie: 1 });
  });
});

describe("nbd, mutated input", () => {
  test("G15: damaged handshakes and requests never end the gateway, nor keep memory", async () => {
    const prng = new Prng(11);
    const stream = Buffer.concat([
      u32(3),
      option(8, Buffer.alloc(0)),
      option(10, metaRequest("demo/disk", "base:allocation")),
      option(7, infoRequest("demo/disk")),
      request(1, 0, 8192, Buffer.alloc(8192, 1)),
      request(0, 4096, 65_536),
      request(6, 100, 5000),
      request(7, 0, 1_000_000),
      request(3, 0, 0),
      request(4, 0, 65_536),
      request(0, 1, 700_000),
      request(2, 0, 0),
    ]);
    for (let round = 0; round < 300; round++) {
      const bytes = Buffer.from(stream);
      const flips = 1 + prng.below(4);
      for (let flip = 0; flip < flips; flip++) bytes[prng.below(bytes.length)] = prng.below(256);
      const client = await RawClient.open(harness.port);
      client.send(bytes.subarray(0, bytes.length - prng.below(3) * prng.below(9000)));
      if (prng.below(2) === 0) await new Promise((resolve) => setTimeout(resolve, 1));
      client.close();
    }
    await until(() => harness.server.counts.connections === 0);
    expect(harness.server.counts.slotsBytes).toBe(0);
    await expectAlive(await attach());
  });
});

// G19
test("a broken invariant in the opening of an export ends the gateway", async () => {
  const broken = new NbdHarness(createUringWorld, 32, logger);
  broken.source.failure = new AssertionError("an invariant is broken");
  const client = await RawClient.open(broken.port);
  clients.push(client);
  client.flags(3);
  client.option(7, infoRequest("demo/disk"));
  await until(() => broken.fatal !== null);
  expect(broken.fatal?.message).toBe("an invariant is broken");
  await broken.world.stop();
});

describe("nbd transmission", () => {
  test("a WRITE is not answered before its last piece is written", async () => {
    const client = await attach();
    const data = Buffer.alloc(512 * 1024, 9);
    client.request(1, 1, 0, data.length, 0, data.subarray(0, 300_000));
    // The first piece is done, and the second one is being received.
    await until(() => image.done.get(1) === 1);
    // What came later is answered: the reactor has been through its sends since.
    const other = await attach(false);
    await expectAlive(other);
    expect(client.surplus).toBe(0);
    client.send(data.subarray(300_000));
    expect(await client.simpleReply()).toEqual({ error: 0, cookie: 1 });
  });

  test("a client that leaves in the middle of a WRITE leaves nothing behind", async () => {
    const client = await attach();
    client.request(1, 1, 0, 512 * 1024, 0, Buffer.alloc(300_000, 9));
    await until(() => image.done.get(1) === 1);
    client.close();
    await until(() => harness.server.counts.connections === 0);
  });

  test("data, holes and errors of one READ come as chunks, done is said once", async () => {
    const client = await attach();
    client.request(1, 1, 262_144, 4096, 0, Buffer.alloc(4096, 0x77));
    expect((await client.simpleReply()).error).toBe(0);
    image.failing.set(140, Status.Damaged);
    client.request(0, 2, 0, MIB);
    let covered = 0;
    let error = 0;
    for (let isDone = false; !isDone; ) {
      const chunk = await client.chunk();
      expect(chunk.cookie).toBe(2);
      isDone = chunk.isDone;
      if (chunk.type === 2) covered += chunk.data.readUInt32BE(8);
      if (chunk.type === 1) {
        covered += chunk.data.length - 8;
        expect(chunk.data.readBigUInt64BE(0)).toBe(262_144n);
        expect(chunk.data[8]).toBe(0x77);
      }
      if (chunk.type === 0x8001) error = chunk.data.readUInt32BE(0);
    }
    expect(error).toBe(EIO);
    expect(covered).toBe(MIB - 262_144);
    await expectAlive(client);
  });

  test("simple replies stream long READs in order beside short ones", async () => {
    const client = await attach(false);
    const data = Buffer.alloc(4 * MIB);
    for (let at = 0; at < data.length; at += 4) data.writeUInt32BE(at, at);
    client.request(1, 1, 0, data.length, 0, data);
    expect(await client.simpleReply()).toEqual({ error: 0, cookie: 1 });
    const lengths = new Map<number, readonly [number, number]>();
    for (let at = 0; at < 40; at++) {
      const offset = at * 777;
      const length = at % 4 === 0 ? 3 * MIB + at : 512;
      lengths.set(100 + at, [offset, length]);
      client.request(0, 100 + at, offset, length);
    }
    for (let count = 0; count < 40; count++) {
      const reply = await client.simpleReply();
      expect(reply.error).toBe(0);
      const range = lengths.get(reply.cookie);
      if (range === undefined) throw new Error(`cookie ${reply.cookie} twice or never asked`);
      lengths.delete(reply.cookie);
      const found = await client.need(range[1]);
      expect(found.equals(data.subarray(range[0], range[0] + range[1]))).toBe(true);
    }
    expect(lengths.size).toBe(0);
  });

  test("a simple READ that fails at its beginning says so; in the middle, it ends the connection", async () => {
    image.failing.set(100, Status.Damaged);
    const client = await attach(false);
    client.request(0, 1, 100 * 4096, 4096);
    expect(await client.simpleReply()).toEqual({ error: EIO, cookie: 1 });
    client.request(0, 2, 90 * 4096, 8 * MIB);
    expect(await client.simpleReply()).toEqual({ error: EIO, cookie: 2 });
    client.request(0, 3, 128 * 4096, 2 * MIB);
    expect(await client.simpleReply()).toEqual({ error: 0, cookie: 3 });
    await client.need(2 * MIB);
    client.request(0, 4, 0, 2 * MIB);
    await client.whenClosed();
  });

  test("G5, G13: statuses become the protocol's errors", async () => {
    const client = await attach();
    const cases: readonly (readonly [Status, number])[] = [
      [Status.NoSpace, ENOSPC],
      [Status.Damaged, EIO],
      [Status.Fenced, EIO],
      [Status.Removed, EIO],
      [Status.SessionExpired, EIO],
      [Status.Denied, 1],
      [Status.Cancelled, 108],
    ];
    let cookie = 0;
    for (const [status, wanted] of cases) {
      image.failing.set(0, status);
      client.request(1, ++cookie, 0, 4096, 1, Buffer.alloc(4096));
      expect(await client.simpleReply()).toEqual({ error: wanted, cookie });
    }
  });

  test("CACHE of any range within the image does nothing, with success", async () => {
    const client = await attach(false);
    let cookie = 0;
    for (const [offset, length] of [
      [0, 4096],
      [MIB, 2 * MIB],
      [4095, 3],
      [1, 70_001],
      [16 * MIB - 1, 1],
      [0, 16 * MIB],
      [4096, 0],
      [16 * MIB, 0],
    ] as const) {
      client.request(5, ++cookie, offset, length);
      expect(await client.simpleReply()).toEqual({ error: 0, cookie });
    }
    // Nothing of the image was asked for.
    expect([...image.done.values()]).toEqual([]);
    client.request(5, ++cookie, 16 * MIB - 1, 2);
    expect(await client.simpleReply()).toEqual({ error: EINVAL, cookie });
    await expectAlive(client);
  });

  test("BLOCK_STATUS describes unaligned ranges exactly, and one extent on demand", async () => {
    const client = await attach();
    client.request(1, 1, 8192, 8192, 0, Buffer.alloc(8192, 1));
    await client.simpleReply();
    client.request(7, 2, 100, 20_000);
    const chunk = await client.chunk();
    expect(chunk.type).toBe(5);
    const extents: number[] = [];
    for (let at = 4; at < chunk.data.length; at += 4) extents.push(chunk.data.readUInt32BE(at));
    expect(extents).toEqual([8092, 3, 8192, 0, 3716, 3]);
    client.request(7, 3, 100, 20_000, 8);
    const one = await client.chunk();
    expect(one.data.length).toBe(12);
    expect(one.data.readUInt32BE(4)).toBe(8092);
  });

  test("a long BLOCK_STATUS answers about its beginning", async () => {
    image.sizeBytes = 8 * 1024 * MIB;
    const client = await attach();
    client.request(7, 1, 4095, 0xffff_ffff);
    const chunk = await client.chunk();
    const length = chunk.data.readUInt32BE(4);
    expect(length).toBeGreaterThan(0);
    expect(length).toBeLessThanOrEqual(0xffff_ffff);
    expect((length + 4095) % 4096).toBe(0);
  });

  test("G15: a client that does not read is held back, and others go on", async () => {
    for (let block = 0; block < 4096; block++)
      image.blocks.set(block, new Uint8Array(4096).fill(5));
    const slow = await attach();
    slow.pause();
    for (let at = 0; at < 64; at++) slow.request(0, at, 0, 8 * MIB);
    const other = await attach();
    for (let at = 0; at < 50; at++) {
      other.request(1, at, at * 4096, 4096, 0, Buffer.alloc(4096));
      expect((await other.simpleReply()).error).toBe(0);
    }
    expect(harness.server.counts.slotsBytes).toBeLessThanOrEqual(17 * MIB);
    slow.resume();
    const left = new Map<number, number>();
    for (let at = 0; at < 64; at++) left.set(at, 8 * MIB);
    for (let isDone = 0; isDone < 64; ) {
      const chunk = await slow.chunk();
      const bytes = chunk.type === 1 ? chunk.data.length - 8 : chunk.data.readUInt32BE(8);
      left.set(chunk.cookie, left.get(chunk.cookie)! - bytes);
      if (chunk.isDone) isDone++;
    }
    expect([...left.values()].every((bytes) => bytes === 0)).toBe(true);
  });

  test("G15: more clients than memory: all of them are served in the end", async () => {
    const many: RawClient[] = [];
    for (let at = 0; at < 12; at++) many.push(await attach());
    for (const client of many) {
      for (let at = 0; at < 4; at++) {
        client.request(1, at, at * 4 * MIB, 4 * MIB, 0, Buffer.alloc(4 * MIB, at + 1));
      }
    }
    for (const client of many) {
      for (let at = 0; at < 4; at++) expect((await client.simpleReply()).error).toBe(0);
    }
    expect(image.blocks.get(1024)?.[5]).toBe(2);
  });

  test("N14: the gateway stops with requests open: they are answered, then the stream ends", async () => {
    image.isHeld = true;
    const client = await attach();
    const idle = await greet();
    client.request(1, 1, 0, 4096, 0, Buffer.alloc(4096, 1));
    client.request(1, 2, 0, 8 * MIB, 0, Buffer.alloc(100_000));
    await until(() => image.openCount === 1);
    const stopped = harness.server.stop();
    image.isHeld = false;
    harness.world.turns.again();
    expect(await client.simpleReply()).toEqual({ error: 0, cookie: 1 });
    await client.whenClosed();
    await idle.whenClosed();
    await stopped;
  });

  test("DISC ends the connection after the open requests are answered", async () => {
    image.isHeld = true;
    const client = await attach();
    client.request(1, 1, 0, 4096, 0, Buffer.alloc(4096, 1));
    client.request(2, 0, 0, 0);
    await until(() => image.openCount === 1);
    image.isHeld = false;
    harness.world.turns.again();
    expect((await client.simpleReply()).cookie).toBe(1);
    await client.whenClosed();
  });
});
