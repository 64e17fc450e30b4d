import { create, toBinary } from "@bufbuild/protobuf";
import type { Checksum } from "../base/checksum.ts";
import { FastblockError } from "../base/errors.ts";
import type { ImageId, SessionId } from "../base/ids.ts";
import { ImageRights, signGrant } from "../cluster/cluster.ts";
import {
  type ImageHeader,
  ImageHeaderSchema,
  SessionGrantSchema,
} from "../../proto/gen/control_pb.ts";
import type { Catalogue, Change } from "./catalogue.ts";
import type { ImageRecord, OperationRecord, SessionMode, SessionRecord } from "./records.ts";

/** A session's header and signed grant, as they travel. */
export interface SignedSession {
  readonly header: ImageHeader;
  readonly grant: Uint8Array;
  readonly mac: Uint8Array;
}

/** Who holds a session: one control connection. Compared by identity. */
export interface SessionHolder {
  /** The image changed, or is gone: refresh, or give up. */
  notifyImage(session: SessionId, removed: boolean): void;
}

/** The attachment that another one goes on with, as its client knows it. */
export interface FormerSession {
  readonly id: SessionId;
  readonly lockEpoch: number;
}

export interface SessionServiceOptions {
  readonly catalogue: Catalogue;
  readonly checksum: Checksum;
  readonly clusterKey: Uint8Array;
  readonly nowUs: () => number;
  readonly wallMs: () => number;
}

/** After a lost connection a session counts as alive this long: the client is reconnecting. */
const GRACE_US = 5_000_000;
/** A session that nobody refreshed for a day is over; its client never came back. */
const FORGET_US = 86_400_000_000;

/**
 * Attachments of images: sessions, their signed grants, and who holds them.
 *
 * A session's record is durable before its grant leaves. Being alive is a matter of memory: a
 * session is bound to a control connection, or was a moment ago. It decides only what people may
 * do to the image; that a former holder writes nothing any more is ensured by `lockEpoch` at the
 * osds.
 */
export class SessionService {
  private readonly options: SessionServiceOptions;
  private readonly catalogue: Catalogue;
  private readonly holders = new Map<SessionId, SessionHolder>();
  private readonly lastSeenUs = new Map<SessionId, number>();
  private readonly startedUs: number;

  constructor(options: SessionServiceOptions) {
    this.options = options;
    this.catalogue = options.catalogue;
    this.startedUs = options.nowUs();
  }

  /**
   * Open an image (`of` finds it and throws when it is missing). Exclusive: ends every other session.
   * Shared: ends an exclusive one that is not alive, or is taken over. What is exclusive, before or from
   * here on, raises the lock epoch: a former holder may not know yet that it is none. Throws FB3005 while
   * another exclusive session is alive.
   *
   * `former`: whose session a group has forgotten goes on with the same attachment under another id. It
   * takes the image from nobody: what it had begun must not pass the fence of who took it meanwhile. The
   * former session stays until its client gives it back: who hears no answer asks again. An exclusive one
   * gets a higher lock epoch, which fences what its client gave up under the former. Throws FB3007 when
   * that is over.
   */
  async open(
    of: () => ImageRecord,
    mode: SessionMode,
    client: string,
    takeOver: boolean,
    holder: SessionHolder,
    former?: FormerSession,
  ): Promise<SignedSession> {
    const ended: SessionRecord[] = [];
    const { image, session } = await this.catalogue.change((change) => {
      const found = of();
      if (former === undefined) this.checkExclusive(found, mode, takeOver);
      else this.checkFormer(found, mode, former);
      const others = this.sessionsOf(found.id).filter(
        (other) => other.id !== former?.id && [mode, other.mode].includes("exclusive"),
      );
      const fences = [mode, ...others.map((other) => other.mode)].includes("exclusive");
      const image = fences ? { ...found, lockEpoch: this.catalogue.nextLockEpoch(found) } : found;
      for (const other of others) {
        change.removeSession(other.id);
        ended.push(other);
      }
      if (image !== found) change.putImage(image);
      const session: SessionRecord = {
        id: change.allocate("session") as SessionId,
        image: image.id,
        mode,
        client,
        serial: 1,
        openedMs: this.options.wallMs(),
      };
      change.putSession(session);
      return { image, session };
    });
    for (const other of ended) this.drop(other.id, true);
    this.bind(session.id, holder);
    return this.sign(image, session);
  }

