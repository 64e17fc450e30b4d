import { failOnBug } from "../base/assert.ts";
import {
  create,
  type DescMessage,
  type MessageShape,
  toBinary,
  fromBinary,
} from "@bufbuild/protobuf";
import { FastblockError } from "../base/errors.ts";
import type { SessionId } from "../base/ids.ts";
import {
  ImageChangedSchema,
  MapGetReplySchema,
  MapGetRequestSchema,
  MapSubscribeReplySchema,
  MapSubscribeRequestSchema,
  type MapUpdate,
  MapUpdateSchema,
} from "../../proto/gen/control_pb.ts";
import { ApplyResult, type ClusterMap } from "../cluster/cluster.ts";
import { CallbackTimer, Timer, type World } from "../reactor/world.ts";
import {
  type Connection,
  ControlService,
  ID_ANY,
  Method,
  Role,
  RpcEndpoint,
  type RpcIdentity,
  SHARD_NONE,
  refusalCode,
} from "../rpc/rpc.ts";

/** Where a monitor's control port is. */
export interface MonAddress {
  readonly host: string;
  readonly port: number;
}

/** Keeps the last map between runs, so that a client starts with every mon down. Cold. */
export interface MapCache {
  /** The bytes saved last, or null. */
  load(): Uint8Array | null;
  save(bytes: Uint8Array): void;
}

/** What the session with the monitor tells the client. */
export interface MonEvents {
  onMap(): void;
  /** A connection is up and subscribed: sessions are to be refreshed on it. */
  onMonReady(): void;
  onImageChanged(session: SessionId, removed: boolean): void;
}

export interface MonSessionOptions {
  readonly world: World;
  readonly identity: RpcIdentity;
  readonly psk: Uint8Array;
  readonly mons: readonly MonAddress[];
  readonly bind: string | undefined;
  readonly encrypt: boolean;
  readonly cache: MapCache | undefined;
  readonly map: ClusterMap;
  readonly events: MonEvents;
}

/** The next monitor is tried after this long. */
const NEXT_MON_US = 200_000;
/** At most one question for the map in this time. */
const MAP_ASK_US = 100_000;
/** Maps are written to the cache at most this often. */
const SAVE_US = 500_000;

/**
 * The client's side of the control plane: one connection to some monitor, the map that it pushes,
 * and calls. Nothing on the data path needs it while maps stay as they are.
 */
export class MonSession {
  /** True while a monitor is connected and the map subscribed. */
  isReady = false;
  private readonly options: MonSessionOptions;
  private readonly world: World;
  private readonly endpoint: RpcEndpoint;
  /** For what else the mon pushes. */
  readonly control: ControlService;
  private connection: Connection | null = null;
  private monIndex = 0;
  private isStopped = false;
  private askedUs = -MAP_ASK_US;
  /** Attempts in a row that a monitor refused, and what the last of them said. */
  private refusals = 0;
  private refusal = "";
  /** Why the map is not told, or not followed, if somebody said that. */
  private fault: FastblockError | null = null;
  private readonly waiters: Waiter[] = [];
  private readonly nextTimer: CallbackTimer;
  private readonly saveTimer: CallbackTimer;

  constructor(options: MonSessionOptions) {
    this.options = options;
    this.world = options.world;
    const bind = options.bind === undefined ? {} : { bind: options.bind };
    const { world, identity, psk, encrypt } = options;
    this.endpoint = new RpcEndpoint(world, identity, psk, { control: true, encrypt, ...bind });
    this.control = new ControlService(world, {
      onOpen: (connection) => this.onOpen(connection),
      onClose: (connection, reason, opened) => this.onClose(connection, reason, opened),
    });
    this.control.take(Method.MapUpdate, MapUpdateSchema, (update) => this.applyUpdate(update));
    this.control.take(Method.ImageChanged, ImageChangedSchema, (message) => {
      options.events.onImageChanged(Number(message.session) as SessionId, message.removed);
    });
    this.nextTimer = new CallbackTimer(() => this.dialNext());
    this.saveTimer = new CallbackTimer(() => this.save());
  }

  /** Take the cached map, if there is one, and begin to connect. */
  start(): void {
    this.loadCache();
    this.dial();
  }

