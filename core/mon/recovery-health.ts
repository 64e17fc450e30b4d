import { counted } from "../base/size-text.ts";
import type { RecoveryService } from "./recovery-service.ts";

/** While recovery is paused: what waits for it, in one line and one for each replica. */
export function collectPaused(
  recovery: RecoveryService,
): { readonly summary: string; readonly details: readonly string[] } | undefined {
  if (!recovery.paused) return undefined;
  const waiting = recovery.view().replicas.filter((one) => one.stage !== "log");
  const words =
    waiting.length === 0
      ? "no replica waits"
      : counted(waiting.length, "replica waits", "replicas wait");
  return {
    summary: `recovery is paused: ${words} for it`,
    details: waiting.map((one) => `${one.pg} of ${one.pool} on osd.${String(one.osd)}`),
  };
}
