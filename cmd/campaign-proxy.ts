import { connect, createServer, type Server, type Socket } from "node:net";
import type { Prng } from "../core/base/prng.ts";

/**
 * A bad line to one port: everything arrives late, in order, and now and then a bit of it is not the
 * one that was sent.
 */

/** What comes here, and goes on from here. */
export const PROXY_ADDRESS = "127.77.77.77";
const DELAY_MS_MAX = 25;
/** One piece of data in so many is damaged. */
const DAMAGED_ONE_IN = 200;

export class CampaignProxy {
  /** Pieces of data that were damaged. */
  damaged = 0;
  private readonly server: Server;
  private readonly sockets = new Set<Socket>();

  private constructor(random: Prng, host: string, port: number) {
    this.server = createServer((client) => {
      const onward = connect({ host, port, localAddress: PROXY_ADDRESS, noDelay: true });
      client.setNoDelay(true);
      this.carry(random, client, onward);
      this.carry(random, onward, client);
    });
  }

  static async to(random: Prng, host: string, port: number): Promise<CampaignProxy> {
    const proxy = new CampaignProxy(random, host, port);
    await new Promise<void>((resolve) => proxy.server.listen(0, PROXY_ADDRESS, resolve));
    return proxy;
  }

  get port(): number {
    const address = this.server.address();
    return typeof address === "object" && address !== null ? address.port : 0;
  }

  close(): void {
    this.server.close();
    for (const socket of this.sockets) socket.destroy();
  }

  private carry(random: Prng, from: Socket, to: Socket): void {
    const onWay: Buffer[] = [];
    let dueMs = 0;
    this.sockets.add(from);
    from.on("data", (data) => {
      const piece = data as Buffer;
      if (random.below(DAMAGED_ONE_IN) === 0) {
        const at = random.below(piece.length);
        piece[at] = piece[at]! ^ (1 << random.below(8));
        this.damaged += 1;
      }
      const nowMs = performance.now();
      dueMs = Math.max(dueMs, nowMs + random.below(DELAY_MS_MAX));
      onWay.push(piece);
      setTimeout(() => {
        const first = onWay.shift()!;
        if (!to.destroyed) to.write(first);
      }, dueMs - nowMs);
    });
    // `close` follows.
    from.on("error", () => undefined);
    from.on("close", () => {
      this.sockets.delete(from);
      to.destroy();
    });
  }
}
