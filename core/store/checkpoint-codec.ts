// cold path: once per checkpoint and once per start.
import type { Checksum } from "../base/checksum.ts";
import { BLOCK_SIZE, TWO_32 } from "../base/units.ts";
import { fitU53, getU64, putU64 } from "./fixed.ts";

/**
 * A checkpoint: from where the log has to be read, the state of each group at its applied index, and
 * the crc of each index page. It lies in one of the two halves of the shard's meta zones, alternately
 * by sequence; the body is written first, the header block last, all by durable writes.
 *
 * ```
 * header  0 magic u32 "FBCP" | 4 format u16 | 6 shard u16 | 8 incarnation u32
 *        12 crc u32 (of the 4 KiB, this field zero, seeded with the store's uuid)
 *        16 seq u64 | 24 bodyBytes u64 | 32 bodyCrc u32 | 36 groups u32 | 40 pages u32
 *        44 tombstones u32 | 48 tailPosition u64 | 56 tailSeq u64 | 64 tailPrevCrc u32
 *        68 tailIncarnation u32 | 72 pageStamp u64 | 80 parents u32 | 84 headSeq u64
 *        92 distrustedBelow u64 | 100 forgetful u8 | 101 reserved, zero
 * body   groups | tombstones (pg u32, replicaId u32) | parents (layer u64, parent u64, snapSeq u32,
 *        reserved u32) | page crcs u32 (0: never written), in order of zones and pages
 * group   0 size u32 | 4 pg u32 | 8 replicaId u32 | 12 health u8 | 13 reserved 3
 *        16 term u64 | 24 vote u32 | 28 confBytes u32 | 32 baseIndex u64 | 40 baseTerm u64
 *        48 applied u64 | 56 fillIndex u64 | 64 confIndex u64 | 72 expiredBelow u64
 *        80 sessions u32 | 84 fences u32 | 88 commit u64
 *        96 conf, padded to 8 | sessions (session u64, base u64, lastIndex u64, 256 bits)
 *        | fences (layer u64, lockEpoch u32, snapSeq u32)
 * ```
 * `tailPrevCrc` and `tailIncarnation` are those of batch tailSeq − 1: the chain goes on from there.
 * Local facts of batches before `headSeq` are in here; what comes behind may change them.
 *
 * A start that finds damage writes its checkpoint once more, with `distrustedBelow` and `forgetful`,
 * before anything else: what it writes then may hide the damage, and the next start must know of it.
 */
export interface CheckpointHeader {
  readonly shard: number;
  readonly incarnation: number;
  readonly seq: number;
  readonly bodyBytes: number;
  readonly bodyCrc: number;
  readonly groups: number;
  readonly pages: number;
  readonly tombstones: number;
  readonly parents: number;
  readonly tailPosition: number;
  readonly tailSeq: number;
  readonly tailPrevCrc: number;
  readonly tailIncarnation: number;
  readonly pageStamp: number;
  readonly headSeq: number;
  /** Replicas of the body, and those made in batches below it, are distrusted; 0: none are. */
  readonly distrustedBelow: number;
  /** There may have been replicas that nothing tells of, and that have no tombstones yet. */
  readonly forgetful: boolean;
}

/** Whether a group's replica can be relied on. Disk format. */
export enum GroupHealth {
  Ok = 1,
  /** Votes, never campaigns, never counts for commit, until the catch-up by difference has ended. */
  Filling = 2,
  /** The log lost something in its middle: neither votes nor acknowledges; refill under a new id. */
  Distrusted = 3,
}

export interface RecoveredFence {
  readonly layer: number;
  readonly lockEpoch: number;
  readonly snapSeq: number;
}

export interface RecoveredSession {
  readonly session: number;
  readonly base: number;
  /** 256 bits: 8 words. */
  readonly bits: Uint32Array;
  readonly lastIndex: number;
}

/**
 * The replicated state of one group beside its blocks, as of one applied index: what a checkpoint
 * keeps. Cold.
 */
export interface GroupState {
  readonly applied: number;
  /** Encoded configuration (opaque here) and the index of the entry that made it. */
  readonly conf: Uint8Array;
  readonly confIndex: number;
  /** Unknown sessions below it are refused. */
  readonly expiredBelow: number;
  readonly sessions: readonly RecoveredSession[];
  readonly fences: readonly RecoveredFence[];
}

