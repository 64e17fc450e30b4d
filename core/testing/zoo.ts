// cold: the simulator
import { assert } from "../base/assert.ts";

/**
 * The bug zoo (campaign C2): bugs that are planted in our own code, one at a time, to see that the
 * simulation finds them.
 *
 * A simulation that never failed proves little. Each bug here breaks a promise on purpose, as somebody
 * might who simplifies the code and does not know the story behind an odd line; runs of the simulator
 * with it must fail within 500 seeds.
 *
 * Production code knows nothing of this. A bug is an edit of its source, by text, made while a module
 * is loaded (`bun-zoo.ts`), and only in a process whose build constant `PLANTED` names the bug.
 */

/** Replaces `find`, which stands exactly once in `file`, a path from the root of the repository. */
export interface Edit {
  readonly file: string;
  readonly find: string;
  readonly replace: string;
}

export interface PlantedBug {
  readonly name: string;
  /** The promise that it breaks. */
  readonly breaks: string;
  /** What goes wrong. */
  readonly what: string;
  readonly edits: readonly Edit[];
  /** A seed that finds it. Above 20: those below were tried, as far as they have its faults at all. */
  readonly seed: number;
}

export const ZOO: readonly PlantedBug[] = [
  {
    name: "torn-index-page",
    breaks: "G2",
    what: "an index page that is older than the checkpoint knows is believed (story 2)",
    edits: [
      {
        file: "core/store/index-scan.ts",
        find: "if (counts.newer === 0 && crc !== known)",
        replace: "if (counts.newer < 0)",
      },
    ],
    seed: 82,
  },
  {
    name: "unit-given-away-too-early",
    breaks: "G6",
    what: "a freed unit is the next to be used, whatever record still names it (story 3)",
    edits: [
      {
        file: "core/store/quarantine.ts",
        find: "if (this.begun) this.queue(slot, seq);",
        replace: `if (!this.begun) return;
    this.table.release(slot);
    const table = this.table as unknown as { cursorZone: number; cursorIndex: number };
    table.cursorZone = this.table.zones.indexOf(this.table.zoneOf(slot));
    table.cursorIndex = this.table.indexOf(slot);`,
      },
    ],
    seed: 17,
  },
  {
    name: "empty-disk-that-voted",
    breaks: "G1",
    what: "a new disk goes on under the replica ids of the lost one (story 4)",
    edits: [
      {
        file: "core/pg/membership.ts",
        find: "return uuidDigits(one.storeUuid) === uuidDigits(shard.store.identity.storeUuid);",
        replace: "return true;",
      },
      {
        file: "core/pg/membership.ts",
        find: "if (shard.forgetful || (!pg.creating && isVoter(pg, mine))) return true;",
        replace: "if (shard.forgetful) return true;",
      },
      {
        file: "core/pg/membership.ts",
        find: "return osd !== undefined && osd.storeUuid !== one.storeUuid;",
        replace: "return false;",
      },
    ],
    seed: 2,
  },
  {
    name: "direct-payload-not-durable",
    breaks: "G1",
    what: "an entry counts once its batch is durable, whatever of its units is",
    edits: [
      {
        file: "core/log/shard-log.ts",
        find: "if (entry === null || entry.directPending > 0) break;",
        replace: "if (entry === null) break;",
      },
    ],
    seed: 83,
  },
  {
    name: "location-replicated",
    breaks: "G6",
    what: "the leader's places of whole units are used by all replicas",
    edits: [
      {
        file: "core/log/direct-units.ts",
        find: "unit === 0 ? this.slots.takeUnit() : this.slots.takeUnitAfter(entry.units[unit - 1]!);",
        replace: `((): number => {
          const told = ((globalThis as { told?: Map<string, number> }).told ??= new Map());
          const key = [entry.layer, entry.firstBlock, entry.index, entry.term, unit].join();
          const place = told.get(key);
          if (place !== undefined) {
            this.slots.takeNamed(place);
            return place;
          }
          const own =
            unit === 0 ? this.slots.takeUnit() : this.slots.takeUnitAfter(entry.units[unit - 1]!);
          told.set(key, own);
          return own;
        })();`,
      },
    ],
    seed: 1,
  },
  {
    name: "promise-forgotten-by-a-start",
    breaks: "G2",
    what: "a process votes as soon as it runs, though it may have promised not to before",
    edits: [
      {
        file: "core/pg/pg.ts",
        find: "if (now < this.startUs + PROMISE_US) return true;",
        replace: "",
      },
    ],
    seed: 46,
  },
  {
    name: "read-of-a-resumed-leader",
    breaks: "G2",
    what: "a lease counts by the time at which its voter was heard last, not by the time of the answer",
    edits: [
      {
        file: "core/pg/group.ts",
        find: "if (peer.link.leaseUntilUs > nowUs) granted |= 1 << slot;",
        replace:
          "if (peer.link.leaseUntilUs > Math.min(nowUs, peer.link.heardUs)) granted |= 1 << slot;",
      },
    ],
    seed: 48,
  },
  {
    name: "commits-at-election",
    breaks: "G1",
    what: "a new leader takes all of its log for committed (defect 8 of the original)",
    edits: [
      {
        file: "core/raft/election.ts",
        find: "node.ownIndex = node.log.lastIndex + 1;",
        replace: "node.ownIndex = node.log.lastIndex + 1;\n  setCommit(node, node.log.lastIndex);",
      },
    ],
    seed: 5,
  },
  {
    name: "refusal-is-a-vote",
    breaks: "G1",
    what: "any answer to a candidate counts as a vote (defect 9 of the original)",
    edits: [
      {
        file: "core/raft/election.ts",
        find: "if ((message.flags & MessageFlag.Reject) === 0) node.granted |= 1 << slot;",
        replace: "node.granted |= 1 << slot;",
      },
      {
        file: "core/raft/election.ts",
        find: "else if ((message.flags & MessageFlag.Blocked) === 0) node.refused |= 1 << slot;",
        replace: "",
      },
    ],
    seed: 1,
  },
  {
    name: "counts-itself-before-durable",
    breaks: "G1",
    what: "a leader counts its own copy before it is durable (defect 9 of the original)",
    edits: [
      {
        file: "core/raft/witness.ts",
        find: "if (node.selfSlot >= 0) values[node.selfSlot] = node.durableIndex;",
        replace: "if (node.selfSlot >= 0) values[node.selfSlot] = node.log.lastIndex;",
      },
    ],
    seed: 1,
  },
  {
    name: "acknowledged-before-durable",
    breaks: "G1",
    what: "a follower acknowledges what it has received",
    edits: [
      {
        file: "core/raft/replication.ts",
        find: "reply.index = Math.min(node.matchedIndex, node.durableIndex);",
        replace: "reply.index = node.matchedIndex;",
      },
    ],
    seed: 1,
  },
  {
    name: "applied-twice",
    breaks: "G4",
    what: "a request that comes again is carried out again",
    edits: [
      {
        file: "core/pg/requests.ts",
        find: "if (state === NumberState.Applied) {",
        replace: "if (state < 0) {",
      },
    ],
    seed: 42,
  },
  {
    name: "windows-forgotten-by-a-start",
    breaks: "G4",
    what: "a start does not take the sessions' windows from the checkpoint",
    edits: [
      {
        file: "core/pg/group.ts",
        find: "this.sessions.restore(one.session, one.base, one.bits, one.lastIndex);",
        replace: "void one;",
      },
    ],
    seed: 1,
  },
  {
    name: "forgotten-session-taken",
    breaks: "G4",
    what: "a session whose window was forgotten is taken for a new one",
    edits: [
      {
        file: "core/pg/session-window.ts",
        find: "return session >= this.expiredBelow || this.windows.has(session);",
        replace: "return session > 0;",
      },
      {
        file: "core/pg/session-window.ts",
        find: "if (session < this.expiredBelow) return;",
        replace: "",
      },
    ],
    seed: 23,
  },
  {
    name: "late-write-after-a-fence",
    breaks: "G4",
    what: "a leader takes requests of a holder that was fenced",
    edits: [
      {
        file: "core/pg/requests.ts",
        find: "if (lockEpoch < proposed) return Status.Fenced;",
        replace: "if (lockEpoch < proposed) return Status.Ok;",
      },
    ],
    seed: 2,
  },
  {
    name: "log-cut-at-damage",
    breaks: "G1",
    what: "the log ends at the first batch that can not be read, whoever vouches for it",
    edits: [
      {
        file: "core/log/log-scan.ts",
        find: "const vouched = await chain.lookAhead();",
        replace: "const vouched = false;",
      },
    ],
    seed: 203,
  },
  {
    name: "checkpoint-without-flush",
    breaks: "G7",
    what: "a checkpoint does not wait for a flush of what it covers",
    edits: [
      {
        file: "core/pg/local-store-checkpoint.ts",
        find: "await runOnce(this.parts.device, { verb: DiskVerb.Flush, region: DeviceRegion.Meta });",
        replace: "",
      },
    ],
    seed: 2,
  },
  {
    name: "lost-flush-error",
    breaks: "G5",
    what: "a flush that failed counts as one that did its work",
    edits: [
      {
        file: "core/device/shard-device.ts",
        find: "const latencyUs = this.world.clock.turnUs - op.submittedUs;",
        replace: `if (op.verb === DiskVerb.Flush) op.status = Status.Ok;
    const latencyUs = this.world.clock.turnUs - op.submittedUs;`,
      },
    ],
    seed: 20,
  },
  {
    name: "flush-answered-early",
    breaks: "G5",
    what: "a flush does not wait for the writes that were submitted before it",
    edits: [
      {
        file: "core/client/image.ts",
        find: "if (this.openHead !== null && this.openHead.order < flush.order) return;",
        replace: "",
      },
    ],
    seed: 1,
  },
  {
    name: "promoted-too-soon",
    breaks: "G1",
    what: "a learner becomes a voter before it has what is committed",
    edits: [
      {
        file: "core/raft/replication.ts",
        find: "if (progress.filling || progress.state !== ProgressState.Replicate) return false;",
        replace: "if (progress.match >= 0) return true;",
      },
    ],
    seed: 24,
  },
  {
    name: "filled-by-name",
    breaks: "G7",
    what: "a fill takes a unit that is here for equal, whatever it holds",
    edits: [
      {
        file: "core/pg/fill.ts",
        find: "if (own.digestLow === listed.digestLow && own.digestHigh === listed.digestHigh) return;",
        replace: "if (slot >= 0) return;",
      },
    ],
    seed: 4,
  },
  {
    name: "filled-without-looking-back",
    breaks: "G7",
    what: "a fill does not ask for what is here and not at the leader",
    edits: [
      {
        file: "core/pg/fill.ts",
        find: "await this.listOwn(source);",
        replace: "",
      },
    ],
    seed: 4,
  },
  {
    name: "quiet-while-full",
    breaks: "G13",
    what: "a replica is parked that told its leader of a full disk: it never takes that back",
    edits: [
      {
        file: "core/raft/parking.ts",
        find: "if (node.full) return false;",
        replace: "",
      },
    ],
    seed: 216,
  },
  {
    name: "shrunk-blocks-come-back",
    breaks: "N8",
    what: "a shrink passes over a group that does not answer at once, and is done",
    edits: [
      {
        file: "core/mon/operation-engine.ts",
        find: "if (pg === undefined) break; // The pool",
        replace:
          'if (pg === undefined || (attempt > 1 && operation.kind === "image.shrink")) break; //',
      },
    ],
    seed: 95,
  },
  {
    name: "shrink-without-fence",
    breaks: "N8",
    what: "who has not heard of a shrink goes on writing beyond the end",
    edits: [
      {
        file: "core/mon/image-service.ts",
        find: "const image = { ...before, sizeBytes, lockEpoch: this.catalogue.nextLockEpoch(before) };",
        replace: "const image = { ...before, sizeBytes };",
      },
    ],
    seed: 23,
  },
  {
    name: "removed-layer-without-fence",
    breaks: "G4",
    what: "a group takes requests for a layer that it has seen removed",
    edits: [
      {
        file: "core/pg/requests.ts",
        find: "if (group.layers.isGone(layer)) return Status.Removed;",
        replace: "",
      },
    ],
    seed: 194,
  },
  {
    name: "batch-that-came-back",
    breaks: "G1",
    what: "a batch of an earlier start is taken for the successor of a new one (story 1)",
    edits: [
      {
        file: "core/log/log-scan-chain.ts",
        find: "if (header.prevCrc !== this.prevCrc || header.incarnation < this.incarnation) return undefined;",
        replace: "",
      },
    ],
    seed: 40,
  },
  {
    name: "vote-not-persisted",
    breaks: "G2",
    what: "a vote is told before it is durable (defect 10 of the original)",
    edits: [
      {
        file: "core/raft/election.ts",
        find: "if (node.hardStateDurable) sendGrant(node);",
        replace: "sendGrant(node);",
      },
      {
        file: "core/raft/election.ts",
        find: 'assert(node.hardStateDurable, "raft: vote sent before it is durable");',
        replace: "",
      },
    ],
    seed: 5,
  },
  {
    name: "serves-before-applying",
    breaks: "G2",
    what: "a new leader serves before it has applied what earlier ones left (defect 12)",
    edits: [
      {
        file: "core/pg/group.ts",
        find: "return this.isLeader && node.ownIndex > 0 && this.appliedIndex >= node.ownIndex;",
        replace: "return this.isLeader && node.ownIndex > 0;",
      },
    ],
    seed: 1,
  },
  {
    name: "lease-of-another-clock",
    breaks: "G2",
    what: "a lease compares the clocks of two machines (defect 12 of the original)",
    edits: [
      {
        file: "core/pg/peer-link.ts",
        find: "if (echoUs + LEASE_US > this.leaseUntilUs) this.leaseUntilUs = echoUs + LEASE_US;",
        replace: "this.leaseUntilUs = sentUs + LEASE_US;",
      },
    ],
    seed: 75,
  },
  {
    name: "no-checksums",
    breaks: "G1",
    what: "whatever is read is taken for what was written, in the log and at home (defect 14)",
    edits: [
      {
        file: "core/log/batch.ts",
        find: "return crc === header.crc;",
        replace: "return crc >= 0;",
      },
      {
        file: "core/log/log-scan-chain.ts",
        find: "bad: !this.inlineGood(record, payload),",
        replace: "bad: payload < 0 && !this.inlineGood(record, payload),",
      },
      {
        file: "core/object/reader.ts",
        find: "good = this.world.checksum.crc32(bytes, 0) === op.crcs[at];",
        replace: "op.crcs[at] = this.world.checksum.crc32(bytes, 0);",
      },
    ],
    seed: 3,
  },
  {
    name: "healed-with-bad-copy",
    breaks: "G7",
    what: "a damaged block is replaced by what any replica has, and takes the checksum of that",
    edits: [
      {
        file: "core/osd/healer.ts",
        find: "fetchBlocks(this.world, connection, range, slot, version)",
        replace: "fetchBlocks(this.world, connection, range, slot)",
      },
      {
        file: "core/osd/healer.ts",
        find: "if (block.version !== version) return Word.Other;",
        replace: "",
      },
      {
        file: "core/object/reader.ts",
        find: "if (objects.sourceCrc !== op.crc) return Status.Invalid;",
        replace: `const { sourceSlot, sourcePosition } = objects;
    const bit = op.block % BLOCKS_PER_UNIT;
    if (home) objects.slots.setBlock(sourceSlot, bit, op.version, op.crc);
    else objects.putBlock(sourceSlot, bit, sourcePosition, op.version, op.crc);`,
      },
    ],
    seed: 264,
  },
  {
    name: "no-epoch-check",
    breaks: "G10",
    what: "maps are compared by their epoch alone: those of a lost monitor win over a restored one's",
    edits: [
      {
        file: "core/cluster/cluster-map.ts",
        find: "return a.generation === b.generation ? a.epoch - b.epoch : a.generation - b.generation;",
        replace: "return a.epoch - b.epoch;",
      },
    ],
    seed: 14,
  },
];

/** The source of `file` with the bug in it. Fails when an edit does not fit exactly once. */
export function plant(bug: PlantedBug, file: string, source: string): string {
  let text = source;
  for (const edit of bug.edits) {
    if (edit.file !== file) continue;
    const parts = text.split(edit.find);
    assert(parts.length > 1, "plant: the text is not there");
    assert(parts.length === 2, "plant: the text is there more than once");
    text = parts.join(edit.replace);
  }
  return text;
}
