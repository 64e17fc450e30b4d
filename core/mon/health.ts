import { formatPgId, type OsdId, poolOfPg } from "../base/ids.ts";
import { counted, formatSize } from "../base/size-text.ts";
import { missingOf, type OsdInfo, type PgInfo, PgState } from "../cluster/cluster.ts";
import { BeneathState, PgRole } from "../../proto/gen/control_pb.ts";
import type { Catalogue } from "./catalogue.ts";
import { collectAiling } from "./device-health.ts";
import { collectRefused } from "./damage-health.ts";
import { groupStateOf } from "./group-state.ts";
import type { OldCopy } from "./old-copy.ts";
import type { OperationEngine } from "./operation-engine.ts";
import type { OsdService } from "./osd-service.ts";
import { collectPaused } from "./recovery-health.ts";
import type { RecoveryService } from "./recovery-service.ts";
import type { ReplicaReports } from "./replica-change.ts";
import { collectScrubbed } from "./scrub-health.ts";
import type { Health } from "./schema.ts";

type Check = Health["checks"][number];

/** Details of a check that are shown; the summary counts all. */
const DETAILS_MAX = 20;
const NEAR_FULL = 0.8;
const FULL = 0.95;

/** The worst first. */
const SEVERITIES: readonly Check["severity"][] = ["error", "warn", "info"];

/** Judge the cluster. Every check says what is wrong, where, and what to do. */
export function judgeHealth(
  catalogue: Catalogue,
  osds: OsdService,
  operations: OperationEngine,
  recovery: RecoveryService,
  copies: OldCopy,
): Health {
  const checks = [
    checkAhead(catalogue, copies),
    checkRestored(copies),
    checkDown(catalogue),
    checkOut(catalogue),
    ...checkGroups(catalogue, osds),
    ...checkBlocks(catalogue, osds),
    checkScrubs(catalogue),
    checkRecovery(recovery),
    ...checkSpace(osds),
    ...checkBeneath(catalogue, osds),
    ...checkDevices(catalogue, osds),
    checkStores(catalogue),
    checkOperations(catalogue, operations),
  ].filter((check) => check !== undefined);
  const sorted = SEVERITIES.flatMap((one) => checks.filter(({ severity }) => severity === one));
  const worst = sorted[0]?.severity ?? "info";
  return { status: worst === "info" ? "ok" : worst, checks: sorted };
}

function newCheck(
  code: string,
  severity: Check["severity"],
  summary: string,
  details: readonly string[],
  hint: string,
): Check {
  const shown = details.slice(0, DETAILS_MAX);
  const more = details.length - shown.length;
  if (more > 0) shown.push(`and ${String(more)} more`);
  return { code, severity, summary, details: shown, hint };
}

function checkAhead(catalogue: Catalogue, copies: OldCopy): Check | undefined {
  if (copies.ahead === undefined) return undefined;
  const own = `${String(catalogue.map.generation)}:${String(catalogue.map.epoch)}`;
  const seen = `${String(copies.ahead.generation)}:${String(copies.ahead.epoch)}`;
  return newCheck(
    "MAP_BEHIND",
    "error",
    `osds or clients have a newer map (${seen}) than this mon (${own})`,
    ["attached images go on; nothing is changed, and no map told"],
    "its catalogue is an old copy: put the right one back; if it is lost, start the mon once with --restored",
  );
}

function checkRestored({ waitsFor }: OldCopy): Check | undefined {
  if (waitsFor.length === 0) return undefined;
  return newCheck(
    "MON_RESTORED",
    "warn",
    "the catalogue was restored: osds are heard before anything is changed",
    waitsFor.map((osd) => `osd.${String(osd)} was not heard yet`),
    "wait: it goes on after 10 s without those that do not come",
  );
}

function checkDown(catalogue: Catalogue): Check | undefined {
  const down = [...catalogue.map.osds.values()].filter((osd) => !osd.up);
  if (down.length === 0) return undefined;
  return newCheck(
    "OSD_DOWN",
    "warn",
    `${String(down.length)} of ${counted(catalogue.map.osds.size, "osd")} ${down.length === 1 ? "is" : "are"} down`,
    down.map((osd) => `osd.${String(osd.id)} on ${osd.host}`),
    "look at the process and its log, then start it again",
  );
}

