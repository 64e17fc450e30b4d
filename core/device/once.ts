// cold: start-up and tools; never per I/O
import { FastblockError } from "../base/errors.ts";
import { Status } from "../base/status.ts";
import { DiskVerb } from "../reactor/world.ts";
import { type Device, DeviceOp, DeviceRegion } from "./shard-device.ts";

/**
 * Operations as promises, for start-up, format and inspection. They settle within a turn of the
 * world, so the world must be running.
 */
class OnceOp extends DeviceOp {
  private readonly settle: (op: OnceOp) => void;

  constructor(settle: (op: OnceOp) => void) {
    super();
    this.settle = settle;
  }

  onComplete(): void {
    this.settle(this);
  }
}

/** What `runOnce` does; offsets and lengths in bytes, multiples of 4096. */
export interface OnceRequest {
  readonly verb: DiskVerb;
  readonly region: DeviceRegion;
  readonly arenaOffset?: number;
  readonly lengthBytes?: number;
  readonly offsetBytes?: number;
}

/** Run one operation of any verb. Rejects with FB4009 naming the place and the errno. */
export function runOnce(device: Device, request: OnceRequest): Promise<void> {
  return new Promise((resolve, reject) => {
    const op = new OnceOp((done) => {
      if (done.status === Status.Ok) resolve();
      else reject(failure(device, done));
    });
    op.verb = request.verb;
    op.region = request.region;
    op.arenaOffset = request.arenaOffset ?? 0;
    op.lengthBytes = request.lengthBytes ?? 0;
    op.offsetBytes = request.offsetBytes ?? 0;
    device.submit(op);
  });
}

/** Read `lengthBytes` at `offsetBytes` into the arena. Rejects with FB4009. */
export function readOnce(
  device: Device,
  arenaOffset: number,
  offsetBytes: number,
  lengthBytes: number,
  region: DeviceRegion = DeviceRegion.Meta,
): Promise<void> {
  return runOnce(device, { verb: DiskVerb.Read, region, arenaOffset, offsetBytes, lengthBytes });
}

/** Some devices fail one read of twenty for no lasting reason: five tries tell them from lost data. */
const READ_TRIES = 5;

/** As `readOnce`, asked again when it fails. False: the device does not give it. */
export async function readSurely(
  device: Device,
  arenaOffset: number,
  offsetBytes: number,
  lengthBytes: number,
  region: DeviceRegion,
): Promise<boolean> {
  for (let tries = 0; tries < READ_TRIES; tries++) {
    const read = readOnce(device, arenaOffset, offsetBytes, lengthBytes, region);
    if (await read.then(yes, no)) return true;
  }
  return false;
}

function yes(): boolean {
  return true;
}

function no(): boolean {
  return false;
}

/** Write from the arena, durable when it resolves. Rejects with FB4009. */
export function writeOnce(
  device: Device,
  arenaOffset: number,
  offsetBytes: number,
  lengthBytes: number,
  region: DeviceRegion = DeviceRegion.Meta,
): Promise<void> {
  const verb = DiskVerb.WriteDurable;
  return runOnce(device, { verb, region, arenaOffset, offsetBytes, lengthBytes });
}

function failure(device: Device, op: DeviceOp): FastblockError {
  const what = `${DiskVerb[op.verb]} of ${op.lengthBytes} bytes at ${op.offsetBytes}`;
  return new FastblockError(
    "FB4009",
    `${what} on ${device.disk.path}: errno ${op.errno}, wanted 0`,
  );
}
