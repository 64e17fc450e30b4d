import type { Prng } from "../core/base/prng.ts";
import type { CampaignClock } from "./campaign-clock.ts";
import { type CampaignCluster, waitUntil } from "./campaign-cluster.ts";
import type { CampaignDevice } from "./campaign-device.ts";
import type { CampaignDisk } from "./campaign-disk.ts";
import type { CampaignLoad } from "./campaign-load.ts";
import type { CampaignNetwork, Direction } from "./campaign-network.ts";
import { CampaignProxy, PROXY_ADDRESS } from "./campaign-proxy.ts";

/** The faults of the kill campaign: what is done to which process, and what a client may feel. */

/** What a fault may reach. */
export interface Scene {
  readonly cluster: CampaignCluster;
  readonly load: CampaignLoad;
  readonly random: Prng;
  /** Null: this machine can not make such faults. */
  readonly network: CampaignNetwork | null;
  readonly disk: CampaignDisk | null;
  readonly device: CampaignDevice | null;
  readonly clock: CampaignClock | null;
  /** The osds whose data lies on `disk` and on `device`. */
  readonly diskOsd: string;
  readonly deviceOsd: string;
}

export interface FaultKind {
  readonly name: string;
  /** How many of them lie in the bag that kinds are drawn from. Two of three kill. */
  readonly share: number;
  readonly needs?: "network" | "disk" | "device" | "clock";
  /** It kills with -9. */
  readonly kills?: true;
  /** How long it lasts. */
  readonly holdMs: readonly [number, number];
  /** The longest that a request may wait, counted from the fault; or from when all are back. */
  readonly promiseMs: number;
  readonly from: "fault" | "quorum";
  /** Errno that writes may be refused with, until the cluster is well again. */
  readonly refusal?: number;
  /** Before the load is measured. */
  prepare?(scene: Scene): Promise<void>;
  begin(scene: Scene): Promise<Injected>;
}

export interface Injected {
  readonly victims: readonly string[];
  /** Clients of this gateway are not looked at. */
  readonly gateway?: string;
  /** Take the fault back. Answers how long each process took that was started again. */
  end(): Promise<readonly number[]>;
}

const ENOSPC = 28;
const LEASE_MS = 400;
/** What was on its way when a majority died may still be answered. */
const IN_FLIGHT_MS = 100;
/** A process that gives up its disk is gone soon after. */
const FAILED_LIMIT_MS = 20_000;
const LOST_PERCENT = 10;
const FLAP_MS_MAX = 600;
const STARVED_MS = 90;
const FED_MS = 10;
const CLOCK_STEP_S = 86_400;
/** Of each request of a slow disk. Its osd gives its leaders away within the limit. */
const SLOW_MS = 200;
const SLOW_LIMIT_MS = 10_000;

export const LEADER_KILL = "kill a leader";