/** Worth knowing, and as somebody wanted it: the status stays as it is. */
function checkOut(catalogue: Catalogue): Check | undefined {
  const { osds, pgs } = catalogue.map;
  const out = [...osds.values()].filter((osd) => !osd.in);
  if (out.length === 0) return undefined;
  const details = out.map(({ id, host }) => {
    const held = [...pgs.values()].flatMap((pg) => pg.replicas.filter((one) => one.osd === id));
    const witnesses = held.filter((one) => one.witness).length;
    const also = witnesses === 0 ? "" : ` and ${counted(witnesses, "witness", "witnesses")}`;
    return `osd.${String(id)} on ${host}, which holds ${counted(held.length - witnesses, "replica")}${also}`;
  });
  const name = out.length === 1 ? String(out[0]!.id) : "OSD";
  return newCheck(
    "OSD_OUT",
    "info",
    `${String(out.length)} of ${counted(osds.size, "osd")} ${out.length === 1 ? "is" : "are"} out`,
    details,
    `no new replicas come there, what is there stays; take it in again: fastblock osd in ${name}`,
  );
}

type GroupCode =
  | "PG_DOWN"
  | "PG_LEADERLESS"
  | "PG_DEGRADED"
  | "PG_FILLING"
  | "PG_WITNESS_MISSING"
  | "PG_CREATING";

const GROUP_CHECKS: readonly (readonly [GroupCode, Check["severity"], string, string])[] = [
  ["PG_DOWN", "error", "without a majority: writes wait", "start their osds"],
  [
    "PG_LEADERLESS",
    "error",
    "without a leader: requests wait",
    "this ends by itself within seconds of an election; otherwise start their osds that are down: one " +
      "of them may have what no other has; and look into the osds' logs",
  ],
  [
    "PG_DEGRADED",
    "warn",
    "with fewer copies of the data than wanted",
    "start the osds that are down, or replace their replicas; where none is down this ends by itself",
  ],
  [
    "PG_FILLING",
    "warn",
    "with a copy that gets what it missed, and does not count yet",
    "this ends by itself; stop no other of their osds meanwhile",
  ],
  [
    "PG_WITNESS_MISSING",
    "warn",
    "with all copies of the data, and without the witness: one more failure stops writes",
    "start the osds that are down; or take them out, where another failure domain can have the witness",
  ],
  [
    "PG_CREATING",
    "warn",
    "not established yet",
    "this ends by itself once a majority of their osds is up",
  ],
];

function checkGroups(catalogue: Catalogue, service: OsdService): Check[] {
  const byCode = new Map<GroupCode, PgInfo[]>();
  for (const pg of catalogue.map.pgs.values()) {
    const code = codeOf(pg, catalogue.map.osds, service);
    if (code === undefined) continue;
    const list = byCode.get(code);
    if (list === undefined) byCode.set(code, [pg]);
    else list.push(pg);
  }
  const checks: Check[] = [];
  for (const [code, severity, text, hint] of GROUP_CHECKS) {
    const pgs = byCode.get(code);
    if (pgs === undefined) continue;
    const summary = `${counted(pgs.length, "placement group")} ${text}`;
    const details = pgs.map((pg) => {
      const name = catalogue.map.pools.get(poolOfPg(pg.id))?.name ?? "?";
      return `${formatPgId(pg.id)} of ${name} on ${osdsOf(pg)}`;
    });
    checks.push(newCheck(code, severity, summary, details, hint));
  }
  return checks;
}

