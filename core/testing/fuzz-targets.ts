// cold: fuzzing of decoders
import type { FuzzTarget } from "./fuzz.ts";
import { catalogueTarget } from "./fuzz-catalogue.ts";
import { listTargets } from "./fuzz-lists.ts";
import { messageTargets } from "./fuzz-messages.ts";
import { monTargets } from "./fuzz-mon.ts";
import { nbdTarget } from "./fuzz-nbd.ts";
import { rpcTargets } from "./fuzz-rpc.ts";
import { storeTargets } from "./fuzz-store.ts";
import { textTargets } from "./fuzz-texts.ts";
import { type FuzzPorts, recordTraffic } from "./fuzz-traffic.ts";

/** Every target, in the order of the tree. Recording their seeds takes some hundred milliseconds. */
export function fuzzTargets(ports: FuzzPorts): FuzzTarget[] {
  const { disk, frames } = recordTraffic(ports);
  return [
    ...rpcTargets(ports, frames),
    ...messageTargets(frames),
    ...listTargets(),
    ...storeTargets(ports, disk),
    nbdTarget(ports),
    ...textTargets(ports),
    catalogueTarget(ports),
    ...monTargets(ports, frames),
  ];
}
