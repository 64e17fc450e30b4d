// cold: a configuration changes once in weeks
/**
 * Configurations of a group and the steps between them.
 *
 * A Conf entry carries the whole configuration that holds once it is applied, never a difference:
 * a replica that applies it needs nothing else, and the checkpoint stores the same bytes.
 *
 *   0  u16 format (1)   2  u8 members   3  u8 reserved   4  u32 nextReplicaId   8  28 B a member:
 *      0 u32 replicaId   4 u32 osd   8 u8 roles   9 u8 reserved ×3   12 16 B uuid of the store
 *   roles: 1 voter, 2 voter of the outgoing half, 4 learner, 8 learner once the joint half is left;
 *          16, beside one of these: witness
 *
 * A witness has all entries and none of their data (`witness.ts`). It is one from its first
 * configuration to its last: what has another role has another id.
 *
 * Invariants: members ascend by id; every member has a role; learners do not vote; voters with data
 * are a majority of each half; learner-next ⊆ outgoing; nextReplicaId > every id ever given out (ids are never reused);
 * a configuration with an outgoing half is left by the leader as soon as it is applied.
 *
 * A change of at most one voter is one step (old and new majorities overlap); others go through a
 * joint configuration, in which both majorities must agree. New voters come from caught-up
 * learners only: counting an empty replica would leave fewer copies than promised.
 */
import { assert } from "../base/assert.ts";
import { FastblockError } from "../base/errors.ts";
import { MEMBERS_MAX, popCount } from "./quorum.ts";

/** Where a replica lives: bound to the random uuid of a store, so that a new disk is a new member. */
export interface MemberAddress {
  readonly osd: number;
  /** 32 lower-case hexadecimal digits. */
  readonly storeUuid: string;
  /** Votes, and keeps entries without their data; absent: no. */
  readonly witness?: boolean;
}

/** One member of a group. */
export interface Member extends MemberAddress {
  readonly id: number;
}

/** A member to add: with the id that somebody else gave out, or else the next one. */
export interface NewMember extends MemberAddress {
  /** At least `nextReplicaId`, ascending within one change. */
  readonly id?: number;
}

/** What to change, all in one step. */
export interface ConfChange {
  readonly addLearners?: readonly NewMember[];
  /** Learners to make voters. */
  readonly promote?: readonly number[];
  /** Voters to make learners. */
  readonly demote?: readonly number[];
  readonly remove?: readonly number[];
}

/** Body size of the largest configuration, in bytes; below the 3 KiB that an entry may carry. */
export const CONFIGURATION_BYTES_MAX: number = 8 + 28 * MEMBERS_MAX;

const FORMAT = 1;
const HEADER_BYTES = 8;
const MEMBER_BYTES = 28;
const ROLE_VOTER = 1;
const ROLE_OUTGOING = 2;
const ROLE_LEARNER = 4;
const ROLE_LEARNER_NEXT = 8;
const ROLE_WITNESS = 16;

/** A configuration: immutable, shared freely. Masks have bit `slot` for `members[slot]`. */
export class Configuration {
  readonly members: readonly Member[];
  readonly voters: number;
  /** Voters of the half that is being left; 0 unless joint. */
  readonly outgoing: number;
  readonly learners: number;
  /** Outgoing voters that stay as learners. */
  readonly learnersNext: number;
  /** Members without data, voters or not. */
  readonly witnesses: number;
  /** The id that the next added member gets. */
  readonly nextReplicaId: number;

  constructor(
    members: readonly Member[],
    voters: number,
    outgoing: number,
    learners: number,
    learnersNext: number,
    nextReplicaId: number,
  ) {
    this.members = members;
    this.voters = voters;
    this.outgoing = outgoing;
    this.learners = learners;
    this.learnersNext = learnersNext;
    this.witnesses = witnessesOf(members);
    this.nextReplicaId = nextReplicaId;
    this.invariants();
  }

  /** Whether two majorities must agree. */
  get joint(): boolean {
    return this.outgoing !== 0;
  }

  /** Slot of a member, or -1. */
  slotOf(id: number): number {
    const members = this.members;
    for (let slot = 0; slot < members.length; slot++) {
      if (members[slot]!.id === id) return slot;
    }
    return -1;
  }

