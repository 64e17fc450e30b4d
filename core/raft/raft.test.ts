/**
 * Runs the scripts of `testdata/`: each command's trace is compared with the text below it.
 *
 * `RAFT_SCRIPTS_REWRITE=1 bun test core/raft/raft.test.ts` writes what happened into the scripts;
 * read the difference before keeping it.
 */
import { expect, test } from "bun:test";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  Configuration,
  CONFIGURATION_EMPTY,
  formatConfiguration,
  type NewMember,
  ProgressState,
  Refusal,
  Role,
} from "./raft.ts";
import { Cluster, describe, type Frame } from "./testdata/raft-cluster.ts";

const FOLDER = join(import.meta.dir, "testdata");
const rewriting = Bun.env["RAFT_SCRIPTS_REWRITE"] === "1";

type Arguments = Map<string, string>;

class Script {
  private cluster = new Cluster(1);

  run(line: string): string {
    const [command, ...words] = line.split(" ");
    const positional = words.filter((word) => !word.includes("="));
    const named: Arguments = new Map(
      words
        .filter((word) => word.includes("="))
        .map((word) => word.split("=", 2) as [string, string]),
    );
    this.cluster.trace = [];
    const answer = this.dispatch(command ?? "", positional, named);
    const lines = [...this.cluster.trace];
    if (answer !== "") lines.push(answer);
    return lines.length === 0 ? "ok" : lines.join("\n");
  }

  private dispatch(command: string, words: string[], named: Arguments): string {
    const id = Number(words[0] ?? 0);
    const on = words[1] !== "off";
    const cluster = this.cluster;
    switch (command) {
      case "cluster":
        this.cluster = new Cluster(1);
        this.make(named);
        this.cluster.trace = [];
        return "";
      case "join":
        cluster.add(id, this.confOf(named));
        return "";
      case "campaign":
        cluster.node(id).campaign();
        return "";
      case "elect":
        cluster.elect(id);
        return "";
      case "tick":
        for (let at = 0; at < Number(words[1] ?? 1); at++) cluster.node(id).tick();
        return "";
      case "process":
        cluster.process(id);
        return this.pending(id);
      case "flush":
        return cluster.flush(id) ? "" : "nothing to flush";
      case "stabilize":
        cluster.stabilize();
        return "";
      case "deliver":
        this.deliver(named);
        return "";
      case "drop":
        return this.drop(named);
      case "network":
        return cluster.network.map((frame) => describe(frame.message, frame.payload)).join("\n");
      case "propose":
        return refusal(cluster.propose(id, words[1] ?? "x"));
      case "change":
        return this.change(id, named);
      case "transfer":
        return String(cluster.node(id).transferLeadership(Number(words[1])));
      case "read":
        return `ticket ${cluster.node(id).readIndex()}`;
      case "peer":
        cluster.node(id).setPeerActive(Number(words[1]), words[2] === "active");
        return "";
      case "reset":
        cluster.node(id).peerReset(Number(words[1]));
        return "";
      case "restarted":
        cluster.node(id).peerRestarted(Number(words[1]));
        return "";
      case "start-block":
        cluster.replica(id).startBlocked = on;
        return "";
      case "promise":
        if (words[2] === "off") cluster.replica(id).promises.delete(Number(words[1]));
        else cluster.replica(id).promises.add(Number(words[1]));
        return "";
      case "crash":
        cluster.crash(id, Number(named.get("survivors") ?? 0));
        return "";
      case "start":
        cluster.start(id);
        return "";
      case "cut":
        return this.cut(words);
      case "heal":
        cluster.cuts.clear();
        return "";
      default:
        return this.dispatchMore(command, id, words, on);
    }
  }

