const SUPPRESSION =
  /(oxlint-disable|eslint-disable|biome-ignore|@ts-(ignore|expect-error|nocheck))/;
const WITH_REASON = /( -- |@ts-expect-error:? |biome-ignore \S+: )\S.{5,}/;

/** A suppression names its reason, and so does a promise that is let go with `void`. */
export const reasons = {
  meta: { type: "problem" },
  create(context) {
    const { sourceCode } = context;
    return {
      Program() {
        for (const comment of sourceCode.getAllComments()) {
          if (!SUPPRESSION.test(comment.value) || WITH_REASON.test(comment.value)) continue;
          const message = "suppression has no reason, wanted ` -- why` behind the rule";
          context.report({ loc: comment.loc, message });
        }
      },
      "ExpressionStatement > UnaryExpression[operator='void']"(node) {
        const line = node.loc.start.line;
        const explained = sourceCode
          .getAllComments()
          .some(({ loc }) => loc.end.line === line - 1 || loc.start.line === line);
        if (!explained) {
          context.report({
            node,
            message: "void has no comment, wanted why the promise may be let go",
          });
        }
      },
    };
  },
};
