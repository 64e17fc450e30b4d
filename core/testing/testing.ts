// cold: the simulator
/** The face of the simulator: whole clusters in one thread, faults, checkers. */
export { runSimulation, type SimVerdict } from "./sim-run.ts";
