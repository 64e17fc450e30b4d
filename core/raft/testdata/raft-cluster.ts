/**
 * Replicas of one group with simulated disks and network, driven step by step.
 *
 * A disk is the list of records that were written; only records whose write completed survive a
 * crash. Every apply is compared with what any other replica applied at that index.
 */
import { assert } from "../../base/assert.ts";
import { Prng } from "../../base/prng.ts";
import {
  type ConfChange,
  changeConfiguration,
  type Configuration,
  decodeConfiguration,
  ENTRY_KIND_CONF,
  ENTRY_KIND_NOOP,
  encodeConfiguration,
  freshRestore,
  hasQuorum,
  mayPark,
  MessageFlag,
  MessageType,
  RAFT_OPTIONS_DEFAULT,
  RaftGroups,
  RaftMessage,
  RaftNode,
  type RaftOptions,
  Ready,
  resume,
  Role,
  StepResult,
} from "../raft.ts";

/** EntryType.Write. */
export const KIND_WRITE = 2;

export interface Payload {
  term: number;
  kind: number;
  value: string;
  conf: Uint8Array | null;
}

export interface Frame {
  message: RaftMessage;
  payload: Payload | null;
}

interface Write {
  /** 0, 0: no hard state in this write. */
  hard: { term: number; vote: number } | null;
  entries: { index: number; payload: Payload }[];
  commit: number;
  version: number;
  lastIndex: number;
}

interface Disk {
  term: number;
  vote: number;
  commit: number;
  baseIndex: number;
  baseTerm: number;
  filling: boolean;
  uncounted: boolean;
  /** Checkpoint: applied and the configuration as of it. */
  applied: number;
  conf: Configuration;
  entries: Map<number, Payload>;
  lastIndex: number;
}

export class Replica {
  readonly id: number;
  readonly disk: Disk;
  node: RaftNode | null = null;
  groups: RaftGroups;
  entries: Map<number, Payload> = new Map();
  writes: Write[] = [];
  /** First index that the next write must carry. */
  unwritten = 1;
  startBlocked = false;
  readonly promises: Set<number> = new Set();
  /** Whether a lease promise to the shard of `leader` is in force. */
  promised: (leader: number) => boolean = (leader) => this.promises.has(leader);
  readonly echoes: Map<number, number> = new Map();
  applied = 0;
  readConfirmed = 0;

  constructor(id: number, conf: Configuration, groups: RaftGroups) {
    this.id = id;
    this.groups = groups;
    this.disk = {
      term: 0,
      vote: 0,
      commit: 0,
      baseIndex: 0,
      baseTerm: 0,
      filling: false,
      uncounted: false,
      applied: 0,
      conf,
      entries: new Map(),
      lastIndex: 0,
    };
  }

  get up(): RaftNode {
    assert(this.node !== null, "replica is down");
    return this.node;
  }
}

export class Cluster {
  readonly replicas: Map<number, Replica> = new Map();
  network: Frame[] = [];
  trace: string[] = [];
  /** Off in simulation: texts cost more than raft does. */
  tracing = true;
  readonly random: Prng;
  readonly options: RaftOptions;
  readonly out: Ready = new Ready();
  private readonly peeked = new RaftMessage();
  /** What was applied at each index by the first that did. */
  readonly committed: Map<number, string> = new Map();
  /** The term of that replica then. */
  private readonly committedIn: Map<number, number> = new Map();
  readonly leaderOfTerm: Map<number, number> = new Map();
  /** Ways that lose everything, `from>to`. */
  cuts: Set<string> = new Set();
  /** Replicas whose writes complete only by `flush`. */
  readonly held: Set<number> = new Set();

  /** Votes for a candidate with a shorter log, because the voter's copies did not count. */
  votesUncounted = 0;
  /** Leaders that left their group, or voted no more, beside a witness. */
  leftWitness = 0;

  /** Called when a leader commits. */
  onLeaderCommit: (node: RaftNode) => void = () => {};

  constructor(seed: number, options: RaftOptions = RAFT_OPTIONS_DEFAULT) {
    this.random = new Prng(seed);
    this.options = options;
  }

  add(id: number, conf: Configuration): Replica {
    const replica = new Replica(id, conf, this.makeGroups(id));
    this.replicas.set(id, replica);
    this.start(id);
    return replica;
  }

