import type { TraceOpView, TraceView } from "../mon/mon.ts";
import { formatDurationUs } from "./units.ts";

/**
 * A trace as a picture: each operation a waterfall with a lane for each process, on a scale of its own.
 *
 *   lane of the leader: what follows each other above, its log below, beside that
 *
 * One file without anything from elsewhere, in the colours of the reader's theme; texts are black or
 * white where they lie on bars, whose colours are the same in both.
 */

const WIDTH = 1040;
const LABEL_WIDTH = 150;
const MARGIN = 16;
const BAR_HEIGHT = 20;
const LANE_GAP = 8;
const HEAD_HEIGHT = 48;
const AXIS_HEIGHT = 26;
const PANEL_GAP = 22;
const LEGEND_HEIGHT = 40;
const CHAR_WIDTH = 6.8;
const TICKS_MAX = 8;

type Bar = TraceOpView["bars"][number];

enum Hue {
  Client = "client",
  Network = "network",
  Leader = "leader",
  Wait = "wait",
  Write = "write",
}

const HUES: Readonly<Record<string, Hue>> = {
  client: Hue.Client,
  finish: Hue.Client,
  request: Hue.Network,
  reply: Hue.Network,
  append: Hue.Network,
  acknowledge: Hue.Network,
  "log-wait": Hue.Wait,
  "follower-wait": Hue.Wait,
  "log-write": Hue.Write,
  "follower-write": Hue.Write,
};

const LEGEND: readonly (readonly [Hue, string])[] = [
  [Hue.Client, "client"],
  [Hue.Network, "network, and waiting to be read"],
  [Hue.Leader, "leader"],
  [Hue.Wait, "waits for a batch"],
  [Hue.Write, "durable write"],
];

const STYLE = `
  text { font: 12px ui-sans-serif, system-ui, sans-serif; fill: #1b1f24; }
  .ground { fill: #ffffff; } .faint { fill: #59636e; } .title { font-size: 15px; font-weight: 600; }
  .line { stroke: #d1d9e0; } .commit { stroke: #1b1f24; stroke-dasharray: 4 3; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6eaef; } .ground { fill: #14171c; } .faint { fill: #9aa5b1; }
    .line { stroke: #3a424c; } .commit { stroke: #e6eaef; }
  }
  .client { fill: #8f5bd1; } .network { fill: #b9c2cc; } .leader { fill: #2f6fd0; }
  .wait { fill: #f0c14b; } .write { fill: #b4451f; }
  .on-client, .on-leader, .on-write { fill: #ffffff; } .on-network, .on-wait { fill: #15181c; }
`;

/** The typical operation of a trace and its slowest ones. Requires that there is one. */
export function traceSvg(trace: TraceView): string {
  const { typical } = trace;
  const panels: (readonly [string, TraceOpView])[] = [];
  if (typical !== null) panels.push([`Typical ${typical.kind} (p50)`, typical]);
  trace.slowest.forEach((op, at) => {
    panels.push([at === 0 ? `Slowest ${op.kind}` : `Slowest ${op.kind}, no. ${at + 1}`, op]);
  });
  let body = "";
  let top = MARGIN;
  for (const [title, op] of panels) {
    const panel = panelOf(title, op, top);
    body += panel.text;
    top += panel.height + PANEL_GAP;
  }
  body += legendOf(top);
  const height = top + LEGEND_HEIGHT;
  const size = `width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}"`;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" ${size} role="img" aria-labelledby="what">`,
    `<title id="what">${escaped(titleOf(trace))}</title>`,
    `<style>${STYLE}</style>`,
    `<rect class="ground" width="${WIDTH}" height="${height}"/>`,
    `${body}</svg>\n`,
  ].join("\n");
}

function titleOf({ writes, reads, sample, startedAt }: TraceView): string {
  return `Where the time goes: ${writes} writes and ${reads} reads, 1 in ${sample}, from ${startedAt ?? "?"}`;
}

interface Panel {
  readonly text: string;
  readonly height: number;
}

function panelOf(title: string, op: TraceOpView, top: number): Panel {
  const endUs = Math.max(1, op.totalUs, ...op.bars.map(({ toUs }) => toUs));
  const scale = (WIDTH - 2 * MARGIN - LABEL_WIDTH) / endUs;
  const x = (us: number): number => MARGIN + LABEL_WIDTH + us * scale;
  const where = `group ${op.pg}, led by ${op.leader}`;
  const head = `${title}: ${formatDurationUs(op.totalUs)}`;
  let text = textAt(MARGIN, top + 14, "title", head);
  text += textAt(MARGIN, top + 32, "faint", where + alignedText(op));
  const lanesTop = top + HEAD_HEIGHT;
  let laneTop = lanesTop;
  let lanes = "";
  op.lanes.forEach((lane, at) => {
    const bars = op.bars.filter((bar) => bar.lane === at);
    const rows = rowsOf(bars);
    lanes += textAt(MARGIN, laneTop + 14, "", fitted(lane.process, LABEL_WIDTH - 60));
    lanes += textAt(MARGIN + LABEL_WIDTH - 58, laneTop + 14, "faint", lane.role);
    rows.forEach((row, below) => {
      for (const bar of row) lanes += barAt(bar, x, laneTop + below * BAR_HEIGHT);
    });
    laneTop += rows.length * BAR_HEIGHT + LANE_GAP;
  });
  text += axisOf(endUs, x, lanesTop, laneTop) + lanes;
  text += markOf(op, x, lanesTop, laneTop);
  return { text, height: laneTop + AXIS_HEIGHT - top };
}

