/** Which cores the shards of osds are bound to. */

/**
 * The cores that a process may run on, of the text of its `/proc/PID/status`: `0-2,8`. Fewer than the
 * machine has in a container or under `taskset`, and then not the first ones.
 */
export function allowedCores(status: string): number[] {
  const list = /^Cpus_allowed_list:\s*(\S+)$/m.exec(status)?.[1] ?? "";
  const cores: number[] = [];
  for (const [, first, last] of list.matchAll(/(\d+)(?:-(\d+))?/g)) {
    for (let core = Number(first); core <= Number(last ?? first); core++) cores.push(core);
  }
  return cores;
}

/**
 * The core of a shard; undefined: none of its own. Shards have some only where the machine has cores
 * for all of an osd and as many more. Osds of one machine are spread by their ids; with more of them
 * than fit, several share a core.
 */
export function coreOf(
  at: { readonly osd: number; readonly shard: number; readonly shards: number },
  allowed: readonly number[],
): number | undefined {
  if (at.shards <= 1 || allowed.length <= at.shards * 2) return undefined;
  return allowed[(at.osd * at.shards + at.shard) % allowed.length];
}
