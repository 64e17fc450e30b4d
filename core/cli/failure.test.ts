import { describe, expect, test } from "bun:test";
import { assert } from "../base/assert.ts";
import { type ErrorCode, ERRORS, FastblockError } from "../base/errors.ts";
import { errorOfProblem, exitOf, explain, formatProblem, problemOf } from "./failure.ts";

const plain = (text: string): string => text;

describe("errors", () => {
  test("people see code, what failed, why, hint and where to read on", () => {
    const error = new FastblockError("FB2001", "removing pool x: it does not exist", {
      why: "there are a, b",
    });
    expect(formatProblem(problemOf(error), plain)).toBe(
      "error FB2001: removing pool x: it does not exist\n" +
        "  why   there are a, b\n" +
        "  hint  fastblock pool ls shows the pools\n" +
        "  more  fastblock explain FB2001\n",
    );
    expect(exitOf(error)).toBe(3);
  });

  test("an unknown failure has no code and exits with 1", () => {
    const error = new Error("boom");
    expect(formatProblem(problemOf(error), plain)).toBe("error: boom\n");
    expect(exitOf(error)).toBe(1);
  });

  test("a broken invariant is called a bug", () => {
    let caught: unknown;
    try {
      assert(false, "x is y");
    } catch (error) {
      caught = error;
    }
    expect(problemOf(caught).title).toStartWith("A bug in fastblock");
  });

  test("a problem document of the mon becomes the same error again", () => {
    const error = new FastblockError("FB3002", "creating a/b: it exists", { hint: "choose c" });
    const again = errorOfProblem({ ...problemOf(error) }, 409);
    expect(again.code).toBe("FB3002");
    expect(again.message).toBe(error.message);
    expect(again.hint).toBe("choose c");
    expect(exitOf(again)).toBe(4);
  });

  test.each<[number, ErrorCode]>([
    [401, "FB1007"],
    [403, "FB1007"],
    [400, "FB1001"],
    [500, "FB1003"],
    [503, "FB1004"],
    [504, "FB1006"],
  ])("an answer %d without a known code becomes %s", (status, code) => {
    expect(errorOfProblem({ code: "FB9999", detail: "x" }, status).code).toBe(code);
    expect(errorOfProblem("x", status).code).toBe(code);
  });

  test("every code explains itself, and exits as the table of exit codes says", () => {
    for (const code of Object.keys(ERRORS)) {
      const words = explain(code.toLowerCase());
      expect(words["code"]).toBe(code);
      expect(words["hint"]).not.toBe("");
      expect([1, 2, 3, 4, 5, 6, 7, 8, 9]).toContain(Number(words["exit"]));
    }
    expect(() => explain("FB0")).toThrow("no such code");
  });
});