  /** Grant a session anew. Throws FB3007 when it is over. */
  async refresh(id: SessionId, holder: SessionHolder): Promise<SignedSession> {
    const { image, session } = await this.catalogue.change((change) => {
      const before = this.catalogue.sessions.get(id);
      const image = before === undefined ? undefined : this.catalogue.images.get(before.image);
      if (before === undefined || image === undefined) {
        throw new FastblockError("FB3007", `refreshing session ${String(id)}: it is over`, {
          why: "it was closed, fenced by an exclusive open, or its image was removed",
        });
      }
      const session = { ...before, serial: before.serial + 1 };
      change.putSession(session);
      return { image, session };
    });
    this.bind(id, holder);
    return this.sign(image, session);
  }

  /** End a session; unknown ones are over already. */
  async close(id: SessionId): Promise<void> {
    await this.catalogue.change((change) => this.forget(change, [id]));
    this.drop(id, false);
  }

  /** A control connection ended: its sessions live on for a moment. */
  unbind(holder: SessionHolder): void {
    for (const [id, one] of this.holders) {
      if (one !== holder) continue;
      this.holders.delete(id);
      this.lastSeenUs.set(id, this.options.nowUs());
    }
  }

  /** Tell the holders of an image's sessions to refresh. */
  imageChanged(image: ImageId): void {
    for (const session of this.sessionsOf(image)) {
      this.holders.get(session.id)?.notifyImage(session.id, false);
    }
  }

  /** Stage the end of all sessions of an image; call `dropAll` with the answer afterwards. */
  stageRemoval(change: Change, image: ImageId): SessionId[] {
    const ids = this.sessionsOf(image).map((session) => session.id);
    for (const id of ids) change.removeSession(id);
    return ids;
  }

  /** Forget ended sessions and tell their holders. */
  dropAll(ids: readonly SessionId[]): void {
    for (const id of ids) this.drop(id, true);
  }

  /** The sessions of an image, oldest first. */
  sessionsOf(image: ImageId): SessionRecord[] {
    return [...this.catalogue.sessions.values()]
      .filter((session) => session.image === image)
      .sort((a, b) => a.id - b.id);
  }

  /** True while somebody uses the session, as far as the monitor can tell. */
  isAlive(id: SessionId): boolean {
    if (this.holders.has(id)) return true;
    const seenUs = this.lastSeenUs.get(id) ?? this.startedUs;
    return this.options.nowUs() - seenUs < GRACE_US;
  }

  /** Rarely: forget sessions whose clients never came back. */
  async prune(): Promise<void> {
    const now = this.options.nowUs();
    const dead = [...this.catalogue.sessions.keys()].filter(
      (id) =>
        !this.holders.has(id) && now - (this.lastSeenUs.get(id) ?? this.startedUs) > FORGET_US,
    );
    if (dead.length === 0) return;
    await this.catalogue.change((change) => this.forget(change, dead));
    for (const id of dead) this.drop(id, false);
  }

  /**
   * Stage the end of sessions, known ones. Who comes next finds no exclusive one any more to fence, and what
   * its client gave up may still be on its way: the lock epoch is raised here, unless the same client has
   * gone on under another session.
   */
  private forget(change: Change, ids: readonly SessionId[]): void {
    const ended = ids.flatMap((id) => this.catalogue.sessions.get(id) ?? []);
    for (const { id } of ended) change.removeSession(id);
    const held = ended.filter(({ mode }) => mode === "exclusive").map(({ image }) => image);
    for (const id of new Set(held)) {
      const image = this.catalogue.images.get(id);
      const left = this.sessionsOf(id).filter((one) => !ids.includes(one.id));
      if (image === undefined || left.some(({ mode }) => mode === "exclusive")) continue;
      change.putImage({ ...image, lockEpoch: this.catalogue.nextLockEpoch(image) });
    }
  }

