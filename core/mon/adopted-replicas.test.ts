/** G10: members of groups that a restored catalogue has forgotten. */
import { describe, expect, test } from "bun:test";
import { create } from "@bufbuild/protobuf";
import type { Epoch, OsdId, PgId, ReplicaId, ShardIndex, Term } from "../base/ids.ts";
import { silentLogger } from "../base/logger.ts";
import type { PgInfo, ReplicaInfo } from "../cluster/cluster.ts";
import { PgReportSchema, PgRole } from "../../proto/gen/control_pb.ts";
import { type SeenReplica, withAdopted } from "./adopted-replicas.ts";

const RESTORED = 65_537;

/** A replica on the osd of its number, unless another one is named. */
function row(id: number, over: Partial<ReplicaInfo> = {}): ReplicaInfo {
  const osd = (id < RESTORED ? id : id - RESTORED + 11) as OsdId;
  const place = { osd, storeUuid: `store-${String(osd)}`, shard: 0 as ShardIndex };
  return { replicaId: id as ReplicaId, ...place, leaving: false, witness: false, ...over };
}

function group(...replicas: ReplicaInfo[]): PgInfo {
  return {
    id: 65_536 as PgId,
    lastChangeEpoch: 1 as Epoch,
    changeEpoch: 1 as Epoch,
    creating: false,
    replicas,
    leader: 0 as ReplicaId,
    leaderTerm: 0 as Term,
    configuration: undefined,
  };
}

interface Told {
  readonly index: number;
  readonly voters: number[];
  readonly outgoing?: number[];
  readonly learners?: number[];
}

/** What the osd of a replica reports of it. */
function report(
  id: number,
  told?: Told,
  over: { shard?: number; witness?: boolean } = {},
): SeenReplica {
  const { osd, storeUuid } = row(id);
  const info = { id: osd, storeUuid, host: "", up: true, in: true, weight: 1, addresses: [] };
  const message = create(PgReportSchema, {
    pg: 65_536,
    replica: id,
    role: PgRole.FOLLOWER,
    ...(told === undefined ? {} : { configuration: told }),
    ...over,
  });
  return { osd: { ...info, changeEpoch: 1 as Epoch }, report: message };
}

function adopt(pg: PgInfo, seen: readonly SeenReplica[], size = 3): string | undefined {
  const found = withAdopted(pg, { seen, firstId: RESTORED, size, logger: silentLogger });
  const mark = (one: ReplicaInfo): string =>
    `${String(one.replicaId)}@${String(one.osd)}.${String(one.shard)}${one.leaving ? " leaves" : ""}${one.witness ? " witness" : ""}`;
  return found?.replicas.map(mark).join(", ");
}

describe("withAdopted", () => {
  test("a voter that was forgotten takes the place of the row that the group is without", () => {
    const seen = [report(1, { index: 9, voters: [1, 2, 4] }), report(4, undefined, { shard: 1 })];
    expect(adopt(group(row(1), row(2), row(3)), seen)).toBe("1@1.0, 2@2.0, 4@4.1");
  });

  test("until somebody has seen it, nothing is known", () => {
    const seen = [report(1, { index: 9, voters: [1, 2, 4] })];
    expect(adopt(group(row(1), row(2), row(3)), seen)).toBeUndefined();
  });

  test("the newest of what is told counts, whoever tells it", () => {
    const seen = [
      report(1, { index: 5, voters: [1, 2, 3], learners: [4] }),
      report(4, { index: 9, voters: [1, 2, 4] }),
      report(3, { index: 4, voters: [1, 2, 3] }),
    ];
    expect(adopt(group(row(1), row(2), row(3)), seen)).toBe("1@1.0, 2@2.0, 4@4.0");
  });

  test("on the way from one to the other, who goes leaves", () => {
    const seen = [report(4, { index: 9, voters: [1, 2, 4], outgoing: [1, 2, 3] })];
    expect(adopt(group(row(1), row(2), row(3)), seen)).toBe("1@1.0, 2@2.0, 4@4.0, 3@3.0 leaves");
  });

  test("what was wanted since the restore stays wanted: it comes for the one that was forgotten", () => {
    const pg = group(row(1), row(2), row(RESTORED), row(3, { leaving: true }));
    const seen = [report(4, { index: 9, voters: [1, 2, 4] })];
    expect(adopt(pg, seen)).toBe(`1@1.0, 2@2.0, ${String(RESTORED)}@11.0, 4@4.0 leaves`);
  });

  test("who votes and was to leave stays, where the row that was wanted is gone", () => {
    const pg = group(row(4), row(2), row(3), row(5, { leaving: true }));
    const seen = [report(3, { index: 9, voters: [3, 4, 5] })];
    expect(adopt(pg, seen)).toBe("4@4.0, 3@3.0, 5@5.0");
  });

  test("a row that is gone stays where nobody came for it, and is renewed", () => {
    const pg = group(row(1), row(2), row(3));
    expect(adopt(pg, [report(1, { index: 9, voters: [1, 3] })])).toBe("1@1.0, 2@2.0, 3@3.0");
  });

  test("a witness stays one, behind those with data", () => {
    const pg = group(row(1), row(2), row(3, { witness: true }));
    const seen = [report(5, { index: 9, voters: [1, 4, 5] }, { witness: true }), report(4)];
    expect(adopt(pg, seen, 2)).toBe("1@1.0, 4@4.0, 5@5.0 witness");
  });

  test("one witness stays: the one that was wanted since the restore", () => {
    const pg = group(
      row(1),
      row(2),
      row(RESTORED, { witness: true }),
      row(3, { witness: true, leaving: true }),
    );
    const seen = [
      report(1, { index: 9, voters: [1, 2, 4] }),
      report(4, undefined, { witness: true }),
    ];
    const rows = `1@1.0, 2@2.0, ${String(RESTORED)}@11.0 witness, 4@4.0 leaves witness`;
    expect(adopt(pg, seen, 2)).toBe(rows);
  });

  test("a group that the map knows is left alone, as is one that tells nothing", () => {
    const pg = group(row(1), row(2), row(3));
    const seen = [report(1, { index: 9, voters: [1, 2, 3], learners: [7] })];
    const told = { firstId: RESTORED, size: 3, logger: silentLogger };
    expect(withAdopted(pg, { ...told, seen })).toBe(pg);
    expect(withAdopted(pg, { ...told, seen: [report(1)] })).toBe(pg);
  });
});
