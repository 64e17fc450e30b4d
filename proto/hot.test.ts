import {
  create,
  type DescMessage,
  fromBinary,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import * as data from "./gen/data_pb.ts";
import * as hot from "./gen/hot.ts";
import * as raft from "./gen/raft_pb.ts";

type Fields = Record<string, number | Uint32Array>;

/** One hot message: its class, its codec, its schema. */
interface Case {
  readonly name: string;
  readonly schema: DescMessage;
  readonly make: () => Fields;
  readonly encode: (message: never, view: DataView, offset: number) => number;
  readonly decode: (message: never, view: DataView, offset: number, length: number) => boolean;
  readonly sizeOf: (message: never) => number;
  readonly sizeMax: number;
}

const codec = hot as unknown as Record<string, never>;
const classes = hot as unknown as Record<string, new () => Fields>;
const schemas: readonly DescMessage[] = [...Object.values(data), ...Object.values(raft)].filter(
  (value) => (value as { kind?: string }).kind === "message",
) as unknown as DescMessage[];

const cases: readonly Case[] = schemas.map((schema) => {
  const name = schema.name;
  const Message = classes[name]!;
  const constant = name.replace(/(?<=[a-z])(?=[A-Z])/g, "_").toUpperCase();
  return {
    name,
    schema,
    make: () => new Message(),
    encode: codec[`encode${name}`]!,
    decode: codec[`decode${name}`]!,
    sizeOf: codec[`sizeOf${name}`]!,
    sizeMax: codec[`${constant}_SIZE_MAX`]!,
  };
});

const u32 = fc.integer({ min: 0, max: 0xffff_ffff });
const u53 = fc.maxSafeNat();
const edge = fc.constantFrom(0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff);

function isWide(schema: DescMessage, name: string): boolean {
  const field = schema.fields.find((one) => one.localName === name);
  return field?.fieldKind === "scalar" && field.scalar === 6;
}

/** Any content of this message. */
function contentOf({ schema, make }: Case): fc.Arbitrary<Record<string, number | number[]>> {
  const shape: Record<string, fc.Arbitrary<number | number[]>> = {};
  for (const field of schema.fields) {
    const name = field.localName;
    if (field.fieldKind === "list") {
      const capacity = (make()[name] as Uint32Array).length;
      shape[name] = fc.array(u32, { maxLength: capacity, size: "max" });
    } else shape[name] = isWide(schema, name) ? fc.oneof(edge, u53) : fc.oneof(edge, u32);
  }
  return fc.record(shape);
}

function fill(target: Fields, content: Record<string, number | number[]>): Fields {
  for (const [name, value] of Object.entries(content)) {
    if (Array.isArray(value)) {
      (target[name] as Uint32Array).set(value);
      target[`${name}Count`] = value.length;
    } else target[name] = value;
  }
  return target;
}

function toGeneral(
  { schema }: Case,
  content: Record<string, number | number[]>,
): MessageShape<DescMessage> {
  const init: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(content)) {
    init[name] = isWide(schema, name) ? BigInt(value as number) : value;
  }
  return create(schema, init);
}

/** What a hot message holds, as `content` tells it. */
function read(message: Fields, content: Record<string, number | number[]>): unknown {
  return Object.fromEntries(
    Object.keys(content).map((name) => {
      const value = message[name]!;
      if (typeof value === "number") return [name, value];
      return [name, Array.from(value.subarray(0, message[`${name}Count`] as number))];
    }),
  );
}

const OFFSET = 3;
const viewOf = (bytes: Uint8Array): DataView => {
  const buffer = new Uint8Array(bytes.length + OFFSET + 8);
  buffer.set(bytes, OFFSET);
  return new DataView(buffer.buffer);
};

test("there are hot messages", () => {
  expect(cases.map((one) => one.name).sort()).toEqual([
    "Append",
    "BlockFetchRequest",
    "Control",
    "Heartbeat",
    "ReadReply",
    "ReadRequest",
    "WriteReply",
    "WriteRequest",
  ]);
});