export const FAULT_KINDS: readonly FaultKind[] = [
  {
    name: LEADER_KILL,
    share: 24,
    kills: true,
    holdMs: [1200, 3000],
    promiseMs: 5000,
    from: "fault",
    begin: async (scene) => await ended(scene, [await leaderOf(scene)], "SIGKILL"),
  },
  {
    name: "kill a majority",
    share: 4,
    kills: true,
    holdMs: [300, 1500],
    promiseMs: 10_000,
    from: "quorum",
    begin: async (scene) => {
      const { osds } = scene.cluster;
      return await ended(scene, some(scene, osds, Math.floor(osds.length / 2) + 1), "SIGKILL");
    },
  },
  {
    name: "kill all osds",
    share: 4,
    kills: true,
    holdMs: [100, 800],
    promiseMs: 10_000,
    from: "quorum",
    begin: async (scene) => await ended(scene, scene.cluster.osds, "SIGKILL"),
  },
  {
    name: "kill the mon",
    share: 4,
    kills: true,
    holdMs: [800, 3000],
    promiseMs: 500,
    from: "fault",
    begin: async (scene) => await ended(scene, ["mon.a"], "SIGKILL"),
  },
  {
    name: "kill a gateway",
    share: 4,
    kills: true,
    holdMs: [100, 1000],
    promiseMs: 500,
    from: "fault",
    begin: async (scene) => {
      const [name] = some(scene, scene.cluster.gateways, 1);
      return { ...(await ended(scene, [name!], "SIGKILL")), gateway: name! };
    },
  },
  {
    name: "stop an osd",
    share: 1,
    holdMs: [500, 2000],
    promiseMs: 200,
    from: "fault",
    begin: async (scene) => await ended(scene, [await leaderOf(scene)], "SIGTERM"),
  },
  {
    name: "pause a leader",
    share: 2,
    holdMs: [LEASE_MS * 2, 4000],
    promiseMs: 5000,
    from: "fault",
    begin: async (scene) => paused(scene, await leaderOf(scene)),
  },
  {
    name: "pause a gateway",
    share: 1,
    holdMs: [LEASE_MS * 2, 3000],
    promiseMs: 500,
    from: "fault",
    begin: (scene) => {
      const [name] = some(scene, scene.cluster.gateways, 1);
      return Promise.resolve({ ...paused(scene, name!), gateway: name! });
    },
  },
  {
    name: "pause a leader for long",
    share: 1,
    holdMs: [10_000, 80_000],
    promiseMs: 5000,
    from: "fault",
    begin: async (scene) => paused(scene, await leaderOf(scene)),
  },
  {
    name: "starve a leader",
    share: 1,
    holdMs: [2000, 5000],
    promiseMs: 5000,
    from: "fault",
    begin: async (scene) => starved(scene, await leaderOf(scene)),
  },
  {
    name: "step a leader's clock",
    share: 1,
    needs: "clock",
    holdMs: [2500, 5000],
    promiseMs: 500,
    from: "fault",
    prepare: async ({ cluster, clock, deviceOsd }) => {
      if (!clock!.runs(cluster, deviceOsd)) await clock!.take(cluster, deviceOsd);
      await cluster.giveLeadership(deviceOsd);
    },
    begin: ({ clock, deviceOsd, random }) => {
      clock!.step(random.below(2) === 0 ? CLOCK_STEP_S : -CLOCK_STEP_S);
      return Promise.resolve({
        victims: [deviceOsd],
        end: () => {
          clock!.step(0);
          return Promise.resolve([]);
        },
      });
    },
  },
  cutKind("cut a leader off", "both", (cluster) => cluster.names),
  cutKind("cut a leader from its peers", "both", (cluster) => cluster.osds),
  cutKind("cut a leader from one peer", "both", (cluster) => cluster.osds, 1),
  cutKind("nothing leaves a leader", "out", (cluster) => cluster.names),
  cutKind("nothing reaches a leader", "in", (cluster) => cluster.names),
  networkKind("a leader's links flap", [2000, 4000], flapping),
  networkKind("packets of a leader are lost", [2000, 4000], async (network, address) => {
    await network.lose(address, LOST_PERCENT);
    return () => network.heal();
  }),
  networkKind("connections of a leader are reset", [100, 500], async (network, address) => {
    await network.reset(address);
    return () => network.heal();
  }),
  {
    name: "a leader's line delays and damages",
    share: 1,
    needs: "network",
    holdMs: [2000, 4000],
    promiseMs: 5000,
    from: "fault",
    begin: async (scene) => await detoured(scene, await leaderOf(scene)),
  },
  deviceKind("reads of a disk fail", { reads: 0.05 }, false),
  deviceKind("writes of a disk fail", { writes: 0.02 }, true),
  deviceKind("a flush of a disk fails once", { flushes: 1 }, true),
  {
    name: "slow a disk down",
    share: 1,
    needs: "device",
    holdMs: [2000, 6000],
    promiseMs: 10_000,
    from: "fault",
    prepare: ({ cluster, deviceOsd }) => cluster.giveLeadership(deviceOsd),
    begin: ({ cluster, device, deviceOsd }) => {
      device!.set({ delayMs: SLOW_MS });
      return Promise.resolve({
        victims: [deviceOsd],
        end: async () => {
          const leads = async (): Promise<number> => (await cluster.leaders()).get(deviceOsd) ?? 0;
          await waitUntil(
            `${deviceOsd} to lead nothing`,
            async () => (await leads()) === 0,
            SLOW_LIMIT_MS,
          );
          device!.set({});
          return [];
        },
      });
    },
  },
  {
    name: "stall a disk",
    share: 1,
    needs: "disk",
    holdMs: [2000, 6000],
    promiseMs: 5000,
    from: "fault",
    prepare: ({ cluster, diskOsd }) => cluster.giveLeadership(diskOsd),
    begin: ({ disk, diskOsd }) => {
      disk!.freeze();
      return Promise.resolve({
        victims: [diskOsd],
        end: () => {
          disk!.thaw();
          return Promise.resolve([]);
        },
      });
    },
  },
  {
    name: "fill a disk",
    share: 1,
    needs: "disk",
    holdMs: [2000, 4000],
    promiseMs: 10_000,
    from: "fault",
    refusal: ENOSPC,
    prepare: ({ cluster, diskOsd }) => cluster.giveLeadership(diskOsd),
    begin: (scene) => Promise.resolve(filled(scene)),
  },
];

