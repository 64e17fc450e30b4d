import { drainMicrotasks } from "bun:jsc";
import { describe, expect, test } from "bun:test";
import { Status } from "../base/status.ts";
import { BLOCKS_PER_UNIT } from "../base/units.ts";
import { EntryType } from "../log/log.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { BlockState, GroupHealth, type RecoveredGroup } from "./local-store.ts";
import { Machine } from "./machine-harness.ts";
import type { RigEntry, RigFill, RigFillBlock, RigKey } from "./store-harness.ts";
import { type GroupModel, ModelRun, same } from "./store-model-harness.ts";

/**
 * The histories of `local-store-model.sim.test.ts` with replicas that miss a part of them: the
 * group goes on without this replica, which begins again at the group's position and is filled unit
 * by unit, between entries, checkpoints and power cuts at every point. The model is the leader. A unit
 * that was made equal stays equal, whatever is applied and whenever the power fails.
 */
const RUNTIME = { drainMicrotasks, checksum: new SystemChecksum() };
const MIB = 1024 * 1024;

/** What the model knew before a replica took another position. */
interface Before {
  readonly entries: RigEntry[];
  readonly commit: number;
  readonly snapSeq: number;
  readonly layer: number;
  readonly layers: number[];
  readonly filling: Filling | undefined;
}

/** A replica on its way back. */
interface Filling {
  /** Units that are what they are at the leader. */
  readonly equal: Map<string, RigKey>;
  ending: boolean;
}

interface Beginning {
  readonly index: number;
  readonly before: Before;
}

class FillRun extends ModelRun {
  readonly fillings = new Map<GroupModel, Filling>();
  readonly beginnings = new Map<GroupModel, Beginning>();
  readonly replicaIds = new Map<number, number>();
  /** Groups whose replica has another id, an empty log and nothing else. */
  readonly renewed = new Set<GroupModel>();
  readonly pending = new Map<GroupModel, RigFill[]>();
  /** The group goes on without this replica. */
  private away = false;
  begun = 0;
  undone = 0;
  filled = 0;
  equalFound = 0;
  ended = 0;
  renewals = 0;

  override async step(): Promise<void> {
    const dice = this.random.below(100);
    if (dice < 2) await this.begin(this.pick());
    else if (dice < 3) await this.renew(this.pick());
    else if (dice < 35) await this.fillSome(this.pick());
    else await super.step();
  }

  override put(group: GroupModel, entry: RigEntry): void {
    if (this.away) group.add(entry);
    else super.put(group, entry);
  }

  override applyTo(group: GroupModel, upTo: number): void {
    if (!this.pending.has(group)) super.applyTo(group, upTo);
  }

  /* ------------------------------------------------------------ begin, renew */

  private async quiet(group: GroupModel): Promise<void> {
    const { row } = group;
    const { store } = this.rig;
    await this.rig.until(() => store.durableIndex(row) === store.lastIndex(row), "all durable");
    this.applyTo(group, group.commit);
  }

  private remember(group: GroupModel): Before {
    const { entries, commit, snapSeq, layer, layers } = group;
    const filling = this.fillings.get(group);
    return { entries: [...entries], commit, snapSeq, layer, layers: [...layers], filling };
  }

  /** The replica missed entries: it takes over the leader's position. */
  async begin(group: GroupModel): Promise<void> {
    await this.quiet(group);
    const before = this.remember(group);
    const holds = group.last > group.commit && !this.renewed.has(group);
    let index = group.commit + this.random.below(group.last - group.commit + 1);
    if (!holds || this.random.below(2) === 0) {
      // Others lead: what this replica holds behind its commit index is no more.
      group.entries.length = group.commit;
      group.term += 1;
      this.away = true;
      const missed = 1 + this.random.below(this.random.below(2) === 0 ? 4 : 60);
      for (let count = 0; count < missed; count++) this.append(group);
      this.away = false;
      index = group.last;
    }
    group.commit = index;
    group.applied = index;
    this.beginnings.set(group, { index, before });
    this.rig.beginFill(group.row, index, index === 0 ? 0 : group.at(index).term);
    this.rig.store.putHardState(group.row, group.term, 1, index);
    if (this.random.below(2) === 0) this.pass(this.random.below(4000));
    const begun = this.rig.owner.begun.has(group.row);
    if (!begun && this.random.below(3) === 0) {
      await this.crash();
      return;
    }
    await this.rig.until(() => this.rig.owner.begun.has(group.row), "begun");
    this.beginnings.delete(group);
    this.tookPosition(group);
  }

