import { failOnBug } from "../base/assert.ts";
import { createRoute, OpenAPIHono, z } from "@hono/zod-openapi";
import { bodyLimit } from "hono/body-limit";
import { FastblockError } from "../base/errors.ts";
import type { OsdId } from "../base/ids.ts";
import { poolOfPg } from "../base/ids.ts";
import {
  addAction,
  asFailure,
  body,
  dryRunQuery,
  isDry,
  itemsOf,
  json,
  judgeOrigin,
  malformed,
  noQuery,
  problem,
  problemResponse,
  secure,
  tooLarge,
  V1,
} from "./api-support.ts";
import { addRecovery } from "./api-recovery.ts";
import { addTrace } from "./api-trace.ts";
import { MonMetrics, type ProcessUsage } from "./metrics.ts";
import type { Monitor } from "./monitor.ts";
import {
  HealthSchema,
  ImageCreateSchema,
  ImageRenameSchema,
  ImageResizedSchema,
  ImageResizeSchema,
  ImageSchema,
  MonSchema,
  OperationSchema,
  OsdSchema,
  PgReplaceSchema,
  PgScrubSchema,
  PgSchema,
  PgTransferSchema,
  PlacementSchema,
  PoolCreateSchema,
  PoolSchema,
  StatusSchema,
  VersionSchema,
} from "./schema.ts";

export interface ApiOptions {
  readonly monitor: Monitor;
  /** The page at `/`. */
  readonly page: string;
  readonly usage: () => ProcessUsage;
}

/** A request's body is a handful of numbers. */
const BODY_BYTES_MAX = 65_536;
/** As `schema.ts` has it, too. */
const WAIT_MS_MAX = 30_000;
const TRANSFER_WAIT_MS = 3000;

/** REST `/api/v1`, `/openapi.json`, `/metrics`, `/healthz`, `/`. */
export interface Api {
  fetch(request: Request): Promise<Response>;
}

/** Make the HTTP side of a monitor. Pure: whoever serves sockets hands requests in. */
export function createApi(options: ApiOptions): Api {
  const metrics = new MonMetrics(options.monitor, options.usage);
  const app = new OpenAPIHono({
    defaultHook: (result, c) => {
      if (result.success) return undefined;
      return problemResponse(c, malformed(result.error));
    },
  });
  app.use("*", async (c, next) => {
    const startedUs = options.monitor.options.world.clock.nowUs();
    const refusal = judgeOrigin(c.req.raw);
    if (refusal === undefined) await next();
    else c.res = problemResponse(c, refusal);
    secure(c.res.headers);
    const seconds = (options.monitor.options.world.clock.nowUs() - startedUs) / 1e6;
    metrics.noteRequest(c.req.routePath, c.req.method, c.res.status, seconds);
  });
  app.use(
    "*",
    bodyLimit({ maxSize: BODY_BYTES_MAX, onError: (c) => problemResponse(c, tooLarge()) }),
  );
  const { logger, world } = options.monitor.options;
  app.onError((error, c) => {
    failOnBug(world, error);
    return problemResponse(c, asFailure(logger, error));
  });
  app.notFound((c) =>
    problemResponse(
      c,
      new FastblockError("FB1010", `${c.req.method} ${c.req.path} is no route of this mon`),
    ),
  );
  addPlain(app, options, metrics);
  addCluster(app, options.monitor);
  addPools(app, options.monitor);
  addImages(app, options.monitor);
  addOsds(app, options.monitor);
  addPgs(app, options.monitor);
  addRecovery(app, options.monitor);
  addTrace(app, options.monitor);
  addOperations(app, options.monitor);
  app.doc31("/openapi.json", {
    openapi: "3.1.0",
    info: {
      title: "fastblock",
      version: "v1",
      description: "Every error is application/problem+json with a stable code.",
    },
  });
  return { fetch: async (request) => app.fetch(request) };
}

/* ------------------------------------------------------------------ parts */

const poolParam = z.object({ pool: z.string() });
const imageParam = z.object({ pool: z.string(), image: z.string() });
const osdParam = z.object({ osd: z.coerce.number().int().min(0).max(0xffff_ffff) });
const pgParam = z.object({ pg: z.string() });
const operationParam = z.object({ operation: z.coerce.number().int().min(1) });

/** Of routes that show what osds report: `fresh` waits for what they hold now. */
const freshQuery = z.strictObject({
  fresh: z
    .enum(["true", "false"])
    .optional()
    .openapi({ description: "ask the osds first, 1 s at most; default: what they told last" }),
});

async function freshen(monitor: Monitor, query: z.infer<typeof freshQuery>): Promise<void> {
  if (query.fresh === "true") await monitor.reports.fresh();
}

/* ----------------------------------------------------------------- routes */

