import { formatError } from "../core/base/errors.ts";
import type { LogFields, Logger } from "../core/base/logger.ts";

/**
 * The log of a command that a person runs: warnings and errors in words on standard error, as every
 * other message of the command. What is less than `least` is left out.
 */
export function terminalLogger(
  least: "warn" | "error",
  write: (text: string) => unknown = (text) => process.stderr.write(text),
): Logger {
  return new TerminalLogger(least === "warn", {}, write);
}

class TerminalLogger implements Logger {
  private readonly warns: boolean;
  private readonly common: LogFields;
  private readonly write: (text: string) => unknown;

  constructor(warns: boolean, common: LogFields, write: (text: string) => unknown) {
    this.warns = warns;
    this.common = common;
    this.write = write;
  }

  debug(): void {}

  info(): void {}

  warn(message: string, fields?: LogFields): void {
    if (this.warns) this.tell("warning", message, fields);
  }

  error(message: string, fields?: LogFields): void {
    this.tell("error", message, fields);
  }

  child(fields: LogFields): Logger {
    return new TerminalLogger(this.warns, { ...this.common, ...fields }, this.write);
  }

  private tell(head: string, message: string, fields: LogFields = {}): void {
    const { why, hint, ...rest } = { ...this.common, ...fields };
    const facts = Object.entries(rest).map(([name, value]) => `${name} ${String(value)}`);
    const seen = facts.length === 0 ? "" : ` (${facts.join(", ")})`;
    const wordsOf = (value: LogFields[string]): string | undefined =>
      value === undefined || value === null ? undefined : String(value);
    this.write(
      formatError({ head, message: `${message}${seen}`, why: wordsOf(why), hint: wordsOf(hint) }),
    );
  }
}