  /** Whether the member votes in either half. */
  isVoter(id: number): boolean {
    const slot = this.slotOf(id);
    return slot >= 0 && ((this.voters | this.outgoing) & (1 << slot)) !== 0;
  }

  private invariants(): void {
    const count = this.members.length;
    assert(count <= MEMBERS_MAX, "Configuration: too many members");
    const all = (1 << count) - 1;
    const roles = this.voters | this.outgoing | this.learners;
    assert(roles === all, "Configuration: member without a role, or role without a member");
    assert((this.learners & (this.voters | this.outgoing)) === 0, "Configuration: learner votes");
    assert((this.learnersNext & ~this.outgoing) === 0, "Configuration: learner-next did not vote");
    assert((this.learnersNext & this.voters) === 0, "Configuration: learner-next still votes");
    assert(hasData(this.voters, this.witnesses), "Configuration: too many witnesses");
    assert(hasData(this.outgoing, this.witnesses), "Configuration: there were too many witnesses");
    let last = 0;
    for (let slot = 0; slot < count; slot++) {
      const id = this.members[slot]!.id;
      assert(id > last, "Configuration: members are not in ascending order");
      last = id;
    }
    assert(this.nextReplicaId > last, "Configuration: next id was given out already");
  }
}

function witnessesOf(members: readonly Member[]): number {
  let mask = 0;
  for (let slot = 0; slot < members.length; slot++) {
    if (members[slot]!.witness === true) mask |= 1 << slot;
  }
  return mask;
}

/** Whether a majority of these voters has data; the empty half asks for none. */
function hasData(voters: number, witnesses: number): boolean {
  return voters === 0 || popCount(voters & ~witnesses) * 2 > popCount(voters);
}

/** The configuration of a replica that knows of none yet: it waits to be added. */
export const CONFIGURATION_EMPTY: Configuration = new Configuration([], 0, 0, 0, 0, 1);

/**
 * The first configuration of a group: replica `firstId` + i lives at `addresses[i]`, all vote.
 *
 * Happens once in a group's life; later members get their ids from changes.
 */
export function bootstrapConfiguration(
  addresses: readonly MemberAddress[],
  firstId = 1,
): Configuration {
  assert(addresses.length >= 1, "bootstrapConfiguration: no members");
  const members: Member[] = [];
  for (const address of addresses) {
    const id = firstId + members.length;
    members.push(memberOf(id, address));
  }
  const voters = (1 << members.length) - 1;
  return new Configuration(members, voters, 0, 0, 0, firstId + members.length);
}

function memberOf(id: number, address: MemberAddress): Member {
  const { osd, storeUuid } = address;
  return address.witness === true ? { id, osd, storeUuid, witness: true } : { id, osd, storeUuid };
}

function refuse(what: string): never {
  throw new FastblockError("FB1001", "Configuration change is refused: " + what);
}

function checkTargets(conf: Configuration, change: ConfChange): void {
  if (conf.joint) refuse("a joint configuration is in force, wanted a settled one");
  const seen: number[] = [];
  for (const ids of [change.promote, change.demote, change.remove]) {
    for (const id of ids ?? []) {
      if (conf.slotOf(id) < 0) refuse("replica " + String(id) + " is no member");
      if (seen.includes(id)) refuse("replica " + String(id) + " is named twice");
      seen.push(id);
    }
  }
  for (const id of change.promote ?? []) {
    if (conf.isVoter(id)) refuse("replica " + String(id) + " votes already, wanted a learner");
  }
  for (const id of change.demote ?? []) {
    if (!conf.isVoter(id)) refuse("replica " + String(id) + " is a learner, wanted a voter");
  }
}

/**
 * The configuration that `change` leads to from `conf`: joint when more than one voter changes.
 *
 * Throws FB1001 when `conf` is joint, an id is unknown, named twice, given out before or in the wrong
 * role, nothing changes, too many members result, no voter or too many witnesses would be left.
 */
