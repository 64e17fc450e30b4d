import { expect, test } from "bun:test";
import { terminalLogger } from "./terminal-logger.ts";

test("a warning is words with what was seen, why and what to do; what is less is left out", () => {
  let text = "";
  const logger = terminalLogger("warn", (more) => (text += more));
  logger.info("reactor", { backend: "uring" });
  logger.child({ shard: 1 }).warn("buffers stay unregistered", { errno: 12, hint: "raise it" });
  expect(text).toBe("warning: buffers stay unregistered (shard 1, errno 12)\n  hint  raise it\n");
  text = "";
  const errors = terminalLogger("error", (more) => (text += more));
  errors.warn("slower", { why: "no ring" });
  errors.error("failed", { why: "no ring" });
  expect(text).toBe("error: failed\n  why   no ring\n");
});
