import { createRoute, type OpenAPIHono, z } from "@hono/zod-openapi";
import { body, dryRunQuery, isDry, json, problem, V1 } from "./api-support.ts";
import type { Monitor } from "./monitor.ts";
import { TraceSchema, TraceStartSchema } from "./schema-trace.ts";

const SLOWEST_DEFAULT = 1;
const SLOWEST_MAX = 100;

const showQuery = z.strictObject({
  slowest: z.coerce.number().int().min(0).max(SLOWEST_MAX).optional().openapi({
    description: "how many of the slowest operations; default 1",
  }),
});

/** Routes of the trace of stages. */
export function addTrace(app: OpenAPIHono, { traces }: Monitor): void {
  const answer = { 200: json(TraceSchema, "the trace"), default: problem };
  app.openapi(
    createRoute({
      method: "get",
      path: `${V1}/trace`,
      summary: "Where the time of operations goes, by the trace taken last",
      request: { query: showQuery },
      responses: answer,
    }),
    (c) => c.json(traces.view(c.req.valid("query").slowest ?? SLOWEST_DEFAULT), 200),
  );
  app.openapi(
    createRoute({
      method: "post",
      path: `${V1}/trace`,
      summary: "Take a trace, and forget the one before",
      request: { body: body(TraceStartSchema), query: dryRunQuery },
      responses: answer,
    }),
    (c) => {
      if (!isDry(c.req.valid("query"))) traces.start(c.req.valid("json"));
      return c.json(traces.view(0), 200);
    },
  );
  app.openapi(
    createRoute({
      method: "delete",
      path: `${V1}/trace`,
      summary: "End the trace that is taken; what was seen can be shown on",
      request: { query: dryRunQuery },
      responses: answer,
    }),
    (c) => {
      if (!isDry(c.req.valid("query"))) traces.stop();
      return c.json(traces.view(0), 200);
    },
  );
}