export interface CheckpointGroup {
  readonly pg: number;
  readonly replicaId: number;
  readonly health: GroupHealth;
  readonly term: number;
  readonly vote: number;
  readonly commit: number;
  readonly baseIndex: number;
  readonly baseTerm: number;
  readonly fillIndex: number;
  readonly state: GroupState;
}

/** A removed replica; neither it nor a lower id of its pg may ever exist here again. */
export interface Tombstone {
  readonly pg: number;
  readonly replicaId: number;
}

export interface LayerParent {
  readonly layer: number;
  readonly parent: number;
  readonly snapSeq: number;
}

const NO_GROUP: Omit<CheckpointGroup, "state"> = {
  pg: 0,
  replicaId: 0,
  health: GroupHealth.Ok,
  term: 0,
  vote: 0,
  commit: 0,
  baseIndex: 0,
  baseTerm: 0,
  fillIndex: 0,
};

/** "FBCP". */
const MAGIC = 0x5043_4246;
const FORMAT = 1;
const GROUP_SIZE = 96;
const SESSION_SIZE = 56;
const FENCE_SIZE = 16;
const SESSION_WORDS = 8;

export function encodeCheckpointHeader(
  header: CheckpointHeader,
  seed: number,
  checksum: Checksum,
): Uint8Array {
  const bytes = new Uint8Array(BLOCK_SIZE);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, MAGIC, true);
  view.setUint16(4, FORMAT, true);
  view.setUint16(6, header.shard, true);
  view.setUint32(8, header.incarnation, true);
  putU64(view, 16, header.seq);
  putU64(view, 24, header.bodyBytes);
  view.setUint32(32, header.bodyCrc, true);
  view.setUint32(36, header.groups, true);
  view.setUint32(40, header.pages, true);
  view.setUint32(44, header.tombstones, true);
  putU64(view, 48, header.tailPosition);
  putU64(view, 56, header.tailSeq);
  view.setUint32(64, header.tailPrevCrc, true);
  view.setUint32(68, header.tailIncarnation, true);
  putU64(view, 72, header.pageStamp);
  view.setUint32(80, header.parents, true);
  putU64(view, 84, header.headSeq);
  putU64(view, 92, header.distrustedBelow);
  bytes[100] = header.forgetful ? 1 : 0;
  view.setUint32(12, checksum.crc32(bytes, seed), true);
  return bytes;
}

/** Read a header back; undefined when it is none, damaged or another shard's. */
export function decodeCheckpointHeader(
  bytes: Uint8Array,
  shard: number,
  seed: number,
  checksum: Checksum,
): CheckpointHeader | undefined {
  if (bytes.length < BLOCK_SIZE) return undefined;
  const copy = bytes.slice(0, BLOCK_SIZE);
  const view = new DataView(copy.buffer);
  if (view.getUint32(0, true) !== MAGIC || view.getUint16(4, true) !== FORMAT) return undefined;
  const crc = view.getUint32(12, true);
  view.setUint32(12, 0, true);
  if (checksum.crc32(copy, seed) !== crc) return undefined;
  if (view.getUint16(6, true) !== shard) return undefined;
  const numbers = fitU53(view, 16, 2) && fitU53(view, 48, 2) && fitU53(view, 72, 1);
  if (!numbers || !fitU53(view, 84, 2)) return undefined;
  return {
    shard,
    incarnation: view.getUint32(8, true),
    seq: getU64(view, 16),
    bodyBytes: getU64(view, 24),
    bodyCrc: view.getUint32(32, true),
    groups: view.getUint32(36, true),
    pages: view.getUint32(40, true),
    tombstones: view.getUint32(44, true),
    tailPosition: getU64(view, 48),
    tailSeq: getU64(view, 56),
    tailPrevCrc: view.getUint32(64, true),
    tailIncarnation: view.getUint32(68, true),
    pageStamp: getU64(view, 72),
    parents: view.getUint32(80, true),
    headSeq: getU64(view, 84),
    distrustedBelow: getU64(view, 92),
    forgetful: copy[100] !== 0,
  };
}

