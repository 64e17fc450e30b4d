/**
 * The answers of the data path.
 *
 * A status is a number that travels in ops and in replies; nothing on the data path throws. A new
 * one is created only if some caller does something different with it. Numbers are wire format and
 * are never reused.
 */
export enum Status {
  /** Done; a write is on stable storage of a majority. */
  Ok = 0,
  /** May or may not have happened: only an idempotent retry (same session and number) may follow. */
  Unknown = 1,
  /** Back-pressure: a queue, window or log is full. Retry here after a pause. */
  Busy = 2,
  /** This replica does not lead the group; the reply names the leader it knows. Retry there. */
  NotLeader = 3,
  /** The request's map is older than the group's last change. Refresh the map and retry. */
  MapStale = 4,
  /** The request reached another osd, shard or replica than it was meant for. Refresh and retry. */
  WrongReceiver = 5,
  /** A higher lock epoch was seen for this image: the sender was fenced. Give up. */
  Fenced = 6,
  /** A higher snapshot sequence was seen for this image: refresh the image header and retry. */
  SnapStale = 7,
  /** `ifVersion` did not match: read again, merge again, retry. */
  Conflict = 8,
  /** No space for this write; nothing changed. Give up (ENOSPC). */
  NoSpace = 9,
  /** The range lies past the end of the image, or is malformed. Give up (EINVAL). */
  Invalid = 10,
  /** The session is unknown or expired: the outcome of its open writes is unknown. */
  SessionExpired = 11,
  /** A block is damaged on this replica and no peer could heal it yet; or lost for good. EIO. */
  Damaged = 12,
  /** The device failed; this replica no longer serves. Retry at the new leader. */
  DeviceFailed = 13,
  /** The peer could not be reached or the connection ended before the answer. */
  Unreachable = 14,
  /** No answer in time. For writes the outcome is unknown. */
  TimedOut = 15,
  /** The process is stopping. Retry elsewhere. */
  Stopping = 16,
  /** The sender's rights do not allow this. Give up (EPERM). */
  Denied = 17,
  /** The caller cancelled the request. */
  Cancelled = 18,
  /** The image is removed, and its blocks with it. Give up. */
  Removed = 19,
}

/** The status' name for people, e.g. `NotLeader`. */
export function statusName(status: Status): string {
  return Status[status] ?? `Status(${String(status)})`;
}

/** What people read, behind a colon, of a status that ended their request; its name stands behind. */
export function statusText(status: Status): string {
  return `${TEXTS[status] ?? "it was refused"} (${statusName(status)})`;
}

const TEXTS: Partial<Record<Status, string>> = {
  [Status.Unknown]: "it may have happened or not",
  [Status.NoSpace]: "no space is left for it",
  [Status.Invalid]: "it is malformed, or beyond the image's end",
  [Status.Fenced]: "another client holds the image now",
  [Status.SessionExpired]: "the session has ended, and it may have happened or not",
  [Status.Damaged]: "a block is damaged, and no replica has it whole",
  [Status.DeviceFailed]: "the osd's device failed",
  [Status.Unreachable]: "the osd can not be reached",
  [Status.TimedOut]: "no answer in time",
  [Status.Denied]: "the osds do not allow it to this client",
  [Status.Cancelled]: "it was cancelled",
  [Status.Removed]: "the image is removed",
};
