// cold: once per connection
import { BASE_ALLOCATION, Info, NAME_SIZE_MAX } from "./protocol.ts";

/** INFO and GO: `name length 4 | name | count 2 | info type 2 …` */
export interface InfoRequest {
  readonly name: string;
  readonly wantsName: boolean;
}

/** LIST and SET_META_CONTEXT: `name length 4 | name | count 4 | (length 4 | query) …` */
export interface MetaRequest {
  readonly name: string;
  /** A query names `base:allocation`. */
  readonly matchesExactly: boolean;
  /** As before, or there is no query, or one for the whole namespace `base:`. */
  readonly matchesList: boolean;
}

/** Decode UTF-8 strictly; null when it is malformed or holds a NUL. */
export function optionText(data: Uint8Array): string | null {
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data);
    return text.includes("\0") ? null : text;
  } catch {
    return null;
  }
}

/** Parse the data of INFO or GO; null when lengths do not add up or the name is malformed. */
export function parseInfoRequest(data: Uint8Array): InfoRequest | null {
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  const name = readName(data, view);
  if (name === null) return null;
  const at = 4 + view.getUint32(0);
  if (at + 2 > data.length) return null;
  const count = view.getUint16(at);
  if (at + 2 + 2 * count !== data.length) return null;
  let wantsName = false;
  for (let index = 0; index < count; index++) {
    if (view.getUint16(at + 2 + 2 * index) === Info.Name) wantsName = true;
  }
  return { name, wantsName };
}

/** Parse the data of LIST_META_CONTEXT or SET_META_CONTEXT; null when it is malformed. */
export function parseMetaRequest(data: Uint8Array): MetaRequest | null {
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  const name = readName(data, view);
  if (name === null) return null;
  let at = 4 + view.getUint32(0);
  if (at + 4 > data.length) return null;
  const count = view.getUint32(at);
  at += 4;
  let matchesExactly = false;
  let matchesList = count === 0;
  for (let index = 0; index < count; index++) {
    if (at + 4 > data.length) return null;
    const length = view.getUint32(at);
    if (length > NAME_SIZE_MAX || at + 4 + length > data.length) return null;
    const query = optionText(data.subarray(at + 4, at + 4 + length));
    if (query === null) return null;
    if (query === BASE_ALLOCATION) matchesExactly = true;
    if (query === "base:") matchesList = true;
    at += 4 + length;
  }
  if (at !== data.length) return null;
  return { name, matchesExactly, matchesList: matchesList || matchesExactly };
}

function readName(data: Uint8Array, view: DataView): string | null {
  if (data.length < 4) return null;
  const length = view.getUint32(0);
  if (length > NAME_SIZE_MAX || 4 + length > data.length) return null;
  return optionText(data.subarray(4, 4 + length));
}
