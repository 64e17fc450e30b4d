import { describe, expect, test } from "bun:test";
import { silentLogger } from "../base/logger.ts";
import type { ChannelWorkerStart } from "./bun-channel-worker.ts";
import { createBunWorld } from "./bun-world.ts";
import { ShardChannel } from "./channel.ts";
import { createUringWorld } from "./uring-world.ts";

const MESSAGES = 3000;

/** Send every number to a worker, which sends it back plus one; resolves with the sum of errors. */
async function pingPong(backend: "uring" | "file"): Promise<{ wrong: number; got: number }> {
  const options = { arenaBytes: 4 * 1_048_576, logger: silentLogger };
  const world = backend === "uring" ? createUringWorld(options) : createBunWorld(options);
  const there = ShardChannel.create(64, backend === "uring" ? 1 : 3);
  const back = ShardChannel.create(64, backend === "uring" ? 2 : 4);
  const worker = new Worker(new URL("./bun-channel-worker.ts", import.meta.url).href);
  const said = (text: string): Promise<void> =>
    new Promise((resolve, reject) => {
      worker.onmessage = (event: MessageEvent): void => {
        if (event.data === text) resolve();
      };
      worker.onerror = (event): void => reject(new Error(event.message));
    });
  const start: ChannelWorkerStart = { backend, incoming: there, outgoing: back };
  const started = said("started");
  worker.postMessage(start);
  await started;

  const outgoing = new ShardChannel(there);
  let sent = 0;
  let got = 0;
  let wrong = 0;
  let finish: () => void = () => undefined;
  const finished = new Promise<void>((resolve) => {
    finish = resolve;
  });
  const send = (): void => {
    // Bursts of different lengths: the other side falls asleep between some.
    for (let burst = (sent % 7) + 1; burst > 0 && sent < MESSAGES; burst--) {
      const place = outgoing.reserve();
      if (place < 0) return;
      outgoing.memory[place] = sent * 3;
      outgoing.memory[place + 15] = sent;
      sent += 1;
      world.mail.publish(outgoing);
    }
  };
  world.mail.receive(new ShardChannel(back), {
    onMessage(words, at) {
      if (words[at] !== got * 3 + 1 || words[at + 15] !== got) wrong += 1;
      got += 1;
      if (got === MESSAGES) finish();
      else if (got === sent) send();
    },
  });
  world.start();
  send();
  await finished;
  const stopped = said("stopped");
  worker.postMessage("stop");
  await stopped;
  worker.terminate();
  await world.stop();
  return { wrong, got };
}

describe("shard channel", () => {
  test("io_uring: messages go to another thread and back, in order", async () => {
    expect(await pingPong("uring")).toEqual({ wrong: 0, got: MESSAGES });
  }, 30_000);

  test("runtime: messages go to another thread and back, in order", async () => {
    expect(await pingPong("file")).toEqual({ wrong: 0, got: MESSAGES });
  }, 30_000);
});
