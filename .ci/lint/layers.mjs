import { isBuiltin } from "node:module";
import {
  isFace,
  LIBRARY_RANK_MIN,
  PROTO_RANK_MIN,
  placeOf,
  RANKS,
  resolvePlace,
} from "./places.mjs";

/**
 * Who may import whom, types included: lower ranks of core/ only, and of another folder only its
 * face; implementations only from cmd/ and tests; ffi/ from those and implementations.
 */
export const layers = {
  meta: { type: "problem" },
  create(context) {
    const place = placeOf(context.filename);
    function check(node, source) {
      if (typeof source?.value !== "string") return;
      const fault = source.value.startsWith(".")
        ? relativeFault(place, source.value)
        : packageFault(place, source.value);
      if (fault !== "") context.report({ node, message: fault });
    }
    return {
      Program(node) {
        const fault = placeFault(place);
        if (fault !== "") context.report({ node, message: fault });
      },
      ImportDeclaration: (node) => check(node, node.source),
      ExportNamedDeclaration: (node) => check(node, node.source),
      ExportAllDeclaration: (node) => check(node, node.source),
      ImportExpression: (node) => check(node, node.source),
      TSImportType: (node) => check(node, node.source ?? node.argument?.literal),
    };
  },
};

function placeFault(place) {
  if (place.name === "index.ts") {
    return `index.ts is not wanted: ${place.path}, the face is named after its folder`;
  }
  if (place.top === "core" && !RANKS.has(place.folder)) {
    return `folder of core/ has no rank: ${place.folder || place.name}, wanted one of the tree`;
  }
  return "";
}

function relativeFault(from, specifier) {
  if (!/\.(ts|tsx|mjs|json|html|css|svg)$/.test(specifier)) {
    return `import lacks its extension: ${specifier}, wanted the file's full name`;
  }
  const to = resolvePlace(from, specifier);
  if (to.path.startsWith("../")) return `import leaves the repository: ${specifier}`;
  if (to.isTestSupport && !from.isTest) {
    return `suite of tests is imported outside of tests: ${to.path}`;
  }
  if (to.top === "cmd" && from.top !== "cmd") {
    return `cmd/ is imported by nobody: ${to.path}, wanted wiring in cmd/ alone`;
  }
  if (to.top === "ffi") return ffiFault(from, to);
  if (to.top === "proto") return protoFault(from, to);
  if (to.top === "core") return coreFault(from, to);
  return "";
}

function ffiFault(from, to) {
  if (from.top === "ffi" || from.top === "cmd" || from.isTest || from.isImplementation) return "";
  return `ffi/ is imported by bun-*.ts, uring-*.ts, cmd/ and tests only: ${to.path}`;
}

function protoFault(from, to) {
  if (from.top !== "core" || from.isTest) return "";
  if ((RANKS.get(from.folder) ?? 0) >= PROTO_RANK_MIN) return "";
  return `${to.path} is imported below core/rpc: ${from.path}, wanted rank ${PROTO_RANK_MIN} or higher`;
}

function coreFault(from, to) {
  const within = from.top === "core" && from.folder === to.folder;
  if (to.isImplementation) return implementationFault(from, to, within);
  if (within) return "";
  if (to.isSimulation && (from.isTest || from.top === "cmd" || from.folder === "testing"))
    return "";
  if (from.top === "ffi" && to.folder !== "base" && !from.isTest) {
    return `ffi/ imports core/base only: ${to.path}`;
  }
  if (from.top === "proto" && to.folder !== "base" && !from.isTest) {
    return `proto/ imports core/base only: ${to.path}`;
  }
  if (!isFace(to)) {
    return `inside of another folder: ${to.path}, wanted its face core/${to.folder}/${to.folder}.ts`;
  }
  return rankFault(from, to);
}

function implementationFault(from, to, within) {
  if (from.top === "cmd" || from.isTest) return "";
  if (within && from.isImplementation) return "";
  return `implementation is imported outside cmd/ and tests: ${to.path}, wanted the seam it implements`;
}

function rankFault(from, to) {
  if (from.top !== "core" || from.isTest) return "";
  const rank = RANKS.get(from.folder) ?? 0;
  const other = RANKS.get(to.folder) ?? 0;
  if (other < rank) return "";
  return (
    `rank is not lower: ${to.folder} (${other}) imported by ${from.folder} (${rank}), ` +
    `wanted a lower one`
  );
}

function packageFault(from, specifier) {
  if (from.top !== "core" || from.isTest) return "";
  if (/^(bun$|bun:|node:)/.test(specifier) || isBuiltin(specifier)) return "";
  if ((RANKS.get(from.folder) ?? 0) >= LIBRARY_RANK_MIN) return "";
  if (/^@bufbuild\/protobuf(\/|$)/.test(specifier)) return "";
  return `library below rank ${LIBRARY_RANK_MIN}: ${specifier}, wanted only @bufbuild/protobuf there`;
}