  private dispatchMore(command: string, id: number, words: string[], on: boolean): string {
    const cluster = this.cluster;
    switch (command) {
      case "faulty":
        cluster.node(id).setFaulty(on);
        return "";
      case "compact":
        cluster.compact(id, Number(words[1]));
        return "";
      case "fill":
        this.fill(id, Number(words[1]));
        return "";
      case "wait-for-fill":
        cluster.waitForFill(id, true);
        return "";
      case "filled":
        cluster.endFill(id);
        return "";
      case "hold":
        cluster.held.add(id);
        return "";
      case "echo": {
        const echoes = cluster.replica(id).echoes;
        echoes.set(Number(words[1]), (echoes.get(Number(words[1])) ?? 0) + 1);
        return "";
      }
      case "lease":
        return this.lease(id);
      case "status":
        return this.status(words);
      case "log":
        return this.log(id);
      case "conf":
        return formatConfiguration(cluster.node(id).conf);
      case "peers":
        return this.peers(id);
      default:
        throw new Error(`script: unknown command: ${command}`);
    }
  }

  private make(named: Arguments): void {
    const voters = numbers(named.get("voters"));
    const learners = numbers(named.get("learners"));
    const ids = [...voters, ...learners].sort((a, b) => a - b);
    const mask = (wanted: number[]): number =>
      ids.reduce((sum, id, slot) => (wanted.includes(id) ? sum | (1 << slot) : sum), 0);
    const witnesses = numbers(named.get("witnesses"));
    const members = ids.map((id) => ({
      id,
      osd: id,
      storeUuid: uuid(id),
      witness: witnesses.includes(id),
    }));
    const next = (ids.at(-1) ?? 0) + 1;
    const conf = new Configuration(members, mask(voters), 0, mask(learners), 0, next);
    for (const id of ids) this.cluster.add(id, conf);
    const leader = named.get("leader");
    if (leader === undefined) return;
    // A settled group: everybody knows that the Noop is committed.
    this.cluster.node(Number(leader)).campaign();
    for (let round = 0; round < 3; round++) {
      this.cluster.stabilize();
      this.cluster.node(Number(leader)).tick();
    }
  }

  /** Without `conf-of` the new replica knows of no configuration. */
  private confOf(named: Arguments): Configuration {
    const other = named.get("conf-of");
    return other === undefined ? CONFIGURATION_EMPTY : this.cluster.node(Number(other)).conf;
  }

  private deliver(named: Arguments): void {
    const taken = this.take(named);
    for (const frame of taken) this.cluster.deliver(frame);
  }

  private drop(named: Arguments): string {
    return `${this.take(named).length} dropped`;
  }

  private take(named: Arguments): Frame[] {
    const matching = (frame: Frame): boolean => {
      const { message } = frame;
      const from = named.get("from");
      const to = named.get("to");
      const type = named.get("type");
      const text = `${describe(message, frame.payload)} `;
      return (
        (from === undefined || Number(from) === message.from) &&
        (to === undefined || Number(to) === message.to) &&
        (type === undefined || text.includes(` ${type} `))
      );
    };
    const taken = this.cluster.network.filter(matching);
    if (!named.has("copy")) {
      this.cluster.network = this.cluster.network.filter((frame) => !matching(frame));
    }
    return taken;
  }

  private change(id: number, named: Arguments): string {
    const added = Number(named.get("add") ?? 0);
    const next = this.cluster.node(id).conf.nextReplicaId;
    const ids = numbers(named.get("ids"));
    const addLearners: NewMember[] = Array.from({ length: added }, (_, at) => ({
      osd: next + at,
      storeUuid: uuid(next + at),
    }));
    addLearners.push(...ids.map((one) => ({ id: one, osd: one, storeUuid: uuid(one) })));
    return refusal(
      this.cluster.change(id, {
        addLearners,
        promote: numbers(named.get("promote")),
        demote: numbers(named.get("demote")),
        remove: numbers(named.get("remove")),
      }),
    );
  }

  private cut(words: string[]): string {
    for (const word of words) {
      const [from, to] = word.split("-");
      this.cluster.cuts.add(`${from}>${to}`);
      this.cluster.cuts.add(`${to}>${from}`);
    }
    return "";
  }

