import { expect, test } from "bun:test";
import {
  bootstrapConfiguration,
  changeConfiguration,
  type ConfChange,
  CONFIGURATION_BYTES_MAX,
  CONFIGURATION_EMPTY,
  Configuration,
  decodeConfiguration,
  encodeConfiguration,
  formatConfiguration,
  leaveJoint,
  type MemberAddress,
} from "./raft.ts";

function address(osd: number): MemberAddress {
  return { osd, storeUuid: (osd + 0xa0).toString(16).padStart(2, "0").repeat(16) };
}

const three = bootstrapConfiguration([address(0), address(1), address(2)]);

test("bootstrap gives ids from 1 and makes everybody a voter", () => {
  expect(formatConfiguration(three)).toBe("voters 1,2,3");
  expect(three.nextReplicaId).toBe(4);
  expect(three.members[2]).toEqual({ id: 3, osd: 2, storeUuid: "a2".repeat(16) });
});

const learner = changeConfiguration(three, { addLearners: [address(3)] });
const two = bootstrapConfiguration([address(0), address(1)]);
const waiting = changeConfiguration(two, { addLearners: [{ ...address(2), witness: true }] });
const witnessed = changeConfiguration(changeConfiguration(waiting, { promote: [3] }), {
  addLearners: [{ ...address(3), witness: true }],
});
const twoLearners = changeConfiguration(learner, { addLearners: [address(4)] });

for (const [name, from, change, text, left] of [
  ["a learner joins in one step", three, { addLearners: [address(9)] }, "voters 1,2,3 learners 4"],
  ["one promotion is one step", learner, { promote: [4] }, "voters 1,2,3,4"],
  ["one demotion is one step", three, { demote: [2] }, "voters 1,3 learners 2"],
  ["one removal is one step", three, { remove: [1] }, "voters 2,3"],
  ["a learner is removed in one step", learner, { remove: [4] }, "voters 1,2,3"],
  [
    "replacing a voter goes through a joint configuration",
    learner,
    { promote: [4], remove: [1] },
    "voters 2,3,4 outgoing 1,2,3",
    "voters 2,3,4",
  ],
  [
    "a demoted voter becomes a learner when the joint configuration is left",
    twoLearners,
    { promote: [4, 5], demote: [2], remove: [3] },
    "voters 1,4,5 outgoing 1,2,3 learners-next 2",
    "voters 1,4,5 learners 2",
  ],
  [
    "a witness joins as learner",
    two,
    { addLearners: [{ ...address(2), witness: true }] },
    "voters 1,2 learners 3 witnesses 3",
  ],
  ["and votes in one step", waiting, { promote: [3] }, "voters 1,2,3 witnesses 3"],
  [
    "a witness is replaced",
    witnessed,
    { promote: [4], remove: [3] },
    "voters 1,2,4 outgoing 1,2,3 witnesses 3,4",
    "voters 1,2,4 witnesses 4",
  ],
] as [string, Configuration, ConfChange, string, string?][]) {
  test(name, () => {
    const next = changeConfiguration(from, change);
    expect(formatConfiguration(next)).toBe(text);
    expect(next.joint).toBe(left !== undefined);
    if (left !== undefined) expect(formatConfiguration(leaveJoint(next))).toBe(left);
    const decoded = decodeConfiguration(encodeConfiguration(next));
    expect(decoded).toEqual(next);
  });
}

test("ids are never given out twice, not even after a removal", () => {
  const gone = changeConfiguration(learner, { remove: [4] });
  const again = changeConfiguration(gone, { addLearners: [address(3)] });
  expect(again.members.map((member) => member.id)).toEqual([1, 2, 3, 5]);
});

