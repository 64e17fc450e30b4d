import {
  type DescField,
  type DescMessage,
  type FileRegistry,
  ScalarType,
} from "@bufbuild/protobuf";

/** Every message of these packages is hot. */
const PACKAGES = ["fastblock.data", "fastblock.raft"];

/** The most words of each list: descriptors have no place for it. */
const LIST_CAPACITY: Readonly<Record<string, number>> = {
  // One crc for each of the 64 blocks of a payload.
  "fastblock.data.WriteRequest.crcs": 64,
  "fastblock.raft.Append.crcs": 64,
  // Three words for each block.
  "fastblock.data.ReadReply.blocks": 192,
};

interface HotField {
  readonly name: string;
  readonly kind: "fixed32" | "fixed64" | "list";
  /** The encoded tag, as a little-endian number of `tagBytes` bytes. */
  readonly tag: number;
  readonly tagBytes: number;
  /** Offset of the tag within the message. */
  readonly at: number;
  readonly capacity: number;
}

interface HotMessage {
  readonly name: string;
  readonly module: string;
  readonly comment: string;
  readonly fields: readonly HotField[];
  readonly list: HotField | undefined;
  readonly fixedBytes: number;
}

/** The source text of `hot.ts`. Throws when a message does not keep to the rules of data.proto. */
export function hotSource(registry: FileRegistry): string {
  const messages: HotMessage[] = [];
  for (const packageName of PACKAGES) {
    const before = messages.length;
    for (const file of registry.files) {
      if (file.proto.package !== packageName) continue;
      for (const message of file.messages) messages.push(plan(message));
    }
    if (messages.length === before) throw new Error(`hot: package ${packageName} has no messages`);
  }
  const names = new Set(messages.map((message) => message.name));
  if (names.size !== messages.length) throw new Error("hot: two messages have one name");
  return `${prologue(messages)}\n${messages.map(emitMessage).join("\n")}`;
}

function plan(message: DescMessage): HotMessage {
  const fields: HotField[] = [];
  let at = 0;
  let previous = 0;
  for (const field of message.fields) {
    if (field.number <= previous) throw refuse(field, "not in field-number order");
    if (fields.at(-1)?.kind === "list") throw refuse(field, "behind the list");
    previous = field.number;
    const planned = planField(field, at);
    fields.push(planned);
    if (planned.kind !== "list") at += planned.tagBytes + (planned.kind === "fixed32" ? 4 : 8);
  }
  const last = fields.at(-1);
  return {
    name: message.name,
    module: `${message.file.name.split("/").at(-1)}_pb.ts`,
    comment: message.typeName,
    fields: fields.filter((field) => field.kind !== "list"),
    list: last?.kind === "list" ? last : undefined,
    fixedBytes: at,
  };
}

function planField(field: DescField, at: number): HotField {
  if (field.number > 2047) throw refuse(field, "number above 2047");
  const kind = kindOf(field);
  const wireType = kind === "list" ? 2 : kind === "fixed32" ? 5 : 1;
  const key = field.number * 8 + wireType;
  const tagBytes = key < 128 ? 1 : 2;
  // Base-128: low seven bits with the continuation bit, then the rest.
  const tag = tagBytes === 1 ? key : (key & 127) | 128 | ((key >> 7) << 8);
  const capacity = kind === "list" ? LIST_CAPACITY[listName(field)] : 0;
  if (capacity === undefined) throw refuse(field, "list without a capacity in generate-hot.ts");
  return { name: field.localName, kind, tag, tagBytes, at, capacity };
}

function listName(field: DescField): string {
  return `${field.parent.typeName}.${field.name}`;
}

function kindOf(field: DescField): HotField["kind"] {
  if (field.fieldKind === "list") {
    if (field.listKind !== "scalar" || field.scalar !== ScalarType.FIXED32 || !field.packed) {
      throw refuse(field, "a list that is not packed fixed32");
    }
    return "list";
  }
  if (field.fieldKind !== "scalar") throw refuse(field, "neither fixed32 nor fixed64");
  if (!field.proto.proto3Optional) throw refuse(field, "not optional");
  if (field.scalar === ScalarType.FIXED32) return "fixed32";
  if (field.scalar === ScalarType.FIXED64) return "fixed64";
  throw refuse(field, "neither fixed32 nor fixed64");
}

function refuse(field: DescField, why: string): Error {
  return new Error(`hot: ${field.parent.typeName}.${field.name}: ${why}`);
}

/* ---------------------------------------------------------------- emitting */

const hex = (value: number): string => `0x${value.toString(16)}`;
const place = (bytes: number): string => (bytes === 0 ? "offset" : `offset + ${bytes}`);
const screaming = (name: string): string =>
  name.replace(/(?<=[a-z0-9])(?=[A-Z])/g, "_").toUpperCase();