  stop(): void {
    this.isStopped = true;
    this.isReady = false;
    this.world.timers.disarm(this.nextTimer);
    if (this.saveTimer.timerDueUs >= 0) this.save();
    this.world.timers.disarm(this.saveTimer);
    this.endpoint.close("the client stops");
    for (const waiter of this.waiters.splice(0)) waiter.end(this.world, false);
  }

  /**
   * Call the monitor. Rejects with its error, FB1004 when it can not be reached within
   * `timeoutMs`, FB1006 without an answer, FB1007 when it refuses this client.
   */
  async call<Request extends DescMessage, Reply extends DescMessage>(
    method: Method,
    request: Request,
    message: MessageShape<Request>,
    reply: Reply,
    timeoutMs: number,
  ): Promise<MessageShape<Reply>> {
    await this.whenReady(timeoutMs);
    const connection = this.connection;
    if (connection === null) throw this.unreachable();
    const answer = this.control.call(connection, method, request, message, reply, { timeoutMs });
    this.world.turns.again();
    return answer;
  }

  /**
   * Resolves when a monitor is connected. Rejects with FB1004 after `timeoutMs`, with FB1007 when
   * every monitor refuses this client.
   */
  async whenReady(timeoutMs: number): Promise<void> {
    if (this.isReady) return;
    const isUp = await new Promise<boolean>((resolve) => {
      const waiter = new Waiter(resolve, (one) => this.dropWaiter(one));
      this.waiters.push(waiter);
      this.world.timers.arm(waiter, timeoutMs * 1000);
    });
    if (!isUp) throw this.unreachable();
  }

  /** Somebody says that there is a newer map. */
  wantMap(): void {
    const nowUs = this.world.clock.nowUs();
    if (!this.isReady || nowUs - this.askedUs < MAP_ASK_US) return;
    this.askedUs = nowUs;
    const { map } = this.options;
    const request = create(MapGetRequestSchema, { generation: map.generation, epoch: map.epoch });
    this.call(Method.MapGet, MapGetRequestSchema, request, MapGetReplySchema, 2000)
      .then((reply) => {
        if (reply.update !== undefined) this.applyUpdate(reply.update);
      })
      .catch((error: unknown) => this.warn("map fetch failed", error));
  }

  private unreachable(): FastblockError {
    if (this.fault !== null) return this.fault;
    const mons = this.options.mons.map((mon) => `${mon.host}:${mon.port}`).join(", ");
    if (this.refusals > 0) {
      const text = `connecting to the mon: ${mons} refused this client`;
      return new FastblockError(refusalCode(this.refusal), text, { why: this.refusal });
    }
    return new FastblockError("FB1004", `connecting to the mon: no answer of ${mons}`);
  }

  private dial(): void {
    const mon = this.options.mons[this.monIndex % this.options.mons.length];
    if (mon === undefined || this.isStopped) return;
    const target = { kind: "tcp", host: mon.host, port: mon.port } as const;
    const receiver = { role: Role.Mon, id: ID_ANY, shard: SHARD_NONE };
    this.connection = this.endpoint.dial(target, receiver, this.control);
  }

  private dialNext(): void {
    this.monIndex++;
    this.connection?.close("another mon is tried");
    this.dial();
  }

  private onOpen(connection: Connection): void {
    if (connection !== this.connection) return;
    this.world.timers.disarm(this.nextTimer);
    this.refusals = 0;
    this.subscribe(connection).catch((error: unknown) => {
      this.warn("map subscription failed", error);
      if (isSpoken(error)) this.fault = error;
      // With one monitor too: it may tell its map later.
      this.armNext();
    });
  }

  private async subscribe(connection: Connection): Promise<void> {
    const { map } = this.options;
    const reply = await this.control.call(
      connection,
      Method.MapSubscribe,
      MapSubscribeRequestSchema,
      create(MapSubscribeRequestSchema, {
        generation: map.generation,
        epoch: map.epoch,
        backend: this.world.backend,
      }),
      MapSubscribeReplySchema,
    );
    if (connection !== this.connection || this.isStopped) return;
    if (reply.update !== undefined) this.applyUpdate(reply.update);
    this.isReady = true;
    this.fault = null;
    for (const waiter of this.waiters.splice(0)) waiter.end(this.world, true);
    this.options.events.onMonReady();
  }

