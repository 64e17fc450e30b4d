// cold: fuzzing of decoders
import { create, type DescMessage, fromBinary, toBinary } from "@bufbuild/protobuf";
import * as control from "../../proto/gen/control_pb.ts";
import * as data from "../../proto/gen/data_pb.ts";
import * as fill from "../../proto/gen/fill_pb.ts";
import * as hot from "../../proto/gen/hot.ts";
import * as raft from "../../proto/gen/raft_pb.ts";
import * as rpc from "../../proto/gen/rpc_pb.ts";
import * as scrub from "../../proto/gen/scrub_pb.ts";
import { assert } from "../base/assert.ts";
import { FastblockError } from "../base/errors.ts";
import { ApplyResult, ClusterMap } from "../cluster/cluster.ts";
import { Method } from "../rpc/rpc.ts";
import type { FuzzTarget } from "./fuzz.ts";
import type { RecordedFrame } from "./fuzz-traffic.ts";
import { sameBytes } from "./fuzz-store.ts";

type Input = Uint8Array<ArrayBuffer>;

/** Twice the largest message of the control plane. */
const BYTES_MAX = 2 * 1_048_576;
const INPUT_BYTES_MAX = 16_384;
const LIMIT = BigInt(Number.MAX_SAFE_INTEGER);

/** What headers hold: the fixed layout of the hot messages, the general codec, the cluster's map. */
export function messageTargets(frames: readonly RecordedFrame[]): FuzzTarget[] {
  return [hotTarget(frames), generalTarget(frames), mapTarget(frames)];
}

/* --------------------------------------------------------------------- hot */

type HotFields = Record<string, number | Uint32Array>;

interface HotCodec {
  readonly schema: DescMessage;
  readonly message: HotFields;
  readonly again: HotFields;
  readonly encode: (message: HotFields, view: DataView, offset: number) => number;
  readonly decode: (message: HotFields, view: DataView, offset: number, length: number) => boolean;
  readonly methods: readonly number[];
}

function hotCodec<Message>(
  schema: DescMessage,
  messages: readonly [Message, Message],
  encode: (message: Message, view: DataView, offset: number) => number,
  decode: (message: Message, view: DataView, offset: number, length: number) => boolean,
  methods: readonly number[],
): HotCodec {
  const [message, again] = messages;
  return { schema, message, again, encode, decode, methods } as unknown as HotCodec;
}

/** Keys of `methods`: kind · 65,536 + method. */
const REQUEST = 65_536;
const REPLY = 131_072;
const ONEWAY = 196_608;

function hotCodecs(): HotCodec[] {
  const { WriteRequest, WriteReply, ReadRequest, ReadReply } = hot;
  const { Append, Control, Heartbeat, BlockFetchRequest } = hot;
  return [
    hotCodec(
      data.WriteRequestSchema,
      [new WriteRequest(), new WriteRequest()],
      hot.encodeWriteRequest,
      hot.decodeWriteRequest,
      [REQUEST + Method.Write],
    ),
    hotCodec(
      data.WriteReplySchema,
      [new WriteReply(), new WriteReply()],
      hot.encodeWriteReply,
      hot.decodeWriteReply,
      [REPLY + Method.Write],
    ),
    hotCodec(
      data.ReadRequestSchema,
      [new ReadRequest(), new ReadRequest()],
      hot.encodeReadRequest,
      hot.decodeReadRequest,
      [REQUEST + Method.Read],
    ),
    hotCodec(
      data.ReadReplySchema,
      [new ReadReply(), new ReadReply()],
      hot.encodeReadReply,
      hot.decodeReadReply,
      [REPLY + Method.Read],
    ),
    hotCodec(raft.AppendSchema, [new Append(), new Append()], hot.encodeAppend, hot.decodeAppend, [
      ONEWAY + Method.RaftAppend,
    ]),
    hotCodec(
      raft.ControlSchema,
      [new Control(), new Control()],
      hot.encodeControl,
      hot.decodeControl,
      [ONEWAY + Method.RaftControl],
    ),
    hotCodec(
      raft.HeartbeatSchema,
      [new Heartbeat(), new Heartbeat()],
      hot.encodeHeartbeat,
      hot.decodeHeartbeat,
      [ONEWAY + Method.RaftHeartbeat],
    ),
    hotCodec(
      raft.BlockFetchRequestSchema,
      [new BlockFetchRequest(), new BlockFetchRequest()],
      hot.encodeBlockFetchRequest,
      hot.decodeBlockFetchRequest,
      [REQUEST + Method.BlockFetch],
    ),
  ];
}

