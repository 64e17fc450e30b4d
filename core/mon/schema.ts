import { z } from "@hono/zod-openapi";

/**
 * The data of REST `/api/v1`. The command line and the dashboard use these types; `/openapi.json`
 * is generated from these schemas.
 *
 * Bytes are numbers, above 2^53 decimal strings; times are RFC 3339; ids are numbers; states are
 * enumerations. Fields are added, never renamed or given another meaning.
 */

/** Bytes in answers. */
const bytes = z.union([z.int().min(0), z.string().regex(/^\d+$/)]).openapi({ example: 1073741824 });
const time = z.iso.datetime().openapi({ example: "2026-01-31T12:00:00.000Z" });

/** Bytes in requests: a number, or decimal text. */
const bytesWanted = z
  .union([
    z.number(),
    z
      .string()
      .regex(/^\d{1,16}$/)
      .transform(Number),
  ])
  .openapi({ type: "integer", example: 1073741824 });

export const ProblemSchema = z
  .object({
    type: z.string(),
    title: z.string(),
    status: z.int(),
    detail: z.string().openapi({ description: "what failed: the value seen, the value wanted" }),
    code: z.string().openapi({ example: "FB2001" }),
    why: z.string().optional(),
    hint: z.string().optional(),
  })
  .openapi("Problem");

export const HealthSchema = z
  .object({
    status: z.enum(["ok", "warn", "error"]),
    checks: z.array(
      z.object({
        code: z.string().openapi({ example: "OSD_DOWN" }),
        severity: z
          .enum(["info", "warn", "error"])
          .openapi({ description: "info: worth knowing; the status stays as it is" }),
        summary: z.string(),
        details: z.array(z.string()),
        hint: z.string(),
      }),
    ),
  })
  .openapi("Health");

const PgStateSchema = z.enum(["creating", "active", "degraded", "down", "leaderless"]);

/** How many processes have each backend: `{"uring": 3}`. */
const BackendsSchema = z.record(z.string(), z.int());

const UsageSchema = z.object({ totalBytes: bytes, usedBytes: bytes });

const CapacitySchema = UsageSchema.extend({
  freeBytesBeneath: bytes.nullable().openapi({
    description: "the least that a file system beneath an osd can give; null: all that is promised",
  }),
});

/** A sparse store and the file system beneath it. */
const BeneathSchema = z.object({
  state: z
    .enum(["enough", "near", "short"])
    .openapi({ description: "near: nearly full; short: writes are refused" }),
  freeBytes: bytes,
  path: z.string(),
});

export const StatusSchema = z
  .object({
    cluster: z.object({ id: z.string(), name: z.string() }),
    health: HealthSchema,
    version: z.string(),
    backend: z.string().openapi({
      description: "what carries disk and network of the osds: uring, file, memory, mixed or none",
    }),
    backends: z
      .object({ mons: BackendsSchema, osds: BackendsSchema, clients: BackendsSchema })
      .openapi({
        description: "how many have which; clients: gateways and programs that follow the map now",
        example: { mons: { uring: 1 }, osds: { uring: 3 }, clients: { uring: 1 } },
      }),
    map: z.object({ generation: z.int(), epoch: z.int() }),
    mons: z.object({ total: z.int(), leader: z.string() }),
    osds: z.object({ total: z.int(), up: z.int(), in: z.int() }),
    pgs: z.object({
      total: z.int(),
      byState: z.object({
        creating: z.int(),
        active: z.int(),
        degraded: z.int(),
        down: z.int(),
        leaderless: z.int(),
      }),
    }),
    pools: z.int(),
    images: z.int(),
    sessions: z.int(),
    operations: z.int().openapi({ description: "running ones" }),
    capacity: CapacitySchema,
  })
  .openapi("Status");

export const PoolSchema = z
  .object({
    id: z.int(),
    name: z.string(),
    size: z.int().openapi({ description: "replicas" }),
    pgCount: z.int(),
    objectBytes: z.int(),
    failureDomain: z.enum(["osd", "host"]),
    images: z.int(),
    provisionedBytes: bytes.openapi({ description: "sum of the sizes of its images" }),
    usedBytes: bytes.openapi({ description: "on all replicas together, as last reported" }),
    pgs: z.object({ active: z.int(), other: z.int() }),
    notes: z.array(z.string()).openapi({ description: "what its creator should know" }),
  })
  .openapi("Pool");

export const PoolCreateSchema = z
  .strictObject({
    name: z.string(),
    size: z.int().default(3),
    pgCount: z.int().optional(),
    objectBytes: bytesWanted.optional(),
    failureDomain: z.enum(["osd", "host"]).optional(),
  })
  .openapi("PoolCreate");

export const PlacementSchema = z
  .object({
    pool: z.string(),
    ok: z.boolean(),
    failureDomain: z.enum(["osd", "host"]),
    domainsUsable: z.int(),
    domainsWanted: z.int(),
    rejected: z.array(z.object({ osd: z.int(), rule: z.string() })),
    shares: z.array(
      z.object({
        osd: z.int(),
        replicas: z.int(),
        leaders: z.int(),
        witnesses: z.int(),
        target: z.number(),
      }),
    ),
  })
  .openapi("Placement");

