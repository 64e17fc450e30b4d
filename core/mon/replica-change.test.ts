/** Which replicas the monitor renews by itself. */
import { create } from "@bufbuild/protobuf";
import { expect, test } from "bun:test";
import { PgReportSchema } from "../../proto/gen/control_pb.ts";
import type { Epoch, OsdId, PgId, ReplicaId, ShardIndex, Term } from "../base/ids.ts";
import { silentLogger } from "../base/logger.ts";
import type { OsdInfo, PgInfo, ReplicaInfo } from "../cluster/cluster.ts";
import { MemoryMetaStore } from "./memory-store.ts";
import { stoppedTimers, takeOffice } from "./office-harness.ts";
import { withRenewals } from "./replica-change.ts";

function osd(id: number): OsdInfo {
  return {
    id: id as OsdId,
    storeUuid: `store-${String(id)}`,
    ...{ host: "a", up: true, in: true, weight: 1 },
    addresses: [{ host: "127.0.0.1", port: 1 }],
    changeEpoch: 0 as Epoch,
  };
}

function row(id: number, osdId: number, storeUuid = `store-${String(osdId)}`): ReplicaInfo {
  return {
    replicaId: id as ReplicaId,
    osd: osdId as OsdId,
    storeUuid,
    shard: 0 as ShardIndex,
    ...{ leaving: false, witness: false },
  };
}

/** The rows behind one renewal, where 1 and 4 vote and 3 was given up. */
async function renewed(...replicas: readonly ReplicaInfo[]): Promise<string> {
  const { catalogue } = await takeOffice(new MemoryMetaStore(stoppedTimers), "mon.a");
  await catalogue.change((change) => change.changeMap({ osds: [1, 2, 3, 4].map(osd) }));
  const pg: PgInfo = {
    id: 65_536 as PgId,
    ...{ lastChangeEpoch: 0 as Epoch, changeEpoch: 0 as Epoch, creating: false },
    ...{ replicas, leader: 1 as ReplicaId, leaderTerm: 1 as Term, configuration: undefined },
  };
  const led = create(PgReportSchema, {
    configuration: { index: 9, voters: [1, 4] },
    nextReplicaId: 5,
  });
  const told = { reports: new Map(), led };
  const next = await catalogue.change((change) =>
    withRenewals(pg, told, catalogue, change, silentLogger),
  );
  return next.replicas
    .map((one) => `${String(one.replicaId)}@${String(one.osd)}${one.leaving ? " leaves" : ""}`)
    .join(", ");
}

test("a replica that its group went on without is renewed where it was", async () => {
  const rows = await renewed(row(1, 1), row(4, 2), row(3, 3));
  expect(rows).toMatch(/^1@1, 4@2, \d+@3, 3@3 leaves$/);
});

test("not where another one of the group lives by now: two copies on one disk are one", async () => {
  expect(await renewed(row(1, 1), row(4, 3), row(3, 3))).toBe("1@1, 4@3, 3@3");
});

test("the one that lives there is renewed on its new disk, whatever else the map has there", async () => {
  const rows = await renewed(row(1, 1), row(4, 3, "the disk before"), row(3, 3));
  expect(rows).toMatch(/^1@1, \d+@3, 3@3, 4@3 leaves$/);
});