/** The first byte chooses the message. */
function hotTarget(frames: readonly RecordedFrame[]): FuzzTarget {
  const codecs = hotCodecs();
  const scratch = new DataView(new ArrayBuffer(1024));
  const seeds: Uint8Array[] = [];
  codecs.forEach((codec, at) => {
    const size = codec.encode(codec.message, scratch, 0);
    seeds.push(tagged(at, new Uint8Array(scratch.buffer.slice(0, size))));
    for (const { kind, method, header } of frames) {
      if (codec.methods.includes(kind * 65_536 + method)) seeds.push(tagged(at, header));
    }
  });
  return {
    name: "hot-messages",
    seeds,
    sizeMin: 1,
    sizeMax: 1024,
    bytesMax: BYTES_MAX,
    run: (input) => {
      if (input.length === 0) return false;
      return runHot(codecs[input[0]! % codecs.length]!, input, scratch);
    },
  };
}

/** The fixed layout takes what the general codec takes, and reads the same. */
function runHot(codec: HotCodec, input: Input, scratch: DataView): boolean {
  const { schema, message, again } = codec;
  const view = new DataView(input.buffer);
  const taken = codec.decode(message, view, 1, input.length - 1);
  const general = decodeGeneral(schema, input.subarray(1));
  if (general === undefined || !fits(general, message)) {
    assert(!taken, "hot-messages: only the fixed layout takes it");
    return false;
  }
  if (!taken) {
    // Of a field that comes twice, the last counts: the fixed layout may refuse the first.
    const wanted = toBinary(schema, general as never);
    assert(!sameBytes(wanted, input.subarray(1)), "hot-messages: only the general codec takes it");
    return false;
  }
  for (const field of schema.fields) {
    const name = field.localName;
    const wanted = general[name] ?? 0;
    const seen = message[name]!;
    if (typeof seen !== "number") {
      const count = message[`${name}Count`] as number;
      const list = wanted as readonly number[];
      assert(list.length === count, "hot-messages: a list has another length");
      for (let at = 0; at < count; at++) {
        assert(seen[at] === list[at], "hot-messages: a list differs");
      }
    } else assert(seen === Number(wanted), "hot-messages: a field differs");
  }
  const end = codec.encode(message, scratch, 0);
  assert(codec.decode(again, scratch, 0, end), "hot-messages: what was encoded is refused");
  for (const { localName: name } of schema.fields) {
    if (typeof message[name] === "number") {
      assert(message[name] === again[name], "hot-messages: it changed");
    }
  }
  return true;
}

function decodeGeneral(
  schema: DescMessage,
  bytes: Uint8Array,
): Record<string, unknown> | undefined {
  try {
    return fromBinary(schema, bytes) as unknown as Record<string, unknown>;
  } catch (error) {
    refuseOverflow(error);
    return undefined;
  }
}

/** The codec refuses by errors of any class; a stack that ran out is no refusal. */
function refuseOverflow(error: unknown): void {
  const text = error instanceof Error ? error.message : String(error);
  assert(!text.includes("call stack"), "messages: the stack ran out");
}

/** Numbers below 2^53, lists within their capacity. */
function fits(general: Record<string, unknown>, message: HotFields): boolean {
  for (const [name, value] of Object.entries(general)) {
    if (typeof value === "bigint" && value > LIMIT) return false;
    if (name === "$unknown" || !Array.isArray(value)) continue;
    if (value.length > (message[name] as Uint32Array).length) return false;
  }
  return true;
}

function tagged(tag: number, bytes: Uint8Array): Uint8Array {
  const out = new Uint8Array(1 + bytes.length);
  out[0] = tag;
  out.set(bytes, 1);
  return out;
}

/* ----------------------------------------------------------------- general */

function schemasOf(...modules: readonly object[]): DescMessage[] {
  return modules
    .flatMap((module) => Object.values(module) as unknown[])
    .filter((value): value is DescMessage => (value as { kind?: string }).kind === "message");
}

/** Which messages the methods of the control plane carry: request or one-way, and reply. */
const CONTROL_METHODS: readonly (readonly [Method, DescMessage, DescMessage | undefined])[] = [
  [Method.OsdRegister, control.OsdRegisterRequestSchema, control.OsdRegisterReplySchema],
  [Method.OsdReport, control.OsdReportRequestSchema, control.OsdReportReplySchema],
  [Method.MapSubscribe, control.MapSubscribeRequestSchema, control.MapSubscribeReplySchema],
  [Method.MapUpdate, control.MapUpdateSchema, undefined],
  [Method.ImageOpen, control.ImageOpenRequestSchema, control.ImageOpenReplySchema],
  [Method.SessionAttach, control.SessionAttachRequestSchema, control.SessionAttachReplySchema],
  [Method.FillBegin, fill.BeginRequestSchema, fill.BeginReplySchema],
];

