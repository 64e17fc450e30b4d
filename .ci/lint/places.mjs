// Where a file stands in the tree: what the rules `layers`, `seams` and `data-path` decide by.
// All paths are relative to the repository root, with slashes.
import { dirname, join, normalize, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

/** A folder of core/ may import folders of lower rank only. */
export const RANKS = new Map([
  ["base", 0],
  ["metrics", 1],
  ["raft", 1],
  ["cluster", 1],
  ["reactor", 2],
  ["rpc", 3],
  ["device", 3],
  ["store", 4],
  ["log", 5],
  ["object", 5],
  ["pg", 6],
  ["osd", 7],
  ["mon", 7],
  ["client", 7],
  ["gateway", 8],
  ["bench", 8],
  ["cli", 8],
  ["dev", 8],
  ["testing", 9],
]);

/** From this rank up a library may be used; below it only the protobuf runtime. */
export const LIBRARY_RANK_MIN = 7;
/** From this rank up the generated messages may be used. */
export const PROTO_RANK_MIN = 3;

/** Files in which each operation on the data path is taken: they carry the mark. */
const DATA_PATH_FOLDERS = ["reactor", "rpc", "device", "store", "log", "object", "raft"];
const DATA_PATH_FILES = new Set([
  "core/reactor/world.ts",
  "core/pg/pg.ts",
  "core/pg/apply.ts",
  "core/client/striper.ts",
  "core/client/router.ts",
  "core/client/session.ts",
  ...DATA_PATH_FOLDERS.map((folder) => `core/${folder}/${folder}.ts`),
]);

const TEST = /\.test\.tsx?$/;
/** Suites and set-up that several tests share: tests themselves, imported by nothing else. */
const TEST_SUPPORT = /(^|-)(conformance|contract|harness)\.ts$/;

/** The path of a linted file from the root of the repository, or from the root that a test names. */
export function placeOf(filename, root = ROOT) {
  const path = relative(root, filename).split(sep).join("/");
  const parts = path.split("/");
  const name = parts[parts.length - 1];
  return {
    path,
    /** cmd, core, ffi, proto, web … */
    top: parts.length > 1 ? parts[0] : "",
    /** The folder below core/ or ffi/. */
    folder: parts.length > 2 ? parts[1] : "",
    name,
    isTest: TEST.test(name) || TEST_SUPPORT.test(name) || parts.includes("testdata"),
    isTestSupport: TEST_SUPPORT.test(name),
    /** An implementation of a seam on the runtime or the kernel. */
    isImplementation: parts[0] === "core" && /^(bun|uring)-/.test(name),
    isSimulation: parts[0] === "core" && name.startsWith("sim-"),
  };
}

/** The place that a relative import of `from` names. */
export function resolvePlace(from, specifier) {
  const path = normalize(join(dirname(from.path), specifier))
    .split(sep)
    .join("/");
  return placeOf(join(ROOT, path));
}

/** The one file of a folder that others may import. */
export function isFace(place) {
  if (place.top !== "core") return true;
  if (place.folder === "base" || place.path === "core/reactor/world.ts") return true;
  if (place.path === `core/${place.folder}/${place.folder}.ts`) return true;
  // Each protocol below gateway/ is a folder of its own with a face of its own.
  const protocol = /^core\/gateway\/([^/]+)\/([^/]+)\.ts$/.exec(place.path);
  return protocol !== null && protocol[1] === protocol[2];
}

/** "data": must be `// data path`; "either": that or a cold path with its reason; "": no demand. */
export function markDemand(place) {
  if (place.isTest || /^bun-/.test(place.name)) return "";
  if (DATA_PATH_FILES.has(place.path)) return "data";
  const inFolder =
    (place.top === "core" && DATA_PATH_FOLDERS.includes(place.folder)) ||
    /^core\/gateway\/[^/]+\//.test(place.path) ||
    place.path.startsWith("ffi/uring/");
  return inFolder ? "either" : "";
}
