// cold: the simulator
import { FastblockError } from "../base/errors.ts";
import { Prng } from "../base/prng.ts";
import type { ReactorBase } from "./reactor-base.ts";
import { type SimEngine, type SimHost, TraceKind } from "./sim-engine.ts";
import type { SimMemory } from "./sim-pages.ts";
import { type SimConnection, SimStream, type SimStreamHost } from "./sim-stream.ts";
import { NO_HANDLER, StreamNetwork } from "./stream-base.ts";
import { NO_BUFFERS } from "./stream-buffers.ts";
import type {
  Acceptor,
  Address,
  Listener,
  Network,
  Stream,
  StreamHandler,
  StreamOptions,
} from "./world.ts";

/**
 * What the simulated network does to traffic; change it at any time. Streams stay reliable and in
 * order, as those of a kernel are. So loss shows as stalls, until what was lost was sent again, and
 * what comes again or out of order are whole requests: the bytes of a connection that its client
 * gave up arrive after those of the next one.
 */
export interface NetworkFaults {
  /** Latency of each segment is drawn between these, in µs. */
  latencyUsMin: number;
  latencyUsMax: number;
  /** This share of segments is late by up to `spikeUsMax`. */
  spikeShare: number;
  spikeUsMax: number;
  /** This share of segments resets its connection instead. */
  resetShare: number;
  /** This share of receives takes only a part of what is there. */
  shortReadShare: number;
  /** This share of sends takes only a part of what there is. */
  shortWriteShare: number;
  /** A bit of this share of segments is flipped. */
  corruptShare: number;
  /** Of segments from one address to another, the share that is lost and sent again; null: none. */
  lossOf: ((from: string, to: string) => number) | null;
  /**
   * Of connections that break off with bytes on their way, the share whose bytes arrive all the same,
   * up to `lateUsMax` later: only then does the other end hear that it is over.
   */
  lateShare: number;
  lateUsMax: number;
}

/** What has happened on the wires. */
export interface NetworkCounts {
  segmentsLost: number;
  /** Of connections that one end had given up. */
  segmentsLate: number;
}

const FIRST_PORT = 20_000;
const LUCK_SALT = 8209;
const SYN_RETRY_US = 1_000_000;
const SYN_TRIES_MAX = 5;
const WILDCARDS = new Set(["", "0.0.0.0", "::"]);
const LOOPBACKS = new Set(["localhost", "127.0.0.1", "::1"]);

/** The wires between all processes of a simulation. */
export class SimFabric {
  readonly faults: NetworkFaults = {
    latencyUsMin: 15,
    latencyUsMax: 120,
    spikeShare: 0.002,
    spikeUsMax: 5_000,
    resetShare: 0,
    shortReadShare: 0.05,
    shortWriteShare: 0.02,
    corruptShare: 0,
    lossOf: null,
    lateShare: 0,
    lateUsMax: 0,
  };
  readonly counts: NetworkCounts = { segmentsLost: 0, segmentsLate: 0 };
  readonly engine: SimEngine;
  /** Of what is lost or late, apart from all other chance: runs without stay what they were. */
  readonly luck: Prng;
  readonly memory: SimMemory;
  private readonly listeners = new Map<string, SimListener>();
  private readonly connections = new Set<SimConnection>();
  private readonly cuts = new Set<string>();
  /** Grows with each cut and each end of one. */
  cutChanges = 0;
  private nextPort = FIRST_PORT;
  /** True when the machine is off: connections to it find nobody. */
  readonly isDark: (address: string) => boolean;

  constructor(engine: SimEngine, memory: SimMemory, isDark: (address: string) => boolean) {
    this.engine = engine;
    this.memory = memory;
    this.isDark = isDark;
    this.luck = new Prng(engine.seed * LUCK_SALT + 29);
  }

  /** Cut one direction; `*` stands for every address. */
  cut(from: string, to: string): void {
    this.cuts.add(`${from}>${to}`);
    this.cutChanges += 1;
    this.engine.trace(TraceKind.Fault, from.length, to.length);
  }

