import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";

/** For tests: somebody between two processes, who copies what passes. */
export class Tap {
  private readonly seen: Buffer[] = [];
  private readonly server: Server;
  private readonly sockets = new Set<Socket>();

  private constructor(port: number) {
    this.server = createServer((near) => {
      const far = connect({ host: "127.0.0.1", port, noDelay: true });
      this.carry(near, far);
      this.carry(far, near);
    });
  }

  /** Stand in front of a port of this machine. */
  static async to(port: number): Promise<Tap> {
    const tap = new Tap(port);
    await new Promise<void>((resolve) => tap.server.listen(0, "127.0.0.1", resolve));
    return tap;
  }

  get port(): number {
    return (this.server.address() as AddressInfo).port;
  }

  /** All that passed so far, both ways, in pieces as they came. */
  get bytes(): Buffer {
    return Buffer.concat(this.seen);
  }

  close(): void {
    for (const socket of this.sockets) socket.destroy();
    this.server.close();
  }

  private carry(from: Socket, to: Socket): void {
    this.sockets.add(from);
    from.on("data", (bytes: Buffer) => {
      this.seen.push(Buffer.from(bytes));
      to.write(bytes);
    });
    from.on("error", () => to.destroy());
    from.on("close", () => to.destroy());
  }
}
