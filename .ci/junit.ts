// Counts what a run of `bun test` proved. Its report alone is not enough: a file that throws while it
// loads has no row, and after a crash the files behind it may have none.

export interface TestCounts {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  /** Each failed case or file, for people. */
  readonly failures: readonly string[];
  /** Failed cases that ran out of time, or say that they waited: nothing else is known against them. */
  readonly late: number;
  /** The case that took longest; null: none tells its time. */
  readonly longest: { readonly file: string; readonly seconds: number } | null;
}

const LATE = /<failure type="(?:TimeoutError"|Error" message="(?:conformance: )?waited )/;

/**
 * Count the cases of a JUnit report. Every file of `files` (paths from the root) without a row is a
 * failure, and so is a non-zero `exitCode` that nothing else explains.
 */
export function countTests(report: string, files: readonly string[], exitCode: number): TestCounts {
  let passed = 0;
  let skipped = 0;
  let late = 0;
  const failures: string[] = [];
  const seen = new Set<string>();
  let longest: TestCounts["longest"] = null;
  for (const match of report.matchAll(/<testcase\b([^>]*?)(\/>|>([\s\S]*?)<\/testcase>)/g)) {
    const attributes = match[1] ?? "";
    const body = match[3] ?? "";
    const file = attribute(attributes, "file");
    seen.add(file);
    const seconds = Number(attribute(attributes, "time"));
    if (seconds > (longest?.seconds ?? 0)) longest = { file, seconds };
    if (/<(failure|error)\b/.test(body)) {
      failures.push(`${file}: ${title(attributes)}`);
      if (LATE.test(body)) late++;
    } else if (body.includes("<skipped")) {
      skipped++;
    } else {
      passed++;
    }
  }
  for (const file of files) {
    if (!seen.has(file)) failures.push(`${file}: no test of it was reported`);
  }
  if (exitCode !== 0 && failures.length === 0) failures.push(`exit code ${exitCode}`);
  return { passed, failed: failures.length, skipped, failures, late, longest };
}

function title(attributes: string): string {
  return [attribute(attributes, "classname"), attribute(attributes, "name")]
    .filter((part) => part !== "")
    .join(" > ");
}

function attribute(attributes: string, name: string): string {
  const match = new RegExp(`\\b${name}="([^"]*)"`).exec(attributes);
  return unescape(match?.[1] ?? "");
}

function unescape(text: string): string {
  return text
    .replaceAll("&lt;", "<")
    .replaceAll("&gt;", ">")
    .replaceAll("&quot;", '"')
    .replaceAll("&apos;", "'")
    .replaceAll("&amp;", "&");
}