export function changeConfiguration(conf: Configuration, change: ConfChange): Configuration {
  checkTargets(conf, change);
  const promote = change.promote ?? [];
  const demote = change.demote ?? [];
  const remove = change.remove ?? [];
  const added = change.addLearners ?? [];
  const kept: Member[] = [];
  const roles: number[] = [];
  const changedVoters = promote.length + demote.length + countVoters(conf, remove);
  if (changedVoters + added.length + remove.length === 0) refuse("it changes nothing");
  const joint = changedVoters > 1;
  for (let slot = 0; slot < conf.members.length; slot++) {
    const member = conf.members[slot]!;
    const voted = (conf.voters & (1 << slot)) !== 0;
    const role = roleAfter(voted, joint, {
      promoted: promote.includes(member.id),
      demoted: demote.includes(member.id),
      removed: remove.includes(member.id),
    });
    if (role === 0) continue;
    kept.push(member);
    roles.push(role);
  }
  let nextReplicaId = conf.nextReplicaId;
  for (const address of added) {
    const { id = nextReplicaId } = address;
    if (id < nextReplicaId) {
      refuse(`replica ${String(id)} was given out before, wanted ${String(nextReplicaId)} or more`);
    }
    kept.push(memberOf(id, address));
    roles.push(ROLE_LEARNER);
    nextReplicaId = id + 1;
  }
  if (kept.length > MEMBERS_MAX) refuse(String(kept.length) + " members, wanted at most 16");
  const voters = maskOf(roles, ROLE_VOTER);
  if (voters === 0) refuse("no voter would be left");
  if (!hasData(voters, witnessesOf(kept))) refuse("witnesses would be half of the voters or more");
  return assemble(kept, roles, nextReplicaId);
}

function countVoters(conf: Configuration, ids: readonly number[]): number {
  let count = 0;
  for (const id of ids) if (conf.isVoter(id)) count++;
  return count;
}

function roleAfter(
  voted: boolean,
  joint: boolean,
  change: { promoted: boolean; demoted: boolean; removed: boolean },
): number {
  const outgoing = joint && voted ? ROLE_OUTGOING : 0;
  if (change.removed) return outgoing;
  if (change.demoted) return joint ? outgoing | ROLE_LEARNER_NEXT : ROLE_LEARNER;
  if (change.promoted) return ROLE_VOTER;
  return voted ? ROLE_VOTER | outgoing : ROLE_LEARNER;
}

function assemble(
  members: readonly Member[],
  roles: readonly number[],
  nextReplicaId: number,
): Configuration {
  const voters = maskOf(roles, ROLE_VOTER);
  const outgoing = maskOf(roles, ROLE_OUTGOING);
  const learners = maskOf(roles, ROLE_LEARNER);
  const learnersNext = maskOf(roles, ROLE_LEARNER_NEXT);
  return new Configuration(members, voters, outgoing, learners, learnersNext, nextReplicaId);
}

function maskOf(roles: readonly number[], role: number): number {
  return roles.reduce((mask, one, slot) => ((one & role) === 0 ? mask : mask | (1 << slot)), 0);
}

function rolesOf(conf: Configuration, slot: number): number {
  const bit = 1 << slot;
  return (
    ((conf.voters & bit) !== 0 ? ROLE_VOTER : 0) |
    ((conf.outgoing & bit) !== 0 ? ROLE_OUTGOING : 0) |
    ((conf.learners & bit) !== 0 ? ROLE_LEARNER : 0) |
    ((conf.learnersNext & bit) !== 0 ? ROLE_LEARNER_NEXT : 0) |
    ((conf.witnesses & bit) !== 0 ? ROLE_WITNESS : 0)
  );
}

/** The settled configuration behind a joint one. Requires: `conf.joint`. */
export function leaveJoint(conf: Configuration): Configuration {
  assert(conf.joint, "leaveJoint: configuration is not joint");
  const members: Member[] = [];
  const roles: number[] = [];
  for (let slot = 0; slot < conf.members.length; slot++) {
    const role = rolesOf(conf, slot);
    let next = role & (ROLE_VOTER | ROLE_LEARNER);
    if ((role & ROLE_LEARNER_NEXT) !== 0) next |= ROLE_LEARNER;
    if (next === 0) continue;
    members.push(conf.members[slot]!);
    roles.push(next);
  }
  return assemble(members, roles, conf.nextReplicaId);
}

