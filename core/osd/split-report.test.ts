import { create, toBinary } from "@bufbuild/protobuf";
import { expect, test } from "bun:test";
import { OsdReportRequestSchema, PgRole } from "../../proto/gen/control_pb.ts";
import { splitReport } from "./mon-session.ts";

const MESSAGE_BYTES_MAX = 1_048_576;
/** What an osd of the largest size may hold. */
const GROUPS = 50_000;

test("a report of many groups is split into messages that fit, each with its sender", () => {
  const big = 2n ** 53n - 1n;
  const pgs = Array.from({ length: GROUPS }, (_, at) => ({
    pg: 0xffff_0000 + at,
    replica: 65_535,
    role: PgRole.LEADER,
    term: big,
    leader: 65_535,
    commitIndex: big,
    appliedIndex: big,
    established: true,
    usedBytes: big,
    configuration: {
      index: Number(big),
      voters: [65_529, 65_530, 65_531, 65_532, 65_533],
      outgoing: [65_524, 65_525, 65_526, 65_527, 65_528],
      learners: [65_534, 65_535],
    },
  }));
  const sender = { osd: 3, boot: big, generation: 1, epoch: 77 };
  const whole = { ...sender, pgs, unreachable: [1, 2], complete: true, stopping: false };
  const parts = splitReport(create(OsdReportRequestSchema, whole));
  expect(parts.length).toBeGreaterThan(1);
  expect(parts.flatMap((part) => part.pgs.map(({ pg }) => pg))).toEqual(pgs.map(({ pg }) => pg));
  for (const [at, part] of parts.entries()) {
    expect(part).toMatchObject(sender);
    expect(part.complete).toBe(at === 0);
    expect(part.unreachable).toEqual(at === 0 ? [1, 2] : []);
    const bytes = toBinary(OsdReportRequestSchema, part).length;
    expect(bytes).toBeLessThan(MESSAGE_BYTES_MAX * 0.75);
  }
  expect(splitReport(create(OsdReportRequestSchema, { ...sender, pgs: [] }))).toHaveLength(1);
});