  private makeGroups(id: number): RaftGroups {
    const host = {
      voteBlocked: (_group: number, leader: number): boolean => {
        const replica = this.replica(id);
        return replica.startBlocked || replica.promised(leader);
      },
      echoCount: (_group: number, peer: number): number => this.replica(id).echoes.get(peer) ?? 0,
      // A refusal that was overtaken on the way looks like one: safe, and no stream does that.
      onForgotten: (): void => undefined,
    };
    return new RaftGroups(this.random, host, this.options);
  }

  replica(id: number): Replica {
    const replica = this.replicas.get(id);
    assert(replica !== undefined, "no such replica");
    return replica;
  }

  node(id: number): RaftNode {
    return this.replica(id).up;
  }

  /** Start from what the disk holds. */
  start(id: number): void {
    const replica = this.replica(id);
    const disk = replica.disk;
    assert(replica.node === null, "replica is up");
    replica.groups = this.makeGroups(id);
    const restore = {
      ...freshRestore(disk.conf),
      term: disk.term,
      vote: disk.vote,
      commitIndex: disk.commit,
      appliedIndex: disk.applied,
      baseIndex: disk.baseIndex,
      baseTerm: disk.baseTerm,
    };
    const node = new RaftNode(replica.groups, 0, 1, id, restore);
    replica.entries = new Map();
    for (let index = disk.baseIndex + 1; index <= disk.lastIndex; index++) {
      const payload = disk.entries.get(index);
      assert(payload !== undefined, "hole in the log on disk");
      replica.entries.set(index, payload);
      node.restoreEntry(payload.term, payload.kind);
    }
    node.restored();
    if (disk.filling) node.setFilling(true);
    if (disk.uncounted) node.setUncounted();
    replica.node = node;
    replica.unwritten = disk.lastIndex + 1;
    replica.applied = Math.max(disk.applied, disk.baseIndex);
    replica.readConfirmed = 0;
  }

  /**
   * Park a replica if it may be, and wake it at once, with nothing but what an owner keeps of it. Raft
   * goes on as if nothing had been. Answers whether it was.
   */
  park(id: number): boolean {
    const replica = this.replica(id);
    const { node } = replica;
    if (node === null || replica.writes.length > 0 || !mayPark(node)) return false;
    const { log, term, vote, conf, leader, ownIndex, full } = node;
    const { baseIndex, baseTerm, lastIndex } = log;
    const woken = new RaftNode(replica.groups, 0, 1, id, {
      ...{ term, vote, conf, baseIndex, baseTerm },
      commitIndex: lastIndex,
      appliedIndex: lastIndex,
    });
    woken.setFull(full);
    for (let index = baseIndex + 1; index <= lastIndex; index++) {
      woken.restoreEntry(log.termAt(index), log.kindAt(index));
    }
    woken.restored();
    resume(woken, leader, ownIndex);
    replica.node = woken;
    return true;
  }

  /** Lose everything that is not on the disk; the first `survivors` pending writes made it there. */
  crash(id: number, survivors = 0): void {
    const replica = this.replica(id);
    for (const write of replica.writes.slice(0, survivors)) this.apply(replica.disk, write);
    replica.writes = [];
    replica.node = null;
    replica.promises.clear();
  }

  /** Carry out what the node asks for: queue writes, apply, emit messages. */
  process(id: number): boolean {
    const replica = this.replica(id);
    if (replica.node === null) return false;
    let visited = false;
    for (let n = replica.groups.takeDirty(); n !== null; n = replica.groups.takeDirty()) {
      if (n !== replica.node) continue;
      visited = true;
      this.ready(replica, n);
    }
    const outbox = replica.groups.outbox;
    for (let message = outbox.shift(); message !== null; message = outbox.shift()) {
      this.emit(message, null);
      replica.groups.pool.release(message);
      visited = true;
    }
    return visited;
  }

