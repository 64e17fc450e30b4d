// cold: the simulator
import { assert } from "../base/assert.ts";
import { FastblockError } from "../base/errors.ts";
import type { ImageId } from "../base/ids.ts";
import { Prng } from "../base/prng.ts";
import { BLOCK_SIZE, BLOCKS_PER_UNIT } from "../base/units.ts";
import type { ImageRecord, OperationRecord } from "../mon/mon.ts";
import type { SimWorld } from "../reactor/reactor.ts";
import { unitsOf } from "./sim-check.ts";
import { awakeOf, groupsOf, MON_ADDRESS, type SimCluster } from "./sim-cluster.ts";
import type { SimFaults } from "./sim-faults.ts";
import { ImageLife, type SizeChange } from "./sim-image-life.ts";
import { IMAGE_BLOCKS_MAX, SimImageUsers } from "./sim-image-users.ts";
import { isFilled, type ProbeName, type SimProbes } from "./sim-probes.ts";

/**
 * An operator who makes an image, changes its size, removes it and makes it again, under the same
 * name, while faults come and clients use it (`sim-image-users.ts`): N8. What it must show is in
 * `sim-image-life.ts`.
 *
 * One change after the other, each with a number of its own, as faults have: a run without some of
 * them draws the others as before. With many of them comes a fault: a leader dies, the monitor dies,
 * a client does not hear of it.
 */

const POOL = "pool";
const IMAGE = "changed";
/** Changes are numbered from here on, faults below. */
const FIRST_NUMBER = 100_000;
const PACE_US_MIN = 20_000;
const PACE_US_SPAN = 120_000;
/** Between two looks whether the monitor is there, or an operation has ended. */
const LOOK_US = 2_000;
/** Of so many changes one waits a while for a fill to go on beside it. */
const BESIDE_FILL = 4;
const FILL_LOOKS_MAX = 100;
const FILL_LOOK_US = 5_000;
/** A fault comes so soon after a change was asked for. */
const SOON_US = 4_000;
const CUT_US_MIN = 50_000;
const CUT_US_SPAN = 500_000;
/** Sizes near the borders of units and objects, and any. */
const SIZES: readonly number[] = [1, 8, 16, 17, 31, 32, 33, 48, IMAGE_BLOCKS_MAX];

export class SimImages {
  readonly users: SimImageUsers;
  private readonly cluster: SimCluster;
  private readonly probes: SimProbes;
  private readonly monitorDies: boolean;
  private readonly pace: Prng;
  private faults: SimFaults | null = null;
  private endUs = 0;
  private drawn = 0;
  /** Changes that go on: one at most. */
  private running = 0;
  /** Every image that there was, by id. */
  private readonly lives = new Map<number, ImageLife>();
  private present: ImageLife | null = null;
  private operationsGone = 0;
  private refusal = "";
  private made = 0;
  /** What is asked for while an image is made. */
  private madeBlocks = 0;
  private madeNs = 0;

  constructor(cluster: SimCluster, probes: SimProbes, monitorDies: boolean) {
    this.cluster = cluster;
    this.probes = probes;
    this.monitorDies = monitorDies;
    this.pace = new Prng(cluster.simulation.seed * 61 + 29);
    this.users = new SimImageUsers(cluster, probes, `${POOL}/${IMAGE}`, (id) => this.lifeOf(id));
  }

  set mayRefuse(mayRefuse: boolean) {
    this.users.mayRefuse = mayRefuse;
  }

  set mayExpire(mayExpire: boolean) {
    this.users.mayExpire = mayExpire;
  }

  get operations(): number {
    const all = [...this.lives.values()];
    return all.reduce((sum, life) => sum + life.operations, this.operationsGone);
  }

  /** Plan changes for a round of faults. */
  begin(faults: SimFaults, endUs: number): void {
    this.faults = faults;
    this.endUs = endUs;
    this.users.start();
    this.planNext(faults);
  }

