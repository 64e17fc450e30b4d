import { AssertionError } from "../base/assert.ts";
import {
  type ErrorCode,
  type ErrorKind,
  ERRORS,
  FastblockError,
  formatError,
} from "../base/errors.ts";

/** Errors as text and as JSON: one shape for the CLI and for REST (`application/problem+json`). */

/** The body of a problem document. */
export interface Problem {
  readonly code: string;
  readonly title: string;
  /** HTTP status. */
  readonly status: number;
  readonly detail: string;
  readonly why?: string | undefined;
  readonly hint?: string | undefined;
}

/** Exit codes of every command (`fastblock help`, section Exit codes). */
export enum Exit {
  Ok = 0,
  Failed = 1,
  Usage = 2,
  NotFound = 3,
  Conflict = 4,
  Unreachable = 5,
  Denied = 6,
  TimedOut = 7,
  Refused = 8,
  Partly = 9,
  Interrupted = 130,
}

/** True for `FB1001` and the like that this version knows. */
function isErrorCode(text: string): text is ErrorCode {
  return Object.hasOwn(ERRORS, text);
}

/** What `error` is, as a problem document. Unknown errors become FB1003-like without a code. */
export function problemOf(error: unknown): Problem {
  if (error instanceof FastblockError) {
    const kind: ErrorKind = ERRORS[error.code];
    return {
      code: error.code,
      title: kind.title,
      status: kind.http,
      detail: error.message,
      why: error.why,
      hint: error.hint,
    };
  }
  const detail = error instanceof Error ? error.message : String(error);
  const title =
    error instanceof AssertionError ? "A bug in fastblock: an invariant is broken" : "Failed";
  return { code: "FB0000", title, status: 500, detail };
}

/** The error that a problem document of the mon stands for. */
export function errorOfProblem(body: unknown, status: number): FastblockError {
  const problem = isRecord(body) ? body : {};
  const code = text(problem["code"]);
  const detail = text(problem["detail"]) ?? text(problem["message"]) ?? text(problem["title"]);
  const why = text(problem["why"]);
  const hint = text(problem["hint"]);
  const details = {
    ...(why === undefined ? {} : { why }),
    ...(hint === undefined ? {} : { hint }),
  };
  if (code !== undefined && isErrorCode(code)) {
    return new FastblockError(code, detail ?? ERRORS[code].title, details);
  }
  return new FastblockError(
    codeOfHttp(status),
    detail ?? `asking the mon: HTTP status ${status}`,
    details,
  );
}

/** The exit code that an error leads to. */
export function exitOf(error: unknown): number {
  return error instanceof FastblockError ? ERRORS[error.code].exit : Exit.Failed;
}

/** The lines for people. `red` colours a text or leaves it. */
export function formatProblem(problem: Problem, red: (text: string) => string): string {
  const code = problem.code === "FB0000" ? undefined : problem.code;
  const head = red(code === undefined ? "error" : `error ${code}`);
  return formatError({ ...problem, head, message: problem.detail, code });
}

/** What `fastblock explain CODE` says. Throws FB1001 for an unknown code. */
export function explain(codeText: string): Record<string, string | number> {
  const code = codeText.toUpperCase();
  if (!isErrorCode(code)) {
    throw new FastblockError(
      "FB1001",
      `explaining ${codeText}: no such code, wanted one like FB2001`,
    );
  }
  const kind: ErrorKind = ERRORS[code];
  return { code, title: kind.title, hint: kind.hint, exit: kind.exit, http: kind.http };
}

function codeOfHttp(status: number): ErrorCode {
  if (status === 401 || status === 403) return "FB1007";
  if (status === 503) return "FB1004";
  if (status === 504) return "FB1006";
  return status >= 500 ? "FB1003" : "FB1001";
}

function text(value: unknown): string | undefined {
  return typeof value === "string" && value !== "" ? value : undefined;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}
