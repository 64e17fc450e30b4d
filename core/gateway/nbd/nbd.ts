// cold: connections come and go
import type {
  Address,
  Drain,
  Listener,
  Stream,
  StreamHandler,
  World,
} from "../../reactor/world.ts";
import { CallbackTimer, DrainOrder } from "../../reactor/world.ts";
import type { ExportSource, OpenExport } from "./export-source.ts";
import { Negotiation, type NegotiationHost } from "./negotiation.ts";
import { NbdPools } from "./request.ts";
import { Transmission, type TransmissionHost } from "./transmission.ts";

export type { ExportSource } from "./export-source.ts";
export { ImageExports } from "./image-exports.ts";

/** Connections of one gateway; beyond, new ones are closed at once. */
const CONNECTIONS_MAX = 256;
/** A handshake that takes longer ends. */
const HANDSHAKE_US_MAX = 10_000_000;
/** While others wait for memory, who holds some and does not move for this long is cut off. */
const STUCK_US_MAX = 10_000_000;
/** How long `stop` waits for open requests. */
const STOP_US_MAX = 5_000_000;
const SCAN_US = 1_000_000;
/** Broken clients are logged once in this time, with how many there were since. */
const BROKEN_LOG_US = 1_000_000;
/** Receive buffer: header and data as they come. Send buffer: three pieces and their headers. */
const RECEIVE_BYTES = 524_288;
/** The largest unfragmented READ (1 MiB) with its header must fit. */
const SEND_BYTES = 2_097_152;

/** What a gateway counts, for logs and metrics. */
export interface NbdCounts {
  readonly connections: number;
  readonly requestsOpen: number;
  readonly slotsBytes: number;
}

/**
 * The NBD gateway: serves the images of an `ExportSource` on any number of listeners.
 *
 * Memory is bounded: `CONNECTIONS_MAX` connections, each with its stream buffers, at most 256 open
 * requests and 16 MiB of slots. A quarter of the slots is kept for connections that hold none: each
 * moves on, piece by piece, whatever others hold. Those that wait for more wait in order, and a
 * client that holds memory without moving meanwhile is cut off.
 */
export class NbdServer {
  private readonly core: ServerCore;

  constructor(world: World, source: ExportSource) {
    this.core = new ServerCore(world, source);
  }

  /** Listen on an address; answers the bound one. Throws FB4005 when it is in use. */
  listen(address: Address): Address {
    return this.core.listen(address);
  }

  get counts(): NbdCounts {
    return this.core.counts();
  }

  /** Stop listening, answer what is open (at most 5 s), close every connection. */
  stop(): Promise<void> {
    return this.core.stop();
  }
}

class ServerCore implements NegotiationHost, TransmissionHost, Drain {
  readonly world: World;
  readonly pools: NbdPools;
  private readonly source: ExportSource;
  private readonly listeners: Listener[] = [];
  private readonly negotiations = new Set<Negotiation>();
  private readonly transmissions = new Map<Transmission, OpenExport>();
  private readonly scan: CallbackTimer;
  private resumed: Negotiation[] = [];
  private served: Transmission[] = [];
  private waiting: Transmission[] = [];
  /** Since when memory has been short without a break; 0: it is not. */
  private waitingSinceUs = 0;
  private stopDueUs = 0;
  /** When a broken client may be logged again, and how many were not. */
  private brokenDueUs = 0;
  private brokenUnsaid = 0;
  private onStopped: (() => void) | null = null;

  constructor(world: World, source: ExportSource) {
    this.world = world;
    this.source = source;
    this.pools = new NbdPools(world.slots);
    this.scan = new CallbackTimer(() => this.onScan());
    world.turns.addDrain(DrainOrder.Apply, this);
  }

  listen(address: Address): Address {
    const listener = this.world.network.listen(
      address,
      { onAccept: (stream) => this.accept(stream) },
      {
        receiveBytes: RECEIVE_BYTES,
        sendBytes: SEND_BYTES,
      },
    );
    this.listeners.push(listener);
    return listener.address;
  }

  counts(): NbdCounts {
    return {
      connections: this.negotiations.size + this.transmissions.size,
      requestsOpen: this.pools.requestsUsed,
      slotsBytes: this.world.slots.usedBytes,
    };
  }

  stop(): Promise<void> {
    for (const listener of this.listeners.splice(0)) listener.close();
    this.stopDueUs = this.world.clock.nowUs() + STOP_US_MAX;
    for (const negotiation of this.negotiations) negotiation.end("the gateway stops");
    for (const transmission of this.transmissions.keys()) transmission.finish("the gateway stops");
    this.armScan();
    return new Promise((resolve) => {
      this.onStopped = resolve;
      this.checkStopped();
    });
  }

  private checkStopped(): void {
    if (this.onStopped === null) return;
    if (this.negotiations.size > 0 || this.transmissions.size > 0) return;
    this.world.timers.disarm(this.scan);
    this.onStopped();
    this.onStopped = null;
  }

