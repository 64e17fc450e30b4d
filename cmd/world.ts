import { pinThread } from "../ffi/libc/libc.ts";
import { UringUnavailable } from "../ffi/uring/ring.ts";
import { createBunWorld } from "../core/reactor/bun-world.ts";
import type { RunnableWorld } from "../core/reactor/reactor.ts";
import { createUringWorld, type UringOptions } from "../core/reactor/uring-world.ts";

/** What a process or shard asks of its world. */
export interface CreateWorldOptions extends UringOptions {
  /**
   * `uring`: only io_uring, throws where it is refused. `file`: only the runtime's files and
   * sockets. `auto` (default): io_uring, else the other with one warning.
   */
  readonly prefer?: "auto" | "uring" | "file";
  /** Bind the calling thread to this core. */
  readonly cpu?: number;
}

/** Make the world of the calling thread. Start it when everything is set up. */
export function createWorld(options: CreateWorldOptions): RunnableWorld {
  if (options.cpu !== undefined) {
    const result = pinThread(options.cpu);
    if (result < 0) options.logger.warn("not pinned", { cpu: options.cpu, errno: -result });
  }
  if (options.prefer === "file") return createBunWorld(options);
  try {
    const world = createUringWorld(options);
    options.logger.info("reactor", { backend: world.backend, features: world.ring.features });
    return world;
  } catch (error) {
    if (!(error instanceof UringUnavailable) || options.prefer === "uring") throw error;
    options.logger.warn("io_uring is not available: using files and sockets, which is slower", {
      why: error.message,
      hint: hintOf(error.errno),
    });
    return createBunWorld(options);
  }
}

/** What lets the kernel make a ring that it refused. */
function hintOf(errno: number): string {
  switch (errno) {
    case 0:
    case ENOSYS:
      return "run Linux 6.1 or newer";
    case ENOMEM:
      return "raise the limit of locked memory (LimitMEMLOCK=infinity)";
    case ENFILE:
    case EMFILE:
      return "raise the limit of open files (LimitNOFILE)";
    default:
      return "set kernel.io_uring_disabled=0 and allow it in the sandbox";
  }
}

const ENOMEM = 12;
const ENFILE = 23;
const EMFILE = 24;
const ENOSYS = 38;
