import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  type Command,
  output,
  ownerOf,
  startDaemon,
  startLoad,
  type RunningLoad,
  waitFor,
} from "./own-processes.ts";
import { IMAGE, type Load, MIB, OSDS, POOL, type Settings } from "./settings.ts";

/**
 * A Ceph of Debian's packages on this machine: a mon, a mgr and three osds, all on loopback, all
 * below `DIRECTORY/ceph`. Nothing of it is registered with the system, and nothing outlives `down`.
 */
const PACKAGES = new Map([
  ["ceph-mon", "ceph-mon"],
  ["ceph-mgr", "ceph-mgr"],
  ["ceph-osd", "ceph-osd"],
  ["ceph", "ceph-common"],
  ["rbd", "ceph-common"],
  ["fio", "fio"],
]);
const PLACEMENT_GROUPS = 32;
const OSD_MEMORY_BYTES = 2 * 1024 ** 3;
const START_MS = 120_000;
const INSTALL_MS = 900_000;
const ZERO_MS = 900_000;
const FILL_MS = 1_200_000;
const POLICY = "/usr/sbin/policy-rc.d";

/** Debian runs POLICY before it starts a service of a package: 101 forbids it. */
const POLICY_TEXT = "#!/bin/sh\n# fastblock deploy/bench: no service starts by itself\nexit 101\n";

/** Install what is missing, and start nothing. */
export async function installCeph(say: (text: string) => void): Promise<void> {
  const missing = [...PACKAGES].filter(([program]) => Bun.which(program) === null);
  if (missing.length > 0) {
    const packages = [...new Set(missing.map(([, name]) => name))];
    if (process.getuid?.() !== 0) {
      const words = `apt-get install --no-install-recommends ${packages.join(" ")}`;
      throw new Error(`installing ${packages.join(" ")}: not root, wanted root; or run ${words}`);
    }
    say(`installing ${packages.join(" ")}`);
    await install(packages);
  }
  const engines = await output({ words: ["fio", "--enghelp"], env: {} });
  if (!/\brbd\b/.test(engines)) {
    throw new Error("looking at fio: no engine rbd, wanted Debian's fio; remove the other one");
  }
}

async function install(packages: readonly string[]): Promise<void> {
  // One of ours may be left of a run that was killed.
  const isPolicyOurs = !existsSync(POLICY) || readFileSync(POLICY, "utf8") === POLICY_TEXT;
  const removePolicy = (): void => {
    if (isPolicyOurs) rmSync(POLICY, { force: true });
  };
  if (isPolicyOurs) writeFileSync(POLICY, POLICY_TEXT, { mode: 0o755 });
  process.once("exit", removePolicy);
  const env = { DEBIAN_FRONTEND: "noninteractive" };
  const apt = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"];
  try {
    await output({ words: [...apt, "update"], env, limitMs: INSTALL_MS });
    const words = [...apt, "-y", "--no-install-recommends", "install", ...packages];
    await output({ words, env, limitMs: INSTALL_MS });
  } finally {
    removePolicy();
    process.removeListener("exit", removePolicy);
  }
}

export class Ceph {
  private readonly directory: string;
  private readonly settings: Settings;
  private readonly conf: string;

  /** `directory`: that of both clusters. */
  constructor(directory: string, settings: Settings) {
    this.directory = join(directory, "ceph");
    this.settings = settings;
    this.conf = join(this.directory, "ceph.conf");
  }

  /** From nothing to an image that is written in full. */
  async start(say: (text: string) => void): Promise<void> {
    const fsid = crypto.randomUUID();
    for (const name of ["", "log", "run", "mon", "mgr/x"]) {
      mkdirSync(join(this.directory, name), { recursive: true });
    }
    writeFileSync(this.conf, cephConf(this.directory, fsid, this.settings));
    await this.startMon(fsid);
    this.daemon("ceph-mgr", "x");
    for (let id = 0; id < OSDS; id++) await this.makeOsd(id, say);
    await waitFor("three osds of Ceph", START_MS, async () => {
      const stat = JSON.parse(await this.ceph("osd", "stat", "-f", "json")) as OsdStat;
      return stat.num_up_osds === OSDS;
    });
    await this.ceph("osd", "pool", "create", POOL, ...Array(2).fill(String(PLACEMENT_GROUPS)));
    await this.run("rbd", "pool", "init", POOL);
    await waitFor("clean placement groups of Ceph", START_MS, () => this.isClean());
    const mib = String(this.settings.imageBytes / MIB);
    await this.run("rbd", "create", `${POOL}/${IMAGE}`, "--size", mib);
    say("Ceph serves; writing its image in full");
    const fill = ["--rw=write", "--bs=1M", "--iodepth=8", "--size=100%"];
    await output({ ...this.fio(fill), limitMs: FILL_MS });
  }

  /** fio through librbd. */
  load(one: Load, timing: readonly string[], limitMs: number): RunningLoad {
    const shape = [`--rw=${one.rw}`, `--bs=${one.blockBytes}`, `--iodepth=${one.depth}`];
    return startLoad({ ...this.fio([...shape, ...timing]), limitMs });
  }

  async version(): Promise<string> {
    return (await this.run("ceph-osd", "--version")).trim();
  }

  /** What the osds chose or were told. */
  async conditions(): Promise<Readonly<Record<string, string>>> {
    const metadata = JSON.parse(await this.ceph("osd", "metadata", "0", "-f", "json")) as Metadata;
    const told = ["osd_memory_target", "bluestore_debug_enforce_settings", "osd_pool_default_size"];
    const rows: [string, string][] = [["disk says rotational", metadata["rotational"] ?? ""]];
    for (const name of told) {
      rows.push([name, (await this.ceph("config", "show", "osd.0", name)).trim()]);
    }
    return Object.fromEntries(rows);
  }

