// The programs of Debian that the tests need, in one place: the gate installs what is missing when it
// may, and says what is missing when it may not.
import { existsSync } from "node:fs";
import { run } from "./process.ts";

interface Tool {
  readonly command: string;
  readonly package: string;
}

const TOOLS: readonly Tool[] = [
  { command: "qemu-img", package: "qemu-utils" },
  { command: "qemu-io", package: "qemu-utils" },
  { command: "qemu-nbd", package: "qemu-utils" },
  { command: "fio", package: "fio" },
  { command: "nbdinfo", package: "libnbd-bin" },
  { command: "nbdcopy", package: "libnbd-bin" },
  { command: "nbdfuse", package: "libnbd-bin" },
  { command: "faketime", package: "faketime" },
  { command: "prlimit", package: "util-linux" },
  { command: "mkfs.ext4", package: "e2fsprogs" },
  { command: "nft", package: "nftables" },
  { command: "systemd-analyze", package: "systemd" },
  { command: "losetup", package: "mount" },
  { command: "python3", package: "python3-minimal" },
  { command: "unshare", package: "util-linux" },
  { command: "qemu-system-x86_64", package: "qemu-system-x86" },
  { command: "busybox", package: "busybox-static" },
  { command: "cpio", package: "cpio" },
];

const INSTALL_LIMIT_MS = 600_000;

/** True on continuous integration, where a missing tool fails and no one reads a hint. */
export const isCi: boolean = (process.env["CI"] ?? "") !== "" && process.env["CI"] !== "false";

const isRoot = process.getuid?.() === 0;

function missingTools(): readonly Tool[] {
  return TOOLS.filter(({ command }) => {
    const places = `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin`;
    return Bun.which(command, { PATH: places }) === null;
  });
}

/** Names of the commands that are not there. */
export function missingCommands(): readonly string[] {
  return missingTools().map(({ command }) => command);
}

export interface ToolsResult {
  readonly ok: boolean;
  readonly text: string;
}

/** Install what is missing (as root, with apt), or tell what to install. */
export async function ensureTools(): Promise<ToolsResult> {
  const before = missingTools();
  if (before.length === 0) return { ok: true, text: `${TOOLS.length} commands are there` };
  const packages = [...new Set(before.map((missing) => missing.package))];
  const names = before.map((missing) => missing.command).join(" ");
  const byHand = `missing: ${names}; install them: apt-get install ${packages.join(" ")}`;
  if (!isRoot || !existsSync("/usr/bin/apt-get")) return { ok: false, text: byHand };
  const output = await aptInstall(packages);
  const after = missingCommands();
  if (after.length === 0) return { ok: true, text: `installed ${packages.join(" ")}` };
  return { ok: false, text: `${output}\nstill missing: ${after.join(" ")}` };
}

async function aptInstall(packages: readonly string[]): Promise<string> {
  const env = { DEBIAN_FRONTEND: "noninteractive" };
  const options = { env, limitMs: INSTALL_LIMIT_MS };
  const wait = ["-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"];
  const update = await run(["apt-get", ...wait, "-q", "update"], options);
  const install = await run(
    ["apt-get", ...wait, "-q", "-y", "--no-install-recommends", "install", ...packages],
    options,
  );
  return install.code === 0 ? "" : `${update.output}\n${install.output}`;
}