  private tookPosition(group: GroupModel): void {
    this.begun += 1;
    this.renewed.delete(group);
    this.fillings.set(group, { equal: new Map(), ending: false });
  }

  /** The replica is not trusted any more: another one takes its units over. */
  async renew(group: GroupModel): Promise<void> {
    await this.quiet(group);
    const replicaId = this.replicaId(group) + 1;
    // The others know nothing of what is not committed.
    const entries = group.entries;
    this.replicaIds.set(-group.pg, replicaId);
    this.rig.renew(group.row, replicaId);
    this.pass(this.random.below(3000));
    const created = this.rig.owner.created.has(group.row);
    if (!created && this.random.below(2) === 0) {
      await this.crash();
      if (!this.renewed.has(group))
        same("entries of the old replica", group.entries.length, entries.length);
    } else {
      await this.rig.until(() => this.rig.owner.created.has(group.row), "renewed");
      this.onRenewed(group);
    }
    while (this.renewed.has(group)) await this.begin(group);
  }

  private replicaId(group: GroupModel): number {
    return this.replicaIds.get(group.pg) ?? 1;
  }

  private onRenewed(group: GroupModel): void {
    this.renewals += 1;
    this.replicaIds.set(group.pg, this.replicaIds.get(-group.pg)!);
    this.renewed.add(group);
    this.fillings.delete(group);
    group.entries.length = group.commit;
    group.term += 1;
  }

  /* --------------------------------------------------------------- transfer */

  /** One round of a few units of one snapSeq, the lowest first. */
  async fillSome(group: GroupModel): Promise<void> {
    const filling = this.fillings.get(group);
    if (filling === undefined || filling.ending) return;
    this.applyTo(group, group.applied);
    const keys = await this.unequal(group, filling);
    if (keys.length === 0) {
      await this.end(group, filling);
      return;
    }
    const chosen = keys
      .filter((key) => key.snapSeq === keys[0]!.snapSeq)
      .slice(0, 1 + this.random.below(6));
    const ops = new Map<RigKey, RigFill>();
    for (const key of chosen) {
      const blocks = await this.differing(group, key);
      if (blocks.length > 0) ops.set(key, this.rig.startFill(group.row, key, blocks));
      else this.setEqual(filling, key);
    }
    if (ops.size === 0) return;
    this.pending.set(group, [...ops.values()]);
    if (this.random.below(3) === 0) this.append(group);
    if (this.random.below(4) === 0) this.rig.store.requestCheckpoint();
    if (this.random.below(12) === 0) {
      this.pass(this.random.below(600));
      for (const [key, op] of ops) this.onPlaced(filling, key, op);
      await this.crash();
      return;
    }
    await this.rig.until(() => [...ops.values()].every((op) => op.done), "fills");
    this.pending.delete(group);
    for (const [key, op] of ops) this.onPlaced(filling, key, op);
    await this.checkEqual(group, filling);
  }

  private onPlaced(filling: Filling, key: RigKey, op: RigFill): void {
    if (!op.done) return;
    if (op.status === Status.Ok) {
      this.filled += 1;
      filling.equal.set(nameOf(key), key);
    } else same("a fill was refused", op.status, Status.Busy);
  }

  private setEqual(filling: Filling, key: RigKey): void {
    this.equalFound += 1;
    filling.equal.set(nameOf(key), key);
  }

