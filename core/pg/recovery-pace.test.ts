import { expect, test } from "bun:test";
import type { Epoch } from "../base/ids.ts";
import { RecoverySpeed } from "../cluster/cluster.ts";
import { RecoveryPace } from "./recovery-pace.ts";

function paceAt(speed: RecoverySpeed): RecoveryPace {
  const pace = new RecoveryPace();
  pace.follow({ speed, paused: false, changeEpoch: 1 as Epoch });
  return pace;
}

test("work and rest share the time as the dial says, however many work at it", () => {
  for (const [speed, share] of [
    [RecoverySpeed.Low, 0.05],
    [RecoverySpeed.Medium, 0.2],
    [RecoverySpeed.High, 0.5],
  ] as const) {
    for (const workers of [1, 2]) {
      const took = 10_000;
      const rest = paceAt(speed).restUs(took, workers);
      expect((workers * took) / (took + rest)).toBeCloseTo(share, 3);
    }
  }
});

test("a rest lasts a second at most", () => {
  expect(paceAt(RecoverySpeed.Low).restUs(2_000_000, 1)).toBe(1_000_000);
});

test("a client counts as being at work for a tenth of a second", () => {
  const pace = new RecoveryPace();
  expect(pace.isBusy(0)).toBe(false);
  pace.clientUs = 1000;
  expect(pace.isBusy(100_999)).toBe(true);
  expect(pace.isBusy(101_000)).toBe(false);
  expect(paceAt(RecoverySpeed.Low).roundUnits(true)).toBeLessThan(pace.roundUnits(true));
  expect(paceAt(RecoverySpeed.Low).roundUnits(false)).toBe(pace.roundUnits(false));
});
