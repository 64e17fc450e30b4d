import { type OpenAPIHono, type RouteConfig, z } from "@hono/zod-openapi";
import type { Context } from "hono";
import { ERRORS, FastblockError } from "../base/errors.ts";
import type { Logger } from "../base/logger.ts";
import { type Problem, ProblemSchema } from "./schema.ts";

/** What the routes of `api.ts` are made of: schemas of answers, verbs, errors. */
export const V1 = "/api/v1";

/** The query that every change takes. What a route does not know is refused, never passed over. */
export const dryRunQuery: z.ZodObject<
  { dryRun: z.ZodOptional<z.ZodEnum<{ true: "true"; false: "false" }>> },
  z.core.$strict
> = z.strictObject({
  dryRun: z.enum(["true", "false"]).optional().openapi({ description: "check, change nothing" }),
});

interface JsonAnswer<T extends z.ZodType> {
  readonly description: string;
  readonly content: { readonly "application/json": { readonly schema: T } };
}

interface JsonBody<T extends z.ZodType> {
  readonly required: true;
  readonly content: { readonly "application/json": { readonly schema: T } };
}

/** An answer of one schema. */
export function json<T extends z.ZodType>(schema: T, description: string): JsonAnswer<T> {
  return { description, content: { "application/json": { schema } } };
}

/** Every error. */
export const problem: {
  readonly description: string;
  readonly content: {
    readonly "application/problem+json": { readonly schema: typeof ProblemSchema };
  };
} = {
  description: "failed",
  content: { "application/problem+json": { schema: ProblemSchema } },
};

/** A request's body of one schema. */
export function body<T extends z.ZodType>(schema: T): JsonBody<T> {
  return { required: true, content: { "application/json": { schema } } };
}

/** Every list answers `{items: […]}`. */
export function itemsOf<T extends z.ZodType>(schema: T): z.ZodObject<{ items: z.ZodArray<T> }> {
  return z.object({ items: z.array(schema) });
}

/** A route without parameters behind the `?`. */
export const noQuery: z.ZodObject<{}, z.core.$strict> = z.strictObject({});

/** Whether a change is only to be checked. */
export function isDry(query: { readonly dryRun?: string | undefined }): boolean {
  return query.dryRun === "true";
}

/**
 * Routes with a verb, `POST /osds/{osd}:in`. Hono knows no parameter that ends inside of a
 * segment: the segment is matched whole and cut here.
 */
export function addAction<P extends z.ZodObject, B extends z.ZodType>(
  app: OpenAPIHono,
  action: {
    readonly path: string;
    readonly verb: string;
    readonly method?: "get" | "post";
    readonly summary: string;
    readonly params: P;
    readonly body: B;
    readonly answers: RouteConfig["responses"];
    readonly run: (
      params: z.infer<P>,
      body: z.infer<B>,
      isDryRun: boolean,
    ) => Promise<{ readonly status: 200 | 202; readonly value: object }>;
  },
): void {
  const method = action.method ?? "post";
  const hasBody = !(action.body instanceof z.ZodUndefined);
  app.openAPIRegistry.registerPath({
    method,
    path: `${V1}${action.path}:${action.verb}`,
    summary: action.summary,
    request: {
      params: action.params,
      query: method === "get" ? noQuery : dryRunQuery,
      ...(hasBody ? { body: body(action.body) } : {}),
    },
    responses: { ...action.answers, default: problem },
  });
  const names = [...action.path.matchAll(/\{(\w+)\}/g)].map((match) => match[1]!);
  const last = names[names.length - 1]!;
  const pattern = action.path
    .replace(`{${last}}`, `:${last}{[^/]+:${action.verb}}`)
    .replaceAll(/\/\{(\w+)\}/g, "/:$1");
  const handler = async (c: Context): Promise<Response> => {
    const found: Record<string, string> = {};
    for (const name of names) {
      const value = c.req.param(name) ?? "";
      found[name] = name === last ? value.slice(0, -action.verb.length - 1) : value;
    }
    const params = parse(action.params, found);
    if (!hasBody && method === "post") await refuseForm(c);
    const given = parse(action.body, hasBody ? await readJson(c) : undefined);
    const query = parse(method === "get" ? noQuery : dryRunQuery, c.req.query());
    const { status, value } = await action.run(params, given, isDry(query));
    return c.json(value, status);
  };
  if (method === "get") app.get(`${V1}${pattern}`, handler);
  else app.post(`${V1}${pattern}`, handler);
}

