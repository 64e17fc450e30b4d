// cold path: once per start, and every few minutes.
import { failOnBug } from "../base/assert.ts";
import { FastblockError } from "../base/errors.ts";
import { uuidBytes, uuidText } from "../base/uuid.ts";
import type { ClusterMap } from "../cluster/cluster.ts";
import { CallbackTimer, type World } from "../reactor/world.ts";
import { type StoreStart, withMark, withStart } from "../store/store.ts";
import type { Verdict } from "./asking.ts";

/** Who has not answered by then is not waited for. */
const ASK_US = 1_000_000;
/** How often a store that serves counts on: an old copy from before the last mark is known as one. */
const MARK_US = 300_000_000;
/** The monitor, where others have the id of their osd. */
const MONITOR = -1;

/** What the decision is carried out by. */
export interface AdmissionHost {
  /** Make the history of starts durable. */
  record(starts: readonly StoreStart[]): Promise<void>;
  /** Serve, and show these starts from now on. Again with each mark. */
  serve(starts: readonly StoreStart[]): void;
  /** Nobody answers: serve what needs nobody else, and wait. At most once, before `serve`. */
  alone(): void;
  /** The store is an old copy, or the device failed: the process must not go on. */
  refuse(error: unknown): void;
}

/**
 * Decides whether an osd's store may serve (`core/store/starts.ts`).
 *
 * Asked are the monitor and every osd that shares a group with this one by the kept map. The store
 * serves as soon as all have answered or can not be reached, at the latest after a second, when
 * nobody objects and somebody vouches. So a cluster without a monitor starts by itself, and an osd
 * waits for nobody in vain. One objection, now or at any time later, ends the process.
 *
 * Asking for a majority of the peers was not enough of a gain: with the monitor and one of three
 * osds gone, the other two must serve.
 */
export class Admission {
  private readonly world: World;
  private readonly host: AdmissionHost;
  private readonly incarnation: number;
  private starts: readonly StoreStart[];
  private readonly waitingFor = new Set<number>([MONITOR]);
  private readonly timer: CallbackTimer;
  private isVouched = false;
  private isLate = false;
  private isAlone = false;
  private isAdmitted = false;
  private isOver = false;

  /** `starts`: the store's history, as it was opened; `incarnation`: of this start. */
  constructor(
    world: World,
    identity: { readonly starts: readonly StoreStart[]; readonly incarnation: number },
    host: AdmissionHost,
  ) {
    this.world = world;
    this.host = host;
    this.incarnation = identity.incarnation;
    this.starts = identity.starts;
    this.timer = new CallbackTimer(() => this.onTimer());
  }

  /** Begin to wait for what is heard. `peers`: osds that are asked besides the monitor. */
  begin(peers: Iterable<number>): void {
    for (const osd of peers) this.waitingFor.add(osd);
    this.world.timers.arm(this.timer, ASK_US);
  }

  /** Nothing is decided or counted from here on. */
  stop(): void {
    this.isOver = true;
    this.world.timers.disarm(this.timer);
  }

  hearMonitor(verdict: Verdict): void {
    this.hear(MONITOR, verdict);
  }

  hearPeer(osd: number, verdict: Verdict): void {
    this.hear(osd, verdict);
  }

  private hear(from: number, verdict: Verdict): void {
    if (this.isOver) return;
    if (verdict.kind === "refused") {
      const who = from === MONITOR ? "the mon" : `osd ${String(from)}`;
      this.stop();
      this.host.refuse(oldCopy(`${who} remembers more of it: ${verdict.why}`));
      return;
    }
    if (verdict.kind === "fine") this.isVouched = true;
    this.waitingFor.delete(from);
    this.decide();
  }

  private decide(): void {
    if (this.isAdmitted || (this.waitingFor.size > 0 && !this.isLate)) return;
    if (this.isVouched) {
      this.isAdmitted = true;
      this.world.timers.disarm(this.timer);
      this.record(withStart(this.starts, this.incarnation, this.world.random));
    } else if (this.isLate && !this.isAlone) {
      this.isAlone = true;
      this.host.alone();
    }
  }

  /** Durable first: what others were told of is on this disk. */
  private record(starts: readonly StoreStart[]): void {
    this.host.record(starts).then(
      () => {
        if (this.isOver) return;
        this.starts = starts;
        this.host.serve(starts);
        this.world.timers.arm(this.timer, MARK_US);
        this.world.turns.again();
      },
      (error: unknown) => {
        if (!failOnBug(this.world, error) && !this.isOver) this.host.refuse(error);
      },
    );
  }

  private onTimer(): void {
    if (this.isAdmitted) this.record(withMark(this.starts));
    else {
      this.isLate = true;
      this.decide();
    }
  }
}

function oldCopy(why: string): FastblockError {
  return new FastblockError("FB4004", "opening the store: it is an old copy", { why });
}

/** Osds that hold a replica of a group of which this store holds one, by the map. */
export function peersOf(map: ClusterMap, storeUuid: string): Set<number> {
  const peers = new Set<number>();
  const own = uuidText(uuidBytes(storeUuid));
  for (const { replicas } of map.pgs.values()) {
    if (!replicas.some((one) => one.storeUuid === own)) continue;
    for (const one of replicas) if (one.storeUuid !== own) peers.add(one.osd);
  }
  return peers;
}