const SessionSchema = z.object({
  id: z.int(),
  client: z.string(),
  mode: z.enum(["shared", "read-only", "exclusive"]),
  alive: z.boolean(),
  since: time,
});

export const ImageSchema = z
  .object({
    id: z.int(),
    name: z.string(),
    pool: z.string(),
    path: z.string().openapi({ example: "demo/disk1" }),
    sizeBytes: bytes,
    allocatedBytes: bytes.openapi({
      description: "of sizeBytes, what takes space, in units of 64 KiB, as last reported",
    }),
    usedBytes: bytes.openapi({ description: "on all replicas together, as last reported" }),
    usedAgeMs: z.int().nullable().openapi({
      description: "of the oldest report in it; null: an osd was not heard since the mon runs",
    }),
    objectBytes: z.int(),
    layer: z.int(),
    family: z.int(),
    snapSeq: z.int(),
    lockEpoch: z.int(),
    created: time,
    sessions: z.array(SessionSchema),
  })
  .openapi("Image");

export const ImageCreateSchema = z
  .strictObject({ name: z.string(), sizeBytes: bytesWanted })
  .openapi("ImageCreate");
export const ImageResizeSchema = z.strictObject({ sizeBytes: bytesWanted }).openapi("ImageResize");
export const ImageRenameSchema = z.strictObject({ name: z.string() }).openapi("ImageRename");

/** How an osd's device does. */
const DeviceSchema = z.object({
  readErrors: z.int().openapi({ description: "reads that failed since the osd started" }),
  writeErrors: z.int(),
  flushErrors: z.int(),
  readsFail: z.boolean().openapi({ description: "a read failed in the last hour" }),
  slow: z.boolean().openapi({ description: "leaders go elsewhere" }),
  latencyMs: z.int().openapi({ description: "of operations, while it is slow; else 0" }),
});

export const OsdSchema = z
  .object({
    id: z.int(),
    host: z.string(),
    up: z.boolean(),
    in: z.boolean(),
    weight: z.int(),
    storeUuid: z.string(),
    shards: z.array(z.object({ host: z.string(), port: z.int() })),
    backend: z.string(),
    version: z.string(),
    incarnation: z.int(),
    capacityBytes: bytes,
    usedBytes: bytes,
    logCapacityBytes: bytes,
    logUsedBytes: bytes,
    beneath: BeneathSchema.nullable().openapi({
      description: "of a sparse store whose file system has less than the store may take yet",
    }),
    device: DeviceSchema.nullable().openapi({ description: "null: not heard since the mon runs" }),
    pgs: z.int().openapi({ description: "members of groups by the map: replicas and witnesses" }),
    replicas: z.int().openapi({ description: "of pgs, those that hold data" }),
    witnesses: z.int().openapi({ description: "of pgs, those that vote and hold no data" }),
    leaders: z.int(),
    epoch: z.int().openapi({ description: "of the map that it has" }),
    reportAgeMs: z.int().nullable().openapi({ description: "null: not heard since the mon runs" }),
  })
  .openapi("Osd");

const PlaceSchema = z.object({ host: z.string(), port: z.int() });

export const MonSchema = z
  .object({
    id: z.int(),
    name: z.string().openapi({ example: "mon.a" }),
    state: z.enum(["up", "unknown"]).openapi({ description: "unknown: it does not lead" }),
    leader: z.boolean(),
    control: PlaceSchema.openapi({ description: "where osds and clients reach it" }),
    http: PlaceSchema.openapi({ description: "where REST and pages are" }),
    started: time.nullable().openapi({ description: "when it began to lead" }),
    uptimeMs: z.int().nullable().openapi({ description: "since then" }),
    version: z.string().nullable(),
    backend: z.string().nullable(),
  })
  .openapi("Mon");

const ReplicaSchema = z.object({
  replicaId: z.int(),
  osd: z.int(),
  shard: z.int(),
  storeUuid: z.string(),
  leaving: z.boolean(),
  witness: z.boolean().openapi({ description: "votes, and holds no data" }),
  osdUp: z.boolean().openapi({ description: "its osd is up, with the store that it is made on" }),
  reportAgeMs: z.int().nullable().openapi({
    description: "how long ago its osd was heard; null: it has not told of it since the mon runs",
  }),
  toldAgeMs: z.int().nullable().openapi({
    description: "how long ago it told what follows: indexes that move are told now and then",
  }),
  role: z
    .enum(["unknown", "follower", "candidate", "leader", "learner", "filling", "distrusted"])
    .openapi({ description: "as last reported" }),
  term: z.int(),
  commitIndex: z.int(),
  appliedIndex: z.int(),
  usedBytes: bytes,
});