function addPlain(app: OpenAPIHono, options: ApiOptions, metrics: MonMetrics): void {
  app.get("/", (c) => c.html(options.page));
  app.get("/healthz", (c) => c.text("ok\n"));
  app.get("/metrics", async (c) => {
    const { type, text } = await metrics.render();
    return c.body(text, 200, { "content-type": type });
  });
}

function addCluster(app: OpenAPIHono, monitor: Monitor): void {
  app.openapi(
    createRoute({
      method: "get",
      path: `${V1}/status`,
      summary: "The cluster at a glance",
      request: { query: noQuery },
      responses: { 200: json(StatusSchema, "status"), default: problem },
    }),
    (c) => c.json(monitor.views.status(), 200),
  );
  app.openapi(
    createRoute({
      method: "get",
      path: `${V1}/health`,
      summary: "What is wrong, where, and what to do",
      request: { query: noQuery },
      responses: { 200: json(HealthSchema, "health"), default: problem },
    }),
    (c) => c.json(monitor.views.status().health, 200),
  );
  app.openapi(
    createRoute({
      method: "get",
      path: `${V1}/monitors`,
      summary: "All mons",
      request: { query: noQuery },
      responses: { 200: json(itemsOf(MonSchema), "mons"), default: problem },
    }),
    (c) => c.json({ items: monitor.views.mons() }, 200),
  );
  app.openapi(
    createRoute({
      method: "get",
      path: `${V1}/version`,
      summary: "Version of this mon",
      request: { query: noQuery },
      responses: { 200: json(VersionSchema, "version"), default: problem },
    }),
    (c) => {
      const { version, name } = monitor.options;
      const { min: formatMin, max: formatMax } = monitor.formatRange;
      const { format } = monitor.catalogue.map;
      return c.json({ version, api: "v1" as const, name, format, formatMin, formatMax }, 200);
    },
  );
}

