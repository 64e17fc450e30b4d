// Children of the gate: run to their end within a time limit, output kept in order of arrival.
import { tmpdir } from "node:os";
import { join } from "node:path";

/** The repository's root. */
export const ROOT: string = join(import.meta.dir, "..");

export interface RunOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Milliseconds after which it is killed. */
  readonly limitMs?: number;
}

export interface RunResult {
  /** The exit code; 128 + the signal for a killed one; 127 when it could not be started. */
  readonly code: number;
  readonly stdout: string;
  /** Both streams together, as a terminal would have shown them. */
  readonly output: string;
  readonly isTimedOut: boolean;
  readonly tookMs: number;
}

const LIMIT_MS_DEFAULT = 180_000;

/** Run `command` (program and arguments, no shell). Answers a result for every end, throws never. */
export async function run(
  command: readonly string[],
  options: RunOptions = {},
): Promise<RunResult> {
  const startedMs = performance.now();
  const limitMs = options.limitMs ?? LIMIT_MS_DEFAULT;
  try {
    const child = Bun.spawn([...command], {
      cwd: options.cwd ?? ROOT,
      env: { ...process.env, ...options.env },
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
      timeout: limitMs,
      killSignal: "SIGKILL",
    });
    const chunks: string[] = [];
    const [stdout] = await Promise.all([
      collect(child.stdout, chunks),
      collect(child.stderr, chunks),
    ]);
    const code = await child.exited;
    const tookMs = performance.now() - startedMs;
    const isTimedOut = child.signalCode === "SIGKILL" && tookMs >= limitMs;
    if (isTimedOut) chunks.push(`\nkilled after ${Math.round(tookMs)} ms, limit ${limitMs} ms\n`);
    return { code, stdout, output: chunks.join(""), isTimedOut, tookMs };
  } catch (error) {
    const output = `${command[0]} could not be started: ${String(error)}`;
    const tookMs = performance.now() - startedMs;
    return { code: 127, stdout: "", output, isTimedOut: false, tookMs };
  }
}

async function collect(stream: ReadableStream<Uint8Array>, chunks: string[]): Promise<string> {
  const decoder = new TextDecoder();
  let all = "";
  for await (const chunk of stream) {
    const text = decoder.decode(chunk, { stream: true });
    all += text;
    chunks.push(text);
  }
  return all;
}

/** The path of an installed tool of node_modules. */
export function tool(name: string): string {
  return join(ROOT, "node_modules", ".bin", name);
}

/** Where this run of the gate keeps its reports and data. */
export const SCRATCH: string = join(tmpdir(), `fastblock-gate-${process.pid}`);
