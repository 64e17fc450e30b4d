import { expect, test } from "bun:test";
import {
  bootstrapConfiguration,
  changeConfiguration,
  Configuration,
  formatConfiguration,
  leaveJoint,
  type Member,
} from "../raft/raft.ts";
import { type MemberView, nextConfiguration } from "./reconfigure.ts";

function member(id: number): Member {
  return { id, osd: id, storeUuid: id.toString(16).padStart(32, "0") };
}

function ids(conf: Configuration, wanted: readonly number[]): number {
  return conf.members.reduce(
    (mask, one, slot) => mask | (wanted.includes(one.id) ? 1 << slot : 0),
    0,
  );
}

function witness(id: number): Member {
  return { ...member(id), witness: true };
}

function view(conf: Configuration, live: number[], ready: number[] = [], self = 1): MemberView {
  return { live: ids(conf, live), ready: ids(conf, ready), self };
}

const three = bootstrapConfiguration([member(1), member(2), member(3)]);
const two = bootstrapConfiguration([member(1), member(2)]);
const waiting = changeConfiguration(two, { addLearners: [witness(3)] });
const witnessed = changeConfiguration(waiting, { promote: [3] });
const moving = changeConfiguration(witnessed, { addLearners: [member(4), witness(5)] });
const four = changeConfiguration(three, { addLearners: [member(4)] });
const five = changeConfiguration(three, { addLearners: [member(4), member(5)] });
const fourVoters = changeConfiguration(four, { promote: [4] });
const gone = changeConfiguration(four, { remove: [4] });

for (const [name, conf, wanted, live, ready, text] of [
  ["nothing differs", three, [1, 2, 3], [1, 2, 3], [], null],
  [
    "a wanted replica is added as learner",
    three,
    [1, 2, 4],
    [1, 2, 3],
    [],
    "voters 1,2,3 learners 4",
  ],
  ["several at once", three, [1, 5, 4], [1, 2, 3], [], "voters 1,2,3 learners 4,5"],
  ["it waits until the learner is ready", four, [1, 2, 4], [1, 2, 3, 4], [], null],
  [
    "a ready learner replaces the voter in one joint step",
    four,
    [1, 2, 4],
    [1, 2, 3, 4],
    [4],
    "voters 1,2,4 outgoing 1,2,3",
  ],
  ["against a voter that is dead", four, [1, 2, 4], [1, 2, 4], [4], "voters 1,2,4 outgoing 1,2,3"],
  [
    "the dead one of two that leave goes first",
    five,
    [1, 4, 5],
    [1, 2, 4],
    [4],
    "voters 1,2,4 outgoing 1,2,3 learners 5",
  ],
  [
    "both are replaced together when both learners are ready",
    five,
    [1, 4, 5],
    [1, 2, 3, 4, 5],
    [4, 5],
    "voters 1,4,5 outgoing 1,2,3",
  ],
  [
    "a leader that leaves goes last",
    five,
    [3, 4, 5],
    [1, 2, 3, 4, 5],
    [4],
    "voters 1,3,4 outgoing 1,2,3 learners 5",
  ],
  ["a voter too many goes", fourVoters, [2, 3, 4], [1, 2, 3, 4], [], "voters 2,3,4"],
  ["not when those that stay are not reachable", fourVoters, [2, 3, 4], [1, 2], [], null],
  ["a learner that is not wanted goes", four, [1, 2, 3], [1, 2, 3, 4], [4], "voters 1,2,3"],
  [
    "a learner goes and another comes in one step",
    four,
    [1, 2, 5],
    [1, 2, 3],
    [],
    "voters 1,2,3 learners 5",
  ],
  ["a group may grow", four, [1, 2, 3, 4], [1, 2, 3, 4], [4], "voters 1,2,3,4"],
  ["an id that was given out before does not come back", gone, [1, 2, 4], [1, 2, 3], [], null],
] as [string, Configuration, number[], number[], number[], string | null][]) {
  test(name, () => {
    const next = nextConfiguration(conf, wanted.map(member), view(conf, live, ready));
    expect(next === null ? null : formatConfiguration(next)).toBe(text);
  });
}

