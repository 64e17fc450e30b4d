// cold path: a group is parked or wakes when it has been quiet, or no longer is.
import { assert } from "../base/assert.ts";
import type { PgInfo } from "../cluster/cluster.ts";
import type { Configuration } from "../raft/raft.ts";

/** What is to be remembered of a parked group beside what its store knows. */
export interface Parked {
  readonly pg: number;
  readonly replica: number;
  readonly term: number;
  readonly vote: number;
  /** The replica that leads `term`: this one, or the one that is followed. */
  readonly leader: number;
  /** Leader: index of the first entry of its leadership. */
  readonly ownIndex: number;
  readonly confIndex: number;
  readonly expiredBelow: number;
  /** Leader: when it may go home, at the earliest. */
  readonly stayUntilUs: number;
  readonly conf: Configuration;
  /** What the map wants of it. */
  readonly info: PgInfo;
  /** Its state with sessions and fences, encoded; null: it has none. */
  readonly tables: Uint8Array | null;
}

const PG = 0;
const REPLICA = 1;
const TERM = 2;
const VOTE = 3;
const LEADER = 4;
const OWN_INDEX = 5;
const CONF_INDEX = 6;
const EXPIRED_BELOW = 7;
const STAY_UNTIL_US = 8;
const NUMBERS = 9;

/** Beyond, configurations that nobody may have any more are no longer offered for sharing. */
const SHARED_MAX = 4096;

/** The parked groups of a shard, by row of the store: 72 bytes of numbers and three references each. */
export class ParkedRows {
  /** How many are parked, and how many of those lead. */
  count = 0;
  leaders = 0;
  private numbers: Float64Array = new Float64Array(0);
  private readonly confs: (Configuration | null)[] = [];
  private readonly infos: (PgInfo | null)[] = [];
  private readonly tables: (Uint8Array | null)[] = [];
  /** Groups with the same members have the same configuration object. */
  private readonly shared = new Map<string, Configuration>();

  put(row: number, parked: Parked): void {
    while (this.confs.length <= row) this.grow();
    assert(this.confs[row] === null, "ParkedRows.put: the row is taken");
    const at = row * NUMBERS;
    this.numbers[at + PG] = parked.pg;
    this.numbers[at + REPLICA] = parked.replica;
    this.numbers[at + TERM] = parked.term;
    this.numbers[at + VOTE] = parked.vote;
    this.numbers[at + LEADER] = parked.leader;
    this.numbers[at + OWN_INDEX] = parked.ownIndex;
    this.numbers[at + CONF_INDEX] = parked.confIndex;
    this.numbers[at + EXPIRED_BELOW] = parked.expiredBelow;
    this.numbers[at + STAY_UNTIL_US] = parked.stayUntilUs;
    this.confs[row] = this.share(parked.conf);
    this.infos[row] = parked.info;
    this.tables[row] = parked.tables;
    this.count += 1;
    if (parked.leader === parked.replica) this.leaders += 1;
  }

  /** What is in a row. Requires: a group is parked there. */
  get(row: number): Parked {
    const conf = this.confs[row];
    const info = this.infos[row];
    assert(conf !== null && conf !== undefined, "ParkedRows.get: nothing is parked in this row");
    assert(
      info !== null && info !== undefined,
      "ParkedRows.get: a parked group without its map row",
    );
    const number = (which: number): number => this.numbers[row * NUMBERS + which]!;
    return {
      pg: number(PG),
      replica: number(REPLICA),
      term: number(TERM),
      vote: number(VOTE),
      leader: number(LEADER),
      ownIndex: number(OWN_INDEX),
      confIndex: number(CONF_INDEX),
      expiredBelow: number(EXPIRED_BELOW),
      stayUntilUs: number(STAY_UNTIL_US),
      conf,
      info,
      tables: this.tables[row] ?? null,
    };
  }

  /** What the map wanted of the group in a row when it was parked. */
  infoOf(row: number): PgInfo | null {
    return this.infos[row] ?? null;
  }

  /** As `get`; nothing is in the row any more. */
  take(row: number): Parked {
    const parked = this.get(row);
    this.confs[row] = null;
    this.infos[row] = null;
    this.tables[row] = null;
    this.count -= 1;
    if (parked.leader === parked.replica) this.leaders -= 1;
    return parked;
  }

  /** Rows of groups that are led here. */
  ledRows(): number[] {
    const rows: number[] = [];
    for (let row = 0; row < this.confs.length; row++) {
      if (this.confs[row] === null) continue;
      const at = row * NUMBERS;
      if (this.numbers[at + LEADER] === this.numbers[at + REPLICA]) rows.push(row);
    }
    return rows;
  }

  private share(conf: Configuration): Configuration {
    const key = JSON.stringify(conf);
    const known = this.shared.get(key);
    if (known !== undefined) return known;
    if (this.shared.size >= SHARED_MAX) this.shared.clear();
    this.shared.set(key, conf);
    return conf;
  }

  private grow(): void {
    const rows = Math.max(64, this.confs.length * 2);
    const numbers = new Float64Array(rows * NUMBERS);
    numbers.set(this.numbers);
    this.numbers = numbers;
    while (this.confs.length < rows) {
      this.confs.push(null);
      this.infos.push(null);
      this.tables.push(null);
    }
  }
}