  private ready(replica: Replica, node: RaftNode): void {
    const out = this.out;
    node.ready(out);
    const id = replica.id;
    if (out.stateChanged) {
      if (this.tracing) this.note(`${id}: ${Role[out.role]} term ${out.term} leader ${out.leader}`);
      if (out.role === Role.Leader) this.noteLeader(id, out.term);
    }
    if (out.noopIndex !== 0) {
      this.keep(replica, out.noopIndex, payload(node.term, ENTRY_KIND_NOOP, "noop", null));
      if (this.tracing) this.note(`${id}: appends noop ${out.noopIndex}/${node.term}`);
    }
    if (out.leaveIndex !== 0) {
      assert(out.leaveConfiguration !== null, "leave without configuration");
      const body = encodeConfiguration(out.leaveConfiguration);
      this.keep(replica, out.leaveIndex, payload(node.term, ENTRY_KIND_CONF, "leave", body));
      if (this.tracing) this.note(`${id}: appends leave ${out.leaveIndex}/${node.term}`);
    }
    if (out.fillChanged && this.tracing) this.note(`${id}: peers need filling`);
    if (out.readConfirmed > replica.readConfirmed) {
      if (this.tracing) this.note(`${id}: reads confirmed up to ticket ${out.readConfirmed}`);
      replica.readConfirmed = out.readConfirmed;
    }
    if (out.persist) this.write(replica, node, out);
    if (out.committed && this.tracing) this.note(`${id}: commits ${out.commitIndex}`);
    if (out.committed && out.role === Role.Leader) this.checkCommit(node);
    this.applyCommitted(replica, node);
    if (out.appends) this.sendAppends(replica, node);
  }

  /** What a leader commits must lie on the disks of a quorum. */
  private checkCommit(node: RaftNode): void {
    const index = node.commitIndex;
    // Learned from another replica just before the election: others counted it.
    if (node.log.termAt(index) !== node.term) return;
    const { members, voters, outgoing } = node.conf;
    let copies = 0;
    for (const [slot, member] of members.entries()) {
      const disk = this.replicas.get(member.id)?.disk;
      if (disk === undefined || disk.lastIndex < index) continue;
      // No vote of this replica vouches for what it took since.
      if (disk.uncounted && index > disk.baseIndex) continue;
      if (index <= disk.baseIndex || disk.entries.get(index)?.term === node.term) copies |= 1 << slot;
    }
    assert(hasQuorum(copies, voters, outgoing), "committed without a quorum of durable copies");
    this.onLeaderCommit(node);
  }

  private noteLeader(id: number, term: number): void {
    const known = this.leaderOfTerm.get(term);
    assert(known === undefined || known === id, "two leaders in one term");
    this.leaderOfTerm.set(term, id);
    assert(!this.node(id).filling, "a replica leads that is being filled");
    const { log } = this.node(id);
    for (const [index, text] of this.committed) {
      // A late leader of an older term lacks what a newer one committed, and can commit nothing.
      if (index <= log.baseIndex || term <= this.committedIn.get(index)!) continue;
      assert(text.startsWith(`${log.termAt(index)} `), "a leader lacks a committed entry");
    }
  }

  private write(replica: Replica, node: RaftNode, out: Ready): void {
    const write: Write = {
      hard: out.hardState ? { term: out.term, vote: out.vote } : null,
      entries: [],
      commit: node.commitIndex,
      version: out.version,
      lastIndex: out.lastIndex,
    };
    for (let index = replica.unwritten; index <= out.lastIndex; index++) {
      const entry = replica.entries.get(index);
      assert(entry !== undefined, "entry without payload");
      assert(entry.term === node.log.termAt(index), "payload of another term");
      write.entries.push({ index, payload: entry });
    }
    replica.unwritten = out.lastIndex + 1;
    replica.writes.push(write);
  }

  /** Complete the oldest write. */
  flush(id: number): boolean {
    const replica = this.replica(id);
    const write = replica.writes.shift();
    if (write === undefined) return false;
    this.apply(replica.disk, write);
    replica.node?.onDurable(write.version, write.lastIndex);
    return true;
  }

  private apply(disk: Disk, write: Write): void {
    if (write.hard !== null) {
      disk.term = write.hard.term;
      disk.vote = write.hard.vote;
    }
    for (const { index, payload: entry } of write.entries) {
      if (index <= disk.baseIndex) continue;
      const old = disk.entries.get(index);
      assert(index <= disk.lastIndex + 1, "write leaves a hole");
      // Raft's rule: only an entry of another term cuts what lies behind it.
      if (index > disk.lastIndex || (old !== undefined && old.term !== entry.term)) {
        disk.lastIndex = index;
      }
      disk.entries.set(index, entry);
    }
    disk.commit = Math.max(disk.commit, write.commit);
  }

