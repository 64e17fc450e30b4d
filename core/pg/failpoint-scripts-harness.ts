// cold path: workloads of a few hundred device calls for tests with fail points.
import { EntryType } from "../log/log.ts";
import type { Drive } from "./failpoint-drive-harness.ts";
import type { GroupHistory } from "./failpoint-model-harness.ts";

const PG = 65_537;
/** Blocks of the log ring that a script may count on. */
const RING_BLOCKS = 1024;

/** One workload. Ends early by `DeviceDown`. */
type Script = (drive: Drive) => Promise<void>;

/** Small writes of several groups in common batches, overwritten in the log and at home. */
async function small(drive: Drive): Promise<void> {
  await drive.open();
  const one = await drive.create(PG);
  const two = await drive.create(PG + 1);
  drive.vote(one, 1, 1);
  await drive.voted(one);
  for (let round = 0; round < 3; round++) {
    drive.write(one, round, 1);
    drive.write(two, 3 + round, 2);
    drive.pass(20);
    drive.write(one, 14, 5);
    drive.vote(two, 2 + round, 1 + (round % 2));
    await drive.durable(one, two);
    drive.commit(one);
    if (round > 0) drive.commit(two);
  }
  await drive.checkpoint();
  // Over what is home now: in place, in part; the last ones are never committed.
  await drive.put(one, 1, 15);
  await drive.put(two, 4, 1);
  drive.write(one, 0, 2);
  drive.write(two, 3, 4);
  await drive.durable(one, two);
  drive.commit(one);
  await drive.checkpoint();
  drive.write(one, 17, 1);
  drive.write(one, 18, 1);
  drive.pass(30);
  drive.write(two, 5, 1);
  await drive.durable(one, two);
}

/** Batches of equal length, two under way at a time: one that is torn, one behind it that is whole. */
async function pairs(drive: Drive): Promise<void> {
  await drive.open();
  const one = await drive.create(PG);
  for (let round = 0; round < 4; round++) {
    drive.write(one, round, 1);
    drive.pass(15);
    drive.write(one, round + 1, 1);
    await drive.durable(one);
  }
}

/** Whole units beside the log, in runs, with heads and tails; replaced as a whole and in part. */
async function direct(drive: Drive): Promise<void> {
  await drive.open();
  const one = await drive.create(PG);
  const two = await drive.create(PG + 1);
  await drive.put(one, 0, 16);
  drive.write(one, 15, 34);
  drive.write(two, 16, 32);
  await drive.durable(one, two);
  drive.commit(one);
  await drive.put(one, 3, 2);
  drive.commit(two);
  await drive.checkpoint();
  drive.write(one, 16, 32);
  drive.write(two, 0, 16);
  drive.pass(40);
  drive.write(two, 20, 1);
  await drive.durable(one, two);
  drive.commit(one);
  drive.commit(two);
  await drive.checkpoint();
  // Never committed: units that nobody may take for free.
  drive.write(one, 0, 48);
  drive.write(two, 47, 17);
  await drive.durable(one, two);
}

/** Zeroes: whole units, parts, over what is in the log and at home; a layer that is deleted. */
async function zeroes(drive: Drive): Promise<void> {
  await drive.open();
  const one = await drive.create(PG);
  await drive.put(one, 0, 48);
  await drive.put(one, 50, 3);
  await drive.put(one, 0, 20, { layer: 77 });
  drive.zero(one, 16, 16);
  drive.zero(one, 5, 2);
  drive.zero(one, 51, 1);
  await drive.durable(one);
  drive.commit(one);
  await drive.checkpoint();
  drive.zero(one, 30, 20);
  await drive.durable(one);
  drive.commit(one);
  await drive.put(one, 31, 1);
  // Shrunk: nothing is left behind block 8.
  drive.zero(one, 8, 56);
  drive.plain(one, EntryType.LayerGone, { layer: 77 });
  await drive.durable(one);
  drive.commit(one);
  await drive.checkpoint();
  await drive.put(one, 16, 16);
  drive.zero(one, 0, 64);
  await drive.durable(one);
}

/** Snapshots: units are copied when they are written again, holes hide what is older. */
async function snapshots(drive: Drive): Promise<void> {
  await drive.open();
  const one = await drive.create(PG);
  await drive.put(one, 0, 40);
  await drive.checkpoint();
  await drive.put(one, 3, 2, { snapSeq: 1 });
  await drive.put(one, 16, 16, { snapSeq: 1 });
  await drive.put(one, 60, 2, { snapSeq: 1 });
  await drive.checkpoint();
  drive.zero(one, 0, 16, { snapSeq: 2 });
  drive.write(one, 33, 3, { snapSeq: 2 });
  await drive.durable(one);
  drive.commit(one);
  await drive.checkpoint();
  await drive.put(one, 1, 1, { snapSeq: 2 });
  await drive.put(one, 48, 16, { snapSeq: 3 });
  await drive.checkpoint();
}

