import type { Checksum } from "../base/checksum.ts";

/**
 * The signature of a session grant (`SessionGrant` of `proto/control.proto`).
 *
 * The monitor signs the encoded grant with a key derived from the cluster key; a client presents
 * grant and signature to each osd, which checks size and rights from then on without a monitor.
 * The bytes are signed as they were encoded: nobody encodes them a second time.
 */
export function signGrant(
  checksum: Checksum,
  clusterKey: Uint8Array,
  grant: Uint8Array,
): Uint8Array {
  return checksum.hmacSha256(grantKey(checksum, clusterKey), grant);
}

/** True when `mac` is the signature of `grant`. Takes the same time for every wrong signature. */
export function checkGrant(
  checksum: Checksum,
  clusterKey: Uint8Array,
  grant: Uint8Array,
  mac: Uint8Array,
): boolean {
  const wanted = signGrant(checksum, clusterKey, grant);
  let difference = wanted.length ^ mac.length;
  for (let at = 0; at < wanted.length; at++) difference |= wanted[at]! ^ (mac[at] ?? 0);
  return difference === 0;
}

const PURPOSE = "fastblock session grant 1";

/** A key of its own for grants, so that no other use of the cluster key makes a valid one. */
function grantKey(checksum: Checksum, clusterKey: Uint8Array): Uint8Array {
  const purpose = new Uint8Array(PURPOSE.length);
  for (let at = 0; at < PURPOSE.length; at++) purpose[at] = PURPOSE.charCodeAt(at);
  return checksum.hmacSha256(clusterKey, purpose);
}
