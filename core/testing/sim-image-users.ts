// cold: the simulator
import { assert } from "../base/assert.ts";
import { FastblockError } from "../base/errors.ts";
import { Prng } from "../base/prng.ts";
import { Status, statusName } from "../base/status.ts";
import { BLOCK_SIZE, BLOCKS_PER_UNIT } from "../base/units.ts";
import { type Image, ImageOp, LEADER, OpKind } from "../client/client.ts";
import type { SimClient, SimCluster } from "./sim-cluster.ts";
import type { ImageLife, ImageRequest } from "./sim-image-life.ts";
import type { SimProbes } from "./sim-probes.ts";
import { stampBlock, stampOf } from "./sim-stamps.ts";

/**
 * Clients of an image that is resized and removed under them (`sim-images.ts`): each opens what has
 * the name, reads all of it, and goes on until it is cut off; then it opens what has the name now.
 * They ask beyond the end as well.
 */

/** The image is never larger: two objects. */
export const IMAGE_BLOCKS_MAX = 64;
/** Clients that live as long as the run. */
const USERS = 2;
/** Operations that each has open. */
const DEPTH = 3;
const BLOCKS_MAX = BLOCKS_PER_UNIT;
const BLOCKS_PARTIAL_MAX = 6;
const THINK_US_MAX = 20_000;
const RETRY_US = 20_000;
const STEP_US = 5_000;
const OPEN_MS = 1_000;
/** Stamps of this load, apart from those of others. */
const STAMPS_FIRST = 0x6000_0000;
const TRIES_MAX = 100;
/** Within this time everybody knows the size of an image, once all faults have ended. */
const TELL_LIMIT_US = 10_000_000;

export class SimImageUsers {
  /** A replica may be damaged, or a device full: operations may be refused. */
  mayRefuse = false;
  /** Groups remember few sessions: whoever was forgotten may be told that his has ended. */
  mayExpire = false;
  private readonly cluster: SimCluster;
  private readonly probes: SimProbes;
  private readonly path: string;
  private readonly lifeOf: (id: number) => ImageLife;
  private readonly random: Prng;
  private readonly users: readonly User[];
  private stamps = STAMPS_FIRST;
  private stopping = true;
  private attending = 0;

  /** `lifeOf`: what is known of the image with an id. */
  constructor(
    cluster: SimCluster,
    probes: SimProbes,
    path: string,
    lifeOf: (id: number) => ImageLife,
  ) {
    this.cluster = cluster;
    this.probes = probes;
    this.path = path;
    this.lifeOf = lifeOf;
    this.random = new Prng(cluster.simulation.seed * 67 + 31);
    this.users = cluster.clients
      .slice(0, USERS)
      .map((client, number) => new User(this, number, client));
  }

  start(): void {
    this.stopping = false;
    for (const user of this.users) {
      this.attending += 1;
      this.attend(user).then(
        () => {
          this.attending -= 1;
        },
        (error: unknown) => this.cluster.simulation.fail("user of an image", error),
      );
    }
  }

  /** Begin nothing new; who has the image open keeps it. */
  stop(): void {
    this.stopping = true;
  }

  get idle(): boolean {
    return this.stopping && this.attending === 0;
  }

  private get nowNs(): number {
    return this.cluster.simulation.nowUs * 1000;
  }

  private async attend(user: User): Promise<void> {
    while (!this.stopping) {
      if (!(await this.open(user))) {
        await this.sleep(RETRY_US);
        continue;
      }
      for (const op of user.ops) this.next(op);
      while (!this.stopping && !user.image!.isOver) await this.sleep(STEP_US);
      while (user.open > 0) await this.sleep(STEP_US);
      if (this.stopping) return;
      await user.image!.close();
    }
  }

  /** As often as it takes: the wires may still damage what is asked. */
  private async reopen(user: User): Promise<void> {
    while (!(await this.open(user))) await this.sleep(RETRY_US);
  }