  heal(from: string | undefined, to: string | undefined): void {
    if (from === undefined || to === undefined) this.cuts.clear();
    else this.cuts.delete(`${from}>${to}`);
    this.cutChanges += 1;
    for (const connection of this.connections) connection.kick();
  }

  get hasCuts(): boolean {
    return this.cuts.size > 0;
  }

  isCut(from: string, to: string): boolean {
    if (this.cuts.size === 0 || from === to) return false;
    const { cuts } = this;
    return cuts.has(`${from}>${to}`) || cuts.has(`${from}>*`) || cuts.has(`*>${to}`);
  }

  /** A segment is lost. */
  loses(from: string, to: string): boolean {
    const share = this.faults.lossOf?.(from, to) ?? 0;
    if (share === 0 || !this.strikes(share)) return false;
    this.counts.segmentsLost += 1;
    return true;
  }

  /** How late bytes arrive whose connection breaks off; 0: they do not. */
  drawLateUs(): number {
    const { lateShare, lateUsMax } = this.faults;
    return lateShare > 0 && this.strikes(lateShare) ? 1 + this.luck.below(lateUsMax) : 0;
  }

  private strikes(share: number): boolean {
    return this.luck.u32() < share * 4_294_967_296;
  }

  reset(a: string, b: string): void {
    for (const connection of [...this.connections]) {
      if (connection.joins(a, b)) connection.reset("connection reset");
    }
  }

  /** Connections end at `forgetful`; the other end is not told, and hears of it once it sends. */
  orphan(forgetful: string, other: string): void {
    for (const connection of [...this.connections]) {
      if (connection.joins(forgetful, other)) connection.orphan(forgetful);
    }
  }

  choosePort(): number {
    this.nextPort += 1;
    return this.nextPort;
  }

  bind(key: string, listener: SimListener): boolean {
    if (this.listeners.has(key)) return false;
    this.listeners.set(key, listener);
    return true;
  }

  unbind(key: string): void {
    this.listeners.delete(key);
  }

  listenerAt(key: string): SimListener | undefined {
    return this.listeners.get(key);
  }

  add(connection: SimConnection): void {
    this.connections.add(connection);
  }

  remove(connection: SimConnection): void {
    this.connections.delete(connection);
  }
}

/** The network of one simulated process. */
export class SimNetwork extends StreamNetwork implements Network, SimStreamHost {
  readonly host: SimHost;
  readonly fabric: SimFabric;
  private readonly streams = new Set<SimStream>();
  private readonly listeners = new Set<SimListener>();
  private accepted: { readonly stream: SimStream; readonly acceptor: Acceptor }[] = [];

  constructor(world: ReactorBase, host: SimHost, fabric: SimFabric) {
    super(world);
    this.host = host;
    this.fabric = fabric;
  }

  listen(address: Address, acceptor: Acceptor, options: StreamOptions = {}): Listener {
    const bound = this.boundAddress(address);
    const key = this.keyOf(bound);
    const listener = new SimListener(this, bound, key, acceptor, options);
    if (!this.fabric.bind(key, listener)) {
      throw new FastblockError("FB4005", `listening on ${key}: address in use`);
    }
    this.listeners.add(listener);
    return listener;
  }

  connect(target: Address, handler: StreamHandler, options: StreamOptions = {}): Stream {
    const key = this.keyOf(target);
    const stream = this.newStream(key, handler, options);
    if (stream === null) {
      const refused = new SimStream(this, key, handler, NO_BUFFERS);
      refused.fail("out of memory for buffers");
      return refused;
    }
    this.knock(stream, target, key, 0);
    return stream;
  }

  remove(stream: SimStream): void {
    this.streams.delete(stream);
  }

  removeListener(listener: SimListener): void {
    this.listeners.delete(listener);
  }

