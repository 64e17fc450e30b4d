import { expect, test } from "bun:test";
import { shellWord } from "./shell.ts";

test.each([
  ["/srv/osd.0.img", "/srv/osd.0.img"],
  ["/srv/my disk", "'/srv/my disk'"],
  ["it's", `'it'\\''s'`],
  ["$HOME", "'$HOME'"],
  ["", "''"],
])("the word %p is typed as %s", (word, typed) => {
  expect(shellWord(word)).toBe(typed);
});