/** What is wrong with a group; undefined: nothing. */
function codeOf(
  pg: PgInfo,
  osds: ReadonlyMap<OsdId, OsdInfo>,
  service: OsdService,
): GroupCode | undefined {
  const reports = service.reportsOf(pg);
  switch (groupStateOf(pg, osds, reports)) {
    case PgState.Active:
      return isFilling(pg, reports, service) ? "PG_FILLING" : undefined;
    case PgState.Creating:
      return "PG_CREATING";
    case PgState.Down:
      return "PG_DOWN";
    case PgState.Leaderless:
      return "PG_LEADERLESS";
    case PgState.Degraded: {
      const isWhole = missingOf(pg, osds).every((one) => one.witness);
      return isWhole ? "PG_WITNESS_MISSING" : "PG_DEGRADED";
    }
  }
}

/**
 * A member, not one that joins, gets what it missed: it is filled, its leader sends it old entries, or
 * its osd was started and has not heard of a leader yet, or not told of the replica.
 */
function isFilling(pg: PgInfo, reports: ReplicaReports, service: OsdService): boolean {
  const behind = new Set(
    [...reports.values()].flatMap(({ recovery }) => recovery.map((one) => one.replica)),
  );
  return pg.replicas.some(({ replicaId, osd, leaving }) => {
    if (leaving || pg.configuration?.voters.includes(replicaId) !== true) return false;
    const report = reports.get(replicaId);
    if (report === undefined) return service.live.has(osd);
    return report.role === PgRole.FILLING || report.leader === 0 || behind.has(replicaId);
  });
}

function osdsOf(pg: PgInfo): string {
  return pg.replicas
    .map(({ osd, witness, leaving }) => {
      const role = witness ? " (witness)" : "";
      return `osd.${String(osd)}${role}${leaving ? " (leaving)" : ""}`;
    })
    .join(", ");
}

function checkBlocks(catalogue: Catalogue, osds: OsdService): Check[] {
  const { lost, waiting } = collectRefused(catalogue, osds);
  const checks: Check[] = [];
  if (lost.details.length > 0) {
    const summary = `${counted(lost.count, "block is", "blocks are")} lost in ${lost.images.join(", ")}`;
    const hint = "no replica has them whole: reads fail until they are written anew";
    checks.push(newCheck("BLOCKS_LOST", "error", summary, lost.details, hint));
  }
  if (waiting.details.length > 0) {
    const where = waiting.images.join(", ");
    const summary = `${counted(waiting.count, "block is", "blocks are")} damaged in ${where}`;
    const hint = "they wait for replicas that do not answer: start the osds that are down";
    checks.push(newCheck("BLOCKS_DAMAGED", "warn", summary, waiting.details, hint));
  }
  return checks;
}

function checkScrubs(catalogue: Catalogue): Check | undefined {
  const { blocks, groups, details } = collectScrubbed(catalogue);
  if (groups === 0) return undefined;
  return newCheck(
    "SCRUB_ERRORS",
    "error",
    `scrub found ${counted(blocks, "block")} in ${counted(groups, "placement group")} that it can not put right`,
    details,
    "start the osds that are down; write the blocks anew (restore them) where no majority agrees, then: fastblock pg scrub PG --deep",
  );
}

function checkRecovery(recovery: RecoveryService): Check | undefined {
  const paused = collectPaused(recovery);
  if (paused === undefined) return undefined;
  const { summary, details } = paused;
  return newCheck("RECOVERY_PAUSED", "warn", summary, details, "fastblock recovery resume");
}

function checkSpace(osds: OsdService): Check[] {
  const near: string[] = [];
  const full: string[] = [];
  for (const live of osds.live.values()) {
    if (live.usage === undefined || live.usage.capacityBytes === 0n) continue;
    const share = Number(live.usage.usedBytes) / Number(live.usage.capacityBytes);
    const text = `osd.${String(live.id)} is ${String(Math.floor(share * 100))} % full`;
    if (share >= FULL) full.push(text);
    else if (share >= NEAR_FULL) near.push(text);
  }
  const hint = "add osds, or remove images: fastblock image du shows what takes the space";
  const checks: Check[] = [];
  if (full.length > 0) {
    checks.push(
      newCheck(
        "OSD_FULL",
        "error",
        `${counted(full.length, "osd is", "osds are")} full`,
        full,
        hint,
      ),
    );
  }
  if (near.length > 0) {
    const summary = `${counted(near.length, "osd is", "osds are")} nearly full`;
    checks.push(newCheck("OSD_NEAR_FULL", "warn", summary, near, hint));
  }
  return checks;
}

