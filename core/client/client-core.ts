// data path
import type { ClusterMap } from "../cluster/cluster.ts";
import { type Drain, DrainOrder, type World } from "../reactor/world.ts";
import type { Connection, Frame } from "../rpc/rpc.ts";
import type { ImageCore, ImageHost } from "./image.ts";
import type { ImageOp } from "./image-op.ts";
import type { Link } from "./link.ts";
import { Router, type RouterHost } from "./router.ts";
import type { ImageSession } from "./session.ts";
import { Uncertain } from "./uncertain.ts";

/** What the data path leaves to the cold side: everything that needs a monitor or a handshake. */
export interface ClientServices {
  dial(link: Link): void;
  attach(link: Link, session: ImageSession): void;
  wantMap(): void;
  onLinkMessage(connection: Connection, frame: Frame): void;
  renew(image: ImageCore, isExpired: boolean): void;
}

/** The data path of a client: its router, and what waits for parts or for the next turn. */
export class ClientCore implements RouterHost, ImageHost, Drain {
  readonly world: World;
  readonly map: ClusterMap;
  readonly router: Router;
  readonly uncertain: Uncertain = new Uncertain();
  private readonly services: ClientServices;
  private finishedHead: ImageOp | null = null;
  private finishedTail: ImageOp | null = null;
  private readonly starvedOps: ImageOp[] = [];
  private readonly starvedImages: ImageCore[] = [];
  private readonly queuedOps: ImageOp[] = [];
  private readonly queuedImages: ImageCore[] = [];

  constructor(world: World, map: ClusterMap, services: ClientServices) {
    this.world = world;
    this.map = map;
    this.services = services;
    this.router = new Router(this);
    world.turns.addDrain(DrainOrder.Apply, this);
  }

  /** Submit in the next drain: for callers outside of a turn (promises). */
  submitLater(image: ImageCore, op: ImageOp): void {
    this.queuedImages.push(image);
    this.queuedOps.push(op);
    this.world.turns.again();
  }

  drain(): void {
    for (let op = this.finishedHead; op !== null; op = this.finishedHead) {
      this.finishedHead = op.waitNext;
      if (op.waitNext === null) this.finishedTail = null;
      op.waitNext = null;
      op.onDone();
    }
    if (this.queuedOps.length > 0) this.submitQueued();
    if (this.starvedOps.length > 0) this.feedStarved();
  }

  private submitQueued(): void {
    const count = this.queuedOps.length;
    for (let at = 0; at < count; at++) this.queuedImages[at]!.submit(this.queuedOps[at]!);
    this.queuedImages.splice(0, count);
    this.queuedOps.splice(0, count);
  }

  /** Oldest first; who gets too little comes back to the end of the queue. */
  private feedStarved(): void {
    const count = this.starvedOps.length;
    let fed = 0;
    while (fed < count && this.router.pool.hasFree) {
      const op = this.starvedOps[fed]!;
      op.isStarved = false;
      this.starvedImages[fed]!.advance(op);
      fed++;
      // Without memory it is queued again at once: the others would fare no better.
      if (op.isStarved) break;
    }
    this.starvedOps.splice(0, fed);
    this.starvedImages.splice(0, fed);
  }

  starve(image: ImageCore, op: ImageOp): void {
    this.starvedImages.push(image);
    this.starvedOps.push(op);
  }

  finishLater(op: ImageOp): void {
    op.waitNext = null;
    if (this.finishedTail === null) this.finishedHead = op;
    else this.finishedTail.waitNext = op;
    this.finishedTail = op;
    this.world.turns.again();
  }

  /** The next drain feeds whoever waits for parts. */
  onPartsFree(): void {
    if (this.starvedOps.length > 0) this.world.turns.again();
  }

  dial(link: Link): void {
    this.services.dial(link);
  }

  attach(link: Link, session: ImageSession): void {
    this.services.attach(link, session);
  }

  wantMap(): void {
    this.services.wantMap();
  }

  onLinkMessage(connection: Connection, frame: Frame): void {
    this.services.onLinkMessage(connection, frame);
  }

  renew(image: ImageCore, isExpired: boolean): void {
    this.services.renew(image, isExpired);
  }
}
