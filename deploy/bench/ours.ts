import { join } from "node:path";
import { output, ownerOf, type RunningLoad, startLoad } from "./own-processes.ts";
import { IMAGE, type Load, OSDS, POOL, type Settings } from "./settings.ts";

/** A cluster of ours in `DIRECTORY/fastblock`, as `fastblock dev up` makes it, without a gateway. */
const START_MS = 120_000;
const FILL_MS = 1_200_000;
const PATH = `${POOL}/${IMAGE}`;

export class Ours {
  private readonly directory: string;
  private readonly settings: Settings;
  private readonly program: string;

  /** `directory`: that of both clusters. `program`: the executable. */
  constructor(directory: string, settings: Settings, program: string) {
    this.directory = join(directory, "fastblock");
    this.settings = settings;
    this.program = program;
  }

  /** From nothing to an image that is written in full. */
  async start(say: (text: string) => void): Promise<void> {
    await this.up();
    await this.run(["dev", "down", "--dir", this.directory]);
    for (let id = 0; id < OSDS; id++) {
      say(`osd.${id} of fastblock: writing the holes of its file`);
      await this.writeHoles(join(this.directory, `osd.${id}.img`));
    }
    await this.up();
    const cluster = ["--cluster", this.directory];
    await this.run(["pool", "create", POOL, "--size", String(OSDS), ...cluster]);
    const size = ["--size", String(this.settings.imageBytes)];
    await this.run(["image", "create", PATH, ...size, ...cluster]);
    say("fastblock serves; writing its image in full");
    const fill = ["--rw", "write", "--bs", "128KiB", "--time", "1s", "--fill"];
    await this.run(["bench", "image", PATH, ...fill, ...cluster], FILL_MS);
  }

  /** Our own client: `bench image`, without its drain, which `measure.ts` watches for all alike. */
  load(one: Load, timing: { timeMs: number; rampMs: number }, limitMs: number): RunningLoad {
    const { rw, blockBytes, depth } = one;
    const shape = ["--rw", rw, "--bs", String(blockBytes), "--depth", String(depth)];
    const times = ["--time", `${timing.timeMs}ms`, "--ramp", `${timing.rampMs}ms`];
    const how = ["--no-fill", "--no-drain", "--cluster", this.directory, "-o", "json"];
    const words = [this.program, "bench", "image", PATH, ...shape, ...times, ...how];
    return startLoad({ words, env: this.env(), limitMs });
  }

  async version(): Promise<string> {
    return (await this.run(["--version"])).trim();
  }

  private async up(): Promise<void> {
    const shape = ["--osds", String(OSDS), "--nbd", "0", "--detach"];
    const size = ["--osd-size", String(this.settings.osdBytes)];
    await this.run(["dev", "up", "--dir", this.directory, ...shape, ...size], START_MS);
  }

  /** A file written onto itself: its holes read as zeros, and are no holes afterwards. */
  private async writeHoles(path: string): Promise<void> {
    const flags = ["bs=4M", "conv=notrunc", "iflag=direct", "oflag=direct", "status=none"];
    const words = ["dd", `if=${path}`, `of=${path}`, ...flags];
    await output({ words, env: this.env(), limitMs: FILL_MS });
  }

  private run(words: readonly string[], limitMs = START_MS): Promise<string> {
    return output({ words: [this.program, ...words], env: this.env(), limitMs });
  }

  private env(): Record<string, string> {
    return ownerOf(this.settings.token, "fastblock");
  }
}