const BENEATH_HINT = "make room in that file system, or remove images: fastblock image du";

/** Sparse stores that promise more than the file system beneath them has. */
function checkBeneath(catalogue: Catalogue, osds: OsdService): Check[] {
  const near: string[] = [];
  const short: string[] = [];
  for (const { id, usage } of osds.live.values()) {
    const beneath = usage?.beneath;
    if (beneath === undefined || catalogue.map.osds.get(id)?.up !== true) continue;
    const free = formatSize(Number(beneath.freeBytes));
    const text = `osd.${String(id)}: ${free} free beneath ${beneath.path}`;
    if (beneath.state === BeneathState.SHORT) short.push(`${text}, it takes no writes`);
    else if (beneath.state === BeneathState.NEAR) near.push(text);
  }
  const checks: Check[] = [];
  if (short.length > 0) {
    const summary = `${counted(short.length, "osd takes", "osds take")} no writes: the file system beneath is full`;
    checks.push(newCheck("OSD_FILE_SYSTEM_FULL", "error", summary, short, BENEATH_HINT));
  }
  if (near.length > 0) {
    const summary = `the file system beneath ${counted(near.length, "osd")} is nearly full`;
    checks.push(newCheck("OSD_FILE_SYSTEM_NEAR_FULL", "warn", summary, near, BENEATH_HINT));
  }
  return checks;
}

const SLOW_HINT =
  "its leaders go elsewhere; look at the device and the kernel's log, and replace it if it stays slow: " +
  "fastblock osd out OSD";
const READ_HINT =
  "damaged blocks come from other replicas; look at the kernel's log, and replace the device: " +
  "fastblock osd out OSD; this ends an hour after the last failed read";

function checkDevices(catalogue: Catalogue, osds: OsdService): Check[] {
  const { slow, reading } = collectAiling(catalogue, osds);
  const checks: Check[] = [];
  if (slow.length > 0) {
    const summary = counted(slow.length, "osd has a slow device", "osds have slow devices");
    checks.push(newCheck("OSD_SLOW", "warn", summary, slow, SLOW_HINT));
  }
  if (reading.length > 0) {
    const summary = `the device of ${counted(reading.length, "osd")} fails reads`;
    checks.push(newCheck("OSD_READ_ERRORS", "warn", summary, reading, READ_HINT));
  }
  return checks;
}

/** Replicas of a store that no longer answers under its osd's id: a disk was replaced. */
function checkStores(catalogue: Catalogue): Check | undefined {
  const details: string[] = [];
  for (const pg of catalogue.map.pgs.values()) {
    for (const replica of pg.replicas) {
      const osd = catalogue.map.osds.get(replica.osd);
      if (osd === undefined || replica.leaving || osd.storeUuid === replica.storeUuid) continue;
      details.push(`${formatPgId(pg.id)} on osd.${String(replica.osd)}`);
    }
  }
  if (details.length === 0) return undefined;
  return newCheck(
    "STORE_REPLACED",
    "warn",
    `${counted(details.length, "replica is", "replicas are")} on stores that were replaced`,
    details,
    "a group that serves renews them by itself: start the osds that are down, or elsewhere: fastblock pg replace PG --from OSD --to OSD",
  );
}

function checkOperations(catalogue: Catalogue, operations: OperationEngine): Check | undefined {
  const details: string[] = [];
  for (const operation of catalogue.operations.values()) {
    if (operation.state === "failed") {
      details.push(`${operation.title} failed: ${operation.error ?? "?"}`);
      continue;
    }
    if (operation.state !== "running") continue;
    const { waitingFor } = operations.progressOf(operation);
    if (waitingFor.length > 0)
      details.push(`${operation.title} waits for ${waitingFor.join(", ")}`);
  }
  if (details.length === 0) return undefined;
  const summary = `${counted(details.length, "operation waits", "operations wait")} or failed`;
  return newCheck("OPERATION_STUCK", "warn", summary, details, "look at them: fastblock op ls");
}
