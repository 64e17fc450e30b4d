// Runs dist/fastblock under Debian's stock 6.1 kernel in an emulated machine, because that kernel lacks
// what newer ones have (NO_SQARRAY of io_uring, O_DIRECT on tmpfs) and people run it.
//
// The guest sees this machine's file system read-only by 9p, keeps its cluster on its own tmpfs, starts
// one osd, writes, lets the kernel's OOM killer end the osd, starts it again, reads back, and reports over
// its serial line. It has an empty block device, and nothing else: no network, no root, no disk image.
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import type { CheckResult } from "./checks.ts";
import { ROOT, type RunResult, run, SCRATCH } from "./process.ts";
import { isOnRing } from "./smoke.ts";
import { isCi, missingCommands } from "./tools.ts";

/** Kept between runs: the kernel's package is 70 MB. */
const CACHE = join(ROOT, "node_modules", ".cache", "fastblock-guest");
const KERNEL = join(CACHE, "kernel");
const BOOT_LIMIT_MS = 900_000;
const DEVICE_BYTES = 256 * 1_048_576;
const DOWNLOAD_LIMIT_MS = 300_000;
const NEEDED = ["qemu-system-x86_64", "busybox", "cpio", "qemu-io"];
const MODULES = [
  "virtio",
  "virtio_ring",
  "virtio_pci_legacy_dev",
  "virtio_pci_modern_dev",
  "virtio_pci",
  "virtio_blk",
  "netfs",
  "fscache",
  "9pnet",
  "9pnet_virtio",
  "9p",
];

/** A cluster, then the suites of the seams. Each `step` that fails ends it. */
function guestScript(): string {
  const fastblock = `'${join(ROOT, "dist", "fastblock")}'`;
  const suites = ["bun-world", "uring-world", "real-worlds", "open-disk", "channel"];
  const files = suites.map((suite) => `./core/reactor/${suite}.io.test.ts`);
  return `
say() { echo "guest: $*"; }
step() { "$@" >/run/out 2>&1 || { say "failed: $*"; cat /run/out; cat /run/c/*.log 2>/dev/null; exit 1; }; say "ok: $*"; }
export HOME=/run TMPDIR=/run NO_COLOR=1 FASTBLOCK_TEST_DEVICE=/dev/vda
cd /run
step ${fastblock} dev up --dir /run/c --osds 1 --detach
step ${fastblock} pool create guest --size 1 --cluster /run/c
step ${fastblock} image create guest/one --size 64MiB --cluster /run/c
port=$(sed -n 's/^nbd=//p' /run/c/nbd.0.ports)
step qemu-io -f raw -c 'write -P 0xa5 0 1M' -c flush -c 'read -P 0xa5 0 1M' nbd://127.0.0.1:$port/guest/one
# G1, G15: it gets no memory any more, with a write on its way.
group=/sys/fs/cgroup/osd
mkdir $group
cat /run/c/osd.0.pid >$group/cgroup.procs
echo 0 >$group/memory.max
qemu-io -f raw -c 'write -P 0xa6 1M 8M' nbd://127.0.0.1:$port/guest/one >/run/late 2>&1 &
late=$!
for look in $(seq 100); do grep -q '^oom_kill [1-9]' $group/memory.events && break; sleep 0.1; done
step grep -q '^oom_kill [1-9]' $group/memory.events
# Enough to serve, less than it may come to use: it warns.
echo 800M >$group/memory.max
sh -c "echo \\$\\$ >$group/cgroup.procs; exec /run/c/osd.0.start" >>/run/c/osd.0.again.log 2>&1 &
step wait $late
step grep -q 'memory may run out' /run/c/osd.0.log
step qemu-io -f raw -c 'read -P 0xa5 0 1M' -c 'read -P 0xa6 1M 8M' -c 'write -P 0x5a 0 1M' -c 'read -P 0x5a 0 1M' nbd://127.0.0.1:$port/guest/one
step ${fastblock} dev status --dir /run/c -o json
echo "status-begin"; cat /run/out; echo "status-end"
step ${fastblock} dev down --dir /run/c
step ${fastblock} bench disk $FASTBLOCK_TEST_DEVICE --force --no-fio --time 1s
cd '${ROOT}'
step '${process.execPath}' test --timeout=60000 ${files.join(" ")}
grep -E '^ *[0-9]+ pass' /run/out
say "done"
`;
}

const INIT = `#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
for round in 1 2 3; do for module in /m/*.ko; do /bin/busybox insmod $module 2>/dev/null; done; done
/bin/busybox ifconfig lo 127.0.0.1 up
/bin/busybox mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=262144,cache=loose host /mnt
/bin/busybox mount -t proc proc /mnt/proc
/bin/busybox mount -t tmpfs tmpfs /mnt/run
/bin/busybox mount -t sysfs sysfs /mnt/sys
/bin/busybox mount -t cgroup2 cgroup2 /mnt/sys/fs/cgroup
echo +memory >/mnt/sys/fs/cgroup/cgroup.subtree_control
/bin/busybox mount -t devtmpfs dev /mnt/dev
/bin/busybox mkdir /mnt/dev/shm
/bin/busybox mount -t tmpfs tmpfs /mnt/dev/shm
echo "guest: kernel $(/bin/busybox uname -r)"
/bin/busybox chroot /mnt /bin/sh -c "$(/bin/busybox cat /guest.sh)" </dev/null 2>&1
/bin/busybox poweroff -f
`;

