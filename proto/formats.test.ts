import { type DescField, type DescMessage, ScalarType } from "@bufbuild/protobuf";
import { describe, expect, test } from "bun:test";
import * as control from "./gen/control_pb.ts";
import * as data from "./gen/data_pb.ts";
import * as fillMessages from "./gen/fill_pb.ts";
import * as hot from "./gen/hot.ts";
import * as raft from "./gen/raft_pb.ts";
import * as rpc from "./gen/rpc_pb.ts";
import * as scrub from "./gen/scrub_pb.ts";
import * as starts from "./gen/starts_pb.ts";

/**
 * Every message as it travels. The files in `testdata` change only together with a `Format:` line in
 * the commit; `UPDATE_GOLDEN=1 bun test proto/formats` writes them anew.
 */
async function golden(name: string, text: string): Promise<void> {
  const path = `${import.meta.dir}/testdata/${name}.golden`;
  if (process.env["UPDATE_GOLDEN"] === "1") await Bun.write(path, text);
  expect(text).toBe(await Bun.file(path).text());
}

function dump(bytes: Uint8Array): string {
  const rows = [`${bytes.length} bytes`];
  for (let at = 0; at < bytes.length; at += 32) rows.push(bytes.subarray(at, at + 32).toHex());
  return `${rows.join("\n")}\n`;
}

/** Its list, `count` words of which are set. */
function words(list: Uint32Array, count: number): number {
  for (let at = 0; at < count; at++) list[at] = 0xc0c0_0001 + at;
  return count;
}

/** No two fields of a message have one value: exchanged ones show. */
const WIDE = 0x01_2345_6789_abcd;

function writeRequest(blocks: number): hot.WriteRequest {
  const message = new hot.WriteRequest();
  return Object.assign(message, {
    pg: 0x0001_0007,
    replica: 4,
    generation: 2,
    epoch: 9,
    session: WIDE,
    number: 12,
    below: 11,
    layer: 0x2_0000_0003,
    firstBlock: 0x1_0000_000e,
    blocks: 40,
    snapSeq: 6,
    lockEpoch: 8,
    ifVersion: 10,
    type: 1,
    crcsCount: words(message.crcs, blocks),
  });
}

function readReply(): hot.ReadReply {
  const message = new hot.ReadReply();
  return Object.assign(message, {
    status: 3,
    pg: 0x0001_0007,
    leaderOsd: 5,
    leaderShard: 1,
    generation: 2,
    epoch: 9,
    blocksCount: words(message.blocks, 6),
  });
}

function append(blocks: number): hot.Append {
  const message = new hot.Append();
  return Object.assign(message, {
    pg: 0x0001_0007,
    from: 4,
    to: 5,
    term: 21,
    prevIndex: WIDE,
    prevTerm: 20,
    commit: 0x1_0000_0002,
    entryTerm: 19,
    entryType: 2,
    session: 0x1_0000_0001,
    number: 12,
    below: 11,
    layer: 0x2_0000_0003,
    firstBlock: 0x1_0000_000e,
    blocks: 40,
    snapSeq: 6,
    lockEpoch: 8,
    ifVersion: 10,
    crcsCount: words(message.crcs, blocks),
  });
}

/** One hot message: how it is made, and its codec. */
interface Case<Message> {
  readonly message: Message;
  readonly empty: Message;
  readonly encode: (message: Message, view: DataView, offset: number) => number;
  readonly decode: (message: Message, view: DataView, offset: number, length: number) => boolean;
  readonly sizeOf: (message: Message) => number;
}

/** Compare its bytes with the golden file, and read them back. */
async function check<Message>(name: string, one: Case<Message>): Promise<void> {
  const bytes = new Uint8Array(one.sizeOf(one.message));
  expect(one.encode(one.message, new DataView(bytes.buffer), 0)).toBe(bytes.length);
  await golden(name, dump(bytes));
  expect(one.decode(one.empty, new DataView(bytes.buffer), 0, bytes.length)).toBe(true);
  expect(one.empty).toEqual(one.message);
}

