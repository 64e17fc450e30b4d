import { expect, test } from "bun:test";
import { drainMicrotasks } from "bun:jsc";
import { BLOCK_SIZE } from "../base/units.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { decodeSuperblock, type Superblock } from "../store/store.ts";
import { Machine } from "./machine-harness.ts";
import { fsckStore } from "./store-tools.ts";

const DEVICE_BYTES = 256 * 1_048_576;
const END = DEVICE_BYTES - BLOCK_SIZE;
const checksum = new SystemChecksum();

function superblockAt(machine: Machine, offset: number): Superblock | undefined {
  return decodeSuperblock(machine.simulation.disk("disk").peek(offset, BLOCK_SIZE), checksum);
}

// Whichever is the newer one: one start more, and it is the other.
test.each([
  ["A", 0, 1],
  ["A", 0, 2],
  ["B", END, 1],
  ["B", END, 2],
])(
  "copy %s of the superblock overwritten at %d, after %d starts: found, and written anew",
  async (copy, offsetBytes, starts) => {
    const machine = await Machine.make(5, { drainMicrotasks, checksum }, DEVICE_BYTES);
    for (let start = 0; start < starts; start++) {
      await machine.open({});
      machine.crash();
    }
    const check = (): ReturnType<typeof fsckStore> => machine.tool(fsckStore);
    expect(await check()).toMatchObject({ clean: true, findings: [] });
    machine.simulation.disk("disk").poke(offsetBytes, new Uint8Array(BLOCK_SIZE).fill(0xa5));
    const { clean, startable, findings } = await check();
    expect({ clean, startable, findings }).toEqual({
      clean: false,
      startable: true,
      findings: [
        {
          region: "superblock",
          offsetBytes,
          text: `copy ${copy} is not valid; the other one serves, and the next start of the osd writes both`,
        },
      ],
    });
    const rig = await machine.open({});
    // The start itself writes the damaged one; that it serves is written to both.
    expect(superblockAt(machine, offsetBytes)?.incarnation).toBe(rig.store.identity.incarnation);
    machine.crash();
    expect(await check()).toMatchObject({ clean: true, findings: [] });
  },
);
