import { shellWord } from "./shell.ts";

/**
 * Errors of the control plane: coded, explained, and with a way out.
 *
 * The data path returns a `Status` instead. Codes are stable and never reused; each stands once in
 * `ERRORS`, which `fastblock explain CODE` and the REST document read.
 */
export class FastblockError extends Error {
  override readonly name = "FastblockError";
  readonly code: ErrorCode;
  readonly why: string | undefined;
  readonly hint: string | undefined;

  /** `message`: what failed, colon, the value seen, the value wanted. */
  constructor(code: ErrorCode, message: string, details: { why?: string; hint?: string } = {}) {
    super(message);
    this.code = code;
    this.why = details.why;
    this.hint = details.hint ?? ERRORS[code].hint;
  }
}

/**
 * The same error with what is known of the device in its hint: there `PATH` and `OSD` stand for the
 * path and the osd's number. Another error as it is.
 */
export function withDevice(
  error: unknown,
  known: { path: string; osd: number | undefined },
): unknown {
  if (!(error instanceof FastblockError) || error.hint === undefined) return error;
  const { code, message, why } = error;
  const hint = error.hint
    .replace(/\bPATH\b/g, () => shellWord(known.path))
    .replace(/\bOSD\b/g, (word) => (known.osd === undefined ? word : String(known.osd)));
  return new FastblockError(code, message, { hint, ...(why === undefined ? {} : { why }) });
}

/** An error as people read it; `head` stands before the message and may be coloured. */
export interface ErrorText {
  readonly head: string;
  readonly message: string;
  readonly why?: string | undefined;
  readonly hint?: string | undefined;
  /** Names the code for `fastblock explain`; absent for errors without one. */
  readonly code?: string | undefined;
}

/** What failed, why, what to do, where to read more: a line each. */
export function formatError({ head, message, why, hint, code }: ErrorText): string {
  const lines = [`${head}: ${message}`];
  if (why !== undefined && why !== "") lines.push(`  why   ${why}`);
  if (hint !== undefined) lines.push(`  hint  ${hint}`);
  if (code !== undefined) lines.push(`  more  fastblock explain ${code}`);
  return `${lines.join("\n")}\n`;
}

export interface ErrorKind {
  /** One line for `explain`. */
  readonly title: string;
  /** HTTP status of the REST answer. */
  readonly http: number;
  /** Exit code of the CLI (`interfaces`: 1 failed, 2 usage, 3 not found, 4 exists, 5 unreachable …). */
  readonly exit: number;
  /** What to do, unless the error itself knows better. */
  readonly hint: string;
}

