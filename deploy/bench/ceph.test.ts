import { expect, test } from "bun:test";
import { cephConf } from "./ceph.ts";

const SETTINGS = {
  token: "",
  profile: "auto",
  osdBytes: 1024 ** 3,
  imageBytes: 1024 ** 3,
  monPort: 40_700,
  complete: false,
} as const;

test("a Ceph stays on loopback and below its directory, and answers nothing out of a cache", () => {
  const conf = cephConf("/w/ceph", "F", SETTINGS);
  expect(conf).toContain("\nmon_host = [v2:127.0.0.1:40700/0]\npublic_addr = 127.0.0.1\n");
  expect(conf).toContain("\ncluster_addr = 127.0.0.1\n");
  expect(conf).toContain("\nosd_pool_default_size = 3\nosd_pool_default_min_size = 2\n");
  expect(conf).toContain("\nrbd_cache = false\n");
  const paths = [...conf.matchAll(/= (\/\S+)$/gm)].map(([, path]) => path!);
  expect(paths.length).toBeGreaterThan(5);
  expect(paths.filter((path) => !path.startsWith("/w/ceph/"))).toEqual([]);
});

test("a profile is left to Ceph, or forced with the threads that belong to it", () => {
  expect(cephConf("/w", "F", SETTINGS)).not.toContain("enforce");
  const ssd = cephConf("/w", "F", { ...SETTINGS, profile: "ssd" });
  expect(ssd).toContain("\nbluestore_debug_enforce_settings = ssd\nosd_op_num_shards = 8\n");
  expect(ssd).toContain("\nosd_op_num_threads_per_shard = 2\n");
  const hdd = cephConf("/w", "F", { ...SETTINGS, profile: "hdd" });
  expect(hdd).toContain("\nosd_op_num_shards = 5\nosd_op_num_threads_per_shard = 1\n");
});
