/** G4: who held an image alone is fenced, however its session ended. */
import { expect, test } from "bun:test";
import type { ImageId, LayerId, PoolId } from "../base/ids.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { MemoryMetaStore } from "./memory-store.ts";
import { stoppedTimers, takeOffice } from "./office-harness.ts";
import type { ImageRecord, SessionRecord } from "./records.ts";
import { type SessionHolder, SessionService } from "./session-service.ts";

const TWO_DAYS_US = 2 * 86_400_000_000;
const IMAGE: ImageRecord = {
  id: 1 as ImageId,
  name: "disk",
  pool: 1 as PoolId,
  family: 1 as ImageId,
  layer: 1 as LayerId,
  ...{ sizeBytes: 4096, objectBlocks: 1024, snapSeq: 0, lockEpoch: 0, createdMs: 0 },
};

const ENDS = ["closed", "forgotten"] as const;

test.each(ENDS)(
  "an exclusive session that is %s leaves a fence, a shared one does not",
  async (end) => {
    const { catalogue } = await takeOffice(new MemoryMetaStore(stoppedTimers), "mon.a");
    await catalogue.change((change) => change.putImage(IMAGE));
    let nowUs = 0;
    const sessions = new SessionService({
      catalogue,
      checksum: new SystemChecksum(),
      clusterKey: new Uint8Array(32),
      nowUs: () => nowUs,
      wallMs: () => 0,
    });
    const image = (): ImageRecord => catalogue.images.get(IMAGE.id)!;
    const holder: SessionHolder = { notifyImage: () => {} };
    const epochs: number[] = [];
    for (const mode of ["exclusive", "shared"] as const) {
      await sessions.open(image, mode, "nbd.0", false, holder);
      epochs.push(image().lockEpoch);
      const [{ id }] = sessions.sessionsOf(IMAGE.id) as [SessionRecord];
      sessions.unbind(holder);
      nowUs += TWO_DAYS_US;
      if (end === "closed") await sessions.close(id);
      else await sessions.prune();
      expect(sessions.sessionsOf(IMAGE.id)).toEqual([]);
      epochs.push(image().lockEpoch);
    }
    expect(epochs).toEqual([1, 2, 2, 2]);
  },
);
