import { FastblockError } from "../base/errors.ts";
import type { Logger } from "../base/logger.ts";
import { decodeStarts, isNewer, judgeStarts, type StoreStart } from "../store/store.ts";
import type { OsdRegisterRequest } from "../../proto/gen/control_pb.ts";
import type { OsdRecord, RememberedStart } from "./records.ts";

/** Stores that one osd has had and that are remembered. */
const STORES_MAX = 8;

/**
 * What the monitor is to remember of an osd's stores once this one has registered: the newest start
 * of each, the present store first. Throws FB4004 when the store is an old copy, FB1001.
 *
 * A refusal changes nothing: whoever holds the right disk can put it back.
 */
export function rememberStart(
  record: OsdRecord | undefined,
  request: OsdRegisterRequest,
  logger: Logger,
): readonly RememberedStart[] {
  const what = `registering osd ${String(request.osd)}`;
  const starts = decodeStarts(request.starts);
  if (starts === undefined) throw new FastblockError("FB1001", `${what}: its starts are malformed`);
  const others: RememberedStart[] = [];
  let remembered: StoreStart | undefined;
  for (const one of record?.starts ?? []) {
    if (one.storeUuid === request.storeUuid) remembered = one;
    else others.push(one);
  }
  const why = judgeStarts(starts, remembered);
  if (why !== "") {
    const { osd, storeUuid } = request;
    logger.warn("an old copy of a store is refused", { osd, storeUuid, why });
    throw new FastblockError("FB4004", `${what}: its store is an old copy`, {
      why: `the mon remembers more of it: ${why}`,
    });
  }
  const newest = starts.at(-1);
  const known = newest !== undefined && isNewer(newest, remembered) ? newest : remembered;
  if (known === undefined) return others;
  const { incarnation, mark, id } = known;
  return [{ storeUuid: request.storeUuid, incarnation, mark, id }, ...others].slice(0, STORES_MAX);
}