function prologue(messages: readonly HotMessage[]): string {
  const modules = new Map<string, string[]>();
  for (const message of messages) {
    const names = modules.get(message.module) ?? [];
    names.push(`${message.name}Schema`);
    modules.set(message.module, names);
  }
  const imports = [...modules].map(
    ([module, names]) => `import {\n  ${names.sort().join(",\n  ")},\n} from "./${module}";`,
  );
  return `// data path
// Generated by proto/generate.ts. Do not edit.
/**
 * Fixed-layout codec of the hot messages (see data.proto).
 *
 * The bytes are protobuf. What any encoder writes for these messages has one layout up to the list
 * at the end, so it is read and written at constant offsets; bytes laid out otherwise (another
 * order, absent or unknown fields) go to the general decoder, which agrees. Numbers of fixed64
 * fields are below 2^53: others are refused. A message that could not be decoded has undefined
 * content.
 */
import { fromBinary } from "@bufbuild/protobuf";
import { assert } from "../../core/base/assert.ts";
${imports.join("\n")}

const TWO_32 = 4_294_967_296;
/** High halves of numbers below 2^53 are below this. */
const HIGH_LIMIT = 0x20_0000;

function putU32(view: DataView, at: number, value: number): void {
  assert(value >>> 0 === value, "hot: number outside of u32");
  view.setUint32(at, value, true);
}

function putU64(view: DataView, at: number, value: number): void {
  assert(value >= 0 && value <= Number.MAX_SAFE_INTEGER, "hot: number outside of 0 to 2^53 - 1");
  const high = Math.floor(value / TWO_32);
  view.setUint32(at, value - high * TWO_32, true);
  view.setUint32(at + 4, high, true);
}

function getU64(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * TWO_32;
}

/** The bytes of a list as a canonical varint: its length, or -1. At most two bytes are used here. */
function listLength(view: DataView, at: number, end: number): number {
  if (at >= end) return -1;
  const first = view.getUint8(at);
  if (first < 128) return first;
  if (at + 1 >= end) return -1;
  const second = view.getUint8(at + 1);
  return second === 0 || second > 127 ? -1 : (first & 127) + second * 128;
}

function bytesOf(view: DataView, offset: number, length: number): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset + offset, length);
}
`;
}

function emitMessage(message: HotMessage): string {
  return [
    emitClass(message),
    emitSize(message),
    emitEncode(message),
    emitDecode(message),
    ...(message.list === undefined ? [] : [emitDecodeList(message, message.list)]),
    emitGeneral(message),
  ].join("\n");
}

function emitClass(message: HotMessage): string {
  const lines = message.fields.map((field) => `  ${field.name} = 0;`);
  const list = message.list;
  if (list !== undefined) {
    lines.push(`  /** The first \`${list.name}Count\` words count. */`);
    lines.push(`  readonly ${list.name}: Uint32Array = new Uint32Array(${list.capacity});`);
    lines.push(`  ${list.name}Count = 0;`);
  }
  return `/** ${message.comment}. Reused. */
export class ${message.name} {
${lines.join("\n")}
}
`;
}

function sizeMax(message: HotMessage): number {
  const list = message.list;
  if (list === undefined) return message.fixedBytes;
  const bytes = list.capacity * 4;
  return message.fixedBytes + list.tagBytes + (bytes < 128 ? 1 : 2) + bytes;
}

function emitSize(message: HotMessage): string {
  const list = message.list;
  const constant = `${screaming(message.name)}_SIZE_MAX`;
  const head = `/** The most bytes of an encoded ${message.name}. */
export const ${constant} = ${sizeMax(message)};

/** Bytes that \`encode${message.name}\` writes. */`;
  if (list === undefined) {
    return `${head}
export function sizeOf${message.name}(_message: ${message.name}): number {
  return ${message.fixedBytes};
}
`;
  }
  return `${head}
export function sizeOf${message.name}(message: ${message.name}): number {
  const bytes = message.${list.name}Count * 4;
  if (bytes === 0) return ${message.fixedBytes};
  return ${message.fixedBytes + list.tagBytes} + (bytes < 128 ? 1 : 2) + bytes;
}
`;
}

function putTag(field: HotField, at: string): string {
  return field.tagBytes === 1
    ? `view.setUint8(${at}, ${hex(field.tag)});`
    : `view.setUint16(${at}, ${hex(field.tag)}, true);`;
}