export const PgSchema = z
  .object({
    id: z.string().openapi({ example: "1.17" }),
    pool: z.string(),
    state: PgStateSchema,
    leaderOsd: z.int().nullable(),
    leaderReplica: z.int(),
    term: z.int(),
    lastChangeEpoch: z.int(),
    osds: z
      .array(z.int())
      .openapi({ description: "desired holders of the data, the preferred leader first" }),
    witnesses: z.array(z.int()).openapi({ description: "desired, that vote and hold no data" }),
    joining: z.array(z.int()).openapi({ description: "desired, whose replica does not vote yet" }),
    leaving: z.array(z.int()).openapi({ description: "whose replica goes when others hold all" }),
    filling: z.array(z.int()).openapi({ description: "whose replica catches up by difference" }),
    replicas: z.array(ReplicaSchema),
    configuration: z
      .object({
        index: z.int(),
        voters: z.array(z.int()),
        outgoing: z.array(z.int()),
        learners: z.array(z.int()),
      })
      .nullable(),
    scrub: z
      .object({
        running: z.enum(["light", "deep"]).nullable(),
        last: time.nullable().openapi({ description: "when the last one ended, of either depth" }),
        lastDeep: time.nullable(),
        found: z.int().openapi({ description: "blocks that the last one found wrong" }),
        healed: z.int(),
        left: z.int().openapi({ description: "that it could not put right" }),
      })
      .openapi({ description: "comparison of the replicas with each other and with checksums" }),
  })
  .openapi("Pg");

export const PgScrubSchema = z
  .strictObject({
    deep: z.boolean().optional().openapi({ description: "read all data, too; default: no" }),
  })
  .openapi("PgScrub");

export const PgTransferSchema = z
  .strictObject({
    osd: z.int().openapi({ description: "holder of the replica that shall lead" }),
    waitMs: z
      .int()
      .min(0)
      .max(30_000)
      .optional()
      .openapi({ description: "for how long at most; 0: only ask; default: 3000" }),
  })
  .openapi("PgTransfer");
export const PgReplaceSchema = z
  .strictObject({ fromOsd: z.int(), toOsd: z.int() })
  .openapi("PgReplace");

export const OperationSchema = z
  .object({
    id: z.int(),
    kind: z.enum(["image.shrink", "image.remove"]),
    title: z.string(),
    state: z.enum(["running", "done", "failed", "cancelled"]),
    done: z.int().openapi({ description: "steps" }),
    total: z.int(),
    waitingFor: z.array(z.string()).openapi({ description: "groups that do not answer, and why" }),
    started: time,
    ended: time.nullable(),
    error: z.string().nullable(),
  })
  .openapi("Operation");

const RecoverySpeedSchema = z.enum(["low", "medium", "high"]).openapi({
  description: "share of an osd's time that recovery takes while clients are at work",
});

const RecoveryReplicaSchema = z.object({
  pg: z.string().openapi({ example: "1.17" }),
  pool: z.string(),
  osd: z.int(),
  stage: z.enum(["log", "waiting", "difference"]).openapi({
    description:
      "log: gets old entries from the leader; difference: is compared, and what differs copied; waiting: for that",
  }),
  entriesLeft: z.int().openapi({ description: "log: entries that it lacks" }),
  pass: z.int().openapi({ description: "difference: passes through all units, with this one" }),
  unitsDone: z.int().openapi({ description: "difference: units of 64 KiB, of this pass" }),
  unitsLeft: z.int(),
  bytesLeft: bytes.openapi({ description: "to compare, and to copy where they differ" }),
  bytesDiffering: bytes,
  bytesCopied: bytes,
  amplification: z.number().nullable().openapi({ description: "bytes copied per byte differing" }),
  etaSeconds: z.int().nullable().openapi({ description: "null: not known yet, or paused" }),
});

export const RecoverySchema = z
  .object({
    speed: RecoverySpeedSchema,
    paused: z.boolean().openapi({ description: "nothing is compared and copied" }),
    replicas: z.array(RecoveryReplicaSchema).openapi({ description: "on their way back" }),
  })
  .openapi("Recovery");

export const RecoverySetSchema = z
  .strictObject({ speed: RecoverySpeedSchema.optional(), paused: z.boolean().optional() })
  .openapi("RecoverySet");

export const VersionSchema = z
  .object({
    version: z.string(),
    api: z.literal("v1"),
    name: z.string(),
    /** Of the cluster, and those that this mon writes and knows. */
    format: z.int(),
    formatMin: z.int(),
    formatMax: z.int(),
  })
  .openapi("Version");

export const ImageResizedSchema = z
  .object({ image: ImageSchema, operation: OperationSchema.nullable() })
  .openapi("ImageResized");

export type Problem = z.infer<typeof ProblemSchema>;
export type Health = z.infer<typeof HealthSchema>;
export type StatusView = z.infer<typeof StatusSchema>;
export type PoolView = z.infer<typeof PoolSchema>;
export type PlacementView = z.infer<typeof PlacementSchema>;
export type ImageView = z.infer<typeof ImageSchema>;
export type MonView = z.infer<typeof MonSchema>;
export type OsdView = z.infer<typeof OsdSchema>;
export type PgView = z.infer<typeof PgSchema>;
export type RecoveryView = z.infer<typeof RecoverySchema>;
export type RecoveryReplicaView = z.infer<typeof RecoveryReplicaSchema>;
export type RecoverySpeedName = z.infer<typeof RecoverySpeedSchema>;
export type OperationView = z.infer<typeof OperationSchema>;