function padded(bytes: number): number {
  return (bytes + 7) & ~7;
}

function groupSize(group: CheckpointGroup): number {
  const state = group.state;
  const lists = state.sessions.length * SESSION_SIZE + state.fences.length * FENCE_SIZE;
  return GROUP_SIZE + padded(state.conf.length) + lists;
}

/** Write one group at `at`; answers its size. */
function encodeGroup(bytes: Uint8Array, at: number, group: CheckpointGroup): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const state = group.state;
  const size = groupSize(group);
  view.setUint32(at, size, true);
  view.setUint32(at + 4, group.pg, true);
  view.setUint32(at + 8, group.replicaId, true);
  view.setUint8(at + 12, group.health);
  putU64(view, at + 16, group.term);
  view.setUint32(at + 24, group.vote, true);
  view.setUint32(at + 28, state.conf.length, true);
  putU64(view, at + 32, group.baseIndex);
  putU64(view, at + 40, group.baseTerm);
  putU64(view, at + 48, state.applied);
  putU64(view, at + 56, group.fillIndex);
  putU64(view, at + 64, state.confIndex);
  putU64(view, at + 72, state.expiredBelow);
  view.setUint32(at + 80, state.sessions.length, true);
  view.setUint32(at + 84, state.fences.length, true);
  putU64(view, at + 88, group.commit);
  bytes.set(state.conf, at + GROUP_SIZE);
  let to = at + GROUP_SIZE + padded(state.conf.length);
  for (const session of state.sessions) {
    putU64(view, to, session.session);
    putU64(view, to + 8, session.base);
    putU64(view, to + 16, session.lastIndex);
    for (let word = 0; word < SESSION_WORDS; word++) {
      view.setUint32(to + 24 + word * 4, session.bits[word]!, true);
    }
    to += SESSION_SIZE;
  }
  for (const fence of state.fences) {
    putU64(view, to, fence.layer);
    view.setUint32(to + 8, fence.lockEpoch, true);
    view.setUint32(to + 12, fence.snapSeq, true);
    to += FENCE_SIZE;
  }
  return size;
}

export interface CheckpointBody {
  readonly groups: CheckpointGroup[];
  readonly tombstones: Tombstone[];
  readonly parents: LayerParent[];
  readonly pageCrcs: Uint32Array;
}

/** Bytes of everything but the page crcs. */
function bodySize(body: Omit<CheckpointBody, "pageCrcs">): number {
  let size = body.tombstones.length * 8 + body.parents.length * 24;
  for (const group of body.groups) size += groupSize(group);
  return size;
}

/** Lay the body out, page crcs last. */
export function encodeBody(body: CheckpointBody): Uint8Array {
  const bytes = new Uint8Array(bodySize(body) + body.pageCrcs.length * 4);
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const group of body.groups) at += encodeGroup(bytes, at, group);
  for (const tombstone of body.tombstones) {
    view.setUint32(at, tombstone.pg, true);
    view.setUint32(at + 4, tombstone.replicaId, true);
    at += 8;
  }
  for (const parent of body.parents) {
    putU64(view, at, parent.layer);
    putU64(view, at + 8, parent.parent);
    view.setUint32(at + 16, parent.snapSeq, true);
    at += 24;
  }
  for (const crc of body.pageCrcs) {
    view.setUint32(at, crc, true);
    at += 4;
  }
  return bytes;
}

/** The state of one group alone, as a row of a checkpoint: how a replica tells it to another. */
export function encodeGroupState(state: GroupState): Uint8Array {
  const group: CheckpointGroup = { ...NO_GROUP, state };
  const bytes = new Uint8Array(groupSize(group));
  encodeGroup(bytes, 0, group);
  return bytes;
}

/** Read back what `encodeGroupState` wrote; undefined when it is malformed. */
export function decodeGroupState(bytes: Uint8Array): GroupState | undefined {
  if (bytes.length < GROUP_SIZE) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (view.getUint32(0, true) !== bytes.length) return undefined;
  return decodeGroup(bytes, view, 0, bytes.length)?.state;
}

