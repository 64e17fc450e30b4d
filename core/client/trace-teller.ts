import { create } from "@bufbuild/protobuf";
import { failOnBug } from "../base/assert.ts";
import {
  TraceOrderSchema,
  type TraceTellReply,
  TraceTellReplySchema,
  type TraceTellRequest,
  TraceTellRequestSchema,
} from "../../proto/gen/control_pb.ts";
import { ROW_WIDTH, TRACE_ROWS_TOLD_MAX } from "../metrics/metrics.ts";
import { CallbackTimer, type World } from "../reactor/world.ts";
import { Method } from "../rpc/rpc.ts";
import type { MonSession } from "./mon-session.ts";

const TELL_US = 1_000_000;
const TELL_MS = 2000;
/** A client that ends waits no longer for the mon to take what is left. */
const LAST_MS = 500;

/**
 * Obeys the mon's orders about the trace of stages, and tells it once a second what was seen.
 *
 * While nothing is ordered there is no timer. What no mon takes stays in the ring, and is told when one
 * does: a client that reaches none knows of no order either, and takes no part.
 */
export class TraceTeller {
  private readonly world: World;
  private readonly mon: MonSession;
  private readonly timer: CallbackTimer;
  private isTelling = false;
  private isStopped = false;

  constructor(world: World, mon: MonSession) {
    this.world = world;
    this.mon = mon;
    this.timer = new CallbackTimer(() => this.tick());
    mon.control.take(Method.TraceOrder, TraceOrderSchema, ({ id, sample, leftMs }) => {
      this.world.trace.obey({ id: Number(id), sample, leftMs });
      if (!this.isStopped) this.world.timers.armPeriod(this.timer, TELL_US);
    });
  }

  /** Tell what is left: whoever runs for a moment only is seen as well. */
  async stop(): Promise<void> {
    this.isStopped = true;
    this.world.timers.disarm(this.timer);
    if (this.mon.isReady && this.world.trace.hasRows) await this.tellAll(true, LAST_MS);
  }

  private tick(): void {
    const { trace, timers } = this.world;
    trace.expire();
    if (trace.sample === 0 && !trace.hasRows) return;
    timers.armPeriod(this.timer, TELL_US);
    if (this.isTelling || !this.mon.isReady || !trace.hasRows) return;
    this.isTelling = true;
    // Every error is handled in it.
    void this.tellAll(false, TELL_MS).finally(() => {
      this.isTelling = false;
    });
  }

  /** Message by message: the ring holds what four of them take. */
  private async tellAll(all: boolean, timeoutMs: number): Promise<void> {
    while (await this.tell(all, timeoutMs));
  }

  /** One message; false: nothing is left, or nobody takes it. */
  private async tell(all: boolean, timeoutMs: number): Promise<boolean> {
    const { trace } = this.world;
    const { rows, lost } = trace.take(TRACE_ROWS_TOLD_MAX, all);
    if (rows.length === 0 && lost === 0) return false;
    const { id } = trace;
    const request = { id: BigInt(id), width: ROW_WIDTH, rows, lost: BigInt(lost) };
    try {
      const { known } = await this.call(create(TraceTellRequestSchema, request), timeoutMs);
      if (!known) trace.obey({ id, sample: 0, leftMs: 0 });
      return known;
    } catch (error) {
      if (!failOnBug(this.world, error)) {
        this.world.logger.warn("telling of a trace failed", { reason: String(error) });
      }
      return false;
    }
  }

  private call(request: TraceTellRequest, timeoutMs: number): Promise<TraceTellReply> {
    const { mon } = this;
    return mon.call(
      Method.TraceTell,
      TraceTellRequestSchema,
      request,
      TraceTellReplySchema,
      timeoutMs,
    );
  }
}
