import { isBuiltin } from "node:module";
import { placeOf } from "./places.mjs";

/** What reaches past world.ts: time, randomness, network, processes. */
const FORBIDDEN_GLOBALS = new Set([
  "Date",
  "performance",
  "process",
  "setTimeout",
  "setInterval",
  "setImmediate",
  "clearTimeout",
  "clearInterval",
  "clearImmediate",
  "Bun",
  "crypto",
  "fetch",
  "WebSocket",
  "Worker",
  "require",
]);

const EMPTY_CONTAINERS = new Set(["Map", "Set", "WeakMap", "WeakSet"]);

/**
 * core/ meets the outside through world.ts alone, so that a run can be replayed: the runtime, time,
 * randomness and processes stay in bun-*.ts, uring-*.ts, ffi/, cmd/ and tests; pointers in ffi/;
 * and no module of core/ keeps state, because the simulator runs many osds in one realm.
 */
export const seams = {
  meta: { type: "problem" },
  create(context) {
    const place = placeOf(context.filename);
    const report = (node, message) => context.report({ node, message });
    const visitors = [pointerVisitor(place, report)];
    if (place.top === "core" && !place.isTest) {
      visitors.push(stateVisitor(report));
      if (!place.isImplementation) visitors.push(outsideVisitor(context, report));
    }
    return merge(visitors);
  },
};

function merge(visitors) {
  const merged = {};
  for (const visitor of visitors) {
    for (const [kind, visit] of Object.entries(visitor)) {
      const earlier = merged[kind];
      merged[kind] = earlier
        ? (node) => {
            earlier(node);
            visit(node);
          }
        : visit;
    }
  }
  return merged;
}

function onSources(visit) {
  const check = (node) => {
    const source = node.source ?? node.argument?.literal;
    if (typeof source?.value === "string") visit(node, source.value);
  };
  return {
    ImportDeclaration: check,
    ExportNamedDeclaration: check,
    ExportAllDeclaration: check,
    ImportExpression: check,
    TSImportType: check,
  };
}

function pointerVisitor(place, report) {
  if (place.top === "ffi") return {};
  return onSources((node, source) => {
    if (source === "bun:ffi") {
      report(node, "bun:ffi is imported outside ffi/, wanted a binding there that takes numbers");
    }
  });
}

function outsideVisitor(context, report) {
  return {
    ...onSources((node, source) => {
      if (/^(bun$|bun:|node:)/.test(source) || isBuiltin(source)) {
        report(
          node,
          `${source} is imported in core/, wanted a seam of world.ts or a bun-*.ts file`,
        );
      }
    }),
    MemberExpression(node) {
      if (memberOf(node, "Math") === "random") {
        report(node, "Math.random is used in core/, wanted world.random");
      }
      const name = memberOf(node, "globalThis");
      if (FORBIDDEN_GLOBALS.has(name)) {
        report(node, `${name} is used in core/, wanted a seam of world.ts`);
      }
      if (isMetaPlace(node)) report(node, "import.meta is used in core/, wanted a path from cmd/");
    },
    "Program:exit"(node) {
      for (const { name, identifier } of globalReferences(context, node)) {
        if (FORBIDDEN_GLOBALS.has(name)) {
          report(identifier, `${name} is used in core/, wanted a seam of world.ts`);
        }
      }
    },
  };
}

function memberOf(node, object) {
  if (node.object.type !== "Identifier" || node.object.name !== object) return "";
  if (node.computed) return typeof node.property.value === "string" ? node.property.value : "";
  return node.property.name;
}

function isMetaPlace(node) {
  return node.object.type === "MetaProperty" && node.object.meta.name === "import";
}

/** Names that no declaration of this file binds. */
function* globalReferences(context, program) {
  const manager = context.sourceCode.scopeManager;
  const pending = [manager.acquire(program) ?? manager.scopes[0]];
  while (pending.length > 0) {
    const scope = pending.pop();
    pending.push(...scope.childScopes);
    for (const reference of scope.references) {
      const isBound = reference.resolved !== null && reference.resolved.defs.length > 0;
      if (!isBound) yield { name: reference.identifier.name, identifier: reference.identifier };
    }
  }
}

function stateVisitor(report) {
  return {
    Program(node) {
      for (const statement of node.body) {
        const declaration = statement.declaration ?? statement;
        if (declaration.type === "VariableDeclaration" && !declaration.declare) {
          checkVariables(declaration, report);
        }
      }
    },
    PropertyDefinition(node) {
      if (node.static && !node.readonly && !node.declare) {
        report(
          node,
          "static field can change: wanted `static readonly`, or a field of an instance",
        );
      }
    },
  };
}

function checkVariables(declaration, report) {
  if (declaration.kind === "let" || declaration.kind === "var") {
    report(declaration, `module keeps state: ${declaration.kind}, wanted a field of an instance`);
    return;
  }
  for (const { id, init } of declaration.declarations) {
    if (init !== null && isEmptyContainer(init) && !isReadonly(id.typeAnnotation?.typeAnnotation)) {
      report(init, "module keeps state: an empty container, wanted a readonly type or a field");
    }
  }
}

/** A shared empty value, which nobody fills. */
function isReadonly(type) {
  if (type?.type === "TSTypeOperator") return type.operator === "readonly";
  return type?.type === "TSTypeReference" && /^Readonly/.test(type.typeName.name ?? "");
}

/** An empty container at module level is of use only to whoever fills it later. */
function isEmptyContainer(node) {
  if (node.type === "TSAsExpression" || node.type === "TSSatisfiesExpression") {
    return isEmptyContainer(node.expression);
  }
  if (node.type === "ArrayExpression") return node.elements.length === 0;
  if (node.type === "ObjectExpression") return node.properties.length === 0;
  return (
    node.type === "NewExpression" &&
    EMPTY_CONTAINERS.has(node.callee.name) &&
    node.arguments.length === 0
  );
}
