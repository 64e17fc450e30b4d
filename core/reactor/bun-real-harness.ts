import { mkdtempSync, rmSync, truncateSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLogger } from "../base/logger.ts";
import { check, type Harness } from "./conformance.ts";
import type { RunnableWorld, WorldOptions } from "./reactor-base.ts";
import type { Address } from "./world.ts";

/** The harness of the worlds that run on the operating system: one world talks to itself. */
export class RealHarness implements Harness {
  readonly world: RunnableWorld;
  readonly other: RunnableWorld;
  readonly otherBind: string = "127.0.0.9";
  readonly directory: string;
  private paths = 0;
  private fatal: Error | null = null;
  readonly deadAddress: Address = { kind: "tcp", host: "127.0.0.1", port: 1 };

  constructor(create: (options: WorldOptions) => RunnableWorld) {
    this.directory = mkdtempSync(join(tmpdir(), "fastblock-reactor-"));
    this.world = create({
      arenaBytes: 512 * 1_048_576,
      slotsBytes: 16 * 1_048_576,
      logger: silentLogger,
      onFatal: (error) => {
        this.fatal = error instanceof Error ? error : new Error(String(error));
      },
    });
    this.other = this.world;
    this.world.holdGuest();
    this.world.start();
  }

  async until(condition: () => boolean, what: string): Promise<void> {
    const end = Date.now() + 10_000;
    while (!condition()) {
      if (this.fatal !== null) throw this.fatal;
      check(Date.now() < end, `waited 10 s for ${what}`);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    if (this.fatal !== null) throw this.fatal;
  }

  newPath(): string {
    this.paths += 1;
    return join(this.directory, `disk ${this.paths}`);
  }

  shorten(path: string, sizeBytes: number): void {
    truncateSync(path, sizeBytes);
  }

  listenAddresses(): readonly Address[] {
    this.paths += 1;
    return [
      { kind: "tcp", host: "127.0.0.1", port: 0 },
      { kind: "tcp", host: "::1", port: 0 },
      { kind: "unix", path: join(this.directory, `socket ${this.paths}`) },
    ];
  }

  async close(): Promise<void> {
    await this.world.stop();
    rmSync(this.directory, { recursive: true, force: true });
  }
}