function addPools(app: OpenAPIHono, monitor: Monitor): void {
  const { pools, views, catalogue } = monitor;
  // Before the route without a verb, which would take the verb for a part of the name.
  addAction(app, {
    path: "/pools/{pool}",
    verb: "explain",
    method: "get",
    summary: "Why the groups of a pool lie where they do",
    params: poolParam,
    body: z.undefined(),
    answers: { 200: json(PlacementSchema, "the placement") },
    run: async (params) => {
      const pool = pools.poolOf(params.pool);
      return { status: 200, value: views.placement(pool, pools.explain(pool)) };
    },
  });
  app.openapi(
    createRoute({
      method: "get",
      path: `${V1}/pools`,
      summary: "All pools",
      request: { query: noQuery },
      responses: { 200: json(itemsOf(PoolSchema), "pools"), default: problem },
    }),
    (c) => {
      const all = [...catalogue.map.pools.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
      return c.json({ items: all.map((pool) => views.pool(pool)) }, 200);
    },
  );
  app.openapi(
    createRoute({
      method: "post",
      path: `${V1}/pools`,
      summary: "Create a pool and its placement groups",
      request: { body: body(PoolCreateSchema), query: dryRunQuery },
      responses: { 201: json(PoolSchema, "the pool"), default: problem },
    }),
    async (c) => {
      const created = await pools.create(c.req.valid("json"), isDry(c.req.valid("query")));
      return c.json(views.pool(created.pool, created.notes), 201);
    },
  );
  app.openapi(
    createRoute({
      method: "get",
      path: `${V1}/pools/{pool}`,
      summary: "One pool",
      request: { query: noQuery, params: poolParam },
      responses: { 200: json(PoolSchema, "the pool"), default: problem },
    }),
    (c) => c.json(views.pool(pools.poolOf(c.req.valid("param").pool)), 200),
  );
  app.openapi(
    createRoute({
      method: "delete",
      path: `${V1}/pools/{pool}`,
      summary: "Remove an empty pool",
      request: { params: poolParam, query: dryRunQuery },
      responses: { 200: json(PoolSchema, "the pool as it was"), default: problem },
    }),
    async (c) => {
      const name = c.req.valid("param").pool;
      const view = views.pool(pools.poolOf(name));
      await pools.remove(name, isDry(c.req.valid("query")));
      return c.json(view, 200);
    },
  );
}

function addImages(app: OpenAPIHono, monitor: Monitor): void {
  const { images, pools, views } = monitor;
  app.openapi(
    createRoute({
      method: "get",
      path: `${V1}/images`,
      summary: "All images",
      request: { query: freshQuery.extend({ pool: z.string().optional() }) },
      responses: { 200: json(itemsOf(ImageSchema), "images"), default: problem },
    }),
    async (c) => {
      const { pool, ...query } = c.req.valid("query");
      await freshen(monitor, query);
      const id = pool === undefined ? undefined : pools.poolOf(pool).id;
      return c.json({ items: views.images(images.list(id)) }, 200);
    },
  );
  app.openapi(
    createRoute({
      method: "get",
      path: `${V1}/pools/{pool}/images`,
      summary: "The images of a pool",
      request: { query: freshQuery, params: poolParam },
      responses: { 200: json(itemsOf(ImageSchema), "images"), default: problem },
    }),
    async (c) => {
      await freshen(monitor, c.req.valid("query"));
      const { id } = pools.poolOf(c.req.valid("param").pool);
      return c.json({ items: views.images(images.list(id)) }, 200);
    },
  );
  app.openapi(
    createRoute({
      method: "post",
      path: `${V1}/pools/{pool}/images`,
      summary: "Create an image",
      request: { params: poolParam, body: body(ImageCreateSchema), query: dryRunQuery },
      responses: { 201: json(ImageSchema, "the image"), default: problem },
    }),
    async (c) => {
      const { name, sizeBytes } = c.req.valid("json");
      const dry = isDry(c.req.valid("query"));
      const image = await images.create(c.req.valid("param").pool, name, sizeBytes, dry);
      return c.json(views.image(image), 201);
    },
  );
  addImage(app, monitor);
}

/** Of removing an image. */
const removalQuery = dryRunQuery.extend({
  force: z
    .literal("FB3005", { error: ({ input }) => `${String(input)}, wanted FB3005` })
    .optional()
    .openapi({ description: "also while in use" }),
});

function addImage(app: OpenAPIHono, monitor: Monitor): void {
  const { images, views } = monitor;
  const path = `${V1}/pools/{pool}/images/{image}`;
  app.openapi(
    createRoute({
      method: "get",
      path,
      summary: "One image",
      request: { query: freshQuery, params: imageParam },
      responses: { 200: json(ImageSchema, "the image"), default: problem },
    }),
    async (c) => {
      await freshen(monitor, c.req.valid("query"));
      const { pool, image } = c.req.valid("param");
      return c.json(views.image(images.imageOf(pool, image)), 200);
    },
  );
  app.openapi(
    createRoute({
      method: "patch",
      path,
      summary: "Rename an image",
      request: { params: imageParam, body: body(ImageRenameSchema), query: dryRunQuery },
      responses: { 200: json(ImageSchema, "the image"), default: problem },
    }),
    async (c) => {
      const { pool, image } = c.req.valid("param");
      const dry = isDry(c.req.valid("query"));
      const renamed = await images.rename(pool, image, c.req.valid("json").name, dry);
      return c.json(views.image(renamed), 200);
    },
  );
  app.openapi(
    createRoute({
      method: "delete",
      path,
      summary: "Remove an image; its space is given back by an operation",
      request: {
        params: imageParam,
        query: removalQuery,
      },
      responses: { 202: json(OperationSchema, "the operation"), default: problem },
    }),
    async (c) => {
      const { pool, image } = c.req.valid("param");
      const query = c.req.valid("query");
      const force = query.force !== undefined;
      return c.json(views.operation(await images.remove(pool, image, force, isDry(query))), 202);
    },
  );
  addAction(app, {
    path: "/pools/{pool}/images/{image}",
    verb: "resize",
    summary: "Change an image's size; shrinking answers 202 and an operation",
    params: imageParam,
    body: ImageResizeSchema,
    answers: {
      200: json(ImageResizedSchema, "grown"),
      202: json(ImageResizedSchema, "shrinking"),
    },
    run: async ({ pool, image }, { sizeBytes }, dry) => {
      const result = await images.resize(pool, image, sizeBytes, dry);
      const operation = result.operation === undefined ? null : views.operation(result.operation);
      const value = { image: views.image(result.image), operation };
      return { status: operation === null ? 200 : 202, value };
    },
  });
}

function addOsds(app: OpenAPIHono, monitor: Monitor): void {
  const { osds, views } = monitor;
  app.openapi(
    createRoute({
      method: "get",
      path: `${V1}/osds`,
      summary: "All osds",
      request: { query: noQuery },
      responses: { 200: json(itemsOf(OsdSchema), "osds"), default: problem },
    }),
    (c) => c.json({ items: views.osds() }, 200),
  );
  app.openapi(
    createRoute({
      method: "get",
      path: `${V1}/osds/{osd}`,
      summary: "One osd",
      request: { query: noQuery, params: osdParam },
      responses: { 200: json(OsdSchema, "the osd"), default: problem },
    }),
    (c) => c.json(views.osd(c.req.valid("param").osd as OsdId), 200),
  );
  for (const verb of ["in", "out"] as const) {
    addAction(app, {
      path: "/osds/{osd}",
      verb,
      summary: verb === "in" ? "Let an osd receive new replicas" : "Place no new replicas there",
      params: osdParam,
      body: z.undefined(),
      answers: { 200: json(OsdSchema, "the osd") },
      run: async ({ osd }, _, dry) => {
        await osds.setIn(osd as OsdId, verb === "in", dry);
        return { status: 200, value: views.osd(osd as OsdId) };
      },
    });
  }
}

function addPgs(app: OpenAPIHono, monitor: Monitor): void {
  const { pools, views, catalogue } = monitor;
  app.openapi(
    createRoute({
      method: "get",
      path: `${V1}/pgs`,
      summary: "All placement groups, or those of a pool",
      request: { query: z.strictObject({ pool: z.string().optional() }) },
      responses: { 200: json(itemsOf(PgSchema), "groups"), default: problem },
    }),
    (c) => {
      const { pool } = c.req.valid("query");
      const id = pool === undefined ? undefined : pools.poolOf(pool).id;
      const pgs = [...catalogue.map.pgs.values()]
        .filter((pg) => id === undefined || poolOfPg(pg.id) === id)
        .sort((a, b) => a.id - b.id);
      return c.json({ items: pgs.map((pg) => views.pg(pg)) }, 200);
    },
  );
  app.openapi(
    createRoute({
      method: "get",
      path: `${V1}/pgs/{pg}`,
      summary: "One placement group",
      request: { query: noQuery, params: pgParam },
      responses: { 200: json(PgSchema, "the group"), default: problem },
    }),
    (c) => c.json(views.pg(pools.pgOf(c.req.valid("param").pg)), 200),
  );
  addAction(app, {
    path: "/pgs/{pg}",
    verb: "transferLeader",
    summary: "Let the replica on an osd lead the group, and wait until it does",
    params: pgParam,
    body: PgTransferSchema,
    answers: { 200: json(PgSchema, "the group") },
    run: async ({ pg }, { osd, waitMs }, dryRun) => {
      const wish = { osd: osd as OsdId, waitMs: waitMs ?? TRANSFER_WAIT_MS, dryRun };
      return { status: 200, value: views.pg(await monitor.transfers.move(pg, wish)) };
    },
  });
  addAction(app, {
    path: "/pgs/{pg}",
    verb: "scrub",
    summary:
      "Compare the replicas of a group, and put right what differs; its leader carries it out",
    params: pgParam,
    body: PgScrubSchema,
    answers: { 202: json(PgSchema, "the group") },
    run: ({ pg }, { deep }, dry) => {
      const info = pools.pgOf(pg);
      if (!dry) monitor.scrubs.request(info, deep === true);
      return Promise.resolve({ status: 202, value: views.pg(info) });
    },
  });
  addAction(app, {
    path: "/pgs/{pg}",
    verb: "replaceReplica",
    summary: "Give a group a new replica in place of another; its leader carries it out",
    params: pgParam,
    body: PgReplaceSchema,
    answers: { 202: json(PgSchema, "the group") },
    run: async ({ pg }, { fromOsd, toOsd }, dry) => {
      const next = await pools.replaceReplica(pg, fromOsd as OsdId, toOsd as OsdId, dry);
      return { status: 202, value: views.pg(next) };
    },
  });
}

function addOperations(app: OpenAPIHono, monitor: Monitor): void {
  const { operations, views, catalogue } = monitor;
  // Before the route without a verb, which would take the verb for a part of the number.
  addAction(app, {
    path: "/operations/{operation}",
    verb: "cancel",
    summary: "Take an operation back: refused, as every kind takes effect when it is begun",
    params: operationParam,
    body: z.undefined(),
    answers: { 200: json(OperationSchema, "the operation") },
    run: ({ operation }) => operations.refuseCancel(operation),
  });
  app.openapi(
    createRoute({
      method: "get",
      path: `${V1}/operations`,
      summary: "Running and recent operations, the newest first",
      request: { query: noQuery },
      responses: { 200: json(itemsOf(OperationSchema), "operations"), default: problem },
    }),
    (c) => {
      const all = [...catalogue.operations.values()].sort((a, b) => b.id - a.id);
      return c.json({ items: all.map((one) => views.operation(one)) }, 200);
    },
  );
  app.openapi(
    createRoute({
      method: "get",
      path: `${V1}/operations/{operation}`,
      summary: "One operation; waits for its end when asked to",
      request: {
        params: operationParam,
        query: z.strictObject({
          waitMs: z.coerce.number().int().min(0).max(WAIT_MS_MAX).optional(),
        }),
      },
      responses: { 200: json(OperationSchema, "the operation"), default: problem },
    }),
    async (c) => {
      const { operation } = c.req.valid("param");
      const limitMs = c.req.valid("query").waitMs ?? 0;
      return c.json(views.operation(await operations.wait(operation, limitMs * 1000)), 200);
    },
  );
}