  /** The grant under which the monitor writes an operation's entries itself. */
  signOperation(operation: OperationRecord): {
    readonly grant: Uint8Array;
    readonly mac: Uint8Array;
  } {
    // A shrink goes on under the image's present lock epoch: an exclusive open may have raised it.
    const image = this.catalogue.images.get(operation.image);
    const isSame = image !== undefined && image.layer === operation.layer;
    return this.signed({
      session: operation.session,
      image: operation.image,
      layer: operation.layer,
      sizeBytes: isSame ? image.sizeBytes : 0,
      rights: ImageRights.Write | ImageRights.Manage,
      lockEpoch: Math.max(operation.lockEpoch, isSame ? image.lockEpoch : 0),
      snapSeq: operation.snapSeq,
      pool: operation.pool,
      serial: 1,
    });
  }

  private checkExclusive(image: ImageRecord, mode: SessionMode, takeOver: boolean): void {
    for (const other of this.sessionsOf(image.id)) {
      if (other.mode !== "exclusive" || takeOver) continue;
      // A lost connection frees the lock at once: fencing makes that safe, and failover is quick.
      const young =
        this.options.nowUs() - this.startedUs < GRACE_US && !this.lastSeenUs.has(other.id);
      if (!this.holders.has(other.id) && !young) continue;
      throw new FastblockError(
        "FB3005",
        `opening ${image.name} (${mode}): ${other.client} has it exclusively`,
        { hint: `stop ${other.client}, or take the image over from it` },
      );
    }
  }

  /**
   * Whether an attachment is not over: its session is known. One that a restored catalogue has forgotten
   * goes on as well unless it was exclusive, where nobody has had the image alone since: lock epochs only
   * grow.
   */
  private checkFormer(image: ImageRecord, mode: SessionMode, former: FormerSession): void {
    const known = this.catalogue.sessions.get(former.id);
    if (known?.image === image.id && known.mode === mode) return;
    const isForgotten = known === undefined && mode !== "exclusive";
    if (isForgotten && image.lockEpoch <= former.lockEpoch) return;
    throw new FastblockError(
      "FB3007",
      `opening ${image.name} (${mode}) instead of session ${String(former.id)}: it is over`,
      { why: "it was closed, fenced by an exclusive open, or its image was removed" },
    );
  }

  private bind(id: SessionId, holder: SessionHolder): void {
    this.holders.set(id, holder);
    this.lastSeenUs.delete(id);
  }

  private drop(id: SessionId, notify: boolean): void {
    const holder = this.holders.get(id);
    this.holders.delete(id);
    this.lastSeenUs.delete(id);
    if (notify) holder?.notifyImage(id, true);
  }

  private sign(image: ImageRecord, session: SessionRecord): SignedSession {
    const readOnly = session.mode === "read-only";
    const { grant, mac } = this.signed({
      session: session.id,
      image: image.id,
      layer: image.layer,
      sizeBytes: image.sizeBytes,
      rights: readOnly ? ImageRights.Read : ImageRights.Read | ImageRights.Write,
      lockEpoch: image.lockEpoch,
      snapSeq: image.snapSeq,
      pool: image.pool,
      serial: session.serial,
    });
    return { header: headerOf(image), grant, mac };
  }

  private signed(fields: GrantFields): { readonly grant: Uint8Array; readonly mac: Uint8Array } {
    const grant = toBinary(
      SessionGrantSchema,
      create(SessionGrantSchema, {
        ...fields,
        session: BigInt(fields.session),
        image: BigInt(fields.image),
        layer: BigInt(fields.layer),
        sizeBytes: BigInt(fields.sizeBytes),
      }),
    );
    return { grant, mac: signGrant(this.options.checksum, this.options.clusterKey, grant) };
  }
}

interface GrantFields {
  readonly session: number;
  readonly image: number;
  readonly layer: number;
  readonly sizeBytes: number;
  readonly rights: number;
  readonly lockEpoch: number;
  readonly snapSeq: number;
  readonly pool: number;
  readonly serial: number;
}

/** An image's header as it travels. */
export function headerOf(image: ImageRecord): ImageHeader {
  return create(ImageHeaderSchema, {
    image: BigInt(image.id),
    name: image.name,
    pool: image.pool,
    family: BigInt(image.family),
    layer: BigInt(image.layer),
    sizeBytes: BigInt(image.sizeBytes),
    objectBlocks: image.objectBlocks,
    snapSeq: image.snapSeq,
    lockEpoch: image.lockEpoch,
  });
}
