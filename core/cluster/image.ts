import type { ImageId, LayerId, PoolId } from "../base/ids.ts";
import { BLOCK_SIZE } from "../base/units.ts";

/** What a session may do with an image. Bits. */
export enum ImageRights {
  Read = 1,
  Write = 2,
  /** Of the monitor's operations alone: zero past the end, free a layer. */
  Manage = 4,
}

/** 16 TiB: block numbers of an image fit 32 bits. */
const IMAGE_SIZE_MAX = 17_592_186_044_416;
/** The snapshot sequence that stands for the writable state of a layer. */
export const SNAP_SEQ_WRITABLE = 0xffff_ffff;

/** What a client needs to know of an image to read and write it. Immutable. */
export interface ImageHeader {
  readonly id: ImageId;
  readonly name: string;
  readonly pool: PoolId;
  /** Id of the first image of the clone tree: hashes with the object index to a group. */
  readonly familyId: ImageId;
  readonly layer: LayerId;
  readonly sizeBytes: number;
  readonly objectBlocks: number;
  readonly snapSeq: number;
  readonly lockEpoch: number;
}

/** True for a size that an image can have: whole blocks, 4 KiB to 16 TiB. */
export function isImageSize(sizeBytes: number): boolean {
  return (
    Number.isSafeInteger(sizeBytes) &&
    sizeBytes >= BLOCK_SIZE &&
    sizeBytes <= IMAGE_SIZE_MAX &&
    sizeBytes % BLOCK_SIZE === 0
  );
}