export async function checkGuest(): Promise<CheckResult> {
  const missing = missingCommands().filter((command) => NEEDED.includes(command));
  if (missing.length > 0) {
    return { ok: !isCi, summary: `left out: ${missing.join(" ")} missing`, output: "" };
  }
  const fault = (await fetchKernel()) || (await packInitramfs());
  if (fault !== "") return { ok: false, summary: "the guest could not be made", output: fault };
  const { output } = await boot();
  const kernel = /guest: kernel (\S+)/.exec(output)?.[1] ?? "none";
  const status = /status-begin([\s\S]*)status-end/.exec(output)?.[1] ?? "";
  const isDone = /^guest: done/m.test(output);
  const isRing = isOnRing(status);
  const ring = isRing ? "backend uring" : "backend is not uring";
  const suites = /^ *(\d+) pass/m.exec(output)?.[1] ?? "no";
  const summary = `kernel ${kernel}, ${suites} cases of the seams, ${ring}`;
  return { ok: isDone && isRing, summary, output };
}

/* ------------------------------------------------------------------ kernel */

function kernelImage(): string | undefined {
  const boot = join(KERNEL, "boot");
  if (!existsSync(boot)) return undefined;
  const name = readdirSync(boot).find((entry) => entry.startsWith("vmlinuz-"));
  return name === undefined ? undefined : join(boot, name);
}

/** Download and unpack the kernel's package unless it is there. Answers what went wrong, or "". */
async function fetchKernel(): Promise<string> {
  if (kernelImage() !== undefined && existsSync(join(CACHE, "unpacked"))) return "";
  rmSync(CACHE, { recursive: true, force: true });
  mkdirSync(KERNEL, { recursive: true });
  let download = await downloadKernel();
  if (download.code !== 0) {
    await run(["apt-get", "-q", "update"], { limitMs: DOWNLOAD_LIMIT_MS });
    download = await downloadKernel();
  }
  if (download.code !== 0) return download.output;
  const unpack = await run(["sh", "-c", "dpkg-deb --fsys-tarfile ./*.deb | tar -x -C kernel"], {
    cwd: CACHE,
  });
  if (unpack.code !== 0) return unpack.output;
  for (const name of readdirSync(CACHE)) if (name.endsWith(".deb")) rmSync(join(CACHE, name));
  writeFileSync(join(CACHE, "unpacked"), "");
  return kernelImage() === undefined ? "the kernel's package holds no boot/vmlinuz-*" : "";
}

async function downloadKernel(): Promise<RunResult> {
  const depends = await run(["apt-cache", "depends", "linux-image-amd64"]);
  const name = /Depends: (linux-image-6\.\d+\.\S+)/.exec(depends.output)?.[1];
  if (name === undefined) return { ...depends, code: 1 };
  return run(["apt-get", "-q", "download", name], { cwd: CACHE, limitMs: DOWNLOAD_LIMIT_MS });
}

/* --------------------------------------------------------------- initramfs */

async function packInitramfs(): Promise<string> {
  const folder = join(SCRATCH, "initramfs");
  for (const name of ["bin", "m", "mnt", "proc", "sys", "dev"]) {
    mkdirSync(join(folder, name), { recursive: true });
  }
  writeFileSync(join(folder, "init"), INIT, { mode: 0o755 });
  writeFileSync(join(folder, "guest.sh"), guestScript());
  const busybox = Bun.which("busybox", { PATH: "/bin:/usr/bin" });
  await Bun.write(join(folder, "bin", "busybox"), Bun.file(busybox ?? ""));
  const found = await run(["find", KERNEL, "-name", "*.ko"]);
  for (const path of found.stdout.trim().split("\n")) {
    const name = path.slice(path.lastIndexOf("/") + 1, -".ko".length);
    if (MODULES.includes(name)) {
      writeFileSync(join(folder, "m", `${name}.ko`), readFileSync(path));
    }
  }
  const script = `chmod 755 bin/busybox && find . | cpio -o -H newc 2>/dev/null | gzip -1 >../initramfs.gz`;
  const packed = await run(["sh", "-c", script], { cwd: folder });
  return packed.code === 0 ? "" : packed.output;
}

/* -------------------------------------------------------------------- boot */

function boot(): Promise<RunResult> {
  const device = join(SCRATCH, "guest-device");
  writeFileSync(device, "");
  truncateSync(device, DEVICE_BYTES);
  return run(
    [
      "qemu-system-x86_64",
      ...["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1500"],
      ...["-nographic", "-nic", "none", "-no-reboot"],
      ...["-kernel", kernelImage() ?? "", "-initrd", join(SCRATCH, "initramfs.gz")],
      ...["-append", "console=ttyS0 quiet panic=-1"],
      ...["-drive", `file=${device},if=virtio,format=raw`],
      "-virtfs",
      "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
    ],
    { limitMs: BOOT_LIMIT_MS },
  );
}