  private applyCommitted(replica: Replica, node: RaftNode): void {
    const last = this.out.applyIndex;
    while (replica.applied < last) {
      const index = replica.applied + 1;
      const entry = replica.entries.get(index);
      assert(entry !== undefined, "committed entry is missing");
      const text = `${entry.term} ${entry.value}`;
      const known = this.committed.get(index);
      assert(known === undefined || known === text, "replicas applied different entries");
      this.committed.set(index, text);
      if (known === undefined) this.committedIn.set(index, node.term);
      replica.applied = index;
      if (entry.conf !== null) {
        const conf = decodeConfiguration(entry.conf);
        assert(conf !== null, "malformed configuration");
        const led = node.role === Role.Leader;
        node.applyConfiguration(index, conf);
        if (led && node.role !== Role.Leader && conf.witnesses !== 0) {
          // The witness has no more than those that may lead.
          assert(node.commitIndex === node.log.lastIndex, "a leader left with more than committed");
          this.leftWitness++;
        }
      }
      node.onApplied(index);
    }
  }

  private sendAppends(replica: Replica, node: RaftNode): void {
    for (let slot = 0; slot < node.peerSlots; slot++) {
      while (node.peekAppend(slot, this.peeked)) {
        const peeked = this.peeked;
        const entry = peeked.entryKind === 0 ? null : replica.entries.get(peeked.index + 1);
        assert(entry !== undefined, "entry to send is missing");
        assert(entry === null || entry.term === peeked.entryTerm, "wrong entry to send");
        this.emit(peeked, entry);
        node.appendSent(slot, 4096);
      }
    }
  }

  private emit(message: RaftMessage, entry: Payload | null): void {
    const copy = new RaftMessage();
    copy.pg = message.pg;
    copy.from = message.from;
    copy.to = message.to;
    copy.type = message.type;
    copy.term = message.term;
    copy.index = message.index;
    copy.logTerm = message.logTerm;
    copy.commit = message.commit;
    copy.entryTerm = message.entryTerm;
    copy.entryKind = message.entryKind;
    copy.flags = message.flags;
    copy.hintIndex = message.hintIndex;
    copy.hintTerm = message.hintTerm;
    copy.context = message.context;
    this.network.push({ message: copy, payload: entry });
  }

  /** Hand a frame to its receiver; lost when that is down, or the way is cut. */
  deliver(frame: Frame): void {
    const { message } = frame;
    const replica = this.replicas.get(message.to);
    const cut = this.cuts.has(`${message.from}>${message.to}`);
    if (replica === undefined || replica.node === null || cut) {
      if (this.tracing) this.note(`${describe(message, frame.payload)} (lost)`);
      return;
    }
    const result = this.step(replica.node, message);
    if (this.tracing) this.note(describe(message, frame.payload) + suffix(result));
    const index = message.index + 1;
    if (result === StepResult.Appended || result === StepResult.Replaced) {
      assert(frame.payload !== null, "entry without payload");
      this.keep(replica, index, frame.payload);
    }
  }

  private step(node: RaftNode, message: RaftMessage): StepResult {
    const refused = node.uncounted && !node.log.isUpToDate(message.index, message.logTerm);
    const result = node.step(message);
    const voted = node.term === message.term && node.vote === message.from;
    if (message.type === MessageType.Vote && refused && voted) this.votesUncounted++;
    return result;
  }

  /** Keep a payload; on replacement everything behind it goes. */
  private keep(replica: Replica, index: number, entry: Payload): void {
    for (let at = index; replica.entries.delete(at); at++);
    replica.entries.set(index, entry);
    replica.unwritten = Math.min(replica.unwritten, index);
  }

  propose(id: number, value: string): number {
    const node = this.node(id);
    const index = node.propose(KIND_WRITE);
    if (index > 0) this.keep(this.replica(id), index, payload(node.term, KIND_WRITE, value, null));
    return index;
  }

  change(id: number, change: ConfChange): number {
    const node = this.node(id);
    const next = changeConfiguration(node.conf, change);
    const index = node.proposeConfiguration(next);
    if (index > 0) {
      const body = encodeConfiguration(next);
      this.keep(this.replica(id), index, payload(node.term, ENTRY_KIND_CONF, "conf", body));
    }
    return index;
  }

  /** Write the checkpoint and drop entries up to `index`. */
  compact(id: number, index: number): void {
    const replica = this.replica(id);
    const node = replica.up;
    const { disk } = replica;
    node.compact(index);
    disk.baseIndex = node.log.baseIndex;
    disk.baseTerm = node.log.baseTerm;
    disk.applied = replica.applied;
    disk.commit = Math.max(disk.commit, replica.applied);
    disk.conf = node.conf;
  }