describe.each(cases.map((one) => [one.name, one] as const))("%s", (_name, one) => {
  const content = contentOf(one);

  test("is encoded as the general codec does, byte for byte", () => {
    fc.assert(
      fc.property(content, (values) => {
        const message = fill(one.make(), values);
        const size = one.sizeOf(message as never);
        const buffer = new ArrayBuffer(OFFSET + one.sizeMax);
        const end = one.encode(message as never, new DataView(buffer), OFFSET);
        expect(end - OFFSET).toBe(size);
        expect(size).toBeLessThanOrEqual(one.sizeMax);
        const bytes = new Uint8Array(buffer, OFFSET, size);
        expect(bytes).toEqual(toBinary(one.schema, toGeneral(one, values)));
        expect(fromBinary(one.schema, bytes)).toEqual(toGeneral(one, values));
      }),
    );
  });

  test("is decoded as the general codec does", () => {
    fc.assert(
      fc.property(content, (values) => {
        const bytes = toBinary(one.schema, toGeneral(one, values));
        const message = fill(one.make(), {});
        expect(one.decode(message as never, viewOf(bytes), OFFSET, bytes.length)).toBe(true);
        expect(read(message, values)).toEqual(values);
      }),
    );
  });

  test("in any other layout it is decoded alike", () => {
    fc.assert(
      fc.property(content, fc.nat({ max: 1000 }), (values, salt) => {
        // Fields in another order, some left out, one unknown.
        const names = Object.keys(values);
        const kept = names.filter((_, at) => ((salt >> (at % 10)) & 1) === 0);
        const parts = kept
          .sort((a, b) => ((a.length * salt) % 7) - ((b.length * salt) % 7))
          .map((name) => toBinary(one.schema, toGeneral(one, { [name]: values[name]! })));
        const unknown = Uint8Array.from([0xf8, 0x7f, salt & 0x7f]);
        const bytes = new Uint8Array(Buffer.concat([...parts, unknown]));
        const general = fromBinary(one.schema, bytes) as unknown as Record<string, unknown>;
        const message = one.make();
        expect(one.decode(message as never, viewOf(bytes), OFFSET, bytes.length)).toBe(true);
        for (const name of names) {
          const wanted = general[name] ?? 0;
          const seen = (read(message, { [name]: 0 }) as Record<string, unknown>)[name];
          expect(seen).toEqual(typeof wanted === "bigint" ? Number(wanted) : wanted);
        }
      }),
    );
  });

  test("any bytes: decoded as the general codec does, or refused", () => {
    const limit = BigInt(Number.MAX_SAFE_INTEGER);
    fc.assert(
      fc.property(content, fc.uint8Array({ maxLength: 40 }), u32, (values, noise, at) => {
        const bytes = toBinary(one.schema, toGeneral(one, values));
        bytes.set(noise.subarray(0, bytes.length), at % Math.max(1, bytes.length - noise.length));
        const message = one.make();
        const done = one.decode(message as never, viewOf(bytes), OFFSET, bytes.length);
        let general: Record<string, unknown>;
        try {
          general = fromBinary(one.schema, bytes) as unknown as Record<string, unknown>;
        } catch {
          expect(done).toBe(false);
          return;
        }
        const tooLarge = Object.values(general).some(
          (value) => typeof value === "bigint" && value > limit,
        );
        const tooLong = Object.entries(general).some(
          ([name, value]) =>
            name !== "$unknown" &&
            Array.isArray(value) &&
            value.length > (message[name] as Uint32Array).length,
        );
        expect(done).toBe(!tooLarge && !tooLong);
        if (!done) return;
        for (const name of Object.keys(values)) {
          const wanted = general[name] ?? 0;
          const seen = (read(message, { [name]: 0 }) as Record<string, unknown>)[name];
          expect(seen).toEqual(typeof wanted === "bigint" ? Number(wanted) : wanted);
        }
      }),
      { numRuns: 300 },
    );
  });

  test("numbers from 2^53 on are refused both ways", () => {
    const wide = one.schema.fields.find((field) => isWide(one.schema, field.localName));
    if (wide === undefined) return expect(one.name).toBe("ReadReply");
    const all: Record<string, unknown> = {};
    for (const field of one.schema.fields) {
      if (field.fieldKind !== "list")
        all[field.localName] = isWide(one.schema, field.localName) ? 0n : 0;
    }
    for (const value of [2n ** 53n, 2n ** 64n - 1n]) {
      for (const init of [{ ...all, [wide.localName]: value }, { [wide.localName]: value }]) {
        const bytes = toBinary(one.schema, create(one.schema, init));
        expect(one.decode(one.make() as never, viewOf(bytes), OFFSET, bytes.length)).toBe(false);
      }
    }
    const message = one.make();
    for (const value of [2 ** 53, -1, Number.NaN]) {
      message[wide.localName] = value;
      const view = new DataView(new ArrayBuffer(one.sizeMax));
      expect(() => one.encode(message as never, view, 0)).toThrow("hot: number outside");
    }
  });

  test("a list that is too long is refused", () => {
    const list = one.schema.fields.find((field) => field.fieldKind === "list");
    if (list === undefined) return expect(one.sizeMax).toBe(one.sizeOf(one.make() as never));
    const name = list.localName;
    const capacity = (one.make()[name] as Uint32Array).length;
    const all: Record<string, unknown> = { [name]: new Array<number>(capacity + 1).fill(9) };
    const sparse = toBinary(one.schema, create(one.schema, all));
    expect(one.decode(one.make() as never, viewOf(sparse), OFFSET, sparse.length)).toBe(false);
    for (const field of one.schema.fields) {
      if (field.fieldKind !== "list")
        all[field.localName] = isWide(one.schema, field.localName) ? 1n : 1;
    }
    const bytes = toBinary(one.schema, create(one.schema, all));
    expect(one.decode(one.make() as never, viewOf(bytes), OFFSET, bytes.length)).toBe(false);
    const message = one.make();
    message[`${name}Count`] = capacity + 1;
    const view = new DataView(new ArrayBuffer(one.sizeMax + 64));
    expect(() => one.encode(message as never, view, 0)).toThrow("too long");
  });
});

test("nested groups and lying lengths are refused without a crash", () => {
  const message = new hot.WriteRequest();
  const deep = new Uint8Array(100_000).fill(0xfb);
  for (let at = 1; at < deep.length; at += 2) deep[at] = 0x7f;
  expect(hot.decodeWriteRequest(message, viewOf(deep), OFFSET, deep.length)).toBe(false);
  const lying = Uint8Array.from([0x7a, 0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2, 3, 4]);
  expect(hot.decodeWriteRequest(message, viewOf(lying), OFFSET, lying.length)).toBe(false);
});
