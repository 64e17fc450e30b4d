import { describe, expect, test } from "bun:test";
import { allowedCores, coreOf } from "./cores.ts";

test.each([
  ["Name:\tx\nCpus_allowed:\tff\nCpus_allowed_list:\t0-3\nMems_allowed:\t1\n", [0, 1, 2, 3]],
  ["Cpus_allowed_list:\t4-5,8,10-11\n", [4, 5, 8, 10, 11]],
  ["Cpus_allowed_list:\t7", [7]],
  ["Name:\tx\n", []],
])("cores of %j", (status, wanted) => {
  expect(allowedCores(status)).toEqual(wanted);
});

describe("the core of a shard", () => {
  const allowed = [4, 5, 6, 7, 12, 13];

  test.each([
    ["of the first osd", { osd: 0, shard: 1, shards: 2 }, 5],
    ["of an osd with a large id is one that there is", { osd: 1000, shard: 1, shards: 2 }, 7],
    ["of the last that fits", { osd: 2, shard: 1, shards: 2 }, 13],
    ["of one more is the first again", { osd: 3, shard: 0, shards: 2 }, 4],
    ["that is alone is any", { osd: 0, shard: 0, shards: 1 }, undefined],
    [
      "where there are no more than twice as many is any",
      { osd: 0, shard: 0, shards: 3 },
      undefined,
    ],
  ])("%s", (_, at, wanted) => {
    expect(coreOf(at, allowed)).toBe(wanted);
  });

  test("shards of one osd have different ones", () => {
    for (let osd = 0; osd < 20; osd++) {
      expect(coreOf({ osd, shard: 0, shards: 2 }, allowed)).not.toBe(
        coreOf({ osd, shard: 1, shards: 2 }, allowed),
      );
    }
  });
});
