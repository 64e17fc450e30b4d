// data path
import type { ImageId } from "../base/ids.ts";
import type { PgNumbers } from "./session.ts";

/**
 * Where changes were given up that may be made yet: numbers of sessions, open or closed, by image.
 *
 * What is answered without asking such a group would come before them (G4). It ends for a group when
 * a later change of the same session is answered that has told it of them, and for an image when a
 * session has a higher lock epoch than they were sent with: that fences them before it does anything
 * in their group.
 */
export class Uncertain {
  /** By image: numbers, with the highest lock epoch of what was given up. */
  private readonly images = new Map<ImageId, Map<PgNumbers, number>>();

  has(image: ImageId): boolean {
    return this.images.has(image);
  }

  // cold: a change was given up.
  add(image: ImageId, numbers: PgNumbers, lockEpoch: number): void {
    let marks = this.images.get(image);
    if (marks === undefined) this.images.set(image, (marks = new Map()));
    marks.set(numbers, lockEpoch);
    numbers.isMarked = true;
  }

  // cold: the first change after one that was given up.
  /** The group was told. */
  remove(image: ImageId, numbers: PgNumbers): void {
    numbers.isMarked = false;
    const marks = this.images.get(image);
    if (marks === undefined) return;
    marks.delete(numbers);
    if (marks.size === 0) this.images.delete(image);
  }

  // cold: once per grant.
  /** A session of the image has this lock epoch. */
  fence(image: ImageId, lockEpoch: number): void {
    for (const [numbers, sentEpoch] of this.images.get(image) ?? []) {
      if (sentEpoch < lockEpoch) this.remove(image, numbers);
    }
  }
}
