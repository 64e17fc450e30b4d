import { silentLogger } from "../../base/logger.ts";
import type { Logger } from "../../base/logger.ts";
import type { RunnableWorld, WorldOptions } from "../../reactor/reactor.ts";
import { MemoryExports, MemoryImage } from "./memory-image.ts";
import { NbdServer } from "./nbd.ts";

const MIB = 1_048_576;

/** A gateway over images in memory, on a real world. */
export class NbdHarness {
  readonly world: RunnableWorld;
  readonly source: MemoryExports;
  readonly server: NbdServer;
  readonly port: number;
  /** What ended the world, if something did. */
  fatal: Error | null = null;

  constructor(
    create: (options: WorldOptions) => RunnableWorld,
    slotsMib = 64,
    logger: Logger = silentLogger,
  ) {
    this.world = create({
      arenaBytes: 2048 * MIB,
      slotsBytes: slotsMib * MIB,
      logger,
      onFatal: (error) => {
        this.fatal = error instanceof Error ? error : new Error(String(error));
      },
    });
    this.source = new MemoryExports();
    this.server = new NbdServer(this.world, this.source);
    const address = this.server.listen({ kind: "tcp", host: "127.0.0.1", port: 0 });
    this.port = address.kind === "tcp" ? address.port : 0;
    this.world.holdGuest();
    this.world.start();
  }

  addImage(name: string, sizeBytes: number): MemoryImage {
    const image = new MemoryImage(this.world, sizeBytes);
    this.source.images.set(name, image);
    return image;
  }

  url(name: string): string {
    return `nbd://127.0.0.1:${this.port}/${name}`;
  }

  /** Stop, and check that nothing was kept. */
  async close(): Promise<void> {
    await this.server.stop();
    const { slotsBytes, requestsOpen } = this.server.counts;
    await this.world.stop();
    if (this.fatal !== null) throw this.fatal;
    if (slotsBytes !== 0) throw new Error(`slots left: ${slotsBytes} bytes, wanted 0`);
    if (requestsOpen !== 0) throw new Error(`requests left: ${requestsOpen}, wanted 0`);
    const { opened, released } = this.source;
    if (opened !== released) throw new Error(`exports opened ${opened}, released ${released}`);
  }
}