test("members may come with the ids that a monitor gave out", () => {
  const next = changeConfiguration(three, {
    addLearners: [{ ...address(3), id: 65_538 }, address(4), { ...address(5), id: 70_000 }],
  });
  expect(formatConfiguration(next)).toBe("voters 1,2,3 learners 65538,65539,70000");
  expect(next.nextReplicaId).toBe(70_001);
  const gone = changeConfiguration(next, { remove: [70_000] });
  expect(gone.nextReplicaId).toBe(70_001);
  expect(bootstrapConfiguration([address(0), address(1)], 65_537)).toEqual(
    new Configuration(
      [
        { ...address(0), id: 65_537 },
        { ...address(1), id: 65_538 },
      ],
      3,
      0,
      0,
      0,
      65_539,
    ),
  );
});

const joint = changeConfiguration(learner, { promote: [4], remove: [1] });

for (const [name, from, change] of [
  ["nothing changes", three, {}],
  ["a joint configuration is in force", joint, { remove: [2] }],
  ["a member is unknown", three, { remove: [9] }],
  ["a member is named twice", three, { remove: [1], demote: [1] }],
  ["an id was given out before", learner, { addLearners: [{ ...address(5), id: 4 }] }],
  [
    "two new members have one id",
    three,
    {
      addLearners: [
        { ...address(5), id: 9 },
        { ...address(6), id: 9 },
      ],
    },
  ],
  ["a voter is promoted", three, { promote: [1] }],
  ["a learner is demoted", learner, { demote: [4] }],
  ["no voter is left", three, { remove: [1, 2, 3] }],
  ["witnesses would be half of the voters", witnessed, { remove: [1] }],
  [
    "there are too many members",
    three,
    { addLearners: Array.from({ length: 14 }, () => address(1)) },
  ],
] as [string, Configuration, ConfChange][]) {
  test(`a change is refused when ${name}`, () => {
    expect(() => changeConfiguration(from, change)).toThrow("Configuration change is refused");
  });
}

test("the encoding is the documented one", () => {
  const bytes = encodeConfiguration(joint);
  expect(bytes).toHaveLength(8 + 4 * 28);
  expect(Buffer.from(bytes.subarray(0, 36)).toString("hex")).toBe(
    `0100040005000000010000000000000002000000${"a0".repeat(16)}`,
  );
  expect(Buffer.from(bytes.subarray(8 + 3 * 28, 8 + 4 * 28)).toString("hex")).toBe(
    `040000000300000001000000${"a3".repeat(16)}`,
  );
  const roles = encodeConfiguration(changeConfiguration(witnessed, { promote: [4], remove: [3] }));
  expect([0, 1, 2, 3].map((slot) => roles[8 + slot * 28 + 8])).toEqual([3, 3, 18, 17]);
  expect(decodeConfiguration(encodeConfiguration(CONFIGURATION_EMPTY))).toEqual(
    CONFIGURATION_EMPTY,
  );
  expect(CONFIGURATION_BYTES_MAX).toBeLessThan(3072);
});

test("a configuration in which half of the voters are witnesses is malformed", () => {
  const bytes = encodeConfiguration(two);
  bytes[8 + 28 + 8]! |= 16;
  expect(decodeConfiguration(bytes)).toBeNull();
});

test("malformed bytes are refused, never believed", () => {
  const good = encodeConfiguration(joint);
  expect(decodeConfiguration(good.subarray(0, good.length - 1))).toBeNull();
  expect(decodeConfiguration(new Uint8Array(0))).toBeNull();
  // Nobody is in it, and the next id is none.
  expect(decodeConfiguration(Uint8Array.from([1, 0, 0, 0, 0, 0, 0, 0]))).toBeNull();
  for (const [offset, value] of [
    [0, 2], // newer format
    [2, 3], // fewer members than bytes
    [2, 200],
    [3, 1], // reserved
    [4, 2], // next id below the members'
    [8, 9], // ids do not ascend
    [16, 0], // member without a role
    [16, 5], // voter and learner
    [16, 64],
    [16, 16], // nothing but a witness
    [17, 1],
    [18, 1],
  ] as const) {
    const bytes = Uint8Array.from(good);
    bytes[offset] = value;
    expect([offset, decodeConfiguration(bytes)]).toEqual([offset, null]);
  }
});
