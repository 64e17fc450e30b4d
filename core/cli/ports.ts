import type { Image } from "../client/client.ts";
import type { World } from "../reactor/world.ts";

/** Everything that the command line takes from outside; `cmd/main.ts` supplies it. */
export interface CliPorts {
  /** Data: standard output. */
  out(text: string): void;
  /** Words: standard error. */
  err(text: string): void;
  readonly outIsTty: boolean;
  readonly errIsTty: boolean;
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** The cluster directory when neither flag nor environment names one. */
  readonly directoryDefault: string;
  readonly versions: Readonly<Record<string, string>>;
  /** REST addresses of the mons. Throws FB1005 when the directory holds no cluster. */
  readMons(directory: string): readonly MonHttp[];
  http(request: HttpRequest): Promise<HttpReply>;
  yaml(value: unknown): string;
  style(kind: Style, text: string): string;
  /** One line from the terminal. */
  ask(question: string): Promise<string>;
  sleep(ms: number): Promise<void>;
  /** Milliseconds of a clock that never steps. */
  nowMs(): number;
  readonly programs: Programs;
}

export interface MonHttp {
  readonly host: string;
  readonly port: number;
}

export type Style = "red" | "yellow" | "green" | "bold" | "dim";

export interface HttpRequest {
  readonly method: string;
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
  readonly timeoutMs: number;
}

export interface HttpReply {
  readonly status: number;
  readonly body: string;
}

/** What a program leaves behind: its exit code, or it serves until it is told to stop. */
export type Outcome = number | "serving";

/**
 * Programs that need the machine itself: disks, sockets, processes. Each is loaded only when it is
 * called. They throw `FastblockError`.
 */
export interface Programs {
  monRun(options: MonRunOptions): Promise<Outcome>;
  osdRun(options: OsdRunOptions): Promise<Outcome>;
  nbdServe(options: NbdServeOptions): Promise<Outcome>;
  osdFormat(options: OsdFormatOptions): Promise<Record<string, unknown>>;
  osdInspect(options: OsdInspectOptions): Promise<Record<string, unknown>>;
  osdFsck(options: OsdFsckOptions): Promise<FsckReport>;
  /** Open images of a cluster, run `body`, close them whatever comes of it. */
  withImages<T>(
    options: AttachOptions,
    body: (images: readonly Image[], world: World) => Promise<T>,
  ): Promise<T>;
  /** The bytes of a file, `-`: of standard input. */
  readBytes(path: string): AsyncIterable<Uint8Array>;
  /** A file that is made anew, `-`: standard output. */
  writeBytes(path: string): Promise<ByteSink>;
}

export type LogLevel = "debug" | "info" | "warn" | "error";
export type BackendChoice = "auto" | "uring" | "file";

export interface RoleFlags {
  readonly cluster: string;
  readonly name: string;
  readonly bind: string;
  readonly data: string;
  readonly logLevel: LogLevel;
  readonly log?: string | undefined;
  readonly backend: BackendChoice;
  /** Every connection of the process is encrypted, or there is none. */
  readonly encrypt: boolean;
}

export interface MonRunOptions extends RoleFlags {
  /** 0 lets the system choose. */
  readonly controlPort: number;
  readonly httpPort: number;
  /** The catalogue comes from a backup: raise the generation, jump all ids. */
  readonly restored: boolean;
  /** Groups are scrubbed by themselves. */
  readonly scrub: boolean;
}

export interface OsdRunOptions extends RoleFlags {
  readonly osd: number;
  readonly shards: number;
  /** One per shard; missing ones are 0. */
  readonly dataPorts: readonly number[];
  /** How fast each shard reads for scrubs; undefined: as the osd has it. */
  readonly scrubBytesPerSecond: number | undefined;
  /** Memory for rows of the index, all shards together; 0: for all of them. */
  readonly indexBytes: number;
}

export interface NbdServeOptions extends RoleFlags {
  readonly port: number;
  /** Path of a unix socket to serve besides, or empty. */
  readonly socket: string;
  readonly exclusive: boolean;
  readonly readOnly: boolean;
  /** `POOL/IMAGE`; empty: every image of the cluster. */
  readonly exports: readonly string[];
}

export interface OsdFormatOptions {
  readonly cluster: string;
  readonly data: string;
  readonly osd: number;
  readonly shards: number;
  /** Size of a regular file to make; 0: what stands there. */
  readonly sizeBytes: number;
  /** Log of each shard; 0: the store decides. */
  readonly logBytes: number;
  readonly force: boolean;
  readonly backend: BackendChoice;
}

export interface OsdInspectOptions {
  readonly data: string;
  /** Only this part; empty: everything. */
  readonly what: string;
  readonly backend: BackendChoice;
}

export interface OsdFsckOptions {
  readonly data: string;
  readonly backend: BackendChoice;
}

export interface FsckReport {
  /** Whose store it is. */
  readonly osd: number;
  readonly clean: boolean;
  /** False when an osd refuses to start on it: only a format helps. */
  readonly startable: boolean;
  readonly findings: readonly unknown[];
  readonly [key: string]: unknown;
}

export interface AttachOptions {
  readonly cluster: string;
  /** `POOL/IMAGE`, in the order that `body` gets them. */
  readonly paths: readonly string[];
  readonly readOnly: boolean;
  readonly backend: BackendChoice;
  /** Of one operation: without an answer for this long it fails. 0: no limit. */
  readonly timeoutMs: number;
  /** Encrypt all connections, or open nothing. Default: as the cluster wants it. */
  readonly encrypt?: boolean;
}

export interface ByteSink {
  write(bytes: Uint8Array): Promise<void>;
  close(): Promise<void>;
}