  stop(): void {
    this.users.stop();
  }

  get idle(): boolean {
    return this.running === 0 && this.users.idle;
  }

  private get nowNs(): number {
    return this.cluster.simulation.nowUs * 1000;
  }

  /** Whoever finds an image that was not told of yet finds the one that is being made. */
  private lifeOf(id: number): ImageLife {
    let life = this.lives.get(id);
    if (life === undefined) {
      life = new ImageLife(id, this.madeBlocks, this.madeNs);
      this.lives.set(id, life);
    }
    return life;
  }

  /* ---------------------------------------------------------------- the draw */

  private planNext(faults: SimFaults): void {
    const { simulation } = this.cluster;
    const delay = PACE_US_MIN + this.pace.below(PACE_US_SPAN);
    if (simulation.nowUs + delay >= this.endUs) return;
    faults.later(delay, () => {
      this.change(faults);
      this.planNext(faults);
    });
  }

  private change(faults: SimFaults): void {
    const number = FIRST_NUMBER + ++this.drawn;
    if (faults.plan.without.has(number) || this.running > 0) return;
    const random = new Prng(this.cluster.simulation.seed * 4093 + number);
    faults.random = random;
    const kind = random.below(12);
    const sizeBlocks = this.drawSize(random);
    const life = this.present;
    if (life !== null && kind >= 4 && sizeBlocks === life.sizeBlocks) return;
    const [name, act] = this.changeOf(life, kind, sizeBlocks, random);
    if (life !== null) this.harm(faults, random);
    const waits = random.below(BESIDE_FILL) === 0;
    faults.noteAs(number, name, -1);
    this.running += 1;
    (waits ? this.besideFill(act) : act()).then(
      () => {
        this.running -= 1;
      },
      (error: unknown) => this.cluster.simulation.fail("operator of images", error),
    );
  }

  private changeOf(
    life: ImageLife | null,
    kind: number,
    sizeBlocks: number,
    random: Prng,
  ): [string, () => Promise<void>] {
    if (life === null) return ["image made", () => this.make(sizeBlocks)];
    if (kind < 2) return ["image removed", () => this.remove(life, true)];
    if (kind < 3) return ["image in use removed", () => this.remove(life, false)];
    if (kind < 4) return ["image made twice", () => this.make(sizeBlocks)];
    if (sizeBlocks > life.sizeBlocks) return ["image grown", () => this.grow(life, sizeBlocks)];
    const growsSoon = random.below(4) === 0;
    return ["image shrunk", () => this.shrink(life, sizeBlocks, growsSoon)];
  }

  /** Do something when a fill goes on, if that is soon. */
  private async besideFill(act: () => Promise<void>): Promise<void> {
    for (let looks = 0; looks < FILL_LOOKS_MAX && !this.isFilling; looks++) {
      await this.faults!.sleep(FILL_LOOK_US);
    }
    await act();
  }

  private get isFilling(): boolean {
    return this.cluster.osds.some(
      (osd) => osd.world?.alive === true && awakeOf(osd).some(isFilled),
    );
  }

  private drawSize(random: Prng): number {
    const isAny = random.below(3) === 0;
    if (isAny) return 1 + random.below(IMAGE_BLOCKS_MAX);
    return SIZES[random.below(SIZES.length)]!;
  }

  /** Something else happens at about the same time. */
  private harm(faults: SimFaults, random: Prng): void {
    const { osds, simulation } = this.cluster;
    const osd = osds[random.below(osds.length)]!;
    const chance = random.below(10);
    const soonUs = random.below(SOON_US);
    if (faults.isPeace) return;
    if (chance < 2) faults.crash(osd);
    else if (chance < 4) {
      faults.later(soonUs, () => {
        const leads = (one: typeof osd): boolean => awakeOf(one).some((group) => group.isLeader);
        const leader = osds.find((one) => one.world?.alive === true && leads(one));
        if (leader !== undefined && !faults.isPeace) faults.crash(leader);
      });
    } else if (chance < 5 && this.monitorDies) {
      faults.later(soonUs, () => {
        if (faults.killMonitor()) this.probes.hit("monitor died in a change of an image");
      });
    } else if (chance < 8) {
      const { address } = this.cluster.clients[random.below(2)]!.world;
      simulation.cut(address, MON_ADDRESS);
      simulation.cut(MON_ADDRESS, address);
      faults.later(CUT_US_MIN + random.below(CUT_US_SPAN), () => {
        simulation.heal(address, MON_ADDRESS);
        simulation.heal(MON_ADDRESS, address);
      });
    }
  }