/** Cut an osd that leads groups from others, or from some `count` of them. */
function cutKind(
  name: string,
  direction: Direction,
  others: (cluster: CampaignCluster) => readonly string[],
  count = Infinity,
): FaultKind {
  return {
    name,
    share: 1,
    needs: "network",
    holdMs: [LEASE_MS * 2, 4000],
    promiseMs: 5000,
    from: "fault",
    begin: async (scene) => {
      const { cluster, network } = scene;
      const victim = await leaderOf(scene);
      const all = others(cluster).filter((one) => one !== victim);
      const far = some(scene, all, Math.min(count, all.length));
      const addresses = far.map((one) => cluster.address(one));
      const before = await network!.heal();
      await network!.cut(cluster.address(victim), addresses, direction);
      return {
        victims: [victim],
        end: async () => {
          judgeStruck(name, (await network!.heal()) - before);
          return [];
        },
      };
    },
  };
}

/** Do to the network of an osd that leads groups what `begin` does; it answers what takes it back. */
function networkKind(
  name: string,
  holdMs: readonly [number, number],
  begin: (
    network: CampaignNetwork,
    address: string,
    scene: Scene,
  ) => Promise<() => Promise<unknown>>,
): FaultKind {
  return {
    name,
    share: 1,
    needs: "network",
    holdMs,
    promiseMs: 5000,
    from: "fault",
    begin: async (scene) => {
      const victim = await leaderOf(scene);
      const network = scene.network!;
      const before = await network.heal();
      const heal = await begin(network, scene.cluster.address(victim), scene);
      const end = async (): Promise<readonly number[]> => {
        await heal();
        judgeStruck(name, (await network.heal()) - before);
        return [];
      };
      return { victims: [victim], end };
    },
  };
}

/** A fault that met no packet proves nothing. */
function judgeStruck(name: string, packets: number): void {
  if (packets === 0) throw new Error(`${name}: it met no packet, wanted some`);
}

/** Cut off and not, by turns. */
async function flapping(
  network: CampaignNetwork,
  address: string,
  { cluster, random }: Scene,
): Promise<() => Promise<void>> {
  const far = cluster.names.map((name) => cluster.address(name)).filter((one) => one !== address);
  let ends = false;
  const flap = async (): Promise<void> => {
    while (!ends) {
      await network.cut(address, far, "both");
      await Bun.sleep(random.below(FLAP_MS_MAX));
      await network.heal();
      await Bun.sleep(random.below(FLAP_MS_MAX));
    }
  };
  const flaps = flap();
  return () => {
    ends = true;
    return flaps;
  };
}

/** Whoever talks to the osd does so over a bad line. */
async function detoured(scene: Scene, victim: string): Promise<Injected> {
  const { cluster, network, random } = scene;
  const address = cluster.address(victim);
  const port = cluster.port(victim, "data");
  const proxy = await CampaignProxy.to(random, address, port);
  await network!.detour(address, port, PROXY_ADDRESS, proxy.port);
  return {
    victims: [victim],
    end: async () => {
      await network!.heal();
      proxy.close();
      if (proxy.damaged === 0) throw new Error("the line damaged nothing, wanted something");
      return [];
    },
  };
}