/** Every message of proto/ by the general codec; the first byte chooses. */
function generalTarget(frames: readonly RecordedFrame[]): FuzzTarget {
  const schemas = schemasOf(control, data, fill, raft, rpc, scrub);
  const seeds = schemas.map((schema, at) => tagged(at, toBinary(schema, create(schema))));
  for (const { kind, method, header } of frames) {
    const row = CONTROL_METHODS.find(([own]) => own === method);
    const schema = kind === 2 ? row?.[2] : row?.[1];
    if (schema !== undefined) seeds.push(tagged(schemas.indexOf(schema), header));
  }
  return {
    name: "messages",
    seeds: seeds.filter((seed) => seed.length <= INPUT_BYTES_MAX),
    sizeMin: 1,
    sizeMax: INPUT_BYTES_MAX,
    bytesMax: BYTES_MAX,
    run: (input) => {
      if (input.length === 0) return false;
      const schema = schemas[input[0]! % schemas.length]!;
      const message = decodeGeneral(schema, input.subarray(1));
      if (message === undefined) return false;
      const bytes = toBinary(schema, message as never);
      const again = toBinary(schema, fromBinary(schema, bytes));
      assert(sameBytes(bytes, again), "messages: it changed");
      return true;
    },
  };
}

/* --------------------------------------------------------------------- map */

/** A map, or a change of one: from a mon, or from the file that an osd keeps. */
function mapTarget(frames: readonly RecordedFrame[]): FuzzTarget {
  const updates = frames
    .filter((frame) => frame.method === Method.MapUpdate)
    .map((frame) => frame.header);
  const base = new ClusterMap();
  for (const update of updates) base.apply(fromBinary(control.MapUpdateSchema, update));
  const kept = encodeMap(base);
  const next = base.next({
    pools: [...base.pools.values()],
    pgs: [...base.pgs.values()],
    osds: [...base.osds.values()],
    recovery: base.recovery,
  });
  const removed = { generation: 1, changeEpoch: next.epoch };
  const removedPools = [
    { ...removed, first: 3, last: 9 },
    { ...removed, first: 2, last: 2 },
  ];
  const removing = { ...next, removedPools };
  const part = { ...removing, more: true };
  const seeds = [kept, ...[next, removing, part].map((one) => encodeDelta(one)), ...updates];
  return {
    name: "map",
    seeds,
    sizeMax: INPUT_BYTES_MAX,
    bytesMax: BYTES_MAX,
    run: (input) => runMap(kept, input),
  };
}

function encodeDelta(delta: Parameters<ClusterMap["apply"]>[0]): Uint8Array {
  return toBinary(control.MapUpdateSchema, create(control.MapUpdateSchema, delta));
}

function encodeMap(map: ClusterMap): Uint8Array {
  const full = map.deltaFrom(0, 0);
  assert(full !== undefined, "map: there is none");
  return encodeDelta(full);
}

/** On an empty map, as at a start, and on one that is there: all or nothing. */
function runMap(kept: Uint8Array, input: Input): boolean {
  let taken = false;
  for (const before of [undefined, kept]) {
    const map = new ClusterMap();
    if (before !== undefined) map.apply(fromBinary(control.MapUpdateSchema, before));
    const text = before === undefined ? "" : JSON.stringify(map.deltaFrom(0, 0));
    let result: ApplyResult | undefined;
    try {
      const update = fromBinary(control.MapUpdateSchema, input);
      try {
        result = map.apply(update);
      } catch (error) {
        assert(error instanceof FastblockError, `map: ${String(error)}`);
      }
    } catch (error) {
      assert(!String(error).startsWith("AssertionError"), String(error));
      return false;
    }
    taken ||= result !== undefined;
    if (result === ApplyResult.Applied) {
      const bytes = encodeMap(map);
      const again = new ClusterMap();
      const back = again.apply(fromBinary(control.MapUpdateSchema, bytes));
      assert(back === ApplyResult.Applied, "map: what was encoded is refused");
      assert(sameBytes(encodeMap(again), bytes), "map: it changed");
    } else if (before !== undefined) {
      assert(JSON.stringify(map.deltaFrom(0, 0)) === text, "map: a refused change took effect");
    }
  }
  return taken;
}
