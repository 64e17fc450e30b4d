// cold path: once a second per shard.
/** Reports of shards as the messages that the monitor gets. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { BLOCK_SIZE, UNIT_SIZE } from "../base/units.ts";
import type {
  OsdUsageSchema,
  RecoveryReportSchema,
  ScrubReportSchema,
  SpaceBeneathSchema,
} from "../../proto/gen/control_pb.ts";
import type { SpaceBeneath } from "../pg/pg.ts";
import type { GroupReport, ReplicaRecovery, ShardFigures } from "./report.ts";

/** ScrubReport of `proto/control.proto`. */
export function scrubMessage(
  scrub: NonNullable<GroupReport["scrub"]>,
): MessageInitShape<typeof ScrubReportSchema> {
  const blocks = scrub.blocks.map(({ layer, block, undecided }) => ({
    layer: BigInt(layer),
    block: BigInt(block),
    undecided,
  }));
  return { ...scrub, order: BigInt(scrub.order), blocks };
}

/** RecoveryReport of `proto/control.proto`. */
export function recoveryMessage(
  one: ReplicaRecovery,
): MessageInitShape<typeof RecoveryReportSchema> {
  const { entriesLeft = 0, blocksDiffering = 0, blocksCopied = 0, ...rest } = one;
  return {
    ...rest,
    entriesLeft: BigInt(entriesLeft),
    blocksDiffering: BigInt(blocksDiffering),
    blocksCopied: BigInt(blocksCopied),
  };
}

/** What all shards hold together: OsdUsage of `proto/control.proto`. */
export function usageOf(shards: readonly ShardFigures[]): MessageInitShape<typeof OsdUsageSchema> {
  const sum = (pick: (figures: ShardFigures) => number): bigint =>
    BigInt(shards.reduce((total, figures) => total + pick(figures), 0));
  const worst = worstBeneath(shards);
  return {
    capacityBytes: sum(({ usage }) => usage.bytesTotal),
    usedBytes: sum(({ usage }) => usage.bytesUsed),
    logCapacityBytes: sum(({ usage }) => usage.logBytesTotal),
    logUsedBytes: sum(({ usage }) => usage.logBytesUsed),
    ...(worst === null ? {} : { beneath: beneathMessage(worst) }),
    device: {
      readErrors: sum(({ usage }) => usage.device.readErrors),
      writeErrors: sum(({ usage }) => usage.device.writeErrors),
      flushErrors: sum(({ usage }) => usage.device.flushErrors),
      readsFail: shards.some(({ usage }) => usage.device.readsFail),
      slow: shards.some(({ usage }) => usage.device.slow),
      latencyMs: Math.round(Math.max(0, ...shards.map(latencyOf)) / 1000),
    },
  };
}

function latencyOf({ usage }: ShardFigures): number {
  return usage.device.latencyUs;
}

function beneathMessage(beneath: SpaceBeneath): MessageInitShape<typeof SpaceBeneathSchema> {
  const state: number = beneath.state;
  return { state, freeBytes: BigInt(beneath.freeBytes), path: beneath.path };
}

/** All shards of an osd are in one file: what counts is the one that is worst off. */
function worstBeneath(shards: readonly ShardFigures[]): SpaceBeneath | null {
  let worst: SpaceBeneath | null = null;
  for (const { usage } of shards) {
    const { beneath } = usage;
    if (beneath !== null && (worst === null || beneath.state > worst.state)) worst = beneath;
  }
  return worst;
}

/** Counter of `proto/control.proto`. */
export interface CounterRow {
  readonly name: string;
  readonly labels: string[];
  readonly value: number;
}