/** The body of a Conf entry, `CONFIGURATION_BYTES_MAX` at most. */
export function encodeConfiguration(conf: Configuration): Uint8Array {
  const count = conf.members.length;
  const bytes = new Uint8Array(HEADER_BYTES + count * MEMBER_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, FORMAT, true);
  view.setUint8(2, count);
  view.setUint32(4, conf.nextReplicaId, true);
  for (let slot = 0; slot < count; slot++) {
    const member = conf.members[slot]!;
    const at = HEADER_BYTES + slot * MEMBER_BYTES;
    view.setUint32(at, member.id, true);
    view.setUint32(at + 4, member.osd, true);
    view.setUint8(at + 8, rolesOf(conf, slot));
    assert(member.storeUuid.length === 32, "encodeConfiguration: uuid is not 32 digits");
    for (let byte = 0; byte < 16; byte++) {
      const digits = member.storeUuid.slice(byte * 2, byte * 2 + 2);
      view.setUint8(at + 12 + byte, Number.parseInt(digits, 16));
    }
  }
  return bytes;
}

/** Read what `encodeConfiguration` wrote; null when malformed or of a newer format. */
export function decodeConfiguration(bytes: Uint8Array): Configuration | null {
  if (bytes.length < HEADER_BYTES) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const count = view.getUint8(2);
  if (view.getUint16(0, true) !== FORMAT || view.getUint8(3) !== 0 || count > MEMBERS_MAX) {
    return null;
  }
  if (bytes.length !== HEADER_BYTES + count * MEMBER_BYTES) return null;
  const nextReplicaId = view.getUint32(4, true);
  if (nextReplicaId === 0) return null;
  const members: Member[] = [];
  const roles: number[] = [];
  let last = 0;
  for (let slot = 0; slot < count; slot++) {
    const at = HEADER_BYTES + slot * MEMBER_BYTES;
    const id = view.getUint32(at, true);
    const byte = view.getUint8(at + 8);
    const role = byte & ~ROLE_WITNESS;
    if (id <= last || id >= nextReplicaId || !validRole(role)) return null;
    if (view.getUint8(at + 9) + view.getUint16(at + 10, true) !== 0) return null;
    last = id;
    const witness = (byte & ROLE_WITNESS) !== 0;
    const address = {
      osd: view.getUint32(at + 4, true),
      storeUuid: readUuid(view, at + 12),
      witness,
    };
    members.push(memberOf(id, address));
    roles.push(role);
  }
  const witnesses = witnessesOf(members);
  if (!hasData(maskOf(roles, ROLE_VOTER), witnesses)) return null;
  if (!hasData(maskOf(roles, ROLE_OUTGOING), witnesses)) return null;
  return assemble(members, roles, nextReplicaId);
}

function validRole(role: number): boolean {
  switch (role) {
    case ROLE_VOTER:
    case ROLE_OUTGOING:
    case ROLE_LEARNER:
    case ROLE_VOTER | ROLE_OUTGOING:
    case ROLE_OUTGOING | ROLE_LEARNER_NEXT:
      return true;
    default:
      return false;
  }
}

function readUuid(view: DataView, at: number): string {
  let text = "";
  for (let byte = 0; byte < 16; byte++) {
    text += view
      .getUint8(at + byte)
      .toString(16)
      .padStart(2, "0");
  }
  return text;
}

/** For people: `voters 1,2,3 outgoing 1,2 learners 4 witnesses 3`. */
export function formatConfiguration(conf: Configuration): string {
  let text = "voters " + formatMask(conf, conf.voters);
  if (conf.outgoing !== 0) text += " outgoing " + formatMask(conf, conf.outgoing);
  if (conf.learners !== 0) text += " learners " + formatMask(conf, conf.learners);
  if (conf.learnersNext !== 0) text += " learners-next " + formatMask(conf, conf.learnersNext);
  if (conf.witnesses !== 0) text += " witnesses " + formatMask(conf, conf.witnesses);
  return text;
}

function formatMask(conf: Configuration, mask: number): string {
  const ids: number[] = [];
  for (let slot = 0; slot < conf.members.length; slot++) {
    if ((mask & (1 << slot)) !== 0) ids.push(conf.members[slot]!.id);
  }
  return ids.join(",");
}
