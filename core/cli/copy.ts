import { FastblockError } from "../base/errors.ts";
import { exactSize } from "../base/size-text.ts";
import type { Image } from "../client/client.ts";
import type { ByteSink } from "./ports.ts";

/** Copies between images and byte streams: a few requests of 1 MiB open at a time. */
const PIECE_BYTES = 1_048_576;
const OPEN_MAX = 8;

export interface CopyRange {
  readonly offsetBytes: number;
  /** Undefined: to the end. */
  readonly lengthBytes: number | undefined;
}

/** Tells how many bytes are copied so far. */
export type CopyProgress = (doneBytes: number) => void;

/** The bytes of a range that lie within an image. Throws FB1001 when it begins past the end. */
function clampRange(image: { path: string; sizeBytes: number }, range: CopyRange): number {
  const left = image.sizeBytes - range.offsetBytes;
  if (left < 0 || (range.lengthBytes !== undefined && range.lengthBytes > left)) {
    throw new FastblockError(
      "FB1001",
      `copying ${image.path}: the range ends at ` +
        `${range.offsetBytes + (range.lengthBytes ?? 0)}, wanted at most ${image.sizeBytes}`,
    );
  }
  return range.lengthBytes ?? left;
}

/** Read a range in order into a sink. Answers the bytes copied. */
export async function readImage(
  image: Image,
  sink: ByteSink,
  range: CopyRange,
  progress: CopyProgress,
): Promise<number> {
  const length = clampRange(image, range);
  const ahead: Promise<Uint8Array>[] = [];
  let asked = 0;
  let done = 0;
  while (done < length) {
    while (asked < length && ahead.length < OPEN_MAX) {
      const piece = Math.min(PIECE_BYTES, length - asked);
      const read = image.read(range.offsetBytes + asked, piece);
      // The first that fails ends the copy: those behind it are not waited for any more.
      read.catch(() => undefined);
      ahead.push(read);
      asked += piece;
    }
    const next = ahead.shift();
    if (next === undefined) break;
    const bytes = await next;
    await sink.write(bytes);
    done += bytes.length;
    progress(done);
  }
  await sink.close();
  return done;
}

/** Write a stream of bytes to a range, and flush. Answers the bytes copied. Throws FB1001. */
export async function writeImage(
  image: Image,
  source: AsyncIterable<Uint8Array>,
  range: CopyRange,
  progress: CopyProgress,
): Promise<number> {
  const length = clampRange(image, range);
  const open = new OpenWrites();
  let done = 0;
  for await (const bytes of source) {
    if (done + bytes.length > length && range.lengthBytes === undefined) {
      throw new FastblockError(
        "FB1001",
        `copying to ${image.path}: the source has more than ${exactSize(length)}, wanted no more`,
      );
    }
    const taken = Math.min(bytes.length, length - done);
    for (let at = 0; at < taken; at += PIECE_BYTES) {
      const piece = bytes.subarray(at, Math.min(taken, at + PIECE_BYTES));
      await open.add(image.write(range.offsetBytes + done + at, piece));
    }
    done += taken;
    progress(done);
    if (done === length && range.lengthBytes !== undefined) break;
  }
  await open.finish();
  await image.flush();
  return done;
}

/** Copy one image onto another of at least its size. Answers the bytes copied. Throws FB1001. */
export async function copyImage(
  from: Image,
  to: Image,
  range: CopyRange,
  progress: CopyProgress,
): Promise<number> {
  const length = clampRange(from, range);
  clampRange(to, { offsetBytes: range.offsetBytes, lengthBytes: length });
  const open = new OpenWrites();
  for (let at = 0; at < length; at += PIECE_BYTES) {
    const offset = range.offsetBytes + at;
    const piece = Math.min(PIECE_BYTES, length - at);
    await open.add(from.read(offset, piece).then((bytes) => to.write(offset, bytes)));
    progress(at + piece);
  }
  await open.finish();
  await to.flush();
  return length;
}

/** A bounded set of requests; the first failure is thrown at the next `add` or `finish`. */
class OpenWrites {
  private readonly open = new Set<Promise<void>>();
  private failure: Error | undefined;

  async add(request: Promise<void>): Promise<void> {
    const tracked: Promise<void> = request
      .catch((error: unknown) => {
        this.failure ??= error instanceof Error ? error : new Error(String(error));
      })
      .finally(() => {
        this.open.delete(tracked);
      });
    this.open.add(tracked);
    if (this.open.size >= OPEN_MAX) await Promise.race(this.open);
    if (this.failure !== undefined) throw this.failure;
  }

  async finish(): Promise<void> {
    await Promise.all(this.open);
    if (this.failure !== undefined) throw this.failure;
  }
}
