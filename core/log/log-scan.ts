// cold path: reads the whole log once per start.
import { BatchTable } from "./batch-table.ts";
import { ChainReader } from "./log-scan-chain.ts";
import { cutTornDirect } from "./log-scan-direct.ts";
import { GroupBuilder } from "./log-scan-groups.ts";
import type { ScanInput, ScanResult } from "./log-scan-types.ts";

export type * from "./log-scan-types.ts";

/**
 * Read the log from the tail on, once per start (`store.md`, Start 3 and 4).
 *
 * The chain is followed from the checkpoint's tail. The first bad header, at sequence s, is either
 * the torn end or damage in the middle: damage when, within the next 64 MiB, a valid header with a
 * higher sequence, an incarnation not older than that of s − 1 and durableSeq ≥ s vouches for s, or when
 * the device does not give what stands there. Bad
 * payload in a vouched batch makes the entry *faulty* (known, to be fetched, never cut); in an
 * unvouched one the log ends before that batch. A direct payload above directSeq that does not match
 * ends only its group's log: other groups' entries in and behind that batch were acknowledged.
 */
export async function scanLog(input: ScanInput): Promise<ScanResult> {
  const chain = new ChainReader(input);
  await chain.read();
  const vouched = await chain.lookAhead();
  const builder = new GroupBuilder(input);
  const end = chain.end();
  const damaged = vouched || chain.isHidden(end);
  if (damaged && !vouched) chain.notes.push("log: its end can not be read");
  for (const batch of chain.batches) {
    if (batch.seq < end) for (const record of batch.records) builder.add(record, batch.seq);
  }
  const kept = chain.batches.filter((batch) => batch.seq < end);
  const groups = builder.finish(damaged);
  const directVouched = kept.reduce((most, batch) => Math.max(most, batch.directSeq), 0);
  for (const group of groups) await cutTornDirect(input, group, directVouched, chain.notes);
  const table = new BatchTable(input.tailSeq);
  for (const batch of kept) table.push(batch.position, batch.crc, batch.incarnation, 0);
  const last = kept.at(-1);
  return {
    batches: table,
    headPosition: last === undefined ? input.tailPosition : last.position + last.blocks,
    lastCrc: last === undefined ? input.tailPrevCrc : last.crc,
    isVouched: kept.every((batch) => batch.seq <= directVouched || batch.records.length === 0),
    groups,
    tombstones: builder.tombstones,
    parents: builder.parents,
    namedUnits: builder.namedUnits,
    goneGroups: builder.goneGroups,
    damaged,
    notes: chain.notes,
  };
}