/** Replicas are removed and made again under other ids, between entries and checkpoints. */
async function lives(drive: Drive): Promise<void> {
  await drive.open();
  let one = await drive.create(PG);
  const two = await drive.create(PG + 1);
  await drive.put(one, 0, 20);
  await drive.put(two, 2, 3);
  drive.vote(one, 3, 1);
  await drive.voted(one);
  await drive.remove(one);
  one = await drive.create(PG, 2);
  await drive.put(one, 4, 1);
  await drive.checkpoint();
  await drive.put(two, 0, 16);
  await drive.put(one, 0, 32);
  await drive.remove(one);
  await drive.checkpoint();
  one = await drive.create(PG, 5);
  drive.write(one, 7, 2);
  drive.write(two, 8, 2);
  await drive.durable(one, two);
  drive.commit(two);
  await drive.remove(one);
}

/** Uncommitted entries are cut by new leaders; votes, configurations, fences. */
async function terms(drive: Drive): Promise<void> {
  await drive.open();
  const one = await drive.create(PG);
  const two = await drive.create(PG + 1);
  drive.plain(one, EntryType.Conf, { data: new Uint8Array([9, 9, 1]) });
  drive.plain(one, EntryType.Fence, { layer: PG });
  await drive.put(one, 0, 3);
  for (let term = 2; term < 5; term++) {
    drive.vote(one, term, term % 3);
    drive.write(one, term, 20);
    drive.write(one, 40, 1 + term);
    drive.write(two, term, 1);
    await drive.durable(one, two);
    drive.commit(two);
    const { entries } = one.present;
    drive.vote(one, term + 1, 0);
    // Not yet durable when it is cut.
    drive.write(one, 60, 1);
    drive.plain(one, EntryType.Noop, { index: entries.length, term: term + 1 });
    drive.write(one, 16, 17, { term: term + 1 });
    await drive.voted(one);
    await drive.durable(one);
    drive.commit(one, entries.length - 1);
    if (term === 3) await drive.checkpoint();
  }
  drive.plain(one, EntryType.Conf, { data: new Uint8Array([9, 9, 2]) });
  await drive.durable(one);
  drive.commit(one);
  await drive.checkpoint();
  drive.plain(one, EntryType.Conf, { data: new Uint8Array([9, 9, 3]), term: 9 });
  await drive.durable(one);
}

/** The log goes round more than once, past entries that nobody commits. */
async function wrap(drive: Drive): Promise<void> {
  await drive.open({ checkpointStartPercent: 30, moverStartPercent: 10, moverStartBlocks: 1 });
  const one = await drive.create(PG);
  const stuck = await drive.create(PG + 1);
  drive.write(stuck, 0, 4);
  drive.write(stuck, 16, 16);
  await drive.durable(stuck);
  let written = 0;
  for (let round = 0; written < RING_BLOCKS * 1.3; round++) {
    drive.write(one, 1 + ((round * 16) % 48), 15);
    drive.write(one, 1 + ((round * 16 + 16) % 48), 15);
    written += 31;
    if (round % 3 !== 0) continue;
    await drive.durable(one);
    drive.commit(one);
  }
  await drive.durable(one);
  drive.commit(one);
  drive.commit(stuck, 1);
  await drive.checkpoint();
}

/** Blocks that no replica has any more, then written again. */
async function lost(drive: Drive): Promise<void> {
  await drive.open();
  const one = await drive.create(PG);
  await drive.put(one, 0, 16);
  await drive.put(one, 20, 4);
  await drive.checkpoint();
  drive.lose(one, PG, 3, 1);
  drive.lose(one, PG, 21, 2);
  await drive.put(one, 32, 1);
  await drive.checkpoint();
  await drive.put(one, 3, 1);
  drive.zero(one, 20, 2);
  await drive.durable(one);
  drive.commit(one);
  drive.lose(one, PG, 9, 1);
  await drive.checkpoint();
  await drive.put(one, 8, 4);
}