/** The shard's figures under the names of the metrics page. */
export function countersOf(index: number, figures: ShardFigures): CounterRow[] {
  const shard = `shard=${String(index)}`;
  const rows: CounterRow[] = [];
  const add = (name: string, value: number, ...labels: string[]): void => {
    rows.push({ name: `fastblock_${name}`, labels: [shard, ...labels], value });
  };
  const { counters, damage, requests, raft, usage } = figures;
  const at = (row: Readonly<Record<string, number>>, key: string): number => row[key] ?? 0;
  for (const [key, region] of REGIONS) {
    add("device_write_bytes_total", at(counters, key), `region=${region}`);
  }
  add("device_read_bytes_total", at(counters, "bytesRead"));
  add("device_writes_total", at(counters, "deviceWrites"));
  add("device_flushes_total", at(counters, "deviceFlushes"));
  add("device_errors_total", usage.device.readErrors, "op=read");
  add("device_errors_total", usage.device.writeErrors, "op=write");
  add("device_errors_total", usage.device.flushErrors, "op=flush");
  add("device_slow", usage.device.slow ? 1 : 0);
  add("device_discards_total", at(counters, "deviceDiscards"));
  add("device_discard_bytes_total", at(counters, "bytesDiscarded"));
  add("index_memory_bytes", usage.indexBytesUsed, "state=used");
  add("index_memory_bytes", usage.indexBytesDirty, "state=dirty");
  add("index_loads_total", at(counters, "pageLoads"));
  add("index_evictions_total", at(counters, "pageEvictions"));
  add("log_batches_total", at(counters, "batches"));
  add("log_entries_total", at(counters, "entries"));
  add("checksum_failures_total", at(counters, "checksumFailures"));
  add("blocks_healed_total", at(counters, "blocksHealed"));
  add("osd_blocks_lost", damage.blocksLost);
  add("osd_blocks_damaged", damage.blocksWaiting);
  add("osd_entries_damaged", damage.entriesFaulty);
  add("checkpoints_total", at(counters, "checkpoints"));
  add("recovery_fills_total", at(counters, "fillsBegun"), "stage=begun");
  add("recovery_fills_total", at(counters, "fillsEnded"), "stage=ended");
  add("recovery_units_compared_total", at(counters, "fillUnitsCompared"));
  add("recovery_bytes_total", at(counters, "fillBlocksCopied") * BLOCK_SIZE);
  add("recovery_differing_bytes_total", at(counters, "fillBlocksDiffering") * BLOCK_SIZE);
  add("recovery_remaining_bytes", figures.recoveryUnitsLeft * UNIT_SIZE);
  add("scrub_runs_total", at(counters, "scrubsLight"), "depth=light");
  add("scrub_runs_total", at(counters, "scrubsDeep"), "depth=deep");
  add("scrub_units_compared_total", at(counters, "scrubUnitsCompared"));
  add("scrub_bytes_total", at(counters, "scrubBlocksRead") * BLOCK_SIZE);
  add("scrub_errors_total", at(counters, "scrubBlocksDamaged"), "kind=damaged");
  add("scrub_errors_total", at(counters, "scrubBlocksDiverged"), "kind=diverged");
  add("scrub_errors_total", at(counters, "scrubBlocksUndecided"), "kind=undecided");
  add("osd_writes_acknowledged_total", at(requests, "writes"));
  add("osd_ops_total", at(requests, "writes"), "op=write", "result=ok");
  add("osd_ops_total", at(requests, "reads"), "op=read", "result=ok");
  add("osd_ops_total", at(requests, "refused"), "op=any", "result=refused");
  add("osd_fenced_requests_total", at(requests, "fenced"));
  add("raft_elections_total", raft.elections);
  add("raft_groups", raft.leaders, "role=leader");
  add("raft_groups", raft.groups - raft.leaders, "role=follower");
  add("raft_heartbeats_total", raft.heartbeats, "merged=true");
  add("raft_log_bytes", usage.logBytesUsed);
  for (const [key, name] of REACTOR) {
    const value = at(figures.reactor, key);
    // Unknown, as system calls are that the runtime makes.
    if (value > 0) add(name, value);
  }
  return rows;
}

const REGIONS: readonly (readonly [string, string])[] = [
  ["bytesLog", "log"],
  ["bytesDirect", "direct"],
  ["bytesHome", "home"],
  ["bytesIndex", "index"],
  ["bytesCheckpoint", "checkpoint"],
];

const REACTOR: readonly (readonly [string, string])[] = [
  ["systemCalls", "reactor_system_calls_total"],
  ["turns", "reactor_turns_total"],
  ["blocks", "reactor_blocks_total"],
];
