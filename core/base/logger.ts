/**
 * Text for people. Nothing is logged per I/O. `cmd/` supplies the implementation (pino); the
 * simulator one that fails a run on `error`.
 */
export interface Logger {
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
  /** A logger that adds `fields` to each line. */
  child(fields: LogFields): Logger;
}

export type LogFields = Readonly<Record<string, string | number | boolean | null | undefined>>;

/** Discards everything. */
export const silentLogger: Logger = {
  debug() {},
  info() {},
  warn() {},
  error() {},
  child() {
    return silentLogger;
  },
};

/** What was logged at one level is heard as well, behind what becomes of it anyway. */
export class OverheardLogger implements Logger {
  private readonly inner: Logger;
  private readonly level: "warn" | "error";
  private readonly hear: (message: string, fields: LogFields | undefined) => void;

  constructor(inner: Logger, level: OverheardLogger["level"], hear: OverheardLogger["hear"]) {
    this.inner = inner;
    this.level = level;
    this.hear = hear;
  }

  debug(message: string, fields?: LogFields): void {
    this.inner.debug(message, fields);
  }

  info(message: string, fields?: LogFields): void {
    this.inner.info(message, fields);
  }

  warn(message: string, fields?: LogFields): void {
    this.inner.warn(message, fields);
    if (this.level === "warn") this.hear(message, fields);
  }

  error(message: string, fields?: LogFields): void {
    this.inner.error(message, fields);
    if (this.level === "error") this.hear(message, fields);
  }

  child(fields: LogFields): Logger {
    return new OverheardLogger(this.inner.child(fields), this.level, this.hear);
  }
}
