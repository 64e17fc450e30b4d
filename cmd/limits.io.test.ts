import { expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { allowedCores } from "./cores.ts";

const CHILD = Bun.fileURLToPath(new URL("./limits-child.ts", import.meta.url));

async function told(before: readonly string[], words: readonly string[]): Promise<unknown> {
  const child = Bun.spawn([...before, process.execPath, CHILD, ...words], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const [output, errors] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  expect([await child.exited, errors]).toEqual([0, ""]);
  return JSON.parse(output);
}

test("a shard that is bound to a core runs there and nowhere else", async () => {
  for (const core of allowedCores(readFileSync("/proc/self/status", "utf8")).slice(-2)) {
    expect(await told([], ["pin", String(core)])).toEqual({ allowed: String(core), warnings: [] });
  }
});

test("a core that there is not costs one warning, not the start", async () => {
  const { allowed, warnings } = (await told([], ["pin", "1000"])) as {
    readonly allowed: string;
    readonly warnings: unknown;
  };
  expect(allowed).toBe(
    /^Cpus_allowed_list:\s*(\S+)$/m.exec(readFileSync("/proc/self/status", "utf8"))![1]!,
  );
  expect(warnings).toEqual([{ message: "not pinned", fields: { cpu: 1000, errno: 22 } }]);
});

test.each(["uring", "file"])(
  "a write that the system refuses is a failure of the device, with its errno: %s",
  async (backend) => {
    const folder = mkdtempSync(join(tmpdir(), "fastblock-limits-"));
    try {
      const path = join(folder, "disk");
      writeFileSync(path, "");
      truncateSync(path, 32 * 1_048_576);
      // The signal that comes with the refusal would end the process.
      const limited = ["env", "--ignore-signal=XFSZ", "prlimit", `--fsize=${22 * 1_048_576}`];
      expect(await told(limited, ["write", path, backend])).toEqual({
        right: 22,
        failures: ["WriteDurable 22: DeviceFailed 27", "WriteDurable 23: DeviceFailed 27"],
        warnings: [],
      });
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
);

test("little memory may be locked: one warning, and every block is right", async () => {
  const folder = mkdtempSync(join(tmpdir(), "fastblock-limits-"));
  try {
    const path = join(folder, "disk");
    // The right to lock more than the limit is given up: root has it.
    const isRoot = process.getuid?.() === 0;
    const drop = isRoot ? ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"] : [];
    const limited = [...drop, "prlimit", `--memlock=${8 * 1_048_576}`];
    const { right, warnings } = (await told(limited, ["write", path])) as {
      readonly right: number;
      readonly warnings: readonly { readonly message: string; readonly fields: object }[];
    };
    expect(right).toBe(24);
    expect(warnings).toMatchObject([
      {
        message: "buffers stay unregistered: I/O costs a little more",
        fields: { errno: 12, registeredMiB: expect.any(Number) },
      },
    ]);
    expect(warnings[0]!.fields).toMatchObject({ hint: expect.stringContaining("LimitMEMLOCK") });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test("memory that the system refuses is told as such, whoever asked for it", async () => {
  const bytes = 4000 * 1_048_576;
  expect(await told([], ["allocate", String(bytes)])).toEqual([true, true]);
  const limited = ["prlimit", `--data=${4000 * 1_048_576}`];
  expect(await told(limited, ["allocate", String(bytes)])).toEqual([
    ["FB4012", "allocating memory: refused by the system, wanted it"],
    ["FB4012", "mapping 4000 MiB of memory: errno 12, wanted all of it"],
  ]);
});