  /** False: nothing has the name, or the monitor can not be reached. */
  private async open(user: User): Promise<boolean> {
    try {
      const image = await user.client.client.openImage(this.path, { openMs: OPEN_MS });
      user.begin(image, this.lifeOf(image.id));
      return true;
    } catch (error) {
      if (!(error instanceof FastblockError)) throw error;
      return false;
    }
  }

  private sleep(us: number): Promise<void> {
    return new Promise((resolve) => this.cluster.simulation.after(us, resolve));
  }

  /* ----------------------------------------------------------- operations */

  private next(op: UserOp): void {
    const { image } = op.user;
    if (this.stopping || image === null || image.isOver) return;
    const sizeBlocks = sizeOf(image);
    if (op.user.unread < sizeBlocks) this.drawUnread(op, sizeBlocks);
    else this.draw(op, sizeBlocks);
    this.submit(op);
  }

  /** Some of what was not read since it was opened. */
  private drawUnread(op: UserOp, sizeBlocks: number): void {
    op.kind = OpKind.Read;
    op.first = op.user.unread;
    op.blocks = Math.min(BLOCKS_MAX, sizeBlocks - op.first);
    op.user.unread += op.blocks;
  }

  private draw(op: UserOp, sizeBlocks: number): void {
    const { random } = this;
    const isAnywhere = random.below(8) === 0;
    const end = isAnywhere ? IMAGE_BLOCKS_MAX : sizeBlocks;
    const size = random.below(16);
    const blocks = size === 0 ? BLOCKS_MAX : size < 4 ? 1 + random.below(BLOCKS_PARTIAL_MAX) : 1;
    op.blocks = Math.min(blocks, end);
    op.first = random.below(end - op.blocks + 1);
    if (op.blocks === BLOCKS_MAX) op.first -= op.first % BLOCKS_MAX;
    const chance = random.below(16);
    op.kind = chance < 7 ? OpKind.Read : chance < 14 ? OpKind.Write : OpKind.Zero;
    if (chance === 15) op.kind = OpKind.Discard;
    for (let at = 0; at < op.blocks; at++) {
      op.stamps[at] = 0;
      if (op.kind !== OpKind.Write) continue;
      this.stamps += 1;
      op.stamps[at] = this.stamps;
      stampBlock(op.content(at), this.stamps);
    }
  }

  private submit(op: UserOp): void {
    const image = op.user.image!;
    op.offsetBytes = op.first * BLOCK_SIZE;
    op.lengthBytes = op.blocks * BLOCK_SIZE;
    op.callNs = this.nowNs;
    op.knownBlocks = sizeOf(image);
    op.user.open += 1;
    image.submit(op);
  }

  /** An operation was answered. */
  onAnswered(op: UserOp): void {
    const { user, status } = op;
    user.open -= 1;
    if (op.kind === OpKind.Read && status === Status.Ok) op.look();
    if (op.isFinal) return;
    const wasSent = op.first + op.blocks <= op.knownBlocks;
    if (status === Status.Removed) this.probes.hit("group refused a removed image");
    if (status === Status.Invalid && wasSent)
      this.probes.hit("group refused what is beyond an end");
    const { image, life } = user;
    life!.mayRefuse = this.mayRefuse;
    life!.mayExpire = this.mayExpire;
    life!.answered(op, this.nowNs);
    this.cluster.simulation.after(this.random.below(THINK_US_MAX), () => {
      if (user.image === image) this.next(op);
    });
  }

  /* -------------------------------------------------------------- at rest */

  /** Who has an image open knows its size by now; let go of it. `present`: what has the name. */
  close(present: ImageLife | null): void {
    for (const user of this.users) {
      const { image, life } = user;
      if (image === null) continue;
      if (life === present) {
        this.cluster.simulation.run(() => sizeOf(image) === life!.sizeBlocks, TELL_LIMIT_US);
        const known = `${String(sizeOf(image))} blocks`;
        const wanted = `${String(life!.sizeBlocks)} blocks`;
        const who = user.client.world.name;
        assert(known === wanted, `${who} knows an image of ${known}, wanted ${wanted}`);
      }
      this.cluster.await("image close", image.close());
      user.end();
    }
  }