/** `givesUp`: the osd must end itself, and is started again; otherwise it goes on. */
function deviceKind(
  name: string,
  defect: Parameters<CampaignDevice["set"]>[0],
  givesUp: boolean,
): FaultKind {
  return {
    name,
    share: 1,
    needs: "device",
    holdMs: [1000, 3000],
    promiseMs: 5000,
    from: "fault",
    prepare: ({ cluster, deviceOsd }) => cluster.giveLeadership(deviceOsd),
    begin: ({ cluster, device, deviceOsd }) => {
      device!.set(defect);
      return Promise.resolve({
        victims: [deviceOsd],
        end: async () => {
          await waitUntil("a request to fail", () => device!.struck > 0, FAILED_LIMIT_MS);
          const isGone = (): boolean => !cluster.isRunning(deviceOsd);
          if (givesUp) await waitUntil(`${deviceOsd} to be gone`, isGone, FAILED_LIMIT_MS);
          device!.set({});
          return isGone() ? [await cluster.start(deviceOsd)] : [];
        },
      });
    },
  };
}

async function ended(
  scene: Scene,
  victims: readonly string[],
  signal: "SIGKILL" | "SIGTERM",
): Promise<Injected> {
  const { cluster, load } = scene;
  await Promise.all(victims.map((name) => cluster.end(name, signal)));
  const belowQuorum = victims.filter((name) => cluster.osds.includes(name)).length > 1;
  await Bun.sleep(belowQuorum ? IN_FLIGHT_MS : 0);
  load.mark();
  return {
    victims,
    end: async () => {
      // With three osds each group has a replica on every one.
      const acknowledged = load.acknowledgedSinceMark;
      if (belowQuorum && cluster.osds.length === 3 && acknowledged > 0) {
        throw new Error(`${acknowledged} writes were acknowledged below quorum, wanted none`);
      }
      return await Promise.all(victims.map((name) => cluster.start(name)));
    },
  };
}

function paused(scene: Scene, victim: string): Injected {
  scene.cluster.signal(victim, "SIGSTOP");
  return {
    victims: [victim],
    end: () => {
      scene.cluster.signal(victim, "SIGCONT");
      return Promise.resolve([]);
    },
  };
}

/** It gets a tenth of the time, in pieces that are longer than those in between. */
function starved(scene: Scene, victim: string): Injected {
  const { cluster } = scene;
  let ends = false;
  const starve = async (): Promise<void> => {
    while (!ends) {
      cluster.signal(victim, "SIGSTOP");
      await Bun.sleep(STARVED_MS);
      cluster.signal(victim, "SIGCONT");
      await Bun.sleep(FED_MS);
    }
  };
  const starves = starve();
  return {
    victims: [victim],
    end: async () => {
      ends = true;
      await starves;
      return [];
    },
  };
}

/** The osd may go on, as long as it needs no block that it had not used before, or give up. */
function filled({ cluster, disk, diskOsd }: Scene): Injected {
  disk!.fill();
  return {
    victims: [diskOsd],
    end: async () => {
      disk!.empty();
      if (cluster.isRunning(diskOsd)) return [];
      await waitUntil(`${diskOsd} to be gone`, () => !cluster.isRunning(diskOsd), FAILED_LIMIT_MS);
      return [await cluster.start(diskOsd)];
    },
  };
}

/** An osd that leads groups. */
async function leaderOf({ cluster, random }: Scene): Promise<string> {
  const led = await cluster.leaders();
  const leading = cluster.osds.filter((name) => (led.get(name) ?? 0) > 0);
  const among = leading.length > 0 ? leading : cluster.osds;
  return among[random.below(among.length)]!;
}

function some({ random }: Scene, names: readonly string[], count: number): string[] {
  const left = [...names];
  return Array.from({ length: count }, () => left.splice(random.below(left.length), 1)[0]!);
}
