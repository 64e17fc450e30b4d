import { openDiskFile } from "./bun-open-disk.ts";

/** A process that holds the device named in its arguments; ends a while after its input ends. */
const LINGER_MS = 200;

openDiskFile(process.argv[2] ?? "", {});
process.stdout.write("held\n");
process.stdin.on("end", () => setTimeout(() => process.exit(0), LINGER_MS));
process.stdin.resume();
