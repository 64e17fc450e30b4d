// cold: tests of whole clusters, loaded before them (`.ci/gate.ts`).
import { afterEach } from "bun:test";

// A simulated cluster has hundreds of MB that are not of the heap, whose growth makes the collector come.
afterEach(() => Bun.gc(true));