for (const [name, conf, wanted, live, ready, text] of [
  [
    "a pool of two gets a witness",
    two,
    [member(1), member(2), witness(3)],
    [1, 2],
    [],
    "voters 1,2 learners 3 witnesses 3",
  ],
  [
    "which votes when it is ready",
    waiting,
    [member(1), member(2), witness(3)],
    [1, 2, 3],
    [3],
    "voters 1,2,3 witnesses 3",
  ],
  [
    "and goes when it is not wanted any more",
    witnessed,
    [member(1), member(2)],
    [1, 2],
    [],
    "voters 1,2",
  ],
  [
    "a witness comes for a witness",
    moving,
    [member(1), member(4), witness(5)],
    [1, 2, 3, 5],
    [5],
    "voters 1,2,5 outgoing 1,2,3 learners 4 witnesses 3,5",
  ],
  [
    "data comes for data",
    moving,
    [member(1), member(4), witness(5)],
    [1, 2, 3, 4],
    [4],
    "voters 1,3,4 outgoing 1,2,3 learners 5 witnesses 3,5",
  ],
  [
    "both together",
    moving,
    [member(1), member(4), witness(5)],
    [1, 3, 4, 5],
    [4, 5],
    "voters 1,4,5 outgoing 1,2,3 witnesses 3,5",
  ],
  [
    "a leader beside a witness does not remove itself",
    moving,
    [member(2), member(4), witness(3)],
    [1, 2, 3, 4],
    [],
    "voters 1,2,3 learners 4 witnesses 3",
  ],
] as [string, Configuration, Member[], number[], number[], string | null][]) {
  test(name, () => {
    const next = nextConfiguration(conf, wanted, view(conf, live, ready));
    expect(next === null ? null : formatConfiguration(next)).toBe(text);
  });
}

test("with the leadership where it is wanted, a group with a witness becomes any other", () => {
  const all = [member(1), member(2), witness(3), member(4), witness(5), member(6)];
  for (const [one, other, third] of [
    [4, 6, 5],
    [1, 4, 5],
    [2, 6, 3],
    [2, 1, 5],
  ]) {
    const wanted = all.filter(({ id }) => [one, other, third].includes(id));
    let conf = witnessed;
    for (let step = 0; step < 20; step++) {
      const everyone = conf.members.map((member) => member.id);
      const leads = conf.isVoter(one!) ? one! : conf.isVoter(1) ? 1 : 2;
      const next = nextConfiguration(conf, wanted, view(conf, everyone, everyone, leads));
      if (next === null) break;
      conf = next.joint ? leaveJoint(next) : next;
    }
    const text = wanted.map(({ id }) => id).join(",");
    expect(formatConfiguration(conf)).toBe(`voters ${text} witnesses ${String(third)}`);
  }
});

test("a joint configuration is left by raft alone", () => {
  const joint = changeConfiguration(four, { promote: [4], remove: [3] });
  expect(nextConfiguration(joint, [1, 2, 4].map(member), view(joint, [1, 2, 3, 4]))).toBeNull();
});

test("from any members to any other wanted ones, and never fewer voters than before", () => {
  for (let mask = 1; mask < 64; mask++) {
    const wanted = [4, 5, 6, 1, 2, 3].filter((id) => (mask & (1 << (id - 1))) !== 0).map(member);
    let conf = three;
    for (let step = 0; step < 20; step++) {
      const everyone = conf.members.map((one) => one.id);
      const next = nextConfiguration(conf, wanted, view(conf, everyone, everyone));
      if (next === null) break;
      expect(next.members.length).toBeLessThanOrEqual(9);
      conf = next.joint ? leaveJoint(next) : next;
      const voters = formatConfiguration(conf).split(" ")[1]!.split(",").length;
      expect(voters).toBeGreaterThanOrEqual(Math.min(3, wanted.length));
    }
    const text = wanted.map((one) => one.id).sort((a, b) => a - b);
    expect(formatConfiguration(conf)).toBe(`voters ${text.join(",")}`);
  }
});