/** Killed again and again: what redo frees, the next entries must not get yet. */
async function killed(drive: Drive): Promise<void> {
  await drive.open();
  const one = await drive.create(PG);
  const two = await drive.create(PG + 1);
  for (let round = 0; round < 4; round++) {
    drive.write(one, 0, 32);
    drive.write(one, 0, 32);
    drive.write(two, 3, 2);
    await drive.durable(one, two);
    drive.commit(one);
    await drive.kill();
    drive.commit(one);
    drive.commit(two);
    drive.write(two, 16, 32);
    drive.write(one, 4, 1);
    await drive.durable(one, two);
    drive.commit(two);
    if (round === 2) await drive.checkpoint();
    // Cut behind the next start: units that were nobody's for a moment.
    drive.write(two, 0, 48);
    await drive.durable(two);
    await drive.kill();
    const { entries } = two.present;
    drive.write(two, 1, 1, { index: entries.length, term: round + 2 });
    await drive.durable(two);
    drive.write(one, 0, 48);
    await drive.durable(one);
    drive.commit(one);
    drive.commit(two);
  }
}

/** Units are freed, wait, and serve another group. */
async function reclaim(drive: Drive): Promise<void> {
  await drive.open();
  const one = await drive.create(PG);
  const two = await drive.create(PG + 1);
  await drive.put(one, 0, 64);
  for (let round = 0; round < 12; round++) {
    const group: GroupHistory = round % 2 === 0 ? one : two;
    drive.write(group, 0, 64);
    drive.write(group, 0, 64);
    await drive.durable(group);
    drive.commit(group, group.present.entries.length - (round % 3 === 0 ? 1 : 0));
    if (round % 4 === 3) await drive.checkpoint();
  }
  // Cut: its units are free again behind the next checkpoint.
  const { entries } = one.present;
  drive.write(one, 0, 64);
  await drive.durable(one);
  drive.write(one, 0, 1, { index: entries.length + 1, term: 7 });
  await drive.durable(one);
  drive.commit(one);
  drive.commit(two);
  await drive.checkpoint();
  await drive.put(two, 0, 48);
  await drive.put(one, 16, 32);
}

/** A replica is filled by difference, while entries come; another one takes its units over. */
async function filled(drive: Drive): Promise<void> {
  await drive.open();
  const one = await drive.create(PG);
  const two = await drive.create(PG + 1);
  const unit = (number: number) => ({ layer: PG, unit: number, snapSeq: 0 });
  await drive.put(one, 0, 32);
  await drive.put(one, 40, 2);
  await drive.put(two, 0, 2);
  drive.write(one, 50, 3);
  await drive.durable(one);
  await drive.begin(one, [
    { firstBlock: 4, blocks: 3 },
    { firstBlock: 16, blocks: 16 },
    { type: EntryType.Zero, firstBlock: 40, blocks: 1 },
  ]);
  await drive.fill(one, unit(0), unit(1));
  await drive.put(one, 5, 2);
  await drive.fill(one, unit(2));
  await drive.checkpoint();
  drive.write(one, 17, 1);
  await drive.fill(one, unit(3));
  await drive.durable(one);
  drive.commit(one);
  await drive.endFill(one);
  await drive.put(one, 6, 1);
  await drive.checkpoint();
  await drive.renew(one, 2);
  await drive.begin(one, [
    { firstBlock: 0, blocks: 48 },
    { firstBlock: 10, blocks: 3 },
  ]);
  await drive.fill(one, unit(0), unit(1), unit(2), unit(3));
  await drive.endFill(one);
  await drive.put(one, 1, 1);
}

/** Everything by itself: vouching, moving, checkpoints; stopped in order and started again. */
async function busy(drive: Drive): Promise<void> {
  const moving = { moverStartPercent: 0, moverStartBlocks: 1 };
  const tuning = { ...moving, checkpointStartPercent: 2, idleMs: 3, vouchMs: 2 };
  await drive.open(tuning);
  const one = await drive.create(PG);
  const two = await drive.create(PG + 1);
  for (let round = 0; round < 5; round++) {
    drive.write(one, round * 3, 17);
    drive.write(two, (round * 5) % 40, 3);
    await drive.durable(one, two);
    drive.commit(one);
    drive.commit(two, Math.max(0, two.present.entries.length - 1));
    drive.pass(round * 1_500);
  }
  await drive.restart(tuning);
  await drive.put(one, 2, 1);
  drive.write(two, 44, 1);
  await drive.durable(two);
  drive.commit(two);
  drive.pass(8_000);
}

/** By name. */
export const SCRIPTS: Readonly<Record<string, Script>> = {
  small,
  pairs,
  direct,
  zeroes,
  snapshots,
  lives,
  terms,
  wrap,
  lost,
  reclaim,
  killed,
  filled,
  busy,
};