function emitEncode(message: HotMessage): string {
  const lines: string[] = [];
  for (const field of message.fields) {
    lines.push(putTag(field, place(field.at)));
    const put = field.kind === "fixed32" ? "putU32" : "putU64";
    lines.push(`${put}(view, ${place(field.at + field.tagBytes)}, message.${field.name});`);
  }
  const list = message.list;
  if (list === undefined) {
    lines.push(`return ${place(message.fixedBytes)};`);
  } else {
    lines.push(
      `const count = message.${list.name}Count;`,
      `assert(count <= ${list.capacity}, "hot: ${message.name}.${list.name} too long");`,
      `if (count === 0) return ${place(message.fixedBytes)};`,
      putTag(list, place(message.fixedBytes)),
      `let at = ${place(message.fixedBytes + list.tagBytes)};`,
      "const bytes = count * 4;",
      "if (bytes >= 128) view.setUint8(at++, (bytes & 127) | 128);",
      "view.setUint8(at++, bytes >= 128 ? bytes >>> 7 : bytes);",
      "for (let index = 0; index < count; index++) {",
      `  view.setUint32(at, message.${list.name}[index]!, true);`,
      "  at += 4;",
      "}",
      "return at;",
    );
  }
  return `/** Write \`message\` at \`offset\`; answers the offset behind it. */
export function encode${message.name}(message: ${message.name}, view: DataView, offset: number): number {
  ${lines.join("\n  ")}
}
`;
}

function emitDecode(message: HotMessage): string {
  const list = message.list;
  const checks = message.fields.map((field) =>
    field.tagBytes === 1
      ? `view.getUint8(${place(field.at)}) !== ${hex(field.tag)}`
      : `view.getUint16(${place(field.at)}, true) !== ${hex(field.tag)}`,
  );
  const lines: string[] = [];
  for (const field of message.fields) {
    const at = field.at + field.tagBytes;
    if (field.kind === "fixed32") {
      lines.push(`message.${field.name} = view.getUint32(${place(at)}, true);`);
    } else {
      lines.push(`if (view.getUint32(${place(at + 4)}, true) >= HIGH_LIMIT) return false;`);
      lines.push(`message.${field.name} = getU64(view, ${place(at)});`);
    }
  }
  if (list === undefined) lines.push("return true;");
  else lines.push(`return decode${message.name}List(message, view, offset, length);`);
  const lengthCheck = list === undefined ? "!==" : "<";
  return `/** Read a message of \`length\` bytes at \`offset\`; false when it is malformed. */
export function decode${message.name}(message: ${message.name}, view: DataView, offset: number, length: number): boolean {
  if (
    length ${lengthCheck} ${message.fixedBytes} ||
    ${checks.join(" ||\n    ")}
  ) {
    return decodeGeneral${message.name}(message, view, offset, length);
  }
  ${lines.join("\n  ")}
}
`;
}

function emitDecodeList(message: HotMessage, list: HotField): string {
  const tag =
    list.tagBytes === 1
      ? `view.getUint8(${place(message.fixedBytes)})`
      : `view.getUint16(${place(message.fixedBytes)}, true)`;
  return `function decode${message.name}List(message: ${message.name}, view: DataView, offset: number, length: number): boolean {
  if (length === ${message.fixedBytes}) {
    message.${list.name}Count = 0;
    return true;
  }
  const end = offset + length;
  const bytes =
    length > ${message.fixedBytes + list.tagBytes} && ${tag} === ${hex(list.tag)}
      ? listLength(view, ${place(message.fixedBytes + list.tagBytes)}, end)
      : -1;
  let at = ${place(message.fixedBytes + list.tagBytes)} + (bytes < 128 ? 1 : 2);
  if (bytes <= 0 || (bytes & 3) !== 0 || at + bytes !== end) {
    return decodeGeneral${message.name}(message, view, offset, length);
  }
  const count = bytes >>> 2;
  if (count > ${list.capacity}) return false;
  message.${list.name}Count = count;
  for (let index = 0; index < count; index++) {
    message.${list.name}[index] = view.getUint32(at, true);
    at += 4;
  }
  return true;
}
`;
}

function emitGeneral(message: HotMessage): string {
  const lines: string[] = [];
  for (const field of message.fields) {
    lines.push(
      field.kind === "fixed32"
        ? `message.${field.name} = general.${field.name} ?? 0;`
        : `message.${field.name} = Number(general.${field.name} ?? 0n);`,
    );
  }
  for (const field of message.fields) {
    if (field.kind === "fixed32") continue;
    lines.push(`if (message.${field.name} > Number.MAX_SAFE_INTEGER) return false;`);
  }
  const list = message.list;
  if (list !== undefined) {
    lines.push(
      `if (general.${list.name}.length > ${list.capacity}) return false;`,
      `message.${list.name}Count = general.${list.name}.length;`,
      `message.${list.name}.set(general.${list.name});`,
    );
  }
  lines.push("return true;");
  return `// Cold: only for bytes that another encoder laid out otherwise.
function decodeGeneral${message.name}(message: ${message.name}, view: DataView, offset: number, length: number): boolean {
  try {
    const general = fromBinary(${message.name}Schema, bytesOf(view, offset, length));
    ${lines.join("\n    ")}
  } catch {
    return false;
  }
}
`;
}
