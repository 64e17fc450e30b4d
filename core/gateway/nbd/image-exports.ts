// cold: once per connection
import { FastblockError } from "../../base/errors.ts";
import type { Client, Image, OpenOptions } from "../../client/client.ts";
import type { ExportSource, OpenExport } from "./export-source.ts";

export interface ImageExportsOptions {
  readonly client: Client;
  readonly exclusive: boolean;
  readonly readOnly: boolean;
  /** `POOL/IMAGE`; empty: every image of the cluster. */
  readonly names: readonly string[];
}

/** One attachment, shared by the connections of an export. */
class Attachment {
  users = 0;
  readonly image: Promise<Image>;

  constructor(image: Promise<Image>) {
    this.image = image;
  }
}

/**
 * The images of a cluster as exports.
 *
 * An image is attached when its first connection comes and given back when the last one is gone;
 * an exclusive one is kept until the gateway stops, so that its lock does not change hands between
 * two connections. Each new connection fetches the image's size and name anew, if a mon answers:
 * it gets what is called so now, whatever the connections before it are attached to.
 */
export class ImageExports implements ExportSource {
  private readonly options: ImageExportsOptions;
  private readonly attached = new Map<string, Attachment>();
  /** Images that are being given back: opening them again waits for it. */
  private readonly closing = new Map<string, Promise<void>>();

  constructor(options: ImageExportsOptions) {
    this.options = options;
  }

  async list(): Promise<readonly string[]> {
    const { names, client } = this.options;
    return names.length > 0 ? names : client.listImages(OPEN_MS);
  }

  async open(name: string): Promise<OpenExport | null> {
    const { names } = this.options;
    if (names.length > 0 && !names.includes(name)) return null;
    const known = this.attached.get(name);
    const attachment = known ?? this.attach(name);
    attachment.users++;
    let image: Image;
    try {
      image = await attachment.image;
      if (known !== undefined) await refresh(image);
    } catch (error) {
      this.drop(name, attachment);
      if (error instanceof FastblockError && MISSING.includes(error.code)) return null;
      throw error;
    }
    const release = (): void => this.release(name, attachment);
    if (!image.isOver && image.path === name) return { target: image, release };
    // Renamed or removed: the name is another image's by now, or nobody's.
    if (this.attached.get(name) === attachment) this.attached.delete(name);
    release();
    return this.open(name);
  }

  private attach(name: string): Attachment {
    const { client, exclusive, readOnly } = this.options;
    const options: OpenOptions = { exclusive, readOnly, openMs: OPEN_MS };
    const before = this.closing.get(name) ?? Promise.resolve();
    const attachment = new Attachment(before.then(() => client.openImage(name, options)));
    this.attached.set(name, attachment);
    return attachment;
  }

  /** Opening failed: the next connection tries anew. */
  private drop(name: string, attachment: Attachment): void {
    attachment.users--;
    if (this.attached.get(name) === attachment) this.attached.delete(name);
  }

  private release(name: string, attachment: Attachment): void {
    attachment.users--;
    const isCurrent = this.attached.get(name) === attachment;
    if (attachment.users > 0 || (this.options.exclusive && isCurrent)) return;
    if (isCurrent) this.attached.delete(name);
    const closed = attachment.image
      .then((image) => image.close())
      .finally(() => {
        if (this.closing.get(name) === closed) this.closing.delete(name);
      });
    this.closing.set(name, closed);
  }
}

/** A client waits this long for a mon; then it is told that none answers. */
const OPEN_MS = 4000;
/** Errors that say: there is no such export. */
const MISSING: readonly string[] = ["FB1001", "FB2001", "FB3001"];

/** Learn of a new size or name. What is known goes on being served while no mon answers. */
async function refresh(image: Image): Promise<void> {
  try {
    await image.refresh(REFRESH_MS);
  } catch (error) {
    if (image.isOver) return;
    if (error instanceof FastblockError && PASSING.includes(error.code)) return;
    throw error;
  }
}

const REFRESH_MS = 1000;
const PASSING: readonly string[] = ["FB1004", "FB1006"];
