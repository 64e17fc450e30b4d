import { test } from "bun:test";
import { runHalf } from "./cluster-harness.ts";

test("G1, G2, G3, G5, G11: clusters lose nothing and serve nothing stale, whatever happens to them: second half", () => {
  runHalf(1);
}, 1_500_000);
