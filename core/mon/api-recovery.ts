import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import { body, dryRunQuery, isDry, json, noQuery, problem, V1 } from "./api-support.ts";
import type { Monitor } from "./monitor.ts";
import { RecoverySchema, RecoverySetSchema } from "./schema.ts";

/** Routes of the recovery dial. */
export function addRecovery(app: OpenAPIHono, { recovery }: Monitor): void {
  app.openapi(
    createRoute({
      method: "get",
      path: `${V1}/recovery`,
      summary: "How fast replicas are brought back, and how far they are",
      request: { query: noQuery },
      responses: { 200: json(RecoverySchema, "the dial, and the replicas"), default: problem },
    }),
    (c) => c.json(recovery.view(), 200),
  );
  app.openapi(
    createRoute({
      method: "patch",
      path: `${V1}/recovery`,
      summary: "Turn the recovery dial, pause or resume",
      request: { body: body(RecoverySetSchema), query: dryRunQuery },
      responses: { 200: json(RecoverySchema, "the dial, and the replicas"), default: problem },
    }),
    async (c) => {
      const settings = await recovery.set(c.req.valid("json"), isDry(c.req.valid("query")));
      return c.json(recovery.view(settings), 200);
    },
  );
}