  private async end(group: GroupModel, filling: Filling): Promise<void> {
    await this.checkEqual(group, filling);
    this.rig.owner.ended.delete(group.row);
    this.rig.store.endFill(group.row);
    filling.ending = true;
    if (this.random.below(4) === 0) {
      this.pass(this.random.below(400));
      if (!this.rig.owner.ended.has(group.row)) {
        await this.crash();
        return;
      }
    }
    await this.rig.until(() => this.rig.owner.ended.has(group.row), "ended");
    this.onEnded(group);
  }

  private onEnded(group: GroupModel): void {
    this.ended += 1;
    this.fillings.delete(group);
  }

  /** What the leader or this replica has and is not known as equal, lowest snapSeq first. */
  private async unequal(group: GroupModel, filling: Filling): Promise<RigKey[]> {
    const keys = new Map<string, RigKey>();
    for (const key of await this.rig.list(group.row)) keys.set(nameOf(key), key);
    for (let index = 1; index <= group.applied; index++) {
      const { type, layer, firstBlock, blocks, snapSeq } = group.at(index);
      if (type !== EntryType.Write && type !== EntryType.Zero) continue;
      const last = Math.floor((firstBlock + blocks - 1) / BLOCKS_PER_UNIT);
      for (let unit = Math.floor(firstBlock / BLOCKS_PER_UNIT); unit <= last; unit++) {
        keys.set(nameOf({ layer, unit, snapSeq }), { layer, unit, snapSeq });
      }
    }
    for (const name of filling.equal.keys()) keys.delete(name);
    return [...keys.values()].sort((one, other) => one.snapSeq - other.snapSeq);
  }

  /** What the leader has, where it is something else here. */
  private async differing(group: GroupModel, key: RigKey): Promise<RigFillBlock[]> {
    const found = await this.rig.unit(group.row, key);
    const blocks: RigFillBlock[] = [];
    this.wanted(group, key).forEach((block, bit) => {
      const { state, version, crc } = block;
      const here = [found.states[bit], found.versions[bit], found.crcs[bit]];
      if (JSON.stringify(here) === JSON.stringify([state, version, crc])) return;
      blocks.push(block);
    });
    return blocks;
  }

  private wanted(group: GroupModel, key: RigKey): (RigFillBlock & { crc: number })[] {
    return Array.from({ length: BLOCKS_PER_UNIT }, (_, bit) => {
      const block = key.unit * BLOCKS_PER_UNIT + bit;
      const write = group.expected(key.layer, block, key.snapSeq);
      if (write === null) return { bit, state: BlockState.Zero, version: 0, stamp: 0, crc: 0 };
      const crc = this.rig.crcOf(write.stamp, block);
      return { bit, state: BlockState.Data, version: write.index, stamp: write.stamp, crc };
    });
  }

  private async checkEqual(group: GroupModel, filling: Filling): Promise<void> {
    for (const key of filling.equal.values()) {
      if (group.isGone(key.layer)) continue;
      const different = await this.differing(group, key);
      const at = `pg ${group.pg} at ${group.applied}: ${nameOf(key)}`;
      same(at, different, []);
    }
  }

  /* ------------------------------------------------------------------ checks */

  override async check(
    group: GroupModel,
    layer: number,
    firstBlock: number,
    blocks: number,
    snapSeq: number,
  ): Promise<void> {
    const filling = this.fillings.get(group);
    if (this.renewed.has(group)) return;
    if (filling === undefined) await super.check(group, layer, firstBlock, blocks, snapSeq);
    else await this.checkEqual(group, filling);
  }

  override async crash(): Promise<void> {
    this.pending.clear();
    await super.crash();
  }