  private async startMon(fsid: string): Promise<void> {
    const monmap = join(this.directory, "monmap");
    const address = `[v2:127.0.0.1:${this.settings.monPort}]`;
    const made = ["--create", "--fsid", fsid, "--addv", "a", address, "--enable-all-features"];
    await this.run("monmaptool", ...made, monmap);
    await this.run("ceph-mon", "--mkfs", "-i", "a", "-c", this.conf, "--monmap", monmap);
    this.daemon("ceph-mon", "a");
    await waitFor("the mon of Ceph", START_MS, () => this.answers());
  }

  private async makeOsd(id: number, say: (text: string) => void): Promise<void> {
    const uuid = crypto.randomUUID();
    const home = join(this.directory, `osd${id}`);
    mkdirSync(home);
    await this.ceph("osd", "new", uuid, String(id));
    say(`osd.${id} of Ceph: writing its file in full`);
    const count = String(Math.ceil(this.settings.osdBytes / (4 * MIB)));
    const to = [`of=${join(home, "block")}`, "bs=4M", `count=${count}`, "oflag=direct"];
    const words = ["dd", "if=/dev/zero", ...to, "status=none"];
    await output({ words, env: this.env(), limitMs: ZERO_MS });
    const mkfs = ["-i", String(id), "-c", this.conf, "--mkfs", "--osd-uuid", uuid];
    await output({ words: ["ceph-osd", ...mkfs], env: this.env(), limitMs: START_MS });
    this.daemon("ceph-osd", String(id));
  }

  private daemon(program: string, id: string): void {
    const words = [program, "-f", "-i", id, "-c", this.conf];
    startDaemon(words, this.env(), join(this.directory, "log", `${program}.${id}.out`));
  }

  private async answers(): Promise<boolean> {
    const words = ["ceph", "-c", this.conf, "--connect-timeout", "5", "mon", "stat"];
    return (await startLoad({ words, env: this.env() }).ended).code === 0;
  }

  private async isClean(): Promise<boolean> {
    const stat = JSON.parse(await this.ceph("pg", "stat", "-f", "json")) as PgStat;
    const { num_pgs, num_pg_by_state } = stat.pg_summary;
    const clean = num_pg_by_state.find(({ name }) => name === "active+clean")?.num ?? 0;
    return num_pgs >= PLACEMENT_GROUPS && clean === num_pgs;
  }

  private ceph(...words: readonly string[]): Promise<string> {
    return this.run("ceph", "-c", this.conf, "--connect-timeout", "10", ...words);
  }

  private run(...words: readonly string[]): Promise<string> {
    return output({ words, env: this.env() });
  }

  private fio(more: readonly string[]): Command {
    const place = ["--clientname=admin", `--pool=${POOL}`, `--rbdname=${IMAGE}`];
    const words = ["fio", "--name=ceph", "--ioengine=rbd", ...place, "--direct=1", "--thread"];
    return { words: [...words, "--output-format=json", ...more], env: this.env() };
  }

  private env(): Record<string, string> {
    return { ...ownerOf(this.settings.token, "ceph"), CEPH_CONF: this.conf, CEPH_ARGS: "" };
  }
}

interface OsdStat {
  readonly num_up_osds: number;
}

interface PgStat {
  readonly pg_summary: {
    readonly num_pgs: number;
    readonly num_pg_by_state: readonly { readonly name: string; readonly num: number }[];
  };
}

type Metadata = Readonly<Record<string, string | undefined>>;

/** The whole configuration. What it does not name is as Ceph ships it, log levels included. */
export function cephConf(home: string, fsid: string, settings: Settings): string {
  const lines = [
    "[global]",
    `fsid = ${fsid}`,
    "mon_initial_members = a",
    `mon_host = [v2:127.0.0.1:${settings.monPort}/0]`,
    "public_addr = 127.0.0.1",
    "cluster_addr = 127.0.0.1",
    // Ours signs frames all the same: this is in Ceph's favour.
    "auth_cluster_required = none",
    "auth_service_required = none",
    "auth_client_required = none",
    `run_dir = ${home}/run`,
    `admin_socket = ${home}/run/$name.asok`,
    `log_file = ${home}/log/$name.log`,
    `mon_cluster_log_file = ${home}/log/cluster.log`,
    `crash_dir = ${home}/log/crash`,
    "pid_file =",
    `osd_pool_default_size = ${OSDS}`,
    "osd_pool_default_min_size = 2",
    "osd_pool_default_pg_autoscale_mode = off",
    // All osds are on one host: replicas are spread over osds.
    "osd_crush_chooseleaf_type = 0",
    ...profileLines(settings.profile),
    "[mon]",
    `mon_data = ${home}/mon/$id`,
    "[mgr]",
    `mgr_data = ${home}/mgr/$id`,
    "[osd]",
    `osd_data = ${home}/osd$id`,
    "osd_objectstore = bluestore",
    `osd_memory_target = ${OSD_MEMORY_BYTES}`,
    `bluestore_block_size = ${settings.osdBytes}`,
    "[client]",
    "log_file =",
    "admin_socket =",
    // With it on, a write is answered out of the client's memory.
    "rbd_cache = false",
  ];
  return `${lines.join("\n")}\n`;
}

/** BlueStore looks at the rotational flag of the disk alone; a forced profile needs its threads too. */
function profileLines(profile: Settings["profile"]): string[] {
  if (profile === "auto") return [];
  const [shards, threads] = profile === "ssd" ? [8, 2] : [5, 1];
  return [
    `bluestore_debug_enforce_settings = ${profile}`,
    `osd_op_num_shards = ${shards}`,
    `osd_op_num_threads_per_shard = ${threads}`,
  ];
}
