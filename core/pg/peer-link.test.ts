import { expect, test } from "bun:test";
import { LEASE_US, PeerLink, PROMISE_US, SILENCE_US } from "./peer-link.ts";

test("G2, G16: a leader's lease ends before the follower's promise, whatever the delay", () => {
  for (const delay of [0, 50, 20_000, 390_000]) {
    const leader = new PeerLink(1, 0);
    const follower = new PeerLink(0, 0);
    leader.onConnected(0);
    follower.onConnected(0);
    const sent = 1_000_000;
    follower.onHeartbeat(sent, 0, sent + delay);
    const echoAt = sent + delay + 90_000;
    const echo = follower.echo(echoAt);
    leader.onHeartbeat(5, echo, echoAt + delay);
    expect(leader.leaseUntilUs).toBe(sent + LEASE_US);
    expect(follower.promiseUntilUs).toBe(echoAt + PROMISE_US);
    expect(leader.leaseUntilUs).toBeLessThan(follower.promiseUntilUs);
  }
});

test("a heartbeat without an echo gives no lease and makes no promise", () => {
  const link = new PeerLink(1, 0);
  link.onConnected(100);
  expect(link.echo(200)).toBe(0);
  expect(link.promiseUntilUs).toBe(0);
  link.onHeartbeat(150, 0, 300);
  expect(link.leaseUntilUs).toBe(0);
  expect(link.echoes).toBe(0);
});

test("an echo of the future is worth nothing", () => {
  const link = new PeerLink(1, 0);
  link.onConnected(100);
  link.onHeartbeat(1, 10_000_000, 300);
  expect(link.leaseUntilUs).toBe(0);
});

test("a lost connection takes the lease and the echo with it, the promise stays", () => {
  const link = new PeerLink(1, 0);
  link.onConnected(0);
  link.onHeartbeat(77, 50, 100);
  expect(link.echo(200)).toBe(77);
  expect(link.onDisconnected()).toBe(true);
  expect(link.leaseUntilUs).toBe(0);
  expect(link.echo(300)).toBe(0);
  expect(link.promiseUntilUs).toBe(200 + PROMISE_US);
});

test("silence is three missed heartbeats", () => {
  const link = new PeerLink(1, 0);
  link.onConnected(1000);
  expect(link.isSilent(1000 + SILENCE_US)).toBe(false);
  expect(link.isSilent(1001 + SILENCE_US)).toBe(true);
});

test("a peer that fell silent gets no second promise for its last heartbeat", () => {
  const link = new PeerLink(1, 0);
  link.onConnected(0);
  link.onHeartbeat(500, 0, 600);
  expect(link.echo(700)).toBe(500);
  expect(link.echo(100_700)).toBe(0);
  expect(link.promiseUntilUs).toBe(700 + PROMISE_US);
});