  /** Read all of an image, as each replica has it too: they show the same. */
  readAll(life: ImageLife, replicas: number): void {
    const user = this.users[0]!;
    this.cluster.await("image open", this.reopen(user));
    const image = user.image!;
    assert(user.life === life, "SimImageUsers.readAll: another image has the name");
    const op = user.ops[0]!;
    op.isFinal = true;
    op.kind = OpKind.Read;
    const seen: number[][] = [];
    for (let replica = LEADER; replica < replicas; replica++) {
      const stamps: number[] = [];
      for (op.first = 0; op.first < life.sizeBlocks; op.first += BLOCKS_MAX) {
        op.blocks = Math.min(BLOCKS_MAX, life.sizeBlocks - op.first);
        this.readOne(op, replica);
        if (replica === LEADER) life.answered(op, this.nowNs);
        stamps.push(...op.stamps.slice(0, op.blocks));
      }
      seen.push(stamps);
      const name = `replica ${String(replica)} of an image that changes`;
      assert(
        String(stamps) === String(seen[0]),
        `${name} shows ${String(stamps)}, wanted ${String(seen[0])}`,
      );
    }
    op.isFinal = false;
    this.cluster.await("image close", image.close());
    user.end();
  }

  private readOne(op: UserOp, replica: number): void {
    for (let tries = 0; ; tries++) {
      op.replica = replica;
      this.submit(op);
      const done = this.cluster.simulation.run(() => op.user.open === 0);
      op.replica = LEADER;
      assert(done, "final read of an image that changes: no answer");
      if (op.status === Status.Ok) return;
      assert(tries < TRIES_MAX, `final read of an image answered ${statusName(op.status)}`);
    }
  }
}

/** In blocks, as the client knows it. */
function sizeOf(image: Image): number {
  return image.sizeBytes / BLOCK_SIZE;
}

/** One client's use of the image. */
class User {
  readonly number: number;
  readonly client: SimClient;
  readonly ops: UserOp[] = [];
  image: Image | null = null;
  life: ImageLife | null = null;
  open = 0;
  /** The first block that was not asked for since it was opened. */
  unread = 0;

  constructor(load: SimImageUsers, number: number, client: SimClient) {
    this.number = number;
    this.client = client;
    for (let count = 0; count < DEPTH; count++) this.ops.push(new UserOp(load, this));
  }

  begin(image: Image, life: ImageLife): void {
    this.image = image;
    this.life = life;
    this.unread = 0;
  }

  end(): void {
    this.image = null;
    this.life = null;
  }
}

class UserOp extends ImageOp implements ImageRequest {
  first = 0;
  blocks = 0;
  callNs = 0;
  knownBlocks = 0;
  /** Of the final read: nothing follows. */
  isFinal = false;
  readonly stamps = new Float64Array(BLOCKS_MAX);
  readonly user: User;
  readonly client: number;
  private readonly load: SimImageUsers;

  constructor(load: SimImageUsers, user: User) {
    super();
    this.load = load;
    this.client = user.number;
    this.user = user;
    this.arenaOffset = user.client.world.arena.allocate(BLOCKS_MAX * BLOCK_SIZE);
  }

  content(at: number): Uint8Array {
    const start = this.arenaOffset + at * BLOCK_SIZE;
    return this.user.client.world.arena.bytes.subarray(start, start + BLOCK_SIZE);
  }

  /** Take the stamps of what was read. */
  look(): void {
    for (let at = 0; at < this.blocks; at++) this.stamps[at] = stampOf(this.content(at));
  }

  override onDone(): void {
    this.load.onAnswered(this);
  }
}