/** Read a body whose checksum was verified; undefined when it contradicts its header. */
export function decodeBody(
  bytes: Uint8Array,
  header: CheckpointHeader,
): CheckpointBody | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const groups: CheckpointGroup[] = [];
  let at = 0;
  for (let count = 0; count < header.groups; count++) {
    if (at + GROUP_SIZE > bytes.length) return undefined;
    const size = view.getUint32(at, true);
    if (size < GROUP_SIZE || at + size > bytes.length) return undefined;
    const group = decodeGroup(bytes, view, at, size);
    if (group === undefined) return undefined;
    groups.push(group);
    at += size;
  }
  const rest = header.tombstones * 8 + header.parents * 24 + header.pages * 4;
  if (at + rest !== bytes.length) return undefined;
  const tombstones: Tombstone[] = [];
  for (let count = 0; count < header.tombstones; count++) {
    tombstones.push({ pg: view.getUint32(at, true), replicaId: view.getUint32(at + 4, true) });
    at += 8;
  }
  const parents: LayerParent[] = [];
  for (let count = 0; count < header.parents; count++) {
    if (!fitU53(view, at, 2)) return undefined;
    const snapSeq = view.getUint32(at + 16, true);
    parents.push({ layer: getU64(view, at), parent: getU64(view, at + 8), snapSeq });
    at += 24;
  }
  const pageCrcs = new Uint32Array(header.pages);
  for (let page = 0; page < header.pages; page++) {
    pageCrcs[page] = view.getUint32(at, true);
    at += 4;
  }
  return { groups, tombstones, parents, pageCrcs };
}

function decodeGroup(
  bytes: Uint8Array,
  view: DataView,
  at: number,
  size: number,
): CheckpointGroup | undefined {
  const confBytes = view.getUint32(at + 28, true);
  const sessionCount = view.getUint32(at + 80, true);
  const fenceCount = view.getUint32(at + 84, true);
  const lists = sessionCount * SESSION_SIZE + fenceCount * FENCE_SIZE;
  if (GROUP_SIZE + padded(confBytes) + lists !== size) return undefined;
  const numbers = fitU53(view, at + 16, 1) && fitU53(view, at + 32, 6) && fitU53(view, at + 88, 1);
  if (!numbers) return undefined;
  let from = at + GROUP_SIZE + padded(confBytes);
  const sessions: RecoveredSession[] = [];
  for (let count = 0; count < sessionCount; count++) {
    if (!fitU53(view, from, 3)) return undefined;
    const bits = new Uint32Array(SESSION_WORDS);
    for (let word = 0; word < SESSION_WORDS; word++) {
      bits[word] = view.getUint32(from + 24 + word * 4, true);
    }
    sessions.push({
      session: getU64(view, from),
      base: getU64(view, from + 8),
      lastIndex: getU64(view, from + 16),
      bits,
    });
    from += SESSION_SIZE;
  }
  const fences: RecoveredFence[] = [];
  for (let count = 0; count < fenceCount; count++) {
    if (!fitU53(view, from, 1)) return undefined;
    const lockEpoch = view.getUint32(from + 8, true);
    const snapSeq = view.getUint32(from + 12, true);
    fences.push({ layer: getU64(view, from), lockEpoch, snapSeq });
    from += FENCE_SIZE;
  }
  return {
    pg: view.getUint32(at + 4, true),
    replicaId: view.getUint32(at + 8, true),
    health: view.getUint8(at + 12),
    term: getU64(view, at + 16),
    vote: view.getUint32(at + 24, true),
    commit: getU64(view, at + 88),
    baseIndex: getU64(view, at + 32),
    baseTerm: getU64(view, at + 40),
    fillIndex: getU64(view, at + 56),
    state: {
      applied: getU64(view, at + 48),
      conf: bytes.slice(at + GROUP_SIZE, at + GROUP_SIZE + confBytes),
      confIndex: getU64(view, at + 64),
      expiredBelow: getU64(view, at + 72),
      sessions,
      fences,
    },
  };
}

/** Split of a stamp for people: incarnation and counter. */
export function stampText(stamp: number): string {
  return `${String(Math.floor(stamp / TWO_32))}:${String(stamp % TWO_32)}`;
}