  private accept(stream: Stream): StreamHandler {
    const isFull = this.negotiations.size + this.transmissions.size >= CONNECTIONS_MAX;
    if (isFull || this.stopDueUs > 0) {
      this.world.logger.warn("nbd connection refused: too many, or stopping", {
        peer: stream.peer,
      });
      stream.close("too many connections");
      return REFUSED;
    }
    const negotiation = new Negotiation(this, stream);
    this.negotiations.add(negotiation);
    this.armScan();
    return negotiation;
  }

  onBroken({ peer }: Stream, reason: string): void {
    const nowUs = this.world.clock.turnUs;
    if (nowUs < this.brokenDueUs) {
      this.brokenUnsaid++;
      return;
    }
    const fields = { peer, reason, unsaid: this.brokenUnsaid };
    this.world.logger.warn("nbd client cut off: it breaks the protocol", fields);
    this.brokenDueUs = nowUs + BROKEN_LOG_US;
    this.brokenUnsaid = 0;
  }

  /* --------------------------------------------------------------- handshakes */

  list(): Promise<readonly string[]> {
    return this.source.list();
  }

  open(name: string): Promise<OpenExport | null> {
    return this.source.open(name);
  }

  resumeLater(negotiation: Negotiation): void {
    this.resumed.push(negotiation);
    this.world.turns.again();
  }

  onNegotiated(negotiation: Negotiation): void {
    const chosen = negotiation.chosen;
    if (chosen === null) return;
    this.negotiations.delete(negotiation);
    const transmission = new Transmission(
      this,
      negotiation.stream,
      chosen.target,
      negotiation.chosenName,
      negotiation.structured,
      negotiation.metaSelected,
    );
    this.transmissions.set(transmission, chosen);
    negotiation.stream.handler = transmission;
    negotiation.stream.resume();
    this.world.logger.debug("nbd client attached", {
      peer: negotiation.stream.peer,
      export: negotiation.chosenName,
    });
    // Requests may lie behind the last option already.
    this.ready(transmission);
  }

  onNegotiationClosed(negotiation: Negotiation, reason: string): void {
    if (!this.negotiations.delete(negotiation)) return;
    this.world.logger.debug("nbd handshake ended", { peer: negotiation.stream.peer, reason });
    this.checkStopped();
  }

  /* ------------------------------------------------------------- transmission */

  ready(connection: Transmission): void {
    if (connection.isReady) return;
    connection.isReady = true;
    this.served.push(connection);
    this.world.turns.again();
  }

  waitForMemory(connection: Transmission): void {
    if (connection.isWaiting) return;
    connection.isWaiting = true;
    if (this.waitingSinceUs === 0) this.waitingSinceUs = this.world.clock.turnUs;
    this.waiting.push(connection);
  }

  onTransmissionClosed(connection: Transmission, reason: string): void {
    this.world.logger.debug("nbd client gone", { peer: connection.stream.peer, reason });
  }

  onTransmissionDrained(connection: Transmission): void {
    const opened = this.transmissions.get(connection);
    if (opened === undefined) return;
    this.transmissions.delete(connection);
    opened.release();
    this.checkStopped();
  }

  drain(): void {
    if (this.resumed.length > 0) {
      const resumed = this.resumed;
      this.resumed = [];
      for (const negotiation of resumed) negotiation.continueHandshake();
    }
    if (this.waiting.length > 0) {
      const waiting = this.waiting;
      this.waiting = [];
      for (const connection of waiting) {
        connection.isWaiting = false;
        connection.serve();
      }
      if (this.waiting.length === 0) this.waitingSinceUs = 0;
    }
    if (this.served.length > 0) {
      const ready = this.served;
      this.served = [];
      for (const connection of ready) {
        connection.isReady = false;
        connection.serve();
      }
    }
  }

  /* ------------------------------------------------------------------ the scan */

  private armScan(): void {
    if (this.scan.timerDueUs < 0) this.world.timers.arm(this.scan, SCAN_US);
  }

  onScan(): void {
    const nowUs = this.world.clock.turnUs;
    for (const negotiation of this.negotiations) {
      if (nowUs - negotiation.startedUs > HANDSHAKE_US_MAX) negotiation.end("handshake too slow");
    }
    const isShort = this.waiting.length > 0 && nowUs - this.waitingSinceUs > STUCK_US_MAX;
    const isLate = this.stopDueUs > 0 && nowUs > this.stopDueUs;
    if (isShort || isLate) this.cutOff(nowUs, isLate);
    if (this.negotiations.size + this.transmissions.size > 0) this.armScan();
  }

  private cutOff(nowUs: number, everyone: boolean): void {
    for (const transmission of this.transmissions.keys()) {
      if (everyone) {
        transmission.abort("the gateway stops");
      } else if (transmission.isStuckSince(nowUs - STUCK_US_MAX)) {
        this.world.logger.warn("nbd client cut off: it holds memory and does not move", {
          peer: transmission.stream.peer,
        });
        transmission.abort("the client does not move");
      }
    }
  }
}

/** The handler of a connection that was closed as it came. */
const REFUSED: StreamHandler = {
  onOpen() {},
  onReceive() {},
  onWritable() {},
  onClose() {},
};
