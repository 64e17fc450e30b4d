import { FastblockError } from "../base/errors.ts";
import { errorOfProblem } from "./failure.ts";
import type { Row } from "./output.ts";
import type { CliPorts } from "./ports.ts";

export interface ApiOptions {
  readonly timeoutMs: number;
  /** Ask for every change to be checked, not done. */
  readonly dryRun: boolean;
}

/**
 * The mon's REST interface as the command line uses it: nothing but `/api/v1`.
 *
 * Mons are tried in the order of `cluster.json`; one that can not be reached is passed over,
 * one that answers has the last word.
 */
export class Api {
  private readonly ports: CliPorts;
  private readonly bases: readonly string[];
  private readonly options: ApiOptions;

  /** `bases`: `http://127.0.0.1:7480`, … */
  constructor(ports: CliPorts, bases: readonly string[], options: ApiOptions) {
    this.ports = ports;
    this.bases = bases;
    this.options = options;
  }

  get(path: string): Promise<unknown> {
    return this.ask("GET", path, undefined);
  }

  post(path: string, body?: unknown): Promise<unknown> {
    return this.ask("POST", path, body ?? {});
  }

  patch(path: string, body: unknown): Promise<unknown> {
    return this.ask("PATCH", path, body);
  }

  delete(path: string): Promise<unknown> {
    return this.ask("DELETE", path, undefined);
  }

  /** Rows of a list; follows `nextCursor` to the end. */
  async list(path: string): Promise<Row[]> {
    const rows: Row[] = [];
    let cursor = "";
    do {
      const mark = path.includes("?") ? "&" : "?";
      const page = await this.get(
        cursor === "" ? path : `${path}${mark}cursor=${encodeURIComponent(cursor)}`,
      );
      rows.push(...rowsOf(page));
      const next = isRecord(page) ? page["nextCursor"] : undefined;
      cursor = typeof next === "string" ? next : "";
    } while (cursor !== "");
    return rows;
  }

  /** One object. */
  async object(path: string): Promise<Row> {
    return recordOf(await this.get(path), path);
  }

  private async ask(method: string, path: string, body: unknown): Promise<unknown> {
    const tried: string[] = [];
    const mark = path.includes("?") ? "&" : "?";
    const query = this.options.dryRun && method !== "GET" ? `${mark}dryRun=true` : "";
    for (const base of this.bases) {
      const request = {
        method,
        url: `${base}/api/v1${path}${query}`,
        headers: {
          accept: "application/json",
          ...(body === undefined ? {} : { "content-type": "application/json" }),
        },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        timeoutMs: this.options.timeoutMs,
      };
      try {
        const reply = await this.ports.http(request);
        return readReply(method, path, reply.status, reply.body);
      } catch (error) {
        if (error instanceof FastblockError && error.code !== "FB1004") throw error;
        tried.push(`${base}: ${error instanceof Error ? error.message : String(error)}`);
      }
    }
    throw new FastblockError("FB1004", `asking the mon: ${tried.join("; ") || "none is known"}`);
  }
}

function readReply(method: string, path: string, status: number, text: string): unknown {
  let body: unknown;
  try {
    body = text === "" ? undefined : JSON.parse(text);
  } catch {
    body = undefined;
  }
  if (status >= 200 && status < 300) return body;
  if (body === undefined) {
    throw new FastblockError(
      status === 404 ? "FB1010" : "FB1003",
      `asking the mon: ${method} ${path} answered ${status}, wanted 200`,
    );
  }
  throw errorOfProblem(body, status);
}

/** The rows of a list document: an array, or `{items: […]}`. */
function rowsOf(page: unknown): Row[] {
  const list = isRecord(page) ? page["items"] : page;
  if (!Array.isArray(list)) {
    throw new FastblockError("FB1003", "asking the mon: a list is malformed, wanted items");
  }
  return list.filter(isRecord);
}

/** Narrow a document to an object. */
export function recordOf(value: unknown, what: string): Row {
  if (isRecord(value)) return value;
  throw new FastblockError("FB1003", `asking the mon: ${what} is malformed, wanted an object`);
}

/** A path segment. */
export function segment(text: string): string {
  return encodeURIComponent(text);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
