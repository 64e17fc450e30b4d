// data path
/**
 * The face of the reactor: worlds with a life of their own, the simulator, channels between
 * shards. The seams that all of `core/` programs against are in `world.ts`; the implementations on
 * the operating system (`uring-world.ts`, `bun-world.ts`) are made by `cmd/world.ts`.
 */
export { ShardChannel } from "./channel.ts";
export type { ReactorStats, RunnableWorld, WorldOptions } from "./reactor-base.ts";
export type { DiskWatcher, SimDiskFile } from "./sim-disk.ts";
export { SimMemory } from "./sim-pages.ts";
export { type LoggedError, Simulation, SimulationError, type SimWorld } from "./sim-world.ts";
