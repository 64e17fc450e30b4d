import { expect, test } from "bun:test";
import { runHalf, runSeed } from "./cluster-harness.ts";

/**
 * Seeds that found something when they were drawn as they are now. A change of the draw makes other runs
 * of them: what keeps a bug away is its script, which the README names beside each.
 */
const RECORDED: readonly [number, string][] = [
  [247, "a group that fell quiet while its disks were full never took writes again"],
  [1083, "reads that failed once at a start passed for damage, on two replicas of three"],
  [2178, "rest was looked for while an osd had not opened its stores"],
  [2299, "one bad sector of the log cost the mover all that it read with it, for ever"],
  [2945, "a group was to have two witnesses after a restore, and never had the new one"],
  [3370, "a holder whose session was forgotten took its image back, past the fence"],
  [3374, "an operation of the locked image was submitted while it was open"],
  [3605, "a leader was killed in the peace of an aimed fault"],
  [4188, "who knew of a term that nobody had kept never left a group that was without it"],
  [4296, "the check made one entry of a log in memory and a store behind it"],
  [7035, "an entry in the place of one of a newer term was acknowledged before it was durable"],
  [7306, "a newcomer whose disk had kept nothing of its configuration became a voter"],
  [7502, "the power of a lying device was cut while others lacked what it had"],
  [7898, "a replica that went while a checkpoint was written made that unreadable"],
  [
    8636,
    "an aimed fault of one round went on beside that of the next, and its check missed a batch",
  ],
  [8637, "of six simulated osds one had no memory for connections to all others"],
  [9960, "a leader could not read what followers lacked, and nothing was committed any more"],
];

test.each(RECORDED)(
  "seed %d: %s",
  (seed) => {
    expect(runSeed(seed).operations).toBeGreaterThan(0);
  },
  60_000,
);

test("G1, G2, G3, G4, G5, G11: clusters lose nothing and serve nothing stale, whatever happens to them: first half", () => {
  runHalf(0);
}, 1_500_000);

// Of the second one an image is resized and removed.
test.each([1, 6])(
  "the same seed gives the same trace: %d",
  (seed) => {
    const { traceHash } = runSeed(seed);
    runSeed(2);
    expect(runSeed(seed).traceHash).toBe(traceHash);
  },
  60_000,
);