  /** Also asks acceptors for the handlers of what came in. */
  override deliver(): number {
    const { accepted } = this;
    this.accepted = [];
    for (const { stream, acceptor } of accepted) {
      stream.handler = acceptor.onAccept(stream);
      stream.accepted = true;
      this.defer(stream);
    }
    return accepted.length + super.deliver();
  }

  /** The process ended: peers hear of it (unless the power failed). */
  die(silent: boolean): void {
    for (const listener of [...this.listeners]) listener.close();
    for (const stream of [...this.streams]) stream.die(silent);
    this.streams.clear();
  }

  /**
   * Kernel side: a connection arrived for a listener of this process. Null when there is no memory for
   * its buffers, as when a paused process has not let go of the connections that ended meanwhile.
   */
  admit(peer: string, acceptor: Acceptor, options: StreamOptions): SimStream | null {
    const stream = this.newStream(peer, NO_HANDLER, options);
    if (stream === null) return null;
    this.accepted.push({ stream, acceptor });
    this.host.requestTurn();
    return stream;
  }

  private newStream(
    peer: string,
    handler: StreamHandler,
    options: StreamOptions,
  ): SimStream | null {
    const buffers = this.buffers.takeFor(options);
    if (buffers === null) return null;
    const stream = new SimStream(this, peer, handler, buffers);
    this.streams.add(stream);
    return stream;
  }

  /** Ask for a connection; asked again while nobody answers. */
  private knock(stream: SimStream, target: Address, key: string, tries: number): void {
    const { engine, faults } = this.fabric;
    const hostOf = target.kind === "tcp" ? this.hostOf(target.host) : this.host.address;
    engine.trace(TraceKind.Connect, this.host.id, tries);
    engine.after(engine.between(faults.latencyUsMin, faults.latencyUsMax), () => {
      if (!this.host.alive || stream.isClosing) return;
      const unheard =
        this.fabric.isCut(this.host.address, hostOf) ||
        this.fabric.isCut(hostOf, this.host.address) ||
        this.fabric.isDark(hostOf) ||
        this.fabric.loses(this.host.address, hostOf);
      if (unheard) {
        if (tries + 1 >= SYN_TRIES_MAX) stream.fail("connection timed out");
        else engine.after(SYN_RETRY_US, () => this.knock(stream, target, key, tries + 1));
        return;
      }
      const listener = this.fabric.listenerAt(key);
      if (listener === undefined) stream.fail("connection refused");
      else listener.join(stream);
    });
  }

  private hostOf(host: string): string {
    return LOOPBACKS.has(host) || WILDCARDS.has(host) ? this.host.address : host;
  }

  private keyOf(address: Address): string {
    if (address.kind === "unix") return `${this.host.address}:${address.path}`;
    return `${this.hostOf(address.host)}:${address.port}`;
  }

  private boundAddress(address: Address): Address {
    if (address.kind === "unix") return address;
    const port = address.port === 0 ? this.fabric.choosePort() : address.port;
    const host = this.hostOf(address.host);
    if (host !== this.host.address) {
      throw new FastblockError("FB4009", `listening on ${host}: address not available`);
    }
    return { kind: "tcp", host, port };
  }
}

class SimListener implements Listener {
  readonly address: Address;
  private readonly network: SimNetwork;
  private readonly key: string;
  private readonly acceptor: Acceptor;
  private readonly options: StreamOptions;
  private closed = false;

  constructor(
    network: SimNetwork,
    address: Address,
    key: string,
    acceptor: Acceptor,
    options: StreamOptions,
  ) {
    this.network = network;
    this.address = address;
    this.key = key;
    this.acceptor = acceptor;
    this.options = options;
  }

  /** Make the other half of a connection, or refuse it. */
  join(client: SimStream): void {
    const port = this.network.fabric.choosePort();
    const peer = `${client.hostAddress}:${port}`;
    const server = this.network.admit(peer, this.acceptor, this.options);
    if (server === null) client.fail("connection refused");
    else client.joinTo(server);
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.network.fabric.unbind(this.key);
    this.network.removeListener(this);
  }
}
