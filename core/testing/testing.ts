// cold: the simulator
/** The face of the simulator: whole clusters in one thread, faults, checkers; and of fuzzing. */
export { runSimulation, SimFailure, type SimRunOptions, type SimVerdict } from "./sim-run.ts";
export { SHRINK_MS, tellFailure } from "./sim-shrink.ts";
export { SimTally } from "./sim-tally.ts";
export { checkRegisters, type RegisterVerdict } from "./linearizable.ts";
export { parseHistory, RegisterHistory } from "./linearizable-history.ts";
export { checkSeeds, type FuzzCounts, runFuzz } from "./fuzz.ts";
export { fuzzTargets } from "./fuzz-targets.ts";
export { SimMemory } from "../reactor/reactor.ts";
