/**
 * Stop the process when a condition that the code relies on does not hold.
 *
 * Assertions stay on in production: a wrong answer is worse than none. The text is a constant, so
 * that a passing assertion builds no string. One condition an assertion.
 */
export function assert(condition: unknown, text: string): asserts condition {
  if (!condition) throw new AssertionError(text);
}

/** Mark a place that the types or an earlier check make unreachable. */
export function unreachable(text: string): never {
  throw new AssertionError(text);
}

/** A violated invariant: a bug of ours, never an operating error. */
export class AssertionError extends Error {
  override readonly name = "AssertionError";
}

/** The end of a process: nothing is acknowledged behind it. A `World` is one. */
export interface FatalPath {
  fail(error: unknown): void;
}

/**
 * End the process when an error of asynchronous work is a bug, or is that memory ran out.
 *
 * Whoever catches what he does not know asks this first, and neither answers nor goes on when it is
 * true: a promise carries a violated invariant past the turn that would have ended by it. Where
 * memory ran out something is half done, and nobody knows what.
 */
export function failOnBug(path: FatalPath, error: unknown): boolean {
  if (!(error instanceof AssertionError) && !isOutOfMemory(error)) return false;
  path.fail(error);
  return true;
}

/** The engine's words when it gets no memory for an array or a text. */
export function isOutOfMemory(error: unknown): boolean {
  return error instanceof RangeError && error.message === "Out of memory";
}

declare const VERIFY: boolean;

/** True in tests and simulation: costly checks run. A build constant, so shipped code drops them. */
export const verifying: boolean = typeof VERIFY === "undefined" ? false : VERIFY;
