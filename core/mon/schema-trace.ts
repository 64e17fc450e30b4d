import { z } from "@hono/zod-openapi";

/** The data of `/trace`: where the time of operations goes. Times are in µs. */

const us = z.number().openapi({ example: 412.5 });

const TraceStageSchema = z.object({
  kind: z.enum(["write", "read"]),
  stage: z.string().openapi({
    description:
      "those of one kind without `within` follow each other and make up `total`; others go on beside each other within one of these",
    example: "replicate",
  }),
  within: z.string().nullable().openapi({ example: "replicate" }),
  who: z.enum(["client", "network", "leader", "follower", "all"]),
  what: z.string().openapi({ description: "in words" }),
  count: z.int(),
  meanUs: us,
  p50Us: us,
  p99Us: us,
  maxUs: us,
  share: z.number().openapi({ description: "of the time of all operations of its kind, 0 to 1" }),
});

const TraceBarSchema = z.object({
  lane: z.int().openapi({ description: "index in `lanes`" }),
  stage: z.string(),
  fromUs: us.openapi({ description: "since the operation began" }),
  toUs: us,
});

const TraceLaneSchema = z.object({
  process: z.string().openapi({ example: "osd.3" }),
  role: z.enum(["client", "leader", "follower"]),
  isAligned: z.boolean().openapi({
    description:
      "its clock is another one: its times are in the middle between what was sent to it and its answer",
  }),
});

const TraceOpSchema = z.object({
  kind: z.enum(["write", "read"]),
  pg: z.string().openapi({ example: "1.17" }),
  session: z.int(),
  number: z.int(),
  totalUs: us,
  leader: z.string(),
  slowestFollower: z.string().nullable().openapi({ description: "that acknowledged last" }),
  stagesUs: z.record(z.string(), us).openapi({ description: "those that make up the whole" }),
  lanes: z.array(TraceLaneSchema),
  bars: z.array(TraceBarSchema),
});

export const TraceSchema = z
  .object({
    state: z.enum(["never", "on", "ended"]),
    sample: z.int().openapi({ description: "one operation in so many" }),
    startedAt: z.iso.datetime().nullable(),
    secondsLeft: z.int(),
    processes: z.array(z.string()).openapi({ description: "that have told something" }),
    writes: z.int().openapi({ description: "of which client and leader told" }),
    reads: z.int(),
    partial: z.int().openapi({ description: "of which one of them did not, or not yet" }),
    rowsLost: z.int().openapi({ description: "overwritten before they were told" }),
    stages: z.array(TraceStageSchema),
    typical: TraceOpSchema.nullable().openapi({ description: "of the median time" }),
    slowest: z.array(TraceOpSchema).openapi({ description: "the slowest first" }),
  })
  .openapi("Trace");

export const TraceStartSchema = z
  .strictObject({
    sample: z.int().min(1).max(1_000_000).optional().openapi({
      description: "one operation in so many; default 100",
    }),
    timeMs: z.int().min(1000).max(3_600_000).optional().openapi({
      description: "it ends by itself after this; default 60 s",
    }),
  })
  .openapi("TraceStart");

export type TraceView = z.infer<typeof TraceSchema>;
export type TraceStageView = z.infer<typeof TraceStageSchema>;
export type TraceOpView = z.infer<typeof TraceOpSchema>;
