import { markDemand, placeOf } from "./places.mjs";

const DATA_MARK = "// data path";
/** The reason is for readers; a word or two is none. */
const COLD_MARK = /^\/\/ cold( path)?: \S.{9,}$/;
/** Told with every report. */
const HINT = "wanted a pooled field; a function that runs rarely says `// cold: why` above it";
const COLD_FUNCTION = /\bcold: \S.{5,}/;

const ALLOCATING_METHODS = new Set([
  "bind",
  "concat",
  "filter",
  "flatMap",
  "map",
  "slice",
  "split",
  "subarray",
]);
const BIGINT_METHODS = new Set(["getBigInt64", "getBigUint64", "setBigInt64", "setBigUint64"]);

const LOGGED = new Set(["info", "warn", "error", "fatal"]);

/**
 * Files that run per I/O carry `// data path` on line one and keep its bans. Allowed there, because
 * they run once: module level, constructors and field initialisers, and any function whose comment
 * says `cold: why` (creation, growth of a pool, close).
 */
export const dataPath = {
  meta: { type: "problem" },
  create(context) {
    const place = placeOf(context.filename);
    const first = context.sourceCode.text.split("\n", 1)[0].trimEnd();
    const isMarked = first === DATA_MARK;
    const visitor = isMarked && !place.isTest ? banVisitor(context) : {};
    return {
      Program(node) {
        const fault = markFault(markDemand(place), first);
        if (fault !== "") context.report({ node, message: fault });
      },
      ...visitor,
    };
  },
};

function markFault(demand, first) {
  if (demand === "" || first === DATA_MARK) return "";
  if (demand === "data")
    return `mark is missing: line one is \`${first}\`, wanted \`${DATA_MARK}\``;
  if (COLD_MARK.test(first)) return "";
  return `mark is missing: line one is \`${first}\`, wanted \`${DATA_MARK}\` or \`// cold: why\``;
}

function banVisitor(context) {
  const isHot = (node) => isInHotFunction(context, node);
  const ban = (what) => (node) => {
    if (isHot(node) && !isLogField(node))
      context.report({ node, message: `${what} on the data path, ${HINT}` });
  };
  const onFunction = (node) => checkFunction(context, node);
  return {
    FunctionDeclaration: onFunction,
    FunctionExpression: onFunction,
    ArrowFunctionExpression: onFunction,
    AwaitExpression: ban("await"),
    YieldExpression: ban("generator"),
    SpreadElement: ban("spread"),
    ArrayPattern: ban("array destructuring"),
    TemplateLiteral: ban("template string"),
    NewExpression: ban("new object"),
    ObjectExpression: ban("new object"),
    ArrayExpression: ban("new array"),
    ClassExpression: ban("new class"),
    ThrowStatement: ban("throw instead of a status"),
    Literal(node) {
      if (node.regex) ban("regular expression")(node);
      if (typeof node.value === "bigint") ban("BigInt")(node);
    },
    UnaryExpression(node) {
      if (node.operator === "delete") ban("deleted field")(node);
    },
    CallExpression(node) {
      const fault = callFault(node);
      if (fault !== "") ban(fault)(node);
    },
    MemberExpression(node) {
      if (node.object.type === "Identifier" && node.object.name === "Promise") ban("promise")(node);
    },
  };
}

/**
 * Within the fields of a line of the logger. Nothing is logged per I/O, so they cost nothing per
 * I/O; `debug` is left out, because people would.
 */
function isLogField(node) {
  for (let at = node; at !== null && !isFunction(at); at = at.parent) {
    if (at.type !== "CallExpression" || at.callee.type !== "MemberExpression") continue;
    const { object, property } = at.callee;
    const owner = object.type === "MemberExpression" ? object.property.name : object.name;
    if (owner === "logger" && LOGGED.has(property.name)) return true;
  }
  return false;
}

function checkFunction(context, node) {
  const report = (what) => context.report({ node, message: `${what} on the data path, ${HINT}` });
  if (isCold(context, node)) return;
  if (node.async) report("async function");
  if (node.generator) report("generator");
  if (node.params.some((param) => param.type === "RestElement")) report("rest parameter");
  if (isMethod(node)) return;
  if (isInHotFunction(context, node)) report("closure");
}

function callFault(node) {
  if (node.callee.type === "Identifier" && node.callee.name === "BigInt") return "BigInt";
  if (node.callee.type !== "MemberExpression" || node.callee.computed) return "";
  if (node.optional) return "optional method";
  const name = node.callee.property.name;
  if (BIGINT_METHODS.has(name)) return "BigInt";
  return ALLOCATING_METHODS.has(name) ? `new object by ${name}()` : "";
}

function isMethod(node) {
  return (
    node.parent.type === "MethodDefinition" || node.parent.type === "TSAbstractMethodDefinition"
  );
}

function isFunction(node) {
  return (
    node.type === "FunctionDeclaration" ||
    node.type === "FunctionExpression" ||
    node.type === "ArrowFunctionExpression"
  );
}

/** Within a function that runs per I/O, as far as its place and its comment tell. */
function isInHotFunction(context, node) {
  let nearest = null;
  for (let at = node.parent; at !== null && at !== undefined; at = at.parent) {
    if (!isFunction(at)) continue;
    if (isCold(context, at)) return false;
    nearest ??= at;
  }
  if (nearest === null) return false;
  return !(isMethod(nearest) && nearest.parent.kind === "constructor");
}

/** True when the comments right before the function's statement say `cold: why`. */
function isCold(context, node) {
  const { sourceCode } = context;
  for (let at = node; at !== null && at.type !== "Program"; at = at.parent) {
    if (at !== node && (isFunction(at) || at.type === "BlockStatement")) return false;
    const comments = sourceCode.getCommentsBefore(at);
    if (comments.some((comment) => COLD_FUNCTION.test(comment.value))) return true;
  }
  return false;
}