  /* ----------------------------------------------------------------- changes */

  /** What the monitor knows of the image: null when there is none by the name. */
  private get record(): ImageRecord | null {
    const { images } = this.cluster.monitor.catalogue;
    return [...images.values()].find(({ name }) => name === IMAGE) ?? null;
  }

  private async make(blocks: number): Promise<void> {
    const before = this.present;
    if (before === null) {
      this.madeBlocks = blocks;
      this.madeNs = this.nowNs;
    }
    await this.ask((images) => images.create(POOL, IMAGE, blocks * BLOCK_SIZE, false));
    const { record } = this;
    if (before !== null) {
      assert(this.refusal !== "", "an image was made twice under one name");
      assert(record?.id === before.id, "an image was replaced by one of its name");
      return;
    }
    if (record === null) return;
    this.made += 1;
    if (this.made > 1) this.probes.hit("image made again");
    this.present = this.lifeOf(record.id);
  }

  private async remove(life: ImageLife, force: boolean): Promise<void> {
    const met = this.lookAround();
    life.removalNs = this.nowNs;
    await this.ask((images) => images.remove(POOL, IMAGE, force, false));
    if (this.record !== null) {
      life.removalNs = Infinity;
      return;
    }
    await this.ended(life, "image.remove");
    life.goneNs = this.nowNs;
    this.present = null;
    for (const name of met("removal")) this.probes.hit(name);
  }

  /** `growsSoon`: another one asks for more at once, and has to wait. */
  private async shrink(life: ImageLife, toBlocks: number, growsSoon: boolean): Promise<void> {
    const met = this.lookAround();
    const change = await this.ordered(life, toBlocks);
    if (change === null) return;
    if (growsSoon) await this.growSoon(life, change);
    if (change.doneNs === Infinity) {
      await this.ended(life, "image.shrink");
      change.doneNs = this.nowNs;
    }
    for (const name of met("shrink")) this.probes.hit(name);
  }

  private async growSoon(life: ImageLife, shrink: SizeChange): Promise<void> {
    const growth = await this.ordered(life, shrink.fromBlocks);
    if (this.refusal === "FB3006") this.probes.hit("growth refused during a shrink");
    if (growth === null) return;
    // It was taken, so what is beyond the end is zero.
    const isDone = this.operationOf(life, "image.shrink")?.state === "done";
    assert(isDone, "an image grows while what it was shrunk by is not zero");
    shrink.doneNs = growth.answeredNs;
    growth.doneNs = growth.answeredNs;
  }

  private async grow(life: ImageLife, toBlocks: number): Promise<void> {
    const change = await this.ordered(life, toBlocks);
    if (change !== null) change.doneNs = change.answeredNs;
  }

  /** Ask for another size. Null: the monitor did not do it. */
  private async ordered(life: ImageLife, toBlocks: number): Promise<SizeChange | null> {
    const change = life.resize(toBlocks, this.nowNs);
    await this.ask((images) => images.resize(POOL, IMAGE, toBlocks * BLOCK_SIZE, false));
    change.answeredNs = this.nowNs;
    if (this.record?.sizeBytes === toBlocks * BLOCK_SIZE) return change;
    life.takeBack(change);
    return null;
  }

