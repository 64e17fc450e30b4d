// cold: calls of the control plane, with promises
import { failOnBug } from "../base/assert.ts";
import {
  create,
  type DescMessage,
  fromBinary,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import { FailureSchema } from "../../proto/gen/rpc_pb.ts";
import { ERRORS, type ErrorCode, FastblockError } from "../base/errors.ts";
import type { Logger } from "../base/logger.ts";
import { Status, statusName } from "../base/status.ts";
import type { Arena, World } from "../reactor/world.ts";
import type { Connection } from "./connection.ts";
import type { ConnectionHandler, WritableWaiter } from "./connection-types.ts";
import type { Frame } from "./frame.ts";
import { Method } from "./method.ts";
import { RequestOp } from "./request.ts";

/** Messages that wait for send space of one connection, in bytes. Beyond, it is closed. */
const OUTBOX_BYTES_MAX = 8_388_608;
/** A call without an own limit. */
const CALL_TIMEOUT_MS = 10_000;

export interface CallOptions {
  /** Default 10 s; 0: no limit. */
  readonly timeoutMs?: number;
  /** Stop waiting: the call is rejected with FB1006. The peer may still do it. */
  readonly signal?: AbortSignal;
}

/** What a user of `ControlService` wants to hear. */
export interface ControlEvents {
  onOpen?(connection: Connection): void;
  onClose?(connection: Connection, reason: string, opened: boolean): void;
}

type Serve = (connection: Connection, body: Uint8Array) => Promise<Uint8Array>;
type Take = (connection: Connection, body: Uint8Array) => void;

/**
 * Cold calls: protobuf messages, promises, pushed one-way messages.
 *
 * One service serves any number of connections, as their handler, or from within another handler
 * (`onRequest`, `onOneway`, `onClose` handed on for methods from 64). What is sent on one
 * connection arrives in order; when there is no send space it waits here, up to
 * `OUTBOX_BYTES_MAX` a connection, which then is closed as too slow.
 *
 * A served handler that throws `FastblockError` makes the caller's promise fail with the same
 * code, message, why and hint; anything else thrown is FB1003 there and a logged error here. A
 * violated invariant is no answer: it ends this process.
 */
export class ControlService implements ConnectionHandler {
  private readonly world: World;
  private readonly arena: Arena;
  private readonly logger: Logger;
  private readonly events: ControlEvents;
  private readonly served = new Map<number, Serve>();
  private readonly taken = new Map<number, Take>();
  private readonly outboxes = new Map<Connection, Outbox>();

  constructor(world: World, events: ControlEvents = {}) {
    this.world = world;
    this.arena = world.arena;
    this.logger = world.logger;
    this.events = events;
  }

  /** Answer requests of `method`. */
  serve<Request extends DescMessage, Reply extends DescMessage>(
    method: Method,
    request: Request,
    reply: Reply,
    handler: (
      message: MessageShape<Request>,
      connection: Connection,
    ) => MessageShape<Reply> | Promise<MessageShape<Reply>>,
  ): void {
    this.served.set(method, async (connection, body) => {
      const answer = await handler(decode(request, body), connection);
      return toBinary(reply, answer);
    });
  }

  /** Take one-way messages of `method`. */
  take<Message extends DescMessage>(
    method: Method,
    schema: Message,
    handler: (message: MessageShape<Message>, connection: Connection) => void,
  ): void {
    this.taken.set(method, (connection, body) => handler(decode(schema, body), connection));
  }

  /**
   * Call the peer. Rejects with `FastblockError`: the peer's own, FB1004 (no connection, or it
   * ended before the answer), FB1006 (no answer in time), FB1007 (refused).
   */
  call<Request extends DescMessage, Reply extends DescMessage>(
    connection: Connection,
    method: Method,
    request: Request,
    message: MessageShape<Request>,
    reply: Reply,
    options: CallOptions = {},
  ): Promise<MessageShape<Reply>> {
    const body = toBinary(request, message);
    return new Promise((resolve, reject) => {
      const timeoutUs = (options.timeoutMs ?? CALL_TIMEOUT_MS) * 1000;
      const op = new Call(this.arena, Method[method] ?? String(method));
      const signal = options.signal;
      const onAbort = (): void => {
        if (op.rpcRequestId !== 0) connection.cancel(op);
        else op.onFail(Status.Cancelled);
      };
      op.settle = (answer) => {
        signal?.removeEventListener("abort", onAbort);
        if (answer instanceof FastblockError) reject(answer);
        else {
          try {
            resolve(decode(reply, answer));
          } catch (error) {
            reject(error);
          }
        }
      };
      if (signal?.aborted === true) return op.onFail(Status.Cancelled);
      signal?.addEventListener("abort", onAbort);
      this.send(connection, new Outgoing(Shape.Request, method, body, op, 0, timeoutUs));
    });
  }

  /**
   * Push a one-way message. Ordered with everything else sent by this service on the connection.
   * Answers false when the connection is not open (or too slow, and now closed).
   */
  push<Message extends DescMessage>(
    connection: Connection,
    method: Method,
    schema: Message,
    message: MessageShape<Message>,
  ): boolean {
    const body = toBinary(schema, message);
    return this.send(connection, new Outgoing(Shape.Oneway, method, body, null, 0, 0));
  }

  onOpen(connection: Connection): void {
    this.events.onOpen?.(connection);
  }

  onRequest(connection: Connection, frame: Frame): void {
    const { requestId, method } = frame;
    const generation = connection.generation;
    const serve = this.served.get(method);
    const body = this.bodyOf(frame);
    const reply = (shape: Shape, bytes: Uint8Array): void => {
      // A request of a connection that is gone has nobody to answer to.
      if (connection.generation !== generation) return;
      this.send(connection, new Outgoing(shape, method, bytes, null, requestId, 0));
    };
    if (serve === undefined) {
      const message = `unknown method: ${method}, wanted one that this process serves`;
      reply(Shape.Failure, failureBytes(new FastblockError("FB1007", message)));
      return;
    }
    serve(connection, body).then(
      (bytes) => reply(Shape.Reply, bytes),
      (error: unknown) => {
        if (failOnBug(this.world, error)) return;
        reply(Shape.Failure, this.failureOf(method, error));
      },
    );
  }

  onOneway(connection: Connection, frame: Frame): void {
    const take = this.taken.get(frame.method);
    if (take === undefined) {
      this.logger.warn("unexpected message dropped", { method: frame.method });
      return;
    }
    try {
      take(connection, this.bodyOf(frame));
    } catch (error) {
      if (failOnBug(this.world, error)) return;
      this.logger.error("message failed", { method: frame.method, reason: String(error) });
    }
  }

  onWritable(_connection: Connection): void {
    // Outboxes wait in the connection's own queue.
  }

  onClose(connection: Connection, reason: string, opened: boolean): void {
    this.outboxes.delete(connection);
    this.events.onClose?.(connection, reason, opened);
  }

  private send(connection: Connection, outgoing: Outgoing): boolean {
    let outbox = this.outboxes.get(connection);
    if (outbox === undefined) {
      if (transmit(this.arena, connection, outgoing)) return true;
      if (connection.refusal !== Status.Busy) {
        this.refuse(connection, outgoing);
        return false;
      }
      outbox = new Outbox(this.arena, () => this.outboxes.delete(connection));
      this.outboxes.set(connection, outbox);
    }
    return outbox.push(connection, outgoing);
  }

  /** What can not be sent as it is: a caller hears of it, an answer is said to be missing. */
  private refuse(connection: Connection, outgoing: Outgoing): void {
    const status = connection.refusal;
    outgoing.fail(status);
    if (outgoing.shape !== Shape.Reply || !connection.isOpen) return;
    const method = Method[outgoing.method] ?? String(outgoing.method);
    this.logger.error("an answer can not be sent", {
      method,
      bytes: outgoing.body.length,
      status: statusName(status),
    });
    const failure = failureBytes(
      new FastblockError("FB1003", `${method}: the answer is too large`),
    );
    const { requestId } = outgoing;
    transmit(
      this.arena,
      connection,
      new Outgoing(Shape.Failure, outgoing.method, failure, null, requestId, 0),
    );
  }

  /** A copy: the frame's memory is reused. */
  private bodyOf(frame: Frame): Uint8Array {
    return this.arena.bytes.slice(frame.headerOffset, frame.headerOffset + frame.headerSize);
  }

  private failureOf(method: number, error: unknown): Uint8Array {
    if (error instanceof FastblockError) return failureBytes(error);
    this.logger.error("request failed", {
      method: Method[method] ?? method,
      reason: error instanceof Error ? (error.stack ?? error.message) : String(error),
    });
    const message = `request failed: ${Method[method] ?? method}, wanted an answer`;
    return failureBytes(new FastblockError("FB1003", message));
  }
}

enum Shape {
  Request = 1,
  Reply = 2,
  Failure = 3,
  Oneway = 4,
}

/** A message on its way out. */
class Outgoing {
  readonly shape: Shape;
  readonly method: Method;
  readonly body: Uint8Array;
  readonly op: Call | null;
  readonly requestId: number;
  readonly timeoutUs: number;

  constructor(
    shape: Shape,
    method: Method,
    body: Uint8Array,
    op: Call | null,
    requestId: number,
    timeoutUs: number,
  ) {
    this.shape = shape;
    this.method = method;
    this.body = body;
    this.op = op;
    this.requestId = requestId;
    this.timeoutUs = timeoutUs;
  }

  fail(status: Status): void {
    this.op?.onFail(status);
  }
}

/** Begin, fill, finish. False: see `connection.refusal`. */
function transmit(arena: Arena, connection: Connection, outgoing: Outgoing): boolean {
  if (outgoing.op?.isSettled === true) return true;
  const size = outgoing.body.length;
  const at = begin(connection, outgoing, size);
  if (at < 0) return false;
  arena.bytes.set(outgoing.body, at);
  connection.finish();
  return true;
}

function begin(connection: Connection, outgoing: Outgoing, size: number): number {
  const { method, requestId } = outgoing;
  switch (outgoing.shape) {
    case Shape.Request:
      return connection.beginRequest(outgoing.op!, method, size, 0, outgoing.timeoutUs);
    case Shape.Reply:
      return connection.beginReply(requestId, method, size, 0);
    case Shape.Failure:
      return connection.beginRefusal(requestId, method, Status.Invalid, size);
    case Shape.Oneway:
      return connection.beginOneway(method, size, 0);
  }
}

/** What waits for send space of one connection. */
class Outbox implements WritableWaiter {
  writableNext: WritableWaiter | null = null;
  private readonly arena: Arena;
  private readonly onEmpty: () => void;
  private readonly queue: Outgoing[] = [];
  private bytes = 0;

  constructor(arena: Arena, onEmpty: () => void) {
    this.arena = arena;
    this.onEmpty = onEmpty;
  }

  push(connection: Connection, outgoing: Outgoing): boolean {
    if (!connection.isOpen || this.bytes + outgoing.body.length > OUTBOX_BYTES_MAX) {
      outgoing.fail(Status.Unreachable);
      connection.close("peer is too slow");
      return false;
    }
    if (this.queue.length === 0) connection.wait(this);
    this.queue.push(outgoing);
    this.bytes += outgoing.body.length;
    return true;
  }

  onWritable(connection: Connection): void {
    while (this.queue.length > 0) {
      const outgoing = this.queue[0]!;
      if (!transmit(this.arena, connection, outgoing)) {
        if (connection.refusal === Status.Busy) {
          connection.wait(this);
          return;
        }
        outgoing.fail(connection.refusal);
      }
      this.queue.shift();
      this.bytes -= outgoing.body.length;
    }
    this.onEmpty();
  }
}

/** One call; settled once. */
class Call extends RequestOp {
  settle: (answer: Uint8Array | FastblockError) => void = () => {};
  isSettled = false;
  private readonly arena: Arena;
  private readonly name: string;

  constructor(arena: Arena, name: string) {
    super();
    this.arena = arena;
    this.name = name;
  }

  onReply(frame: Frame): void {
    this.end(this.bodyOf(frame));
  }

  override onRefused(frame: Frame): void {
    let failure: FastblockError | undefined;
    try {
      failure = errorOf(this.bodyOf(frame));
    } catch {
      // A peer that answers nonsense has refused all the same.
    }
    if (failure === undefined) this.onFail(frame.status);
    else this.end(failure);
  }

  onFail(status: Status): void {
    const message = `${this.name} failed: ${statusName(status)}, wanted Ok`;
    switch (status) {
      case Status.TimedOut:
      case Status.Cancelled:
        return this.end(new FastblockError("FB1006", message));
      case Status.Unreachable:
      case Status.Stopping:
        return this.end(new FastblockError("FB1004", message));
      default:
        return this.end(new FastblockError("FB1007", message));
    }
  }

  private end(answer: Uint8Array | FastblockError): void {
    if (this.isSettled) return;
    this.isSettled = true;
    this.settle(answer);
  }

  private bodyOf(frame: Frame): Uint8Array {
    return this.arena.bytes.slice(frame.headerOffset, frame.headerOffset + frame.headerSize);
  }
}

function decode<Message extends DescMessage>(
  schema: Message,
  body: Uint8Array,
): MessageShape<Message> {
  try {
    return fromBinary(schema, body);
  } catch {
    const message = `malformed message: ${body.length} bytes, wanted ${schema.typeName}`;
    throw new FastblockError("FB1001", message);
  }
}

function failureBytes(error: FastblockError): Uint8Array {
  return toBinary(
    FailureSchema,
    create(FailureSchema, {
      code: error.code,
      message: error.message,
      why: error.why ?? "",
      hint: error.hint ?? "",
    }),
  );
}

function errorOf(body: Uint8Array): FastblockError | undefined {
  const failure = fromBinary(FailureSchema, body);
  if (!Object.hasOwn(ERRORS, failure.code)) return undefined;
  return new FastblockError(failure.code as ErrorCode, failure.message, {
    ...(failure.why === "" ? {} : { why: failure.why }),
    ...(failure.hint === "" ? {} : { hint: failure.hint }),
  });
}
