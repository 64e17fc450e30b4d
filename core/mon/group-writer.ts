import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  SessionAttachReplySchema,
  SessionAttachRequestSchema,
} from "../../proto/gen/control_pb.ts";
import {
  decodeWriteReply,
  encodeWriteRequest,
  sizeOfWriteRequest,
  WriteReply,
  WriteRequest,
} from "../../proto/gen/hot.ts";
import type { SessionId } from "../base/ids.ts";
import { Status } from "../base/status.ts";
import type { OsdInfo, ReplicaInfo } from "../cluster/cluster.ts";
import type { EntryType } from "../log/log.ts";
import { Timer, type World } from "../reactor/world.ts";
import {
  type Connection,
  type ConnectionHandler,
  type Frame,
  Method,
  RequestOp,
  Role,
  type RpcEndpoint,
} from "../rpc/rpc.ts";

/** One entry that the monitor wants a group to apply. */
export interface GroupEntry {
  readonly pg: number;
  readonly type: EntryType;
  readonly session: SessionId;
  readonly layer: number;
  readonly firstBlock: number;
  readonly blocks: number;
  readonly snapSeq: number;
  readonly lockEpoch: number;
  readonly generation: number;
  readonly epoch: number;
  /** The signed permission to write it. */
  readonly grant: Uint8Array;
  readonly mac: Uint8Array;
}

export interface GroupAnswer {
  readonly status: Status;
  /** With NotLeader: the osd that leads, -1 when it is not known. */
  readonly leaderOsd: number;
}

/** Writes entries to groups; one attempt a call. */
export interface GroupWriter {
  write(osd: OsdInfo, replica: ReplicaInfo, entry: GroupEntry): Promise<GroupAnswer>;
  /** Nothing more is to be written for now: end the connections. */
  rest(): void;
}

const CONNECT_US = 2_000_000;
const WRITE_US = 5_000_000;

/**
 * `GroupWriter` over the data ports of osds, as any client: attach the session, then a Write
 * request. Cold: a few entries per group when an image shrinks or goes.
 */
export class RpcGroupWriter implements GroupWriter {
  private readonly world: World;
  private readonly endpoint: () => RpcEndpoint;
  private readonly links = new Map<string, Link>();

  /** `endpoint`: made when it is first needed; most monitors never write. */
  constructor(world: World, endpoint: () => RpcEndpoint) {
    this.world = world;
    this.endpoint = endpoint;
  }

  async write(osd: OsdInfo, replica: ReplicaInfo, entry: GroupEntry): Promise<GroupAnswer> {
    const link = this.linkTo(osd, replica);
    if (link === undefined) return { status: Status.Unreachable, leaderOsd: -1 };
    if (!(await link.whenOpen())) return { status: Status.Unreachable, leaderOsd: -1 };
    const attached = await link.attach(entry);
    if (attached !== Status.Ok) return { status: attached, leaderOsd: -1 };
    return link.write(entry, replica.replicaId);
  }

  rest(): void {
    for (const link of this.links.values()) link.close();
    this.links.clear();
  }

  private linkTo(osd: OsdInfo, replica: ReplicaInfo): Link | undefined {
    const address = osd.addresses[replica.shard];
    if (address === undefined || osd.storeUuid !== replica.storeUuid) return undefined;
    const key = `${String(osd.id)}.${String(replica.shard)}`;
    const target = `${address.host}:${String(address.port)} ${osd.storeUuid}`;
    const known = this.links.get(key);
    if (known?.target === target) return known;
    known?.close();
    const link = new Link(this.world, target);
    link.connection = this.endpoint().dial(
      { kind: "tcp", host: address.host, port: address.port },
      { role: Role.Osd, id: osd.id, shard: replica.shard, storeUuid: osd.storeUuid },
      link,
    );
    this.links.set(key, link);
    return link;
  }
}

/** A connection to one shard, and the sessions that it knows there. */
class Link implements ConnectionHandler {
  readonly target: string;
  connection: Connection | undefined;
  private readonly world: World;
  private readonly attached = new Set<SessionId>();
  private readonly waiting = new Set<OpenWaiter>();

  constructor(world: World, target: string) {
    this.world = world;
    this.target = target;
  }

