import { FastblockError } from "../base/errors.ts";
import { exactSize, formatSize } from "../base/size-text.ts";
import type { ImageId, LayerId, PoolId, SessionId } from "../base/ids.ts";
import { BLOCK_SIZE } from "../base/units.ts";
import { isImageSize, isName } from "../cluster/cluster.ts";
import type { Catalogue, Change } from "./catalogue.ts";
import type { PoolService } from "./pool-service.ts";
import type { ImageRecord, OperationKind, OperationRecord } from "./records.ts";
import type { SessionService } from "./session-service.ts";

export interface ImageServiceOptions {
  readonly catalogue: Catalogue;
  readonly pools: PoolService;
  readonly sessions: SessionService;
  readonly wallMs: () => number;
  /** A new operation stands in the catalogue. */
  readonly onOperation: (operation: OperationRecord) => void;
}

/** Images of pools. Errors: FB1002, FB2001, FB3001 to FB3003, FB3005, FB3006. */
export class ImageService {
  private readonly options: ImageServiceOptions;
  private readonly catalogue: Catalogue;

  constructor(options: ImageServiceOptions) {
    this.options = options;
    this.catalogue = options.catalogue;
  }

  /** Find an image. Throws FB2001, FB3001. */
  imageOf(poolName: string, name: string): ImageRecord {
    const pool = this.options.pools.poolOf(poolName);
    const image = this.catalogue.imageByName(pool.id, name);
    if (image !== undefined) return image;
    throw new FastblockError("FB3001", `image ${poolName}/${name} does not exist`, {
      hint: `fastblock image ls ${poolName} shows the images`,
    });
  }

  /** Images of one pool, or of all, by name. */
  list(pool: PoolId | undefined): ImageRecord[] {
    return [...this.catalogue.images.values()]
      .filter((image) => pool === undefined || image.pool === pool)
      .sort((a, b) => a.pool - b.pool || (a.name < b.name ? -1 : 1));
  }

  create(poolName: string, name: string, sizeBytes: number, dryRun: boolean): Promise<ImageRecord> {
    return this.catalogue.change((change) => {
      const pool = this.options.pools.poolOf(poolName);
      checkName(name);
      checkSize(`creating image ${poolName}/${name}`, sizeBytes);
      this.checkFree(pool.id, poolName, name);
      const id = change.allocate("image") as ImageId;
      const image: ImageRecord = {
        id,
        name,
        pool: pool.id,
        family: id,
        layer: change.allocate("layer") as LayerId,
        sizeBytes,
        objectBlocks: pool.objectBlocks,
        snapSeq: 0,
        lockEpoch: 0,
        createdMs: this.options.wallMs(),
      };
      change.putImage(image);
      return image;
    }, dryRun);
  }

  async rename(poolName: string, name: string, to: string, dryRun: boolean): Promise<ImageRecord> {
    const image = await this.catalogue.change((change) => {
      const before = this.imageOf(poolName, name);
      checkName(to);
      if (to !== name) this.checkFree(before.pool, poolName, to);
      const image = { ...before, name: to };
      change.putImage(image);
      return image;
    }, dryRun);
    if (!dryRun) this.options.sessions.imageChanged(image.id);
    return image;
  }

  /**
   * Change an image's size. Growing takes effect at once. Shrinking fences every session (each
   * refreshes under a higher lock epoch), and an operation zeroes what lies beyond the new end in
   * every group, so that growing again later shows zeros; until it ends the size can not change.
   */
  async resize(
    poolName: string,
    name: string,
    sizeBytes: number,
    dryRun: boolean,
  ): Promise<{ readonly image: ImageRecord; readonly operation: OperationRecord | undefined }> {
    const result = await this.catalogue.change((change) => {
      const before = this.imageOf(poolName, name);
      checkSize(`resizing image ${poolName}/${name}`, sizeBytes);
      this.checkNoOperation(before, `${poolName}/${name}`);
      if (sizeBytes >= before.sizeBytes) {
        const image = { ...before, sizeBytes };
        if (sizeBytes > before.sizeBytes) change.putImage(image);
        return { image, operation: undefined };
      }
      const image = { ...before, sizeBytes, lockEpoch: this.catalogue.nextLockEpoch(before) };
      change.putImage(image);
      const from = `from ${formatSize(before.sizeBytes)} to ${formatSize(sizeBytes)}`;
      const title = `shrink ${poolName}/${name} ${from}`;
      const operation = this.stageOperation(change, "image.shrink", title, image, {
        firstBlock: sizeBytes / BLOCK_SIZE,
        blocks: (before.sizeBytes - sizeBytes) / BLOCK_SIZE,
      });
      return { image, operation };
    }, dryRun);
    if (dryRun) return result;
    this.options.sessions.imageChanged(result.image.id);
    if (result.operation !== undefined) this.options.onOperation(result.operation);
    return result;
  }

