import { drainMicrotasks } from "bun:jsc";
import { describe, expect, test } from "bun:test";
import { Status } from "../base/status.ts";
import { Simulation, type SimWorld } from "../reactor/reactor.ts";
import { DiskVerb } from "../reactor/world.ts";
import {
  Device,
  type DeviceObserver,
  DeviceOp,
  DeviceRegion,
  readOnce,
  readSurely,
  runOnce,
  writeOnce,
} from "./device.ts";

class Observer implements DeviceObserver {
  failures: number[] = [];
  slow: number[] = [];
  recovered = 0;
  starved = 0;
  onDeviceFailed(errno: number): void {
    this.failures.push(errno);
  }
  onDeviceSlow(latencyUs: number): void {
    this.slow.push(latencyUs);
  }
  onDeviceRecovered(): void {
    this.recovered += 1;
  }
  onDeviceStarved(): void {
    this.starved += 1;
  }
}

class Op extends DeviceOp {
  done = 0;
  readonly order: number[];
  constructor(order: number[] = []) {
    super();
    this.order = order;
  }
  onComplete(): void {
    this.done += 1;
    this.order.push(this.offsetBytes);
  }
}

const MIB = 1_048_576;

function make(
  seed: number,
  inFlightMax = 4,
): {
  simulation: Simulation;
  world: SimWorld;
  device: Device;
  observer: Observer;
} {
  const simulation = new Simulation(seed, { drainMicrotasks });
  const world = simulation.createWorld("osd.0", "10.0.0.1", { arenaBytes: 16 * MIB });
  world.start();
  const observer = new Observer();
  const disk = world.disks.open("disk", { createBytes: 4 * MIB });
  const device = new Device(world, disk, observer, { inFlightMax, slowUs: 300_000 });
  return { simulation, world, device, observer };
}

function start(device: Device, verb: DiskVerb, memory: number, offset: number, length: number): Op {
  const op = new Op();
  op.verb = verb;
  op.region = DeviceRegion.Log;
  op.arenaOffset = memory;
  op.offsetBytes = offset;
  op.lengthBytes = length;
  device.submit(op);
  return op;
}

