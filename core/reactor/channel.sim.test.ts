import { expect, test } from "bun:test";
import { ShardChannel, Simulation } from "./reactor.ts";

test("shard channel: bounded, in order, wakes a sleeping process", () => {
  const simulation = new Simulation(21);
  const a = simulation.createWorld("osd.0/0", "10.0.0.1", { arenaBytes: 4 * 1_048_576 });
  const b = simulation.createWorld("osd.0/1", "10.0.0.1", { arenaBytes: 4 * 1_048_576 });
  a.start();
  b.start();
  const memory = ShardChannel.create(8, 1);
  const producer = new ShardChannel(memory);
  const seen: number[] = [];
  b.mail.receive(new ShardChannel(memory), {
    onMessage: (words, at) => void seen.push(words[at]!),
  });
  simulation.run(1_000_000);
  for (let at = 0; at < 8; at++) {
    const place = producer.reserve();
    expect(place).toBeGreaterThanOrEqual(48);
    producer.memory[place] = at;
    a.mail.publish(producer);
  }
  expect(producer.reserve()).toBe(-1);
  expect(simulation.run(() => seen.length === 8)).toBe(true);
  expect(seen).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  expect(producer.reserve()).toBeGreaterThanOrEqual(48);
});

test("shard channel: a producer sees the sleeper or the sleeper sees the message", () => {
  const memory = ShardChannel.create(8, 1);
  const producer = new ShardChannel(memory);
  const consumer = new ShardChannel(memory);
  const take = { onMessage(): void {} };
  expect(producer.reserve()).toBeGreaterThan(0);
  expect(producer.commit()).toBe(false);
  expect(consumer.prepareToSleep()).toBe(false);
  expect(consumer.drain(take)).toBe(1);
  expect(consumer.prepareToSleep()).toBe(true);
  producer.reserve();
  expect(producer.commit()).toBe(true);
  producer.reserve();
  expect(producer.commit()).toBe(false);
  expect(consumer.drain(take)).toBe(2);
});
