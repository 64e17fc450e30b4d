/**
 * How an osd comes to a map that it was not pushed: a real session, and a monitor by script that
 * says what a real one says hardly ever.
 */
import { create, toBinary } from "@bufbuild/protobuf";
import { describe, expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import type { LogFields, Logger } from "../base/logger.ts";
import { ClusterMap } from "../cluster/cluster.ts";
import { Simulation, type SimWorld } from "../reactor/reactor.ts";
import type { Listener } from "../reactor/world.ts";
import {
  type Connection,
  ControlService,
  Method,
  Role,
  RpcEndpoint,
  SHARD_NONE,
} from "../rpc/rpc.ts";
import {
  MapGetReplySchema,
  MapGetRequestSchema,
  type MapUpdate,
  MapUpdateSchema,
  OsdRegisterReplySchema,
  OsdRegisterRequestSchema,
  OsdReportReplySchema,
  OsdReportRequestSchema,
} from "../../proto/gen/control_pb.ts";
import { MonSession } from "./osd.ts";

const CLUSTER_ID = "11111111-2222-4333-8444-555555555555";
const STORE = "aaaaaaaa-bbbb-4ccc-8ddd-000000000001";
const OTHER_ID = "11111111-2222-4333-8444-555555555557";
const KEY = new Uint8Array(32).fill(7);
const MON = { host: "10.0.0.100", port: 7400 };
const SECOND_US = 1_000_000;
const LIMIT_US = 60 * SECOND_US;

class NotingLogger implements Logger {
  readonly lines: string[] = [];

  debug(): void {}
  info(): void {}

  warn(message: string, fields?: LogFields): void {
    this.lines.push(`${message} ${JSON.stringify(fields ?? {})}`);
  }

  error(message: string, fields?: LogFields): void {
    this.warn(message, fields);
  }

  child(): Logger {
    return this;
  }
}

/** A monitor that registers everybody, pushes nothing by itself, and notes who asks. */
class Scene {
  readonly simulation: Simulation;
  readonly logger: NotingLogger = new NotingLogger();
  readonly session: MonSession;
  /** What the osd handed to its shards. */
  readonly taken: number[] = [];
  readonly asked: number[] = [];
  registrations = 0;
  peersAsked = 0;
  /** The monitor's map; null: it does not answer who asks. */
  monMap: ClusterMap | null = new ClusterMap();
  /** Why the osd ended, and what a store that asks was told. */
  readonly refused: string[] = [];
  readonly verdicts: string[] = [];
  private readonly asking: boolean;
  private readonly mon: SimWorld;
  private readonly service: ControlService;
  private osd: Connection | null = null;
  private listener: Listener | null = null;

  /** `asking`: the store asks whether it is an old copy; nothing has happened yet. */
  constructor(asking = false) {
    this.asking = asking;
    this.simulation = new Simulation(3, {
      drainMicrotasks,
      errorsAllowed: true,
      logger: this.logger,
    });
    this.monMap!.apply({ ...this.monMap!.next({}), generation: 3, full: true });
    this.mon = this.simulation.createWorld("mon.a", MON.host);
    this.service = new ControlService(this.mon);
    this.serve();
    this.mon.start();
    this.session = this.newSession();
    if (asking) return;
    this.session.start();
    this.until("it is registered", () => this.registrations === 1 && this.osd !== null);
    this.pass(SECOND_US);
  }

  pass(us: number): void {
    this.simulation.run(this.simulation.nowUs + us);
  }

  until(what: string, holds: () => boolean): void {
    if (!this.simulation.run(holds, LIMIT_US)) throw new Error(`in vain: ${what}`);
  }

  /** The monitor's map moves on; the osd hears of it only if it asks. */
  move(): MapUpdate {
    const delta = this.monMap!.next({});
    this.monMap!.apply(delta);
    return create(MapUpdateSchema, delta);
  }

  push(update: MapUpdate): void {
    this.service.push(this.osd!, Method.MapUpdate, MapUpdateSchema, update);
    this.mon.turns.again();
    this.pass(50_000);
  }

  hear(update: MapUpdate): void {
    this.session.hear(toBinary(MapUpdateSchema, update));
  }

  /** Greetings of the osd that the monitor has refused. */
  get refusals(): number {
    const own = `"peer":"${MON.host}:${String(MON.port)}"`;
    return this.logger.lines.filter((one) => one.includes("refused") && one.includes(own)).length;
  }

  crashMon(): void {
    this.mon.crash();
    this.until("the session hears of it", () =>
      this.logger.lines.some((one) => one.includes("gone")),
    );
  }

  private serve(): void {
    const { service } = this;
    service.serve(
      Method.OsdRegister,
      OsdRegisterRequestSchema,
      OsdRegisterReplySchema,
      (_, osd) => {
        this.registrations += 1;
        this.osd = osd;
        const full = this.monMap!.deltaFrom(0, 0)!;
        const update = create(MapUpdateSchema, full);
        return create(OsdRegisterReplySchema, { update, reportIntervalMs: 1000 });
      },
    );
    service.serve(Method.OsdReport, OsdReportRequestSchema, OsdReportReplySchema, () =>
      create(OsdReportReplySchema, {}),
    );
    service.serve(
      Method.MapGet,
      MapGetRequestSchema,
      MapGetReplySchema,
      ({ generation, epoch }) => {
        this.asked.push(epoch);
        if (this.monMap === null) return new Promise<never>(() => {});
        const delta = this.monMap.deltaFrom(generation, epoch);
        const update = delta === undefined ? {} : { update: create(MapUpdateSchema, delta) };
        return create(MapGetReplySchema, update);
      },
    );
    this.listen(CLUSTER_ID);
  }

  /** The monitor is there, as one of this cluster or, to whoever greets it, of another. */
  listen(clusterId: string): void {
    this.listener?.close();
    const own = { clusterId, role: Role.Mon, id: 0, shard: SHARD_NONE, name: "mon.a" };
    const endpoint = new RpcEndpoint(this.mon, own, KEY, { control: true });
    this.listener = endpoint.listen({ kind: "tcp", ...MON }, () => this.service);
  }

  private newSession(): MonSession {
    const world = this.simulation.createWorld("osd.0", "10.0.0.1");
    world.start();
    return new MonSession({
      world,
      logger: this.logger,
      clusterId: CLUSTER_ID,
      clusterKey: KEY,
      bind: "10.0.0.1",
      mons: [MON],
      identity: {
        osd: 0,
        storeUuid: STORE,
        incarnation: 1,
        hostName: "host-0",
        addresses: [],
        capacityBytes: 1,
        version: "test",
        backend: "memory",
      },
      map: new ClusterMap(),
      store: { starts: new Uint8Array(0), asking: this.asking },
      host: {
        onMap: (update) => void this.taken.push(update.epoch),
        askPeer: () => {
          this.peersAsked += 1;
        },
        collect: () => Promise.resolve([]),
        transferLeader: () => {},
        scrub: () => {},
        trace: () => {},
        onRefused: (error) => void this.refused.push(error.code),
        onVerdict: ({ kind }) => void this.verdicts.push(kind),
      },
    });
  }
}

describe("a map that somebody else has", () => {
  test("is asked of the monitor at once, and not more often than it can answer", () => {
    const scene = new Scene();
    const { epoch } = scene.monMap!;
    expect(scene.taken).toEqual([epoch]);
    scene.move();
    for (let times = 0; times < 10; times++) scene.session.wantMap();
    scene.pass(50_000);
    expect([scene.asked, scene.taken]).toEqual([[epoch], [epoch, epoch + 1]]);
    scene.pass(100_000);
    scene.session.wantMap();
    scene.pass(50_000);
    expect([scene.asked, scene.taken]).toEqual([
      [epoch, epoch + 1],
      [epoch, epoch + 1],
    ]);
    expect([scene.registrations, scene.peersAsked]).toEqual([1, 0]);
  });

  test("is asked for from where it is when a push leaves a gap", () => {
    const scene = new Scene();
    const { epoch } = scene.monMap!;
    scene.session.wantMap();
    scene.move();
    scene.push(scene.move());
    expect([scene.asked.at(-1), scene.taken]).toEqual([epoch, [epoch, epoch + 2]]);
    expect(scene.registrations).toBe(1);
  });

  test("comes from a peer while the monitor does not answer, or is gone", () => {
    const scene = new Scene();
    const map = scene.monMap!;
    scene.monMap = null;
    scene.session.wantMap();
    scene.until("the wait for it ends", () => scene.peersAsked === 1);
    scene.crashMon();
    const before = scene.peersAsked;
    scene.pass(10 * SECOND_US);
    // Again and again, in no haste: whoever it was that asked may know nothing.
    expect(scene.peersAsked - before).toBeGreaterThanOrEqual(9);
    expect(scene.peersAsked - before).toBeLessThanOrEqual(11);
    scene.pass(SECOND_US / 2);
    const asked = scene.peersAsked;
    scene.session.wantMap();
    scene.session.wantMap();
    expect(scene.peersAsked).toBe(asked + 1);
    const delta = map.next({});
    scene.hear(create(MapUpdateSchema, delta));
    expect(scene.taken).toEqual([map.epoch, map.epoch + 1]);
  });

  test("which a peer has told is no older map when the monitor pushes it as well", () => {
    const scene = new Scene();
    const { epoch } = scene.monMap!;
    const [first, second] = [scene.move(), scene.move()];
    scene.hear(create(MapUpdateSchema, scene.monMap!.deltaFrom(3, epoch)!));
    scene.push(first);
    scene.push(second);
    scene.push(scene.move());
    expect(scene.taken).toEqual([epoch, epoch + 2, epoch + 3]);
    expect([scene.asked, scene.logger.lines]).toEqual([[], []]);
  });

  test("is refused when it is malformed, or of a generation before a restore", () => {
    const scene = new Scene();
    const { epoch } = scene.monMap!;
    const old = create(MapUpdateSchema, { generation: 2, epoch: 900, full: true });
    scene.hear(old);
    expect(scene.logger.lines).toEqual(['older map refused {"generation":2,"epoch":900}']);
    const bytes = toBinary(MapUpdateSchema, scene.move());
    scene.session.hear(bytes.map((byte) => byte ^ 0xff));
    const pool = {
      id: 1,
      name: "pool",
      size: 3,
      pgCount: 3,
      objectBlocks: 16,
      failureDomain: "osd",
    };
    scene.hear(create(MapUpdateSchema, { ...scene.monMap!.deltaFrom(3, epoch)!, pools: [pool] }));
    expect(scene.logger.lines.length).toBe(3);
    expect(scene.logger.lines[1]).toStartWith("a peer's map is refused ");
    expect(scene.logger.lines[2]).toContain("pool pool has 3 groups");
    expect(scene.taken).toEqual([epoch]);
    scene.session.hear(bytes);
    expect(scene.taken).toEqual([epoch, epoch + 1]);
  });
});

/** A bit that flips in a greeting makes it that of another cluster: nothing of it is proved yet. */
describe("an osd that begins", () => {
  test("takes one or two refused greetings of the monitor for no last word", () => {
    for (const times of [1, 2]) {
      const scene = new Scene(true);
      scene.listen(OTHER_ID);
      scene.session.start();
      scene.until("it is refused", () => scene.refusals >= times);
      scene.listen(CLUSTER_ID);
      scene.until("it is heard", () => scene.verdicts.includes("fine"));
      expect([scene.refusals, scene.refused]).toEqual([times, []]);
    }
  });

  test("ends when it is refused again and again", () => {
    const scene = new Scene(true);
    scene.listen(OTHER_ID);
    scene.session.start();
    scene.until("it ends", () => scene.refused.length > 0);
    expect([scene.refusals, scene.refused]).toEqual([3, ["FB1007"]]);
  });
});