function alignedText({ lanes }: TraceOpView): string {
  const others = lanes.filter(({ isAligned }) => isAligned).map(({ process }) => process);
  return others.length === 0
    ? ""
    : `; another clock, put in the middle of request and answer: ${others.join(", ")}`;
}

/** Bars that go on beside each other lie in two rows. */
function rowsOf(bars: readonly Bar[]): readonly (readonly Bar[])[] {
  const isBeside = ({ stage }: Bar): boolean => stage.startsWith("log-") || stage === "apply";
  const below = bars.filter(isBeside);
  return below.length === 0 ? [bars] : [bars.filter((bar) => !isBeside(bar)), below];
}

function barAt(bar: Bar, x: (us: number) => number, top: number): string {
  const from = x(bar.fromUs);
  const width = Math.max(0.75, x(bar.toUs) - from);
  const hue = HUES[bar.stage] ?? Hue.Leader;
  const took = formatDurationUs(Math.round((bar.toUs - bar.fromUs) * 10) / 10);
  const label = [`${bar.stage} ${took}`, bar.stage, took].find(
    (one) => one.length * CHAR_WIDTH + 8 <= width,
  );
  const shape = `x="${round(from)}" y="${top}" width="${round(width)}" height="${BAR_HEIGHT - 2}"`;
  const tip = `<title>${escaped(`${bar.stage}: ${took}`)}</title>`;
  const rect = `<rect class="${hue}" ${shape} rx="2">${tip}</rect>\n`;
  return label === undefined ? rect : rect + textAt(from + 4, top + 13, `on-${hue}`, label);
}

function axisOf(endUs: number, x: (us: number) => number, top: number, bottom: number): string {
  const step = stepOf(endUs);
  let text = "";
  for (let us = 0; us <= endUs; us += step) {
    const at = round(x(us));
    text += `<line class="line" x1="${at}" y1="${top - 4}" x2="${at}" y2="${bottom}"/>\n`;
    const label = formatDurationUs(us);
    if (at + 3 + label.length * CHAR_WIDTH > WIDTH) continue;
    text += textAt(at + 3, bottom + 12, "faint", label);
  }
  return text;
}

/** 1, 2 or 5 times a power of ten, so that there are a few ticks. */
function stepOf(endUs: number): number {
  for (let power = 1; ; power *= 10) {
    for (const factor of [1, 2, 5]) {
      if (endUs / (power * factor) <= TICKS_MAX) return power * factor;
    }
  }
}

/** From here on nothing keeps the client waiting but the way back. */
function markOf(op: TraceOpView, x: (us: number) => number, top: number, bottom: number): string {
  const replicate = op.bars.find(({ stage }) => stage === "replicate");
  if (replicate === undefined) return "";
  const at = x(replicate.toUs);
  const line = `<line class="commit" x1="${round(at)}" y1="${top - 8}" x2="${round(at)}" y2="${bottom}"/>\n`;
  return line + textAt(at > WIDTH / 2 ? at - 70 : at + 3, top - 8, "", "committed");
}

function legendOf(top: number): string {
  let left = MARGIN;
  let text = "";
  for (const [hue, words] of LEGEND) {
    text += `<rect class="${hue}" x="${left}" y="${top}" width="14" height="14" rx="2"/>\n`;
    text += textAt(left + 20, top + 12, "", words);
    left += 44 + words.length * CHAR_WIDTH;
  }
  return text;
}

function textAt(x: number, y: number, kind: string, words: string): string {
  const shape = kind === "" ? "" : ` class="${kind}"`;
  return `<text${shape} x="${round(x)}" y="${round(y)}">${escaped(words)}</text>\n`;
}

function fitted(words: string, width: number): string {
  const count = Math.floor(width / CHAR_WIDTH);
  return words.length <= count ? words : `${words.slice(0, count - 1)}…`;
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}

/** Names of processes are what their owners chose. */
function escaped(words: string): string {
  const control = /[\p{Cc}\p{Cs}\uFFFE\uFFFF]/gu;
  return words
    .replace(control, "?")
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;");
}