  /**
   * Remove an image: its name is free at once, its ids are never used again, its space is given
   * back by an operation that writes one entry to every group. `force`: also while it is in use.
   */
  async remove(
    poolName: string,
    name: string,
    force: boolean,
    dryRun: boolean,
  ): Promise<OperationRecord> {
    let ended: SessionId[] = [];
    const operation = await this.catalogue.change((change) => {
      const image = this.imageOf(poolName, name);
      this.checkNoOperation(image, `${poolName}/${name}`);
      if (!force) this.checkUnused(image, `${poolName}/${name}`);
      ended = this.options.sessions.stageRemoval(change, image.id);
      change.removeImage(image.id);
      const gone = { ...image, lockEpoch: this.catalogue.nextLockEpoch(image) };
      const title = `remove ${poolName}/${name}`;
      return this.stageOperation(change, "image.remove", title, gone, { firstBlock: 0, blocks: 0 });
    }, dryRun);
    if (dryRun) return operation;
    this.options.sessions.dropAll(ended);
    this.options.onOperation(operation);
    return operation;
  }

  private stageOperation(
    change: Change,
    kind: OperationKind,
    title: string,
    image: ImageRecord,
    range: { readonly firstBlock: number; readonly blocks: number },
  ): OperationRecord {
    const operation: OperationRecord = {
      id: change.allocate("operation"),
      kind,
      state: "running",
      title,
      pool: image.pool,
      image: image.id,
      layer: image.layer,
      session: change.allocate("session") as SessionId,
      lockEpoch: image.lockEpoch,
      snapSeq: image.snapSeq,
      ...range,
      groups: this.catalogue.map.pools.get(image.pool)?.pgCount ?? 0,
      startedMs: this.options.wallMs(),
      endedMs: undefined,
      error: undefined,
    };
    change.putOperation(operation);
    return operation;
  }

  private checkFree(pool: PoolId, poolName: string, name: string): void {
    if (this.catalogue.imageByName(pool, name) === undefined) return;
    throw new FastblockError("FB3002", `image ${poolName}/${name} exists`);
  }

  private checkNoOperation(image: ImageRecord, text: string): void {
    for (const one of this.catalogue.operations.values()) {
      if (one.state !== "running" || one.image !== image.id) continue;
      throw new FastblockError("FB3006", `image ${text} has an operation running: ${one.title}`, {
        hint: `wait for it: fastblock op wait ${String(one.id)}`,
      });
    }
  }

  private checkUnused(image: ImageRecord, text: string): void {
    const { sessions } = this.options;
    const users = sessions.sessionsOf(image.id).filter((session) => sessions.isAlive(session.id));
    if (users.length === 0) return;
    const names = [...new Set(users.map((session) => session.client))].join(", ");
    throw new FastblockError("FB3005", `image ${text} is in use by ${names}`, {
      hint: `end what uses it over ${names}; or, to cut it off: fastblock image rm ${text} --force FB3005`,
    });
  }
}

function checkName(name: string): void {
  if (!isName(name)) throw new FastblockError("FB1002", `image name ${name} is malformed`);
}

function checkSize(what: string, sizeBytes: number): void {
  if (isImageSize(sizeBytes)) return;
  const wanted = "wanted a multiple of 4 KiB, up to 16 TiB";
  throw new FastblockError("FB3003", `${what}: ${exactSize(sizeBytes)}, ${wanted}`);
}