describe("device", () => {
  test("bounds what is in flight and completes everything", () => {
    const { simulation, world, device } = make(1);
    const memory = world.arena.allocate(MIB);
    const ops: Op[] = [];
    let inFlightMax = 0;
    for (let at = 0; at < 200; at++) {
      ops.push(start(device, DiskVerb.Write, memory, at * 4096, 4096));
    }
    const done = (): boolean => {
      inFlightMax = Math.max(inFlightMax, device.disk.inFlight);
      return ops.every((op) => op.done === 1);
    };
    expect(device.pending).toBe(200);
    expect(simulation.run(done)).toBe(true);
    expect(inFlightMax).toBe(4);
    expect(device.pending).toBe(0);
    expect(device.counters.bytesWritten[DeviceRegion.Log]).toBe(200 * 4096);
    expect(device.counters.writes[DeviceRegion.Log]).toBe(200);
    expect(device.counters.writeLatency.count).toBe(200);
    device.close();
  });

  test("G1, G5: a failed durable write or flush latches, before anybody hears of the operation", () => {
    for (const verb of [DiskVerb.WriteDurable, DiskVerb.Flush, DiskVerb.Write]) {
      const { simulation, world, device, observer } = make(2);
      const memory = world.arena.allocate(4096);
      const file = simulation.disk("disk");
      file.faults.flushErrorShare = 1;
      file.faults.writeErrorShare = 1;
      const op = start(device, verb, memory, 0, verb === DiskVerb.Flush ? 0 : 4096);
      let failedFirst = false;
      op.onComplete = (): void => {
        op.done += 1;
        failedFirst = device.failed;
      };
      expect(simulation.run(() => op.done === 1)).toBe(true);
      expect(failedFirst).toBe(true);
      expect(op.status).toBe(Status.DeviceFailed);
      expect(observer.failures).toEqual([5]);
      // The device is well again: nothing is believed any more.
      file.faults.flushErrorShare = 0;
      file.faults.writeErrorShare = 0;
      const flush = start(device, DiskVerb.Flush, 0, 0, 0);
      expect(flush.done).toBe(0);
      expect(simulation.run(() => flush.done === 1)).toBe(true);
      expect(flush.status).toBe(Status.DeviceFailed);
      const read = start(device, DiskVerb.Read, memory, 0, 4096);
      expect(simulation.run(() => read.done === 1)).toBe(true);
      expect(read.status).toBe(Status.Ok);
      expect(observer.failures).toEqual([5]);
    }
  });

  test("queued writes behind a failure are refused, none reaches the disk", () => {
    const { simulation, world, device } = make(3, 1);
    const memory = world.arena.allocate(4096);
    const file = simulation.disk("disk");
    file.faults.writeErrorShare = 1;
    const first = start(device, DiskVerb.WriteDurable, memory, 0, 4096);
    const rest = [1, 2, 3].map((at) =>
      start(device, DiskVerb.WriteDurable, memory, at * 4096, 4096),
    );
    simulation.run(() => first.done === 1);
    file.faults.writeErrorShare = 0;
    expect(simulation.run(() => rest.every((op) => op.done === 1))).toBe(true);
    expect(rest.map((op) => op.status)).toEqual([13, 13, 13]);
    expect(file.bytesWritten).toBe(0);
  });

  test("a failed read latches nothing", () => {
    const { simulation, world, device, observer } = make(4);
    const memory = world.arena.allocate(4096);
    simulation.disk("disk").faults.readErrorShare = 1;
    const read = start(device, DiskVerb.Read, memory, 0, 4096);
    simulation.run(() => read.done === 1);
    expect(read.status).toBe(Status.DeviceFailed);
    expect(device.failed).toBe(false);
    expect(observer.failures).toEqual([]);
    expect(device.counters.readErrors).toBe(1);
  });

  test("reads that fail are counted, and count against the device for an hour", () => {
    const { simulation, world, device } = make(9);
    const memory = world.arena.allocate(4096);
    const { faults } = simulation.disk("disk");
    expect(device.readsFail).toBe(false);
    faults.readErrorShare = 1;
    const op = start(device, DiskVerb.Read, memory, 0, 4096);
    simulation.run(() => op.done === 1);
    expect([device.counters.readErrors, device.readsFail, device.failed]).toEqual([1, true, false]);
    simulation.run(simulation.nowUs + 3_599_000_000);
    expect(device.readsFail).toBe(true);
    simulation.run(simulation.nowUs + 2_000_000);
    expect([device.counters.readErrors, device.readsFail]).toEqual([1, false]);
  });

  test("a flush that fails is no write that failed", () => {
    const { simulation, device } = make(10);
    simulation.disk("disk").faults.flushErrorShare = 1;
    const op = start(device, DiskVerb.Flush, 0, 0, 0);
    simulation.run(() => op.done === 1);
    const { writeErrors, flushErrors } = device.counters;
    expect([writeErrors, flushErrors, device.failed]).toEqual([0, 1, true]);
  });

  test("G9: a stalled device is reported slow, and well when it goes on", () => {
    const { simulation, world, device, observer } = make(5);
    const memory = world.arena.allocate(4096);
    const file = simulation.disk("disk");
    file.faults.stalled = true;
    const op = start(device, DiskVerb.Write, memory, 0, 4096);
    expect(simulation.run(() => observer.slow.length === 1, 1_000_000)).toBe(true);
    expect(observer.slow[0]).toBeGreaterThanOrEqual(300_000);
    expect(device.slowLatencyUs).toBe(observer.slow[0]!);
    simulation.run(simulation.nowUs + 1_000_000);
    expect(observer.slow.length).toBe(1);
    file.faults.stalled = false;
    expect(simulation.run(() => op.done === 1 && observer.recovered === 1)).toBe(true);
    expect([device.slow, device.slowLatencyUs]).toEqual([false, 0]);
  });

  test("G9: what the reactor was busy for itself is none of the device's time", () => {
    const { simulation, world, device, observer } = make(5);
    const memory = world.arena.allocate(4096);
    simulation.disk("disk").faults.stalled = true;
    start(device, DiskVerb.WriteDurable, memory, 0, 4096);
    simulation.run(simulation.nowUs + 250_000);
    // Turns took long: it might have come to its end in one of them.
    (world.clock as { overrunUs: number }).overrunUs += 300_000;
    simulation.run(simulation.nowUs + 250_000);
    expect(observer.slow).toEqual([]);
    simulation.run(simulation.nowUs + 250_000);
    expect(observer.slow.length).toBe(1);
  });

  test("G9: a reactor that is busy all the time sees that its device stands still", () => {
    const { simulation, world, device, observer } = make(5);
    const memory = world.arena.allocate(4096);
    simulation.disk("disk").faults.stalled = true;
    start(device, DiskVerb.WriteDurable, memory, 0, 4096);
    for (let turn = 0; turn < 8; turn++) {
      (world.clock as { overrunUs: number }).overrunUs += 480_000;
      simulation.run(simulation.nowUs + 500_000);
    }
    expect(observer.slow.length).toBe(1);
  });

  test("G9: a device whose operations all take long is slow after seconds, not for one", () => {
    const { simulation, world, device, observer } = make(5);
    const memory = world.arena.allocate(4096);
    const { faults } = simulation.disk("disk");
    const each = (us: number): void => {
      const untilUs = simulation.nowUs + us;
      while (simulation.nowUs < untilUs) {
        const op = start(device, DiskVerb.WriteDurable, memory, 0, 4096);
        expect(simulation.run(() => op.done === 1)).toBe(true);
      }
    };
    const take = (us: number): void => {
      faults.latencyUsMin = us;
      faults.latencyUsMax = us;
    };
    for (let burst = 0; burst < 5; burst++) {
      take(200_000);
      each(2_000_000);
      take(50_000);
      each(500_000);
    }
    expect(observer.slow).toEqual([]);
    take(200_000);
    each(5_000_000);
    expect([observer.slow.length, observer.recovered]).toEqual([1, 0]);
    take(50_000);
    each(500_000);
    expect([observer.slow.length, observer.recovered]).toEqual([1, 1]);
  });

  test("G13: a write that finds no space beneath a sparse file waits for it, others do not", () => {
    const { simulation, world, device, observer } = make(8, 2);
    const memory = world.arena.allocate(4096);
    const file = simulation.disk("disk");
    const old = start(device, DiskVerb.Write, memory, 0, 4096);
    expect(simulation.run(() => old.done === 1)).toBe(true);
    file.bytesBeneath = 0;
    const starving = [1, 2, 3].map((at) => start(device, DiskVerb.Write, memory, at * 4096, 4096));
    const others = [
      start(device, DiskVerb.WriteDurable, memory, 0, 4096),
      start(device, DiskVerb.Read, memory, 0, 4096),
    ];
    expect(simulation.run(() => others.every((op) => op.done === 1))).toBe(true);
    simulation.run(simulation.nowUs + 2_000_000);
    expect(others.map((op) => op.status)).toEqual([Status.Ok, Status.Ok]);
    expect([starving.map((op) => op.done), device.pending]).toEqual([[0, 0, 0], 3]);
    expect([observer.starved, observer.failures, observer.slow]).toEqual([1, [], []]);
    file.bytesBeneath = 4096;
    expect(simulation.run(() => starving.every((op) => op.done === 1))).toBe(true);
    expect(starving.map((op) => op.status)).toEqual([Status.Ok, Status.Ok, Status.Ok]);
    expect(device.pending).toBe(0);
  });

  test("G5: a flush without space is a failure, for it tells of writes that are lost", () => {
    const { simulation, device, observer } = make(9);
    const { faults } = simulation.disk("disk");
    faults.flushErrno = 28;
    faults.flushErrorShare = 1;
    const flush = start(device, DiskVerb.Flush, 0, 0, 0);
    simulation.run(simulation.nowUs + 100_000);
    // Asked again it would answer Ok.
    faults.flushErrorShare = 0;
    expect(simulation.run(() => flush.done === 1)).toBe(true);
    expect([flush.status, observer.starved, observer.failures]).toEqual([
      Status.DeviceFailed,
      0,
      [28],
    ]);
  });

  test("G5: nor does a durable write wait for space that goes through the page cache", () => {
    for (const direct of [true, false]) {
      const { simulation, world, observer } = make(9);
      const file = simulation.disk("other", 4 * MIB);
      file.direct = direct;
      const device = new Device(world, world.disks.open("other", {}), observer);
      const memory = world.arena.allocate(4096);
      file.bytesBeneath = 0;
      const plain = start(device, DiskVerb.Write, memory, 4096, 4096);
      simulation.run(simulation.nowUs + 100_000);
      expect([plain.done, observer.starved]).toEqual([0, 1]);
      const durable = start(device, DiskVerb.WriteDurable, memory, 0, 4096);
      simulation.run(simulation.nowUs + 100_000);
      expect([durable.done, observer.failures]).toEqual(direct ? [0, []] : [1, [28]]);
    }
  });

  test("G13: who closes the device does not wait for space", () => {
    const { simulation, world, device, observer } = make(9);
    const memory = world.arena.allocate(4096);
    simulation.disk("disk").bytesBeneath = 0;
    const before = start(device, DiskVerb.Write, memory, 0, 4096);
    simulation.run(simulation.nowUs + 100_000);
    expect([before.done, observer.starved]).toEqual([0, 1]);
    device.failStarved();
    expect(simulation.run(() => before.done === 1)).toBe(true);
    expect([before.status, observer.failures]).toEqual([Status.DeviceFailed, [28]]);
    expect(device.pending).toBe(0);
    device.close();
  });

  test("a discard that is refused or takes its time says nothing of the device", () => {
    const { simulation, device, observer } = make(9);
    const { faults } = simulation.disk("disk");
    faults.discardErrno = 5;
    const failed = start(device, DiskVerb.Discard, 0, 0, MIB);
    simulation.run(() => failed.done === 1);
    expect([failed.status, failed.errno]).toEqual([Status.DeviceFailed, 5]);
    faults.discardErrno = 95;
    const refused = start(device, DiskVerb.Discard, 0, 0, MIB);
    simulation.run(() => refused.done === 1);
    expect([refused.status, refused.errno]).toEqual([Status.Ok, 95]);
    expect(device.counters).toMatchObject({ discards: 0, bytesDiscarded: 0 });
    faults.discardErrno = 0;
    faults.latencyUsMin = 3_000_000;
    faults.latencyUsMax = 3_000_000;
    const taken = start(device, DiskVerb.Discard, 0, 0, MIB);
    simulation.run(() => taken.done === 1);
    expect([taken.status, taken.errno]).toEqual([Status.Ok, 0]);
    expect(device.counters).toMatchObject({ discards: 1, bytesDiscarded: MIB, writeErrors: 0 });
    expect([device.failed, device.pending, observer.slow]).toEqual([false, 0, []]);
  });

  test("misuse is a bug: alignment, range, a second submit", () => {
    const { world, device } = make(6);
    const memory = world.arena.allocate(8192);
    expect(() => start(device, DiskVerb.Write, memory, 512, 4096)).toThrow("offset is not aligned");
    expect(() => start(device, DiskVerb.Write, memory + 8, 0, 4096)).toThrow("memory is not");
    expect(() => start(device, DiskVerb.Write, memory, 0, 100)).toThrow("length is not aligned");
    expect(() => start(device, DiskVerb.Read, memory, 4 * MIB, 4096)).toThrow("past the end");
    const op = start(device, DiskVerb.Write, memory, 0, 4096);
    expect(() => device.submit(op)).toThrow("in flight");
  });

  test("single operations as promises", async () => {
    const { simulation, world, device } = make(7);
    const memory = world.arena.allocate(8192);
    world.arena.bytes.fill(9, memory, memory + 4096);
    let step = 0;
    let message = "";
    // Ends by setting `step`, for which the test waits.
    void (async (): Promise<void> => {
      await writeOnce(device, memory, 4096, 4096);
      await readOnce(device, memory + 4096, 4096, 4096);
      await runOnce(device, { verb: DiskVerb.Flush, region: DeviceRegion.Meta });
      step = 1;
      simulation.disk("disk").faults.readErrorShare = 1;
      await readOnce(device, memory, 0, 4096);
    })().catch((error: unknown) => {
      message = String(error);
      step = 2;
    });
    expect(simulation.run(() => step === 2)).toBe(true);
    expect(world.arena.bytes[memory + 8191]).toBe(9);
    expect(message).toContain("Read of 4096 bytes at 0 on disk: errno 5");
  });

  test("reads that fail now and then are asked again; what the device never gives is told", () => {
    const { simulation, world, device } = make(9);
    const memory = world.arena.allocate(4096);
    const answers: boolean[] = [];
    const { faults } = simulation.disk("disk");
    const read = (): void => {
      // Ends in `answers`, for which the test waits.
      void readSurely(device, memory, 0, 4096, DeviceRegion.Meta).then((good) =>
        answers.push(good),
      );
    };
    faults.readErrorShare = 0.05;
    for (let count = 0; count < 200; count++) read();
    expect(simulation.run(() => answers.length === 200)).toBe(true);
    expect(answers).not.toContain(false);
    expect(device.counters.readErrors).toBeGreaterThan(0);
    faults.readErrorShare = 1;
    read();
    expect(simulation.run(() => answers.length === 201)).toBe(true);
    expect(answers.at(-1)).toBe(false);
  });
});