function parse<T extends z.ZodType>(schema: T, value: unknown): z.infer<T> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  throw malformed(result.error);
}

/** A page of another origin can send forms and plain text unasked: a change takes JSON, or nothing. */
async function refuseForm(c: Context): Promise<void> {
  const type = c.req.header("content-type");
  if (type === undefined ? (await c.req.text()) !== "" : !isJson(type)) throw otherType();
}

function isJson(type: string): boolean {
  return /^application\/json\b/i.test(type);
}

async function readJson(c: Context): Promise<unknown> {
  const type = c.req.header("content-type");
  if (type === undefined || !isJson(type)) throw otherType();
  try {
    return await c.req.json();
  } catch {
    throw new FastblockError("FB1001", "the request's body is not JSON");
  }
}

function problemOf(error: FastblockError, status: number): Problem {
  return {
    type: `urn:fastblock:error:${error.code}`,
    title: ERRORS[error.code].title,
    status,
    detail: error.message,
    code: error.code,
    ...(error.why === undefined ? {} : { why: error.why }),
    ...(error.hint === undefined ? {} : { hint: error.hint }),
  };
}

/** An error as `application/problem+json`. */
export function problemResponse(c: Context, error: FastblockError): Response {
  const status = ERRORS[error.code].http;
  const text = JSON.stringify(problemOf(error, status));
  return c.newResponse(text, status as 400, { "content-type": "application/problem+json" });
}

/** Any error as a coded one; what nobody foresaw is logged. */
export function asFailure(logger: Logger, error: Error): FastblockError {
  if (error instanceof FastblockError) return error;
  // Hono's own exceptions carry a status: a body of another type, or one that is not JSON.
  if ("status" in error && error.status === 415) return otherType();
  if ("status" in error && error.status === 400) {
    return new FastblockError("FB1001", "the request's body is not JSON");
  }
  logger.error("request failed", { error: error.stack ?? error.message });
  return new FastblockError("FB1003", "the request failed inside the mon");
}

/** What a schema said. */
export function malformed(error: z.ZodError): FastblockError {
  const first = error.issues[0];
  if (first?.code === "unrecognized_keys") {
    const names = first.keys.join(", ");
    return new FastblockError("FB1001", `${names} is malformed: not known to this request`, {
      hint: "see /openapi.json",
    });
  }
  const where =
    first === undefined || first.path.length === 0 ? "the request" : first.path.join(".");
  const what = first?.message ?? "not understood";
  return new FastblockError("FB1001", `${where} is malformed: ${what}`, {
    hint: "see /openapi.json",
  });
}

/** A body past the limit. */
export function tooLarge(): FastblockError {
  return new FastblockError("FB1012", "the request's body is too large, wanted at most 64 KiB");
}

function otherType(): FastblockError {
  const text = "the request's body is of another type, wanted application/json";
  return new FastblockError("FB1011", text);
}

/**
 * The mon serves plain HTTP on loopback, so any page that a browser on this machine shows
 * could reach it. A page of another origin is refused, and so is a name that was made to point
 * here (DNS rebinding).
 */
export function judgeOrigin(request: Request): FastblockError | undefined {
  const host = request.headers.get("host") ?? "";
  const name = host.replace(/:\d+$/, "");
  if (
    name !== "localhost" &&
    !/^(\d{1,3}\.){3}\d{1,3}$/.test(name) &&
    !/^\[[0-9a-f:]+\]$/i.test(name)
  ) {
    return new FastblockError("FB1007", "the host of the request is refused: wanted an address");
  }
  const origin = request.headers.get("origin");
  if (origin === null || request.method === "GET" || request.method === "HEAD") return undefined;
  if (origin === `http://${host}`) return undefined;
  return new FastblockError("FB1007", `the origin ${origin} is refused, wanted http://${host}`);
}

/** Headers of every answer. */
export function secure(headers: Headers): void {
  headers.set("x-content-type-options", "nosniff");
  headers.set("x-frame-options", "DENY");
  headers.set("referrer-policy", "no-referrer");
  headers.set("cache-control", "no-store");
  headers.set(
    "content-security-policy",
    "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; frame-ancestors 'none'",
  );
}
