import { describe, expect, test } from "bun:test";
import type { TraceOpView, TraceView } from "../mon/mon.ts";
import { traceSvg } from "./trace-svg.ts";

const OP: TraceOpView = {
  ...{ kind: "write", pg: "1.4", session: 5, number: 7, totalUs: 405, leader: "osd.0" },
  ...{ slowestFollower: "osd.1", stagesUs: { client: 10, replicate: 270 } },
  lanes: [
    { process: 'nbd "<&>"\u0001', role: "client", isAligned: false },
    { process: "osd.0", role: "leader", isAligned: false },
    { process: "osd.1", role: "follower", isAligned: true },
  ],
  bars: [
    { lane: 0, stage: "client", fromUs: 0, toUs: 10 },
    { lane: 0, stage: "request", fromUs: 10, toUs: 50 },
    { lane: 1, stage: "admit", fromUs: 50, toUs: 70 },
    { lane: 1, stage: "replicate", fromUs: 70, toUs: 340 },
    { lane: 1, stage: "answer", fromUs: 340, toUs: 350 },
    { lane: 0, stage: "reply", fromUs: 350, toUs: 400 },
    { lane: 0, stage: "finish", fromUs: 400, toUs: 405 },
    { lane: 1, stage: "log-wait", fromUs: 70, toUs: 80 },
    { lane: 1, stage: "log-write", fromUs: 80, toUs: 300 },
    { lane: 2, stage: "append", fromUs: 75, toUs: 100 },
    // Beyond the end: a follower that nobody had to wait for.
    { lane: 2, stage: "follower-write", fromUs: 120, toUs: 900 },
  ],
};

const TRACE: TraceView = {
  ...{ state: "on", sample: 10, startedAt: "2026-01-31T12:00:00.000Z", secondsLeft: 3 },
  ...{ processes: [], writes: 1, reads: 0, partial: 0, rowsLost: 0, stages: [] },
  typical: OP,
  slowest: [
    { ...OP, totalUs: 5_000_000 },
    { ...OP, totalUs: 0, bars: [] },
  ],
};

/** Names of the elements that a document has. Throws where it is not well formed. */
function elementsOf(document: string): string[] {
  const open: string[] = [];
  const names: string[] = [];
  let at = 0;
  const tag = /<(\/?)([a-z]+)((?: [a-zA-Z0-9:-]+="[^"<&]*(?:&[a-z]+;[^"<&]*)*")*)(\/?)>/g;
  for (const match of document.matchAll(tag)) {
    const text = document.slice(at, match.index);
    if (/[<>]|&(?!(?:amp|lt|gt|quot);)/.test(text)) throw new Error(`broken text: ${text}`);
    at = match.index + match[0].length;
    const [, isEnd, name = "", , isEmpty] = match;
    if (isEnd === "/") {
      if (open.pop() !== name) throw new Error(`</${name}> ends another element`);
    } else {
      names.push(name);
      if (isEmpty !== "/") open.push(name);
    }
  }
  if (open.length > 0) throw new Error(`left open: ${open.join(", ")}`);
  return names;
}

describe("the picture of a trace", () => {
  const svg = traceSvg(TRACE);

  test("it is well formed, whatever processes are called, and needs nothing from elsewhere", () => {
    const names = elementsOf(svg);
    expect(names[0]).toBe("svg");
    // A ground, a legend of 5, and the bars.
    expect(names.filter((name) => name === "rect").length).toBe(6 + 2 * OP.bars.length);
    expect(svg).toContain("nbd &quot;&lt;&amp;&gt;&quot;?");
    expect(svg.replace('xmlns="http://www.w3.org/2000/svg"', "")).not.toMatch(
      /https?:|url\(|href|script|@import/,
    );
  });

  test("it has the typical operation and the slowest ones, their lanes, and the commit", () => {
    expect(svg).toContain(">Typical write (p50): 405 µs<");
    expect(svg).toContain(">Slowest write: 5 s<");
    expect(svg).toContain(">Slowest write, no. 2: 0 µs<");
    for (const role of ["client", "leader", "follower"]) {
      expect(svg).toContain(`class="faint" x="108" y="`);
      expect(svg).toContain(`>${role}</text>`);
    }
    expect(svg).toContain(">committed</text>");
    expect(svg).toContain("another clock, put in the middle of request and answer: osd.1");
  });

  test("every bar is within the picture and says what it is", () => {
    const bars = [...svg.matchAll(/<rect class="\w+" x="([\d.]+)" y="\d+" width="([\d.]+)"/g)];
    expect(bars.length).toBe(5 + 2 * OP.bars.length);
    for (const [, x, width] of bars) expect(Number(x) + Number(width)).toBeLessThanOrEqual(1040);
    expect(svg).toContain("<title>replicate: 270 µs</title>");
    expect(svg).toContain(">replicate 270 µs</text>");
  });

  test("it has colours for dark and light", () => {
    expect(svg).toContain("prefers-color-scheme: dark");
    expect(svg.match(/\.ground \{ fill: #/g)?.length).toBe(2);
    // Viewers of pictures, unlike browsers, know no variables: everything would be black.
    expect(svg).not.toContain("var(");
  });
});