export const ERRORS = {
  FB1001: {
    title: "A value is malformed",
    http: 400,
    exit: 2,
    hint: "correct the value and repeat",
  },
  FB1002: {
    title: "A name is malformed",
    http: 400,
    exit: 2,
    hint: "use 1 to 63 of a-z A-Z 0-9 . _ -, beginning with a letter or digit",
  },
  FB1003: {
    title: "A request failed inside the mon",
    http: 500,
    exit: 1,
    hint: "look into the mon's log",
  },
  FB1004: {
    title: "The mon can not be reached",
    http: 503,
    exit: 5,
    hint: "check that the mon runs: fastblock dev status",
  },
  FB1005: {
    title: "The cluster is not found",
    http: 404,
    exit: 3,
    hint: "name its directory by --cluster DIR or CLUSTER_DIR, or start one: fastblock dev up",
  },
  FB1006: {
    title: "The operation took too long",
    http: 504,
    exit: 7,
    hint: "it may still finish: look with status, then repeat",
  },
  FB1007: {
    title: "The request is refused",
    http: 403,
    exit: 6,
    hint: "use the key file of this cluster",
  },
  FB1008: {
    title: "A file or directory can not be used",
    http: 400,
    exit: 1,
    hint: "check its name and the rights on it, or choose another place",
  },
  FB1009: {
    title: "A process of the cluster did not start",
    http: 500,
    exit: 1,
    hint: "look into its log in the cluster directory",
  },
  FB1010: {
    title: "There is no such route",
    http: 404,
    exit: 3,
    hint: "see /openapi.json",
  },
  FB1011: {
    title: "The request's body is of another type",
    http: 415,
    exit: 2,
    hint: "send JSON, and say so: content-type: application/json",
  },
  FB1012: {
    title: "The request's body is too large",
    http: 413,
    exit: 2,
    hint: "send at most 64 KiB",
  },
  FB1013: {
    title: "What destroys data was not confirmed",
    http: 409,
    exit: 8,
    hint: "type the name when asked; in a script, give --yes",
  },
  FB1014: {
    title: "The file to read does not exist",
    http: 404,
    exit: 3,
    hint: "check its name",
  },
  FB1015: {
    title: "The mon's catalogue is an old copy",
    http: 503,
    exit: 5,
    hint: "put the right catalogue back; if it is lost, start the mon once with --restored",
  },
  FB1016: {
    title: "The program's formats are not those of the cluster",
    http: 409,
    exit: 8,
    hint: "run the version that the rest of the cluster runs",
  },
  FB1017: {
    title: "This user may not use a file or directory",
    http: 403,
    exit: 6,
    hint: "run it as the owner of the cluster, or ask him for the rights",
  },
  FB1018: {
    title: "Connections can not be encrypted",
    http: 503,
    exit: 1,
    hint: "install OpenSSL 3 there (Debian: apt-get install libssl3), run one version everywhere, or start it without --encrypt",
  },
  FB2001: {
    title: "The pool does not exist",
    http: 404,
    exit: 3,
    hint: "fastblock pool ls shows the pools",
  },
  FB2002: { title: "The pool exists", http: 409, exit: 4, hint: "choose another name" },
  FB2003: {
    title: "The cluster is too small for the pool",
    http: 409,
    exit: 8,
    hint: "add osds, or create the pool with a smaller --size",
  },
  FB2004: {
    title: "The pool is not empty",
    http: 409,
    exit: 8,
    hint: "remove its images first: fastblock image ls POOL",
  },
  FB2101: {
    title: "The osd does not exist",
    http: 404,
    exit: 3,
    hint: "fastblock osd ls shows the osds",
  },
  FB2102: {
    title: "The osd's device can not be used",
    http: 409,
    exit: 1,
    hint: "look at the device: fastblock osd inspect --data PATH",
  },
  FB2103: {
    title: "The osd's identity is in use",
    http: 409,
    exit: 4,
    hint: "format the device under a new id",
  },
  FB2201: {
    title: "The placement group does not exist",
    http: 404,
    exit: 3,
    hint: "fastblock pg ls shows the placement groups",
  },
  FB2202: {
    title: "The placement group has no leader",
    http: 503,
    exit: 5,
    hint: "start osds until a majority of its replicas is up",
  },
  FB2203: {
    title: "The replica can not take this part in its group now",
    http: 409,
    exit: 8,
    hint: "look at the group: fastblock pg info PG",
  },
  FB2204: {
    title: "Scrub found what it can not put right",
    http: 409,
    exit: 1,
    hint: "fastblock health names the blocks and says what to do",
  },
  FB3001: {
    title: "The image does not exist",
    http: 404,
    exit: 3,
    hint: "fastblock image ls shows the images",
  },
  FB3002: { title: "The image exists", http: 409, exit: 4, hint: "choose another name" },
  FB3003: {
    title: "The image's size is refused",
    http: 400,
    exit: 2,
    hint: "give a multiple of 4 KiB between 4 KiB and 16 TiB, like 10GiB",
  },
  FB3004: {
    title: "The image's replicas differ",
    http: 409,
    exit: 1,
    hint: "the list names blocks and osds; look at their groups: fastblock pg ls POOL",
  },
  FB3005: { title: "The image is in use", http: 409, exit: 8, hint: "detach its clients first" },
  FB3006: {
    title: "The image has an operation running",
    http: 409,
    exit: 8,
    hint: "wait for it: fastblock op ls",
  },
  FB3007: { title: "The session is over", http: 409, exit: 4, hint: "open the image again" },
  FB3008: {
    title: "Blocks of the image are lost",
    http: 409,
    exit: 1,
    hint: "no replica has them whole: write them anew, from a backup",
  },
  FB4001: {
    title: "The device holds no fastblock store",
    http: 409,
    exit: 3,
    hint: "format it first: fastblock osd format --data PATH --id OSD",
  },
  FB4002: {
    title: "The device belongs to another cluster",
    http: 409,
    exit: 8,
    hint: "attach the device to its own cluster, or format it again",
  },
  FB4003: {
    title: "The store's format is newer than this program",
    http: 409,
    exit: 8,
    hint: "use the newer fastblock",
  },
  FB4004: {
    title: "The store is an old copy: others remember more of it",
    http: 409,
    exit: 8,
    hint: "put the right device back; if it is lost, format this one, and it is filled again: fastblock osd format --data PATH --id OSD --force",
  },
  FB4005: {
    title: "The device, port or name is in use",
    http: 409,
    exit: 4,
    hint: "stop the process that holds it",
  },
  FB4006: {
    title: "The store is damaged",
    http: 409,
    exit: 1,
    hint: "list the damage: fastblock osd fsck --data PATH",
  },
  FB4007: {
    title: "The device is too small",
    http: 400,
    exit: 2,
    hint: "use a device of at least 256 MiB",
  },
  FB4008: {
    title: "The device holds something already",
    http: 409,
    exit: 8,
    hint: "give --force only if its content may be lost",
  },
  FB4009: { title: "The device failed", http: 503, exit: 1, hint: "replace the device" },
  FB4010: {
    title: "The file system has too little space",
    http: 507,
    exit: 1,
    hint: "make room there, or choose another place",
  },
  FB4011: {
    title: "The device does not exist",
    http: 404,
    exit: 3,
    hint: "check its path",
  },
  FB4012: {
    title: "There is too little memory",
    http: 503,
    exit: 1,
    hint: "raise the limits of the process (ulimit -v and -d, LimitAS= and LimitDATA= of its unit), or free memory of this machine",
  },
  FB5001: {
    title: "The data path answered an error",
    http: 503,
    exit: 1,
    hint: "fastblock health shows what is wrong",
  },
  FB5002: {
    title: "The osds have no space for a write",
    http: 507,
    exit: 1,
    hint: "fastblock health names the osds that are full, or the file systems beneath them: make room there, add osds, or remove images (fastblock image du)",
  },
  FB6001: {
    title: "The operation does not exist",
    http: 404,
    exit: 3,
    hint: "fastblock op ls shows the operations",
  },
  FB6002: {
    title: "The operation can not be cancelled",
    http: 409,
    exit: 8,
    hint: "see what it waits for: fastblock op info OPERATION",
  },
  FB6003: {
    title: "The trace has no operation to draw",
    http: 404,
    exit: 3,
    hint: "fastblock trace start, then let clients write for some seconds",
  },
} as const satisfies Record<string, ErrorKind>;

export type ErrorCode = keyof typeof ERRORS;
