import { afterAll, describe, expect, test } from "bun:test";
import {
  create,
  type DescField,
  type DescMessage,
  fromBinary,
  ScalarType,
  toBinary,
} from "@bufbuild/protobuf";
import * as control from "../../proto/gen/control_pb.ts";
import * as fill from "../../proto/gen/fill_pb.ts";
import * as hot from "../../proto/gen/hot.ts";
import * as rpc from "../../proto/gen/rpc_pb.ts";
import * as scrub from "../../proto/gen/scrub_pb.ts";
import { FastblockError } from "../base/errors.ts";
import { parseClusterFile } from "../dev/dev.ts";
import { RecordType, RecordView } from "../log/log.ts";
import { decodeConfiguration } from "../raft/raft.ts";
import { Frame, FrameFault, FrameKind, frameSize, parsePrefix, writePrefix } from "../rpc/rpc.ts";
import { decodeGroupState, encodeGroupState } from "../store/store.ts";
import { BunFuzzMeter } from "./bun-fuzz-meter.ts";

/**
 * G15, N18 of the guarantees: lengths of 0xFFFFFFFF, nesting of 10^5, counts that lie. Each is
 * refused, with no more memory than two of the largest frames. Nothing in the formats is compressed.
 */
const FRAME_BYTES = frameSize(1_048_576, 0);
const DEPTH = 100_000;
const HUGE = 0xffff_ffff;

const meter = new BunFuzzMeter();
afterAll(() => meter.close());

/** Answers what `run` does, within the bound. */
function bounded<Value>(run: () => Value): Value {
  meter.takeAllocated();
  const value = run();
  expect(meter.takeAllocated()).toBeLessThanOrEqual(2 * FRAME_BYTES);
  return value;
}

const SCHEMAS = [control, fill, rpc, scrub]
  .flatMap((module) => Object.values(module) as unknown[])
  .filter((value): value is DescMessage => (value as { kind?: string }).kind === "message");

/** Text, bytes, messages, lists: what says how long it is. */
function hasLength(field: DescField): boolean {
  if (field.fieldKind !== "scalar") return field.fieldKind !== "enum";
  return field.scalar === ScalarType.STRING || field.scalar === ScalarType.BYTES;
}

describe("lengths of 0xFFFFFFFF are refused", () => {
  test.each([
    ["header", 3, FrameFault.HeaderSize],
    ["payload", 6, FrameFault.PayloadSize],
  ])("of a frame's %s", (_, word, fault) => {
    const words = new Int32Array(16);
    const frame = new Frame();
    frame.kind = FrameKind.Request;
    frame.requestId = 1;
    writePrefix(frame, words, 0);
    words[word] = HUGE | 0;
    const limits = { headerBytes: 1_048_576, payloadBytes: 262_144 };
    expect(bounded(() => parsePrefix(frame, words, 0, limits))).toBe(fault);
  });

  test("of every field of every message of the control plane", () => {
    let fields = 0;
    for (const schema of SCHEMAS) {
      for (const field of schema.fields.filter(hasLength)) {
        const { number } = field;
        const tag = number * 8 + 2;
        const head = tag < 128 ? [tag] : [(tag & 127) | 128, tag >>> 7];
        const bytes = Uint8Array.from([...head, 0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2, 3]);
        expect(() => bounded(() => fromBinary(schema, bytes))).toThrow();
        fields += 1;
      }
    }
    expect(fields).toBeGreaterThan(50);
  });

  test("of a record in the log", () => {
    const view = new DataView(new ArrayBuffer(4096));
    const record = new RecordView(view);
    for (const type of [2, RecordType.Fill, RecordType.ReplicaCreated]) {
      view.setUint8(0, type);
      view.setUint8(1, 2);
      view.setUint16(2, 112, true);
      view.setUint32(12, HUGE, true);
      view.setUint8(102, 255);
      view.setUint16(104, 0xffff, true);
      expect(bounded(() => record.load(view, 0, 4096))).toBe(false);
    }
  });
});

describe("counts that lie are refused", () => {
  const state = {
    applied: 4,
    conf: new Uint8Array(36),
    confIndex: 1,
    expiredBelow: 0,
    sessions: [],
    fences: [],
  };

  test.each([
    ["bytes of configuration", 28],
    ["sessions", 80],
    ["fences", 84],
  ])("%s of a group's state", (_, at) => {
    const bytes = encodeGroupState(state);
    expect(decodeGroupState(bytes)).toEqual(state);
    new DataView(bytes.buffer).setUint32(at, HUGE, true);
    expect(bounded(() => decodeGroupState(bytes))).toBeUndefined();
  });

  test("members of a configuration, and an id that nobody may get", () => {
    const empty = Uint8Array.from([1, 0, 0, 0, 1, 0, 0, 0]);
    expect(decodeConfiguration(empty)?.members).toEqual([]);
    expect(bounded(() => decodeConfiguration(empty.with(2, 255)))).toBeNull();
    expect(bounded(() => decodeConfiguration(empty.with(4, 0)))).toBeNull();
  });

  test("words of a hot message", () => {
    const message = new hot.WriteRequest();
    const bytes = new Uint8Array(hot.WRITE_REQUEST_SIZE_MAX);
    const end = hot.encodeWriteRequest(message, new DataView(bytes.buffer), 0);
    bytes.set([0x7a, 0xff, 0xff, 0xff, 0xff, 0x0f], end);
    const view = new DataView(bytes.buffer);
    const taken = bounded(() => hot.decodeWriteRequest(message, view, 0, end + 6));
    expect(taken).toBe(false);
  });
});

describe("nesting of 10^5 is refused", () => {
  /** Unknown groups within each other: field 2047, wire type 3. */
  const groups = new Uint8Array(DEPTH * 2).map((_, at) => (at % 2 === 0 ? 0xfb : 0x7f));

  test("by every message of the control plane", () => {
    for (const schema of SCHEMAS) expect(() => bounded(() => fromBinary(schema, groups))).toThrow();
    // And the stack is whole again.
    const schema = rpc.RefusalSchema;
    expect(fromBinary(schema, toBinary(schema, create(schema, { reason: "x" }))).reason).toBe("x");
  });

  test("by the hot messages", () => {
    const view = new DataView(groups.buffer);
    for (const [message, decode] of [
      [new hot.ReadReply(), hot.decodeReadReply],
      [new hot.Heartbeat(), hot.decodeHeartbeat],
    ] as const) {
      const read = decode as (message: never, view: DataView, at: number, size: number) => boolean;
      expect(bounded(() => read(message as never, view, 0, groups.length))).toBe(false);
    }
  });

  test("by the files of a cluster", () => {
    for (const text of ["[".repeat(DEPTH), '{"mons":'.repeat(DEPTH)]) {
      expect(() => bounded(() => parseClusterFile(text, "cluster.json"))).toThrow(FastblockError);
    }
  });
});
