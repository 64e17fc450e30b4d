/**
 * Generate `proto/gen`: `*_pb.ts` for every contract by protoc-gen-es, and `hot.ts`, the
 * fixed-layout codec of the messages of data.proto and raft.proto, from the same descriptors.
 *
 * `bun proto/generate.ts` writes, `bun proto/generate.ts --check` compares and fails on any
 * difference. Needs no network.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createFileRegistry, type FileRegistry, fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { hotSource } from "./generate-hot.ts";

const SOURCE = import.meta.dir;
const ROOT = join(SOURCE, "..");
const TARGET = join(SOURCE, "gen");
const BUF = join(ROOT, "node_modules/@bufbuild/buf/bin/buf");
const PLUGIN = join(ROOT, "node_modules/@bufbuild/protoc-gen-es/bin/protoc-gen-es");

function buf(args: string[], scratch: string): void {
  const result = Bun.spawnSync([process.execPath, BUF, ...args], {
    cwd: SOURCE,
    env: { ...process.env, HOME: scratch, BUF_CACHE_DIR: scratch },
    stdout: "inherit",
    stderr: "inherit",
  });
  if (result.exitCode !== 0) throw new Error(`buf ${args[0]} failed: exit code ${result.exitCode}`);
}

function readDescriptors(scratch: string): FileRegistry {
  const image = join(scratch, "image.binpb");
  buf(["build", "--as-file-descriptor-set", "-o", image], scratch);
  return createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(image)));
}

function generate(target: string, scratch: string): void {
  const template = {
    version: "v2",
    clean: true,
    plugins: [
      {
        local: [process.execPath, PLUGIN],
        out: target,
        opt: ["target=ts", "import_extension=ts"],
      },
    ],
  };
  buf(["lint"], scratch);
  buf(["generate", "--template", JSON.stringify(template)], scratch);
  writeFileSync(join(target, "hot.ts"), hotSource(readDescriptors(scratch)));
}

function differences(expected: string, actual: string): string[] {
  const names = new Set([...readdirSync(expected), ...readdirSync(actual)]);
  const read = (folder: string, name: string): string | undefined => {
    try {
      return readFileSync(join(folder, name), "utf8");
    } catch {
      return undefined;
    }
  };
  return [...names].sort().filter((name) => read(expected, name) !== read(actual, name));
}

function main(): void {
  const scratch = mkdtempSync(join(tmpdir(), "fastblock-proto-"));
  try {
    if (!process.argv.includes("--check")) {
      mkdirSync(TARGET, { recursive: true });
      generate(TARGET, scratch);
      return;
    }
    const fresh = join(scratch, "gen");
    mkdirSync(fresh);
    generate(fresh, scratch);
    const stale = differences(fresh, TARGET);
    if (readdirSync(fresh).length === 0) throw new Error("proto: nothing was generated");
    if (stale.length > 0) {
      console.error(`proto/gen is stale: ${stale.join(", ")}: run bun proto/generate.ts`);
      process.exitCode = 1;
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

main();
