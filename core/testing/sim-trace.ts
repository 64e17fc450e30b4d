// cold: the simulator
import type { LogFields, Logger } from "../base/logger.ts";

/** Hears what happens in a run, in its order: simulated µs, the process, what it says. */
export type TraceSink = (atUs: number, who: string, text: string) => void;

/** Everything that the processes of a simulation log, with its simulated time. */
export class TraceLogger implements Logger {
  private readonly sink: TraceSink;
  private readonly nowUs: () => number;
  private readonly fields: LogFields;

  constructor(sink: TraceSink, nowUs: () => number, fields: LogFields = {}) {
    this.sink = sink;
    this.nowUs = nowUs;
    this.fields = fields;
  }

  debug(message: string, fields?: LogFields): void {
    this.tell("debug", message, fields);
  }

  info(message: string, fields?: LogFields): void {
    this.tell("info", message, fields);
  }

  warn(message: string, fields?: LogFields): void {
    this.tell("warn", message, fields);
  }

  error(message: string, fields?: LogFields): void {
    this.tell("error", message, fields);
  }

  child(fields: LogFields): Logger {
    return new TraceLogger(this.sink, this.nowUs, { ...this.fields, ...fields });
  }

  private tell(level: string, message: string, fields: LogFields | undefined): void {
    const { name, ...rest } = { ...this.fields, ...fields };
    const shown = Object.keys(rest).length === 0 ? "" : ` ${JSON.stringify(rest)}`;
    this.sink(this.nowUs(), String(name ?? ""), `${level}: ${message}${shown}`);
  }
}