  private pending(id: number): string {
    const lines = this.cluster.replica(id).writes.map((write) => {
      const hard = write.hard === null ? "" : ` term ${write.hard.term} vote ${write.hard.vote}`;
      const entries = write.entries.map((entry) => ` ${entry.index}/${entry.payload.term}`);
      return `${id}: write pending:${hard}${entries.join("")}`;
    });
    const messages = this.cluster.network.filter((frame) => frame.message.from === id);
    lines.push(...messages.map((frame) => describe(frame.message, frame.payload)));
    return lines.join("\n");
  }

  private status(words: string[]): string {
    const ids = words.length > 0 ? words.map(Number) : [...this.cluster.replicas.keys()];
    return ids.map((id) => this.statusOf(id)).join("\n");
  }

  private statusOf(id: number): string {
    const { node } = this.cluster.replica(id);
    if (node === null) return `${id}: down`;
    return (
      `${id}: ${Role[node.role]} term ${node.term} vote ${node.vote} leader ${node.leader}` +
      ` commit ${node.commitIndex} last ${node.log.lastIndex}/${node.log.lastTerm}` +
      ` ${node.needsTick ? "ticks" : "quiet"}`
    );
  }

  private log(id: number): string {
    const node = this.cluster.node(id);
    const { log } = node;
    let text = `base ${log.baseIndex}/${log.baseTerm}`;
    for (let index = log.baseIndex + 1; index <= log.lastIndex; index++) {
      const value = this.cluster.replica(id).entries.get(index)?.value;
      text += `, ${index}/${log.termAt(index)} ${value}${index <= node.commitIndex ? "" : "?"}`;
    }
    return text;
  }

  /** From the applied position of replica `from`. */
  private fill(id: number, from: number): void {
    const leader = this.cluster.node(from);
    const index = leader.appliedIndex;
    this.cluster.beginFill(id, index, leader.log.termAt(index), leader.conf);
  }

  private lease(id: number): string {
    const node = this.cluster.node(id);
    const counted = node.conf.members.filter((_, slot) => node.leaseCounts(slot));
    return `echoes count of: ${counted.map((member) => member.id).join(",") || "nobody"}`;
  }

  private peers(id: number): string {
    const node = this.cluster.node(id);
    const lines: string[] = [];
    for (let slot = 0; slot < node.peerSlots; slot++) {
      const peer = node.progress[slot]!;
      if (peer.id === id) continue;
      const filling = peer.filling ? " filling" : "";
      lines.push(
        `${peer.id}: ${ProgressState[peer.state]} match ${peer.match} next ${peer.next}${filling}`,
      );
    }
    return lines.join("\n");
  }
}

function numbers(text: string | undefined): number[] {
  return text === undefined ? [] : text.split(",").map(Number);
}

function uuid(id: number): string {
  return id.toString(16).padStart(32, "0");
}

function refusal(index: number): string {
  return index > 0 ? `index ${index}` : `refused: ${Refusal[index]}`;
}

/** Blocks of `command`, `----`, expected lines, empty line; comments and empty lines between. */
function replay(text: string): string {
  const script = new Script();
  const output: string[] = [];
  const lines = text.split("\n");
  for (let at = 0; at < lines.length; at++) {
    const line = lines[at]!;
    if (line === "" || line.startsWith("#")) {
      output.push(line);
      continue;
    }
    output.push(line);
    if (lines[at + 1] === "----") {
      at += 2;
      while (at < lines.length && lines[at] !== "") at++;
      at--;
    }
    output.push("----", script.run(line));
    if (lines[at + 1] !== "") output.push("");
  }
  return output.join("\n");
}

const files = readdirSync(FOLDER).filter((name) => name.endsWith(".txt"));

test("there are scripts", () => {
  expect(files.length).toBeGreaterThan(15);
});

for (const name of files) {
  test(`script ${name}`, () => {
    const path = join(FOLDER, name);
    const text = readFileSync(path, "utf8");
    expect(text.startsWith("# ")).toBe(true);
    const seen = replay(text);
    if (rewriting) writeFileSync(path, seen);
    else expect(seen).toBe(text);
  });
}
