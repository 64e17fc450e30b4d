// data path
/**
 * The face of the device: one shard's view of its disk (`shard-device.ts`), and single operations
 * as promises for start-up code (`once.ts`).
 */
export { readOnce, readSurely, runOnce, writeOnce } from "./once.ts";
export { Device, type DeviceObserver, DeviceOp, DeviceRegion } from "./shard-device.ts";