  private onClose(connection: Connection, reason: string, opened: boolean): void {
    if (connection !== this.connection || this.isStopped) return;
    this.isReady = false;
    if (opened) this.world.logger.warn("the mon is gone", { reason });
    this.refusal = connection.handshakeRefusal;
    this.refusals = this.refusal === "" ? 0 : this.refusals + 1;
    if (this.refusals >= this.options.mons.length) {
      for (const waiter of this.waiters.splice(0)) waiter.end(this.world, false);
    }
    this.tryNext();
  }

  /** With one monitor, the connection comes back by itself. */
  private tryNext(): void {
    if (this.options.mons.length > 1) this.armNext();
  }

  private armNext(): void {
    if (this.isStopped || this.nextTimer.timerDueUs >= 0) return;
    this.world.timers.arm(this.nextTimer, NEXT_MON_US);
  }

  /**
   * The monitor pushed a change of the map, or an osd that refuses requests by ours told what it
   * lacks. Throws FB1001 when it is malformed: nothing has changed then.
   */
  applyUpdate(update: MapUpdate): void {
    if (!this.knowsFormat(update.format)) return;
    switch (this.options.map.apply(update)) {
      case ApplyResult.Applied:
        if (this.options.cache !== undefined && this.saveTimer.timerDueUs < 0) {
          this.world.timers.arm(this.saveTimer, SAVE_US);
        }
        this.options.events.onMap();
        break;
      case ApplyResult.Gap:
        this.askedUs = -MAP_ASK_US;
        this.wantMap();
        break;
      case ApplyResult.Older:
        // Of our own generation it is what somebody else has told before.
        if (update.generation === this.options.map.generation) break;
        this.world.logger.warn("older map refused", {
          generation: update.generation,
          epoch: update.epoch,
        });
        break;
      case ApplyResult.Current:
      case ApplyResult.Partial:
        break;
    }
  }

  /** A map of a cluster that has gone on to what this program does not know is not followed. */
  private knowsFormat(format: number): boolean {
    const { max } = this.options.identity.formats!.range;
    if (format <= max) return true;
    const { name } = this.options.identity;
    const text = `${name} knows formats up to ${String(max)}, the cluster has ${String(format)}`;
    this.fault = new FastblockError("FB1016", text);
    this.world.logger.warn("the map is not followed", { reason: text });
    return false;
  }

  private loadCache(): void {
    const bytes = this.options.cache?.load() ?? null;
    if (bytes === null) return;
    try {
      this.applyUpdate(fromBinary(MapUpdateSchema, bytes));
    } catch (error) {
      this.warn("the kept map can not be read", error);
    }
  }

  private save(): void {
    const full = this.options.map.deltaFrom(0, 0);
    if (full === undefined) return;
    try {
      this.options.cache?.save(toBinary(MapUpdateSchema, create(MapUpdateSchema, full)));
    } catch (error) {
      this.warn("the map can not be kept", error);
    }
  }

  private dropWaiter(waiter: Waiter): void {
    const at = this.waiters.indexOf(waiter);
    if (at >= 0) this.waiters.splice(at, 1);
  }

  private warn(text: string, error: unknown): void {
    if (failOnBug(this.world, error)) return;
    if (this.isStopped) return;
    const reason = error instanceof Error ? error.message : String(error);
    this.world.logger.warn(text, { reason });
  }
}

/** The monitor answered, and people have to do something. */
function isSpoken(error: unknown): error is FastblockError {
  return error instanceof FastblockError && (error.code === "FB1015" || error.code === "FB1016");
}

/** Waits for a monitor, with a time limit. */
class Waiter extends Timer {
  private readonly resolve: (isUp: boolean) => void;
  private readonly onLate: (waiter: Waiter) => void;

  constructor(resolve: (isUp: boolean) => void, onLate: (waiter: Waiter) => void) {
    super();
    this.resolve = resolve;
    this.onLate = onLate;
  }

  end(world: World, isUp: boolean): void {
    world.timers.disarm(this);
    this.resolve(isUp);
  }

  override onTimer(): void {
    this.onLate(this);
    this.resolve(false);
  }
}
