import { expect, test } from "bun:test";
import { join } from "node:path";
import { reactorBench, rpcBench } from "./bench-micro.ts";

const PROGRAM = [process.execPath, join(import.meta.dir, "main.ts")];
const LIMIT_MS = 60_000;

test(
  "each row of the rpc layer has fio's beside it, or the reason why not",
  async () => {
    const common = { blockBytes: 4096, depth: 8, timeMs: 100, backend: "uring" } as const;
    const load = { ...common, encrypt: false };
    const rows = await rpcBench({ ...load, fio: true }, PROGRAM);
    expect(rows.map((row) => [row.name, row.backend])).toEqual([
      ["rpc 4096 B depth 1", "uring"],
      ["fio net 4096 bytes each way depth 1", "fio"],
      ["rpc 4096 B depth 8", "uring"],
      ["fio net 4096 bytes each way depth 8", "fio"],
    ]);
    for (const row of rows.slice(0, 3)) expect(row.iops).toBeGreaterThan(0);
    expect(rows[3]).toMatchObject({ iops: null, note: "fio keeps one message on its way" });
    const alone = await rpcBench({ ...load, depth: 1, fio: false }, PROGRAM);
    expect(alone.map((row) => row.backend)).toEqual(["uring"]);
    const encrypted = await rpcBench({ ...load, depth: 1, fio: false, encrypt: true }, PROGRAM);
    expect(encrypted.map((row) => row.name)).toEqual(["rpc 4096 B depth 1 encrypted"]);
  },
  LIMIT_MS,
);

test(
  "each row of the reactor has fio's behind it",
  async () => {
    const rows = await reactorBench({ timeMs: 50, backend: "uring", fio: true }, PROGRAM);
    expect(rows.map((row) => row.backend)).toEqual(
      Array.from({ length: 10 }, (_, at) => (at % 2 === 0 ? "uring" : "fio")),
    );
    expect(rows.filter((row) => row.iops === null).map((row) => row.name)).toEqual([
      "fio net 64 bytes each way depth 32",
      "fio net 4160 bytes each way depth 32",
    ]);
  },
  LIMIT_MS,
);