describe("a hot message has the bytes of its golden file, and reads back", () => {
  // Lists of fewer and of more than 127 bytes: their length takes one byte, or two.
  test.each([0, 2, 40])("WriteRequest with %d checksums", async (blocks) => {
    await check(`write-request-${blocks}`, {
      message: writeRequest(blocks),
      empty: new hot.WriteRequest(),
      encode: hot.encodeWriteRequest,
      decode: hot.decodeWriteRequest,
      sizeOf: hot.sizeOfWriteRequest,
    });
  });

  test.each([0, 2, 40])("Append with %d checksums", async (blocks) => {
    await check(`append-${blocks}`, {
      message: append(blocks),
      empty: new hot.Append(),
      encode: hot.encodeAppend,
      decode: hot.decodeAppend,
      sizeOf: hot.sizeOfAppend,
    });
  });

  test("WriteReply", async () => {
    const message = Object.assign(new hot.WriteReply(), {
      status: 3,
      pg: 0x0001_0007,
      leaderOsd: 5,
      leaderShard: 1,
      generation: 2,
      epoch: 9,
      version: WIDE,
    });
    await check("write-reply", {
      message,
      empty: new hot.WriteReply(),
      encode: hot.encodeWriteReply,
      decode: hot.decodeWriteReply,
      sizeOf: hot.sizeOfWriteReply,
    });
  });

  test("ReadRequest", async () => {
    const message = Object.assign(new hot.ReadRequest(), {
      pg: 0x0001_0007,
      replica: 4,
      generation: 2,
      epoch: 9,
      session: WIDE,
      layer: 0x2_0000_0003,
      firstBlock: 0x1_0000_000e,
      blocks: 40,
      snapSeq: 0xffff_ffff,
      lockEpoch: 8,
      flags: 3,
    });
    await check("read-request", {
      message,
      empty: new hot.ReadRequest(),
      encode: hot.encodeReadRequest,
      decode: hot.decodeReadRequest,
      sizeOf: hot.sizeOfReadRequest,
    });
  });

  test("ReadReply", async () => {
    await check("read-reply", {
      message: readReply(),
      empty: new hot.ReadReply(),
      encode: hot.encodeReadReply,
      decode: hot.decodeReadReply,
      sizeOf: hot.sizeOfReadReply,
    });
  });

  test("Control", async () => {
    const message = Object.assign(new hot.Control(), {
      pg: 0x0001_0007,
      from: 4,
      to: 5,
      type: 3,
      term: 21,
      index: WIDE,
      logTerm: 20,
      commit: 0x1_0000_0002,
      reject: 1,
      hintIndex: 0x3_0000_0006,
      hintTerm: 19,
      context: 0x4_0000_0008,
    });
    await check("control", {
      message,
      empty: new hot.Control(),
      encode: hot.encodeControl,
      decode: hot.decodeControl,
      sizeOf: hot.sizeOfControl,
    });
  });

  test("Heartbeat", async () => {
    const message = Object.assign(new hot.Heartbeat(), {
      sentUs: WIDE,
      echoUs: 0x1_0000_0002,
    });
    await check("heartbeat", {
      message,
      empty: new hot.Heartbeat(),
      encode: hot.encodeHeartbeat,
      decode: hot.decodeHeartbeat,
      sizeOf: hot.sizeOfHeartbeat,
    });
  });

  test("BlockFetchRequest", async () => {
    const message = Object.assign(new hot.BlockFetchRequest(), {
      pg: 0x0001_0007,
      replica: 4,
      layer: 0x2_0000_0003,
      firstBlock: 0x1_0000_000e,
      blocks: 1,
      snapSeq: 6,
      version: WIDE,
    });
    await check("block-fetch-request", {
      message,
      empty: new hot.BlockFetchRequest(),
      encode: hot.encodeBlockFetchRequest,
      decode: hot.decodeBlockFetchRequest,
      sizeOf: hot.sizeOfBlockFetchRequest,
    });
  });
});

/** `1 crcs: list of FIXED32`, `2 sender: fastblock.rpc.Endpoint`. */
function fieldLine(field: DescField): string {
  const { scalar } = field;
  const type = scalar === undefined ? (field.message ?? field.enum)?.typeName : ScalarType[scalar];
  const oneof = field.oneof === undefined ? "" : ` of ${field.oneof.name}`;
  const list = field.fieldKind === "list" ? `${field.packed ? "packed " : ""}list of ` : "";
  // A map has two types; there is none so far.
  expect(field.fieldKind).not.toBe("map");
  return `  ${field.number} ${field.name}: ${list}${type}${oneof}`;
}

const modules: readonly (readonly [string, object])[] = [
  ["control", control],
  ["data", data],
  ["fill", fillMessages],
  ["raft", raft],
  ["rpc", rpc],
  ["scrub", scrub],
  ["starts", starts],
];

// The general codec is a library's: names, numbers and types of the fields tell its bytes.
test.each(modules)(
  "messages of %s.proto have the fields of their golden file",
  async (name, one) => {
    const descriptors = Object.values(one) as { readonly kind?: string }[];
    const lines: string[] = [];
    for (const value of descriptors) {
      if (value.kind !== "message") continue;
      const message = value as unknown as DescMessage;
      lines.push(message.typeName, ...message.fields.map(fieldLine));
    }
    for (const value of descriptors) {
      if (value.kind !== "enum") continue;
      const { typeName, values } = value as unknown as {
        readonly typeName: string;
        readonly values: readonly { readonly name: string; readonly number: number }[];
      };
      lines.push(typeName, ...values.map((member) => `  ${member.number} ${member.name}`));
    }
    expect(lines.length).toBeGreaterThan(1);
    await golden(`fields-${name}`, `${lines.join("\n")}\n`);
  },
);
