import { drainMicrotasks } from "bun:jsc";
import { create, toBinary } from "@bufbuild/protobuf";
import { afterAll, describe, expect, test } from "bun:test";
import { OsdRegisterRequestSchema } from "../../proto/gen/control_pb.ts";
import { Prng } from "../base/prng.ts";
import { loadCommands } from "../cli/cli.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { BunFuzzMeter } from "./bun-fuzz-meter.ts";
import { checkSeeds, runFuzz } from "./fuzz.ts";
import { fuzzTargets } from "./fuzz-targets.ts";

/**
 * Campaign C11: every decoder on mutated input. The gate runs this part of it, 25 s in all; a million
 * a decoder is `fastblock fuzz --inputs 1000000`. `FUZZ_SEED` chooses other inputs.
 */
const SEED = Number(process.env["FUZZ_SEED"] ?? 1);
/** Each target gets this long, by its usual rate on one core: inputs, so that runs are equal. */
const INPUTS: Readonly<Record<string, number>> = {
  "rpc-acceptor": 15_000,
  "rpc-dialler": 15_000,
  "hot-messages": 50_000,
  messages: 30_000,
  map: 20_000,
  "unit-lists": 50_000,
  starts: 50_000,
  superblock: 30_000,
  "zone-table": 15_000,
  checkpoint: 15_000,
  "group-state": 30_000,
  configuration: 100_000,
  slot: 100_000,
  "index-pages": 10_000,
  "log-scan": 6000,
  nbd: 7000,
  words: 15_000,
  files: 20_000,
  peers: 30_000,
  "command-line": 8000,
  catalogue: 15_000,
  rest: 8000,
  "mon-requests": 5000,
};

await loadCommands();
const meter = new BunFuzzMeter();
afterAll(() => meter.close());

const targets = fuzzTargets({ checksum: new SystemChecksum(), drainMicrotasks });

test("every target has its share of the gate", () => {
  expect(targets.map((target) => target.name)).toEqual(Object.keys(INPUTS));
});

describe("decoders hold what they promise of any input", () => {
  test.each(targets.map((target) => [target.name, target] as const))(
    "%s",
    (name, target) => {
      checkSeeds(target, new Prng(1));
      const counts = runFuzz(target, { seed: SEED, inputs: INPUTS[name]!, meter });
      // Both ways through the decoder were taken, neither of them by chance alone.
      expect(counts.accepted).toBeGreaterThan(counts.inputs / 50);
      expect(counts.refused).toBeGreaterThan(counts.inputs / 50);
    },
    120_000,
  );
});

/** Inputs that broke a promise once: each is refused now. */
const FOUND: readonly (readonly [string, string, Uint8Array<ArrayBuffer>])[] = [
  // Another layer was read than the one that was written.
  ["unit-lists", "a layer beyond 2^53", Uint8Array.from([0, 1, 2, 3, 4, 5, 6, 231, ...Array(8)])],
  ["configuration", "a next id of 0", Uint8Array.from([1, 0, 0, 0, 0, 0, 0, 0])],
  // Nobody was told of any map again.
  ["mon-requests", "an osd so large that its weight fits no map", giantOsd()],
];

function giantOsd(): Uint8Array<ArrayBuffer> {
  const registration = create(OsdRegisterRequestSchema, {
    storeUuid: "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee",
    host: "host-0",
    addresses: [{ host: "10.0.0.1", port: 7500 }],
    incarnation: 2n,
    boot: 2n,
    capacityBytes: 2n ** 60n,
  });
  return Uint8Array.from([0, 0, ...toBinary(OsdRegisterRequestSchema, registration)]);
}

test.each(FOUND)("%s: %s", (name, _, input) => {
  const target = targets.find((one) => one.name === name)!;
  target.begin?.();
  expect(target.run(input, new Prng(1))).toBe(false);
});
