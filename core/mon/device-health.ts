import { counted } from "../base/size-text.ts";
import type { Catalogue } from "./catalogue.ts";
import type { OsdService } from "./osd-service.ts";

/** Osds that are up whose device is not well, a line each. */
export interface AilingDevices {
  readonly slow: readonly string[];
  readonly reading: readonly string[];
}

/**
 * What osds tell of their devices. Both pass by themselves: a device is slow until its latencies are
 * half of what made it slow, and a read that failed counts for an hour, or until the osd starts again.
 */
export function collectAiling(catalogue: Catalogue, osds: OsdService): AilingDevices {
  const slow: string[] = [];
  const reading: string[] = [];
  for (const { id, usage } of osds.live.values()) {
    const osd = catalogue.map.osds.get(id);
    const device = usage?.device;
    if (osd?.up !== true || device === undefined) continue;
    const name = `osd.${String(id)} on ${osd.host}`;
    if (device.slow) slow.push(`${name}: its device takes ${String(device.latencyMs)} ms`);
    if (!device.readsFail) continue;
    const errors = counted(Number(device.readErrors), "read");
    reading.push(`${name}: ${errors} failed since it started`);
  }
  return { slow, reading };
}
