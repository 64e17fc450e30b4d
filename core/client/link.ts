// data path
import type { OsdId, ShardIndex } from "../base/ids.ts";
import type { ClusterMap } from "../cluster/cluster.ts";
import type { Connection, ConnectionHandler, Frame } from "../rpc/rpc.ts";
import type { Route } from "./route.ts";

/** Key of a shard in tables. */
function linkKey(osd: number, shard: number): number {
  return osd * 65_536 + shard;
}

/** Who hears of a link. */
export interface LinkOwner {
  /** Start its connection. */
  onLinkNew(link: Link): void;
  onLinkOpen(link: Link): void;
  /** There is space to send, or a session has been attached. */
  onLinkWritable(link: Link): void;
  onLinkClosed(link: Link): void;
  /** Its osd tells something unasked. */
  onLinkMessage(connection: Connection, frame: Frame): void;
}

/**
 * The connection to one shard of an osd, shared by all images of the client.
 *
 * The rpc layer makes it again whenever it ends; `isDown` says that the last attempt failed, so
 * that nobody waits for it.
 */
export class Link implements ConnectionHandler {
  /** Dense, never reused: index of the sessions' attach tables. */
  readonly index: number;
  /** In the link table. */
  readonly key: number;
  readonly osd: OsdId;
  readonly shard: ShardIndex;
  readonly storeUuid: string;
  readonly host: string;
  readonly port: number;
  connection: Connection | null = null;
  isDown = false;
  /** Sessions whose attach is under way. */
  readonly attaching: Set<number> = new Set();
  /** Routes with unsent parts that wait for this link. */
  waitingHead: Route | null = null;
  waitingTail: Route | null = null;
  private readonly owner: LinkOwner;

  constructor(
    owner: LinkOwner,
    index: number,
    osd: OsdId,
    shard: ShardIndex,
    storeUuid: string,
    host: string,
    port: number,
  ) {
    this.owner = owner;
    this.index = index;
    this.key = linkKey(osd, shard);
    this.osd = osd;
    this.shard = shard;
    this.storeUuid = storeUuid;
    this.host = host;
    this.port = port;
  }

  get isOpen(): boolean {
    return this.connection?.isOpen === true;
  }

  get generation(): number {
    return this.connection === null ? -1 : this.connection.generation;
  }

  onOpen(): void {
    this.isDown = false;
    this.owner.onLinkOpen(this);
  }

  /** Osds ask nothing of clients. */
  onRequest(connection: Connection): void {
    connection.close("a request to a client");
  }

  onOneway(connection: Connection, frame: Frame): void {
    this.owner.onLinkMessage(connection, frame);
  }

  onWritable(): void {
    this.owner.onLinkWritable(this);
  }

  onClose(): void {
    this.isDown = true;
    this.attaching.clear();
    this.owner.onLinkClosed(this);
  }

  addWaiting(route: Route): void {
    if (route.waitsForLink === this) return;
    if (route.waitsForLink !== null) route.waitsForLink.removeWaiting(route);
    route.waitsForLink = this;
    route.linkNext = null;
    if (this.waitingTail === null) this.waitingHead = route;
    else this.waitingTail.linkNext = route;
    this.waitingTail = route;
  }

  /** The route has another leader now. Rare, and the queue is short. */
  private removeWaiting(route: Route): void {
    let previous: Route | null = null;
    for (let at = this.waitingHead; at !== null; at = at.linkNext) {
      if (at === route) {
        if (previous === null) this.waitingHead = route.linkNext;
        else previous.linkNext = route.linkNext;
        if (this.waitingTail === route) this.waitingTail = previous;
        break;
      }
      previous = at;
    }
    route.linkNext = null;
    route.waitsForLink = null;
  }

  /** Take the whole queue; each route is out of it then. */
  takeWaiting(): Route | null {
    const head = this.waitingHead;
    this.waitingHead = null;
    this.waitingTail = null;
    for (let route = head; route !== null; route = route.linkNext) route.waitsForLink = null;
    return head;
  }
}

/** The links of a client, made on demand. */
export class LinkTable {
  private readonly links = new Map<number, Link>();
  private readonly owner: LinkOwner;
  private readonly map: ClusterMap;
  private made = 0;

  constructor(owner: LinkOwner, map: ClusterMap) {
    this.owner = owner;
    this.map = map;
  }

  /** The link to a shard where the map has it; null when the map does not know it. */
  to(osd: OsdId, shard: ShardIndex): Link | null {
    const known = this.links.get(linkKey(osd, shard));
    return known ?? this.newLink(osd, shard);
  }

  // cold: once per shard of an osd, unless it moves
  private newLink(osd: OsdId, shard: ShardIndex): Link | null {
    const info = this.map.osds.get(osd);
    const address = info?.addresses[shard];
    if (info === undefined || address === undefined) return null;
    const index = this.made++;
    const { host, port } = address;
    const link = new Link(this.owner, index, osd, shard, info.storeUuid, host, port);
    this.links.set(link.key, link);
    this.owner.onLinkNew(link);
    return link;
  }

  /** The map has changed: close the links to places that it does not name any more. */
  followMap(): void {
    for (const link of this.links.values()) {
      const info = this.map.osds.get(link.osd);
      const address = info?.addresses[link.shard];
      const isSame =
        info !== undefined &&
        address !== undefined &&
        info.storeUuid === link.storeUuid &&
        address.host === link.host &&
        address.port === link.port;
      if (isSame) continue;
      this.links.delete(link.key);
      link.connection?.close("the map names another place");
    }
  }

  /** All that is connected, if anything is, is encrypted. cold: for reports */
  get isEncrypted(): boolean {
    const open = [...this.links.values()].filter((link) => link.isOpen);
    return open.length > 0 && open.every((link) => link.connection!.isEncrypted);
  }

  closeAll(): void {
    for (const link of this.links.values()) link.connection?.close("the client stops");
    this.links.clear();
  }
}
