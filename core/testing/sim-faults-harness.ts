import { drainMicrotasks } from "bun:jsc";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { SimWatch } from "./sim-check.ts";
import { SimCluster } from "./sim-cluster.ts";
import { type FaultPlan, SimFaults } from "./sim-faults.ts";
import { SimHot } from "./sim-hot.ts";
import { SimLoad } from "./sim-load.ts";
import { SimProbes } from "./sim-probes.ts";
import { NO_TROUBLES } from "./sim-troubles.ts";

const THINKING = { times: 1, livelyOperations: 400 };
const LOG_BYTES = 8 * 1_048_576;
/** No fault is drawn: a test makes all of them. */
export const NEVER_US = 1_000_000_000;

const NOTHING: FaultPlan = {
  moves: false,
  rot: false,
  diskLoss: false,
  strays: false,
  lies: false,
  isWitnessed: false,
  errors: false,
  beneath: false,
  restores: false,
  monitorDies: false,
  aimed: false,
  troubles: NO_TROUBLES,
  paceUs: NEVER_US,
  pauseUsMax: 1,
  mortalsFirst: 1,
  deviceUsMax: 200,
  without: new Set(),
};

/** Three osds with one group under a load, and faults that a test makes itself. */
export interface FaultBench {
  readonly cluster: SimCluster;
  readonly probes: SimProbes;
  readonly watch: SimWatch;
  readonly faults: SimFaults;
}

/** `some`: what may happen in this run. The load is started, the faults are not begun. */
export function startFaultBench(some: Partial<FaultPlan>): FaultBench {
  const cluster = new SimCluster(11, {
    osds: 3,
    replicas: 3,
    pgCount: 1,
    imageBytes: 4 * 1_048_576,
    logBytes: LOG_BYTES,
    checksum: new SystemChecksum(),
    drainMicrotasks,
  });
  cluster.start();
  const image = cluster.await("open", cluster.client.openImage("pool/image"));
  const load = new SimLoad(cluster, [image], 1, THINKING);
  const hot = new SimHot(cluster, [image], 0, THINKING);
  const probes = new SimProbes(cluster, LOG_BYTES);
  const watch = new SimWatch(cluster, probes);
  const loads = { load, hot, locks: null, images: null };
  const faults = new SimFaults(cluster, loads, watch, { ...NOTHING, ...some });
  load.start();
  return { cluster, probes, watch, faults };
}