  /**
   * Ask the monitor, and wait until one is there that knows what became of it. Leaves the code of a
   * refusal, or of the monitor's death, in `refusal`; empty: none.
   */
  private async ask(what: Parameters<SimCluster["changeImages"]>[0]): Promise<void> {
    await this.until(() => this.cluster.monitorServes);
    this.refusal = "";
    try {
      await this.cluster.changeImages(what);
    } catch (error) {
      if (!(error instanceof FastblockError)) throw error;
      this.refusal = error.code;
    }
    await this.until(() => this.cluster.monitorServes);
  }

  private async ended(life: ImageLife, kind: OperationRecord["kind"]): Promise<void> {
    await this.until(() => {
      const state = this.operationOf(life, kind)?.state;
      assert(state !== undefined && state !== "failed", `${kind} of an image: ${String(state)}`);
      return state === "done";
    });
  }

  /** The last one. */
  private operationOf(life: ImageLife, kind: OperationRecord["kind"]): OperationRecord | undefined {
    const { operations } = this.cluster.monitor.catalogue;
    const all = [...operations.values()].filter(
      (one) => one.image === (life.id as ImageId) && one.kind === kind,
    );
    return all.sort((a, b) => a.id - b.id).at(-1);
  }

  private async until(ready: () => boolean): Promise<void> {
    while (!ready()) await this.faults!.sleep(LOOK_US);
  }

  /** What is about before a change, to be asked again once it has ended: rare situations. */
  private lookAround(): (what: "shrink" | "removal") => ProbeName[] {
    const { osds } = this.cluster;
    const isUp = (world: SimWorld | null): boolean => world?.alive === true;
    const leaders = osds
      .filter((osd) => isUp(osd.world) && awakeOf(osd).some((group) => group.isLeader))
      .map(({ world }) => world);
    const isAway = (): boolean => osds.some((osd) => !isUp(osd.world));
    const before = { isAway: isAway(), isFilling: this.isFilling };
    return (what) => {
      const names: ProbeName[] = [];
      if (before.isAway && isAway()) names.push(`${what} without a replica`);
      if (before.isFilling || this.isFilling) names.push(`${what} beside a fill`);
      if (leaders.some((world) => !isUp(world))) names.push(`${what} while a leader died`);
      return names;
    };
  }

  /* ------------------------------------------------------------------ at rest */

  /**
   * Everything is as it must be, at the leaders and, `replicas` of them, at each replica; nothing of
   * what was removed, or is beyond the end, takes space.
   */
  verify(replicas: number): void {
    assert(this.idle, "SimImages.verify: changes are open");
    this.users.close(this.present);
    if (this.present !== null) this.users.readAll(this.present, replicas);
    for (const life of this.lives.values()) life.verify();
    this.checkSpace();
    for (const life of this.lives.values()) {
      if (life !== this.present) this.lives.delete(life.id);
      if (life !== this.present) this.operationsGone += life.operations;
    }
  }

  /** No unit, nor data of a block, is of what is not there. */
  private checkSpace(): void {
    const { images } = this.cluster.monitor.catalogue;
    const sizes = new Map([...images.values()].map((one) => [one.layer as number, one.sizeBytes]));
    for (const group of this.cluster.osds.flatMap(groupsOf)) {
      const { store, osd } = group.shard;
      for (const layer of store.layerBytes().keys()) {
        const name = `layer ${String(layer)} has units on osd.${String(osd)}`;
        assert(sizes.has(layer), `${name}: its image is removed`);
      }
      for (const { layer, unit, states } of unitsOf(this.cluster, group)) {
        const end = sizes.get(layer)! / BLOCK_SIZE - unit * BLOCKS_PER_UNIT;
        const last = states.findLastIndex((state) => state !== 0);
        const name = `unit ${String(unit)} of layer ${String(layer)} on osd.${String(osd)}`;
        assert(last >= 0, `${name} holds no data, and takes space`);
        assert(last < end, `${name} holds data beyond the end`);
      }
    }
  }
}
