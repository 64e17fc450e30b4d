import { silentLogger } from "../base/logger.ts";
import { createBunWorld } from "./bun-world.ts";
import { ShardChannel } from "./channel.ts";
import { createUringWorld } from "./uring-world.ts";

/** The other thread of the channel tests: sends back what it gets, one word raised by one. */
export interface ChannelWorkerStart {
  readonly backend: "uring" | "file";
  readonly incoming: SharedArrayBuffer;
  readonly outgoing: SharedArrayBuffer;
}

declare const self: {
  onmessage: ((event: { readonly data: ChannelWorkerStart | "stop" }) => void) | null;
  postMessage(message: string): void;
};

function begin(start: ChannelWorkerStart): void {
  const options = { arenaBytes: 4 * 1_048_576, logger: silentLogger };
  const world = start.backend === "uring" ? createUringWorld(options) : createBunWorld(options);
  const outgoing = new ShardChannel(start.outgoing);
  world.mail.receive(new ShardChannel(start.incoming), {
    onMessage(words, at) {
      const place = outgoing.reserve();
      if (place < 0) throw new Error("the channel back is full");
      outgoing.memory[place] = words[at]! + 1;
      outgoing.memory[place + 15] = words[at + 15]!;
      world.mail.publish(outgoing);
    },
  });
  world.start();
  self.onmessage = (): void => {
    // The answer is the message.
    void world.stop().then(() => self.postMessage("stopped"));
  };
  self.postMessage("started");
}

self.onmessage = (event): void => {
  if (event.data !== "stop") begin(event.data);
};