  /** Begin filling at the leader's applied position, durably. */
  beginFill(id: number, index: number, term: number, conf: Configuration): void {
    const replica = this.replica(id);
    const { disk } = replica;
    const node = replica.up;
    while (this.flush(id));
    node.beginFill(index, term, conf);
    for (const at of [...replica.entries.keys()]) {
      if (at <= node.log.baseIndex || at > node.log.lastIndex) replica.entries.delete(at);
    }
    disk.entries = new Map(replica.entries);
    disk.baseIndex = node.log.baseIndex;
    disk.baseTerm = node.log.baseTerm;
    disk.lastIndex = node.log.lastIndex;
    disk.commit = node.commitIndex;
    disk.applied = node.appliedIndex;
    disk.conf = node.conf;
    disk.filling = true;
    disk.uncounted = node.uncounted;
    replica.applied = node.appliedIndex;
    replica.unwritten = node.log.lastIndex + 1;
  }

  /** Make a replica wait for a fill, or give that up: its log counts on. */
  waitForFill(id: number, waits: boolean): void {
    this.node(id).setFilling(waits || this.replica(id).disk.filling);
  }

  endFill(id: number): void {
    const { disk } = this.replica(id);
    disk.filling = false;
    disk.uncounted = false;
    this.node(id).setFilling(false);
  }

  /** Make a replica in the place of one that is not trusted: filled from its birth. */
  addRenewed(id: number, conf: Configuration): Replica {
    const replica = this.add(id, conf);
    replica.disk.filling = true;
    replica.disk.uncounted = true;
    replica.up.setUncounted();
    return replica;
  }

  /** Make `id` leader; its Noop stays with it, all Appends meanwhile are lost. */
  elect(id: number): void {
    const node = this.node(id);
    for (let round = 0; round < 20 && node.role !== Role.Leader; round++) {
      if (node.role === Role.Follower) node.campaign();
      this.round(false);
    }
    assert(node.role === Role.Leader, "replica was not elected");
    this.process(id);
    while (this.flush(id));
    this.network = this.network.filter((frame) => frame.message.type !== MessageType.Append);
  }

  private round(appends: boolean): boolean {
    let moved = false;
    for (const id of this.replicas.keys()) moved = this.process(id) || moved;
    for (const id of this.replicas.keys()) {
      while (!this.held.has(id) && this.flush(id)) moved = true;
    }
    const frames = this.network;
    this.network = [];
    for (const frame of frames) {
      moved = true;
      if (appends || frame.message.type !== MessageType.Append) this.deliver(frame);
    }
    return moved;
  }

  /** Process, flush and deliver until nothing moves. */
  stabilize(roundsMax = 200): void {
    for (let round = 0; round < roundsMax; round++) {
      if (!this.round(true)) return;
    }
    throw new Error("cluster does not settle");
  }

  private note(text: string): void {
    this.trace.push(text);
  }
}

function payload(term: number, kind: number, value: string, conf: Uint8Array | null): Payload {
  return { term, kind, value, conf };
}

function suffix(result: StepResult): string {
  return result === StepResult.None ? "" : ` (${StepResult[result]})`;
}

/** One line about a message. */
export function describe(message: RaftMessage, entry: Payload | null): string {
  let text = `${message.from} > ${message.to} ${MessageType[message.type]} term ${message.term}`;
  switch (message.type) {
    case MessageType.Append:
      text += ` prev ${message.index}/${message.logTerm} commit ${message.commit}`;
      if (entry !== null) text += ` entry ${message.index + 1}/${message.entryTerm} ${entry.value}`;
      break;
    case MessageType.AppendReply:
      text += ` index ${message.index} commit ${message.commit}`;
      if ((message.flags & MessageFlag.Reject) !== 0) {
        text += ` hint ${message.hintIndex}/${message.hintTerm}`;
      }
      break;
    case MessageType.PreVote:
    case MessageType.Vote:
      text += ` last ${message.index}/${message.logTerm}`;
      break;
    case MessageType.TimeoutNow:
    case MessageType.LeaderGone:
      text += ` commit ${message.commit}`;
      break;
    default:
      if (message.context !== 0) text += ` round ${message.context}`;
  }
  if ((message.flags & MessageFlag.Reject) !== 0) text += " rejected";
  if ((message.flags & MessageFlag.Blocked) !== 0) text += " blocked";
  if ((message.flags & MessageFlag.Filling) !== 0) text += " filling";
  if ((message.flags & MessageFlag.Transfer) !== 0) text += " transfer";
  return text;
}
