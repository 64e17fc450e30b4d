// data path
import type { Connection } from "./connection.ts";
import type { WritableWaiter } from "./connection-types.ts";

/** First-in, first-out queue of those who wait for send space. Intrusive. */
export class WaiterQueue {
  private first: WritableWaiter | null = null;
  private last: WritableWaiter | null = null;

  get isEmpty(): boolean {
    return this.first === null;
  }

  push(waiter: WritableWaiter): void {
    waiter.writableNext = null;
    if (this.last === null) this.first = waiter;
    else this.last.writableNext = waiter;
    this.last = waiter;
  }

  pop(): WritableWaiter | null {
    const waiter = this.first;
    if (waiter === null) return null;
    this.first = waiter.writableNext;
    if (this.first === null) this.last = null;
    waiter.writableNext = null;
    return waiter;
  }

  /** The connection is not open: tell all that wait now. */
  callAll(connection: Connection): void {
    const end = this.last;
    let waiter = this.pop();
    while (waiter !== null) {
      waiter.onWritable(connection);
      if (waiter === end) return;
      waiter = this.pop();
    }
  }
}