  /** True once it is open; false when that takes too long. */
  whenOpen(): Promise<boolean> {
    if (this.connection?.isOpen === true) return Promise.resolve(true);
    return new Promise((resolve) => {
      const waiter = new OpenWaiter(resolve, this.waiting);
      this.waiting.add(waiter);
      this.world.timers.arm(waiter, CONNECT_US);
    });
  }

  async attach(entry: GroupEntry): Promise<Status> {
    if (this.attached.has(entry.session)) return Status.Ok;
    const message = create(SessionAttachRequestSchema, { grant: entry.grant, mac: entry.mac });
    const body = toBinary(SessionAttachRequestSchema, message);
    const { status, reply } = await this.request(Method.SessionAttach, body.length, (at) => {
      this.world.arena.bytes.set(body, at);
    });
    if (status !== Status.Ok) return status;
    const granted = fromBinary(SessionAttachReplySchema, reply).status as Status;
    if (granted === Status.Ok) this.attached.add(entry.session);
    return granted;
  }

  async write(entry: GroupEntry, replica: number): Promise<GroupAnswer> {
    const request = new WriteRequest();
    Object.assign(request, {
      pg: entry.pg,
      replica,
      generation: entry.generation,
      epoch: entry.epoch,
      session: entry.session,
      layer: entry.layer,
      firstBlock: entry.firstBlock,
      blocks: entry.blocks,
      snapSeq: entry.snapSeq,
      lockEpoch: entry.lockEpoch,
      type: entry.type,
    } satisfies Partial<WriteRequest>);
    const answer = await this.request(Method.Write, sizeOfWriteRequest(request), (at) => {
      encodeWriteRequest(request, this.world.arena.view, at);
    });
    if (answer.status !== Status.Ok) return { status: answer.status, leaderOsd: -1 };
    const reply = new WriteReply();
    const view = new DataView(answer.reply.buffer, answer.reply.byteOffset, answer.reply.length);
    if (!decodeWriteReply(reply, view, 0, answer.reply.length)) {
      return { status: Status.Unknown, leaderOsd: -1 };
    }
    // The osd no longer knows the session (it restarted within one connection): attach anew.
    if (reply.status === Status.Denied) this.attached.delete(entry.session);
    return { status: reply.status, leaderOsd: reply.leaderOsd - 1 };
  }

  close(): void {
    this.connection?.close("nothing more to write");
    for (const waiter of [...this.waiting]) waiter.end(false);
  }

  onOpen(): void {
    this.attached.clear();
    for (const waiter of [...this.waiting]) waiter.end(true);
  }

  onRequest(connection: Connection, frame: Frame): void {
    connection.refuse(frame.requestId, frame.method, Status.Invalid);
  }

  onOneway(): void {
    // Osds push nothing to a writer.
  }

  onWritable(): void {
    // A full connection fails the attempt; the caller tries again.
  }

  onClose(): void {
    this.attached.clear();
  }

  private request(
    method: Method,
    sizeBytes: number,
    fill: (at: number) => void,
  ): Promise<{ readonly status: Status; readonly reply: Uint8Array }> {
    return new Promise((resolve) => {
      const connection = this.connection!;
      const op = new WriterCall(this.world, (status, reply) => resolve({ status, reply }));
      const at = connection.beginRequest(op, method, sizeBytes, 0, WRITE_US);
      if (at < 0) {
        op.onFail(connection.refusal);
        return;
      }
      fill(at);
      this.connection!.finish();
    });
  }
}

class WriterCall extends RequestOp {
  private readonly world: World;
  private readonly settle: (status: Status, reply: Uint8Array) => void;

  constructor(world: World, settle: (status: Status, reply: Uint8Array) => void) {
    super();
    this.world = world;
    this.settle = settle;
  }

  onReply(frame: Frame): void {
    const from = frame.headerOffset;
    this.settle(Status.Ok, this.world.arena.bytes.slice(from, from + frame.headerSize));
  }

  onFail(status: Status): void {
    this.settle(status, new Uint8Array(0));
  }
}

class OpenWaiter extends Timer {
  private readonly settle: (isOpen: boolean) => void;
  private readonly all: Set<OpenWaiter>;

  constructor(settle: (isOpen: boolean) => void, all: Set<OpenWaiter>) {
    super();
    this.settle = settle;
    this.all = all;
  }

  onTimer(): void {
    this.end(false);
  }

  /** A timer that is still armed finds nothing left to do. */
  end(isOpen: boolean): void {
    if (this.all.delete(this)) this.settle(isOpen);
  }
}
