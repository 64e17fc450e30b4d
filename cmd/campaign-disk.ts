import { spawnSync } from "bun";
import {
  closeSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  rmSync,
  statfsSync,
  symlinkSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";

/**
 * A small disk for one osd that can be made to stall and to run full: an ext4 of its own on a loop
 * device. Frozen, it takes writes and answers none. With the rest of it given to another file,
 * writes to blocks that the store had not used before fail.
 */

const DISK_BYTES = 768 * 1_048_576;
/** Of what is free, in one go; the rest block by block. */
const FALLOCATED = 0.99;

export class CampaignDisk {
  private readonly folder: string;
  private readonly mount: string;
  private frozen = false;

  private constructor(folder: string) {
    this.folder = folder;
    this.mount = join(folder, "disk");
  }

  /** Answers why there is none, where there can be none. */
  static open(folder: string): CampaignDisk | string {
    if (process.getuid?.() !== 0) return "disks that stall need root";
    const disk = new CampaignDisk(folder);
    try {
      mkdirSync(disk.mount);
      const file = openSync(disk.image, "w");
      ftruncateSync(file, DISK_BYTES);
      closeSync(file);
      run("mkfs.ext4", "-q", "-F", "-m", "0", disk.image);
      run("mount", "-o", "loop", disk.image, disk.mount);
      return disk;
    } catch (error) {
      return `disks that stall need loop devices: ${error instanceof Error ? error.message : String(error)}`;
    }
  }

  /** Move the file of a stopped osd here. */
  take(path: string): void {
    const home = join(this.mount, "osd.img");
    run("cp", "--sparse=always", path, home);
    rmSync(path);
    symlinkSync(home, path);
  }

  /** Until `thaw`, writes get no answer. */
  freeze(): void {
    run("fsfreeze", "--freeze", this.mount);
    this.frozen = true;
  }

  thaw(): void {
    if (this.frozen) run("fsfreeze", "--unfreeze", this.mount);
    this.frozen = false;
  }

  /** Give all that is free to another file. */
  fill(): void {
    const { bavail, bsize } = statfsSync(this.mount);
    run("fallocate", "-l", String(Math.floor(bavail * FALLOCATED) * bsize), this.balloon);
    const file = openSync(this.balloon, "a");
    try {
      for (;;) writeSync(file, new Uint8Array(bsize));
    } catch (error) {
      if (!(error instanceof Error && "code" in error && error.code === "ENOSPC")) throw error;
    } finally {
      closeSync(file);
    }
  }

  empty(): void {
    rmSync(this.balloon, { force: true });
  }

  /** `keep`: the osd's file stays, to be looked at. */
  close(keep: boolean): void {
    this.thaw();
    this.empty();
    run("umount", this.mount);
    if (!keep && existsSync(this.image)) rmSync(this.image);
  }

  private get image(): string {
    return join(this.folder, "disk.ext4");
  }

  private get balloon(): string {
    return join(this.mount, "balloon");
  }
}

function run(...words: readonly string[]): void {
  const path = `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin`;
  const { success, stderr } = spawnSync([...words], { env: { ...process.env, PATH: path } });
  if (!success) throw new Error(`${words.join(" ")}: ${stderr.toString().trim()}`);
}