  override async recover(
    group: GroupModel,
    recovered: RecoveredGroup,
    durable: number,
  ): Promise<void> {
    let least = durable;
    const beginning = this.beginnings.get(group);
    if (beginning !== undefined) {
      this.beginnings.delete(group);
      const filling = recovered.health === GroupHealth.Filling;
      if (filling && recovered.fillIndex === beginning.index) this.tookPosition(group);
      else least = this.undo(group, beginning.before);
    }
    const replicaId = this.replicaIds.get(-group.pg);
    if (replicaId !== undefined && replicaId > this.replicaId(group)) {
      if (recovered.replicaId === replicaId) this.onRenewed(group);
    }
    same("replica", recovered.replicaId, this.replicaId(group));
    if (this.renewed.has(group)) {
      const { health, fillIndex, baseIndex, lastIndex, commit } = recovered;
      const found = [health, fillIndex, baseIndex, lastIndex, commit];
      same("renewed replica", found, [GroupHealth.Filling, 0, 0, 0, 0]);
      group.row = recovered.row;
      this.rig.replay(recovered, 0);
      return;
    }
    const ending = this.fillings.get(group)?.ending === true;
    if (ending && recovered.health === GroupHealth.Ok) this.onEnded(group);
    const filling = this.fillings.get(group);
    if (filling !== undefined) filling.ending = false;
    await super.recover(group, recovered, least);
    if (filling !== undefined) await this.checkEqual(group, filling);
  }

  /** The power failed before the new position was durable. */
  private undo(group: GroupModel, before: Before): number {
    this.undone += 1;
    group.entries = [...before.entries];
    group.commit = before.commit;
    group.applied = before.commit;
    group.snapSeq = before.snapSeq;
    group.layer = before.layer;
    group.layers.length = 0;
    group.layers.push(...before.layers);
    if (before.filling === undefined) this.fillings.delete(group);
    else this.fillings.set(group, before.filling);
    return this.renewed.has(group) ? 0 : group.last;
  }

  override healthOf(group: GroupModel): GroupHealth {
    return this.fillings.has(group) ? GroupHealth.Filling : GroupHealth.Ok;
  }

  /** Fill whatever is left. */
  async finish(): Promise<void> {
    for (let round = 0; this.fillings.size > 0; round++) {
      if (round > 3000) throw new Error("the replicas are never filled");
      for (const group of [...this.fillings.keys()]) await this.fillSome(group);
      this.pass(500);
    }
  }
}

function nameOf({ layer, unit, snapSeq }: RigKey): string {
  return `${layer}/${unit}/${snapSeq}`;
}

/** Seeds that failed once, whatever else is run. */
const SEEDS_FAILED: number[] = [
  // Entries without quorum held the log, and their second copies filled it for good.
  3062,
];

async function runSeed(seed: number, steps: number): Promise<FillRun> {
  const machine = await Machine.make(seed, RUNTIME, 256 * MIB, 4 * MIB);
  const run = new FillRun(machine, seed * 37 + 11);
  await run.start();
  for (let step = 0; step < steps; step++) await run.step();
  await run.crash();
  await run.finish();
  await run.crash();
  run.note();
  expect(run.rig.owner.damaged).toEqual([]);
  return run;
}

describe("replicas that are filled, against a model", () => {
  const seeds = Number(process.env["STORE_SEEDS"] ?? 10);
  const first = Number(process.env["STORE_SEED"] ?? 1);
  test(
    "units that were made equal stay equal, with power cuts at every point",
    async () => {
      const sum = {
        begun: 0,
        undone: 0,
        filled: 0,
        equalFound: 0,
        ended: 0,
        renewals: 0,
        moved: 0,
      };
      const chosen = Array.from({ length: seeds }, (_, at) => first + at);
      for (const seed of [...SEEDS_FAILED, ...chosen]) {
        try {
          const run = await runSeed(seed, 400);
          for (const name of Object.keys(sum) as (keyof typeof sum)[]) sum[name] += run[name];
        } catch (error) {
          throw new Error(
            `seed ${seed}: ${error instanceof Error ? error.message : String(error)}`,
            {
              cause: error,
            },
          );
        }
      }
      expect(sum.begun).toBeGreaterThan(seeds * 2);
      expect(sum.filled).toBeGreaterThan(seeds * 20);
      expect(sum.equalFound).toBeGreaterThan(seeds * 10);
      expect(sum.ended).toBeGreaterThan(seeds);
      expect(sum.undone).toBeGreaterThan(0);
      expect(sum.renewals).toBeGreaterThan(0);
    },
    60_000 + seeds * 1000,
  );
});
