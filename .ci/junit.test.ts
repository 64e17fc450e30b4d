import { describe, expect, test } from "bun:test";
import { countTests } from "./junit.ts";

const REPORT = `<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="bun test" tests="4" failures="1">
  <testsuite name="a.test.ts" file="a.test.ts" tests="4">
    <testsuite name="grp" file="a.test.ts">
      <testcase name="bad" classname="grp" time="0.1" file="a.test.ts" assertions="1">
        <failure type="AssertionError" message="got &lt;testcase&gt;">text</failure>
      </testcase>
      <testcase name="later" classname="grp" file="a.test.ts"><skipped /></testcase>
    </testsuite>
    <testcase name="ok &amp; good" classname="" file="a.test.ts" />
    <testcase name="ok" classname="" file="a.test.ts" />
  </testsuite>
</testsuites>`;

describe("countTests", () => {
  test("counts passed, failed and skipped cases", () => {
    const counts = countTests(REPORT, ["a.test.ts"], 1);
    expect(counts).toEqual({
      passed: 2,
      failed: 1,
      skipped: 1,
      failures: ["a.test.ts: grp > bad"],
      late: 0,
      longest: { file: "a.test.ts", seconds: 0.1 },
    });
  });

  test("a case is late that ran out of time or says that it waited, whatever is behind that", () => {
    const late = (type: string, message: string): number => {
      const failure = `<failure type="${type}" message="${message}">text</failure>`;
      const report = `<testcase name="a" classname="" file="a.test.ts">${failure}</testcase>`;
      return countTests(report, ["a.test.ts"], 1).late;
    };
    expect(late("TimeoutError", "test timed out")).toBe(1);
    expect(late("Error", "waited 5 ms in vain for: all to be well")).toBe(1);
    expect(late("Error", "conformance: waited 5 ms")).toBe(1);
    expect(late("FastblockError", "waited 5 ms")).toBe(0);
    expect(late("AssertionError", "expect(received).toBe(expected), waited 5 ms")).toBe(0);
    expect(late("Error", "block 5 differs, waited 5 ms for it")).toBe(0);
  });

  test("a file without a row is a failure", () => {
    const { passed, failures } = countTests(REPORT, ["a.test.ts", "b.test.ts"], 1);
    expect(passed).toBe(2);
    expect(failures).toEqual(["a.test.ts: grp > bad", "b.test.ts: no test of it was reported"]);
  });

  test("a missing report fails every file", () => {
    expect(countTests("", ["a.test.ts", "b.test.ts"], 137).failed).toBe(2);
  });

  test("an exit code that no row explains is a failure", () => {
    const report = `<testcase name="ok" classname="" file="a.test.ts" />`;
    expect(countTests(report, ["a.test.ts"], 1).failures).toEqual(["exit code 1"]);
    expect(countTests(report, ["a.test.ts"], 0).failed).toBe(0);
  });
});
