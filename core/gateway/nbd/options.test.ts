import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { infoRequest, metaRequest } from "./bun-raw-client.ts";
import { optionText, parseInfoRequest, parseMetaRequest } from "./options.ts";

describe("options", () => {
  test("well-formed requests are understood", () => {
    expect(parseInfoRequest(infoRequest("p/i", [3, 1]))).toEqual({ name: "p/i", wantsName: true });
    expect(parseInfoRequest(infoRequest(""))).toEqual({ name: "", wantsName: false });
    expect(parseMetaRequest(metaRequest("p/i", "x:y", "base:allocation"))).toEqual({
      name: "p/i",
      matchesExactly: true,
      matchesList: true,
    });
  });

  test("names are strict UTF-8 without NUL", () => {
    expect(optionText(Buffer.from("é/ü"))).toBe("é/ü");
    expect(optionText(Buffer.from([0xc3]))).toBeNull();
    expect(optionText(Buffer.from("a\0b"))).toBeNull();
  });

  test("any bytes, and any damage to good ones, parse or are refused: never an exception", () => {
    const good = [infoRequest("demo/disk", [1, 3]), metaRequest("demo/disk", "base:", "a:b")];
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (data) => {
        parseInfoRequest(data);
        parseMetaRequest(data);
      }),
      { numRuns: 3000 },
    );
    fc.assert(
      fc.property(
        fc.constantFrom(...good),
        fc.nat(),
        fc.nat(255),
        fc.nat(60),
        (from, at, value, cut) => {
          const data = Uint8Array.from(from);
          data[at % data.length] = value;
          const short = data.subarray(0, Math.max(0, data.length - cut));
          for (const one of [data, short]) {
            const info = parseInfoRequest(one);
            const meta = parseMetaRequest(one);
            for (const found of [info, meta]) {
              if (found !== null) expect(found.name.length).toBeLessThanOrEqual(one.length);
            }
          }
        },
      ),
      { numRuns: 3000 },
    );
  });
});
