import { describe, expect, test } from "bun:test";
import type { Random } from "../base/prng.ts";
import { Status } from "../base/status.ts";
import { MessageType } from "../raft/raft.ts";
import { SystemChecksum } from "../reactor/bun-system.ts";
import { CLIENT, KEY, OSD, TO_OSD } from "./bun-test-ends.ts";
import { DATA_LIMITS, Frame, FRAME_VERSION_MAX, FrameKind } from "./frame.ts";
import { Handshake, HandshakeStep } from "./handshake.ts";
import { Method, Role } from "./rpc.ts";
import { FrameSealing } from "./sealing.ts";

/**
 * The handshake as bytes; the prefix is in `frame.test.ts`, the messages in `proto/formats.test.ts`.
 * The files in `testdata` change only together with a `Format:` line in the commit;
 * `UPDATE_GOLDEN=1 bun test core/rpc/formats.test.ts` writes them anew.
 */
async function golden(name: string, text: string): Promise<void> {
  const path = `${import.meta.dir}/testdata/${name}.golden`;
  if (process.env["UPDATE_GOLDEN"] === "1") await Bun.write(path, text);
  expect(text).toBe(await Bun.file(path).text());
}

function dump(bytes: Uint8Array): string {
  const rows = [`${bytes.length} bytes`];
  for (let at = 0; at < bytes.length; at += 32) rows.push(bytes.subarray(at, at + 32).toHex());
  return `${rows.join("\n")}\n`;
}

/** Draws `first`, `first` + 1, …: a nonce that is known. */
function counting(first: number): Random {
  let next = first;
  return {
    u32: () => next++,
    below: (bound) => next++ % bound,
    fill(bytes) {
      for (let at = 0; at < bytes.length; at++) bytes[at] = next++;
    },
  };
}

const checksum = new SystemChecksum();
const store = { starts: new Uint8Array(32).map((_, at) => 0x60 + at), asking: true };

/** A client that dials an osd, everything drawn known. */
function ends(): { dialler: Handshake; acceptor: Handshake } {
  const common = { psk: KEY, checksum, limits: DATA_LIMITS, versionMax: FRAME_VERSION_MAX };
  const client = { ...common, identity: CLIENT, boot: 0x1_0203_0405_0607, random: counting(0x20) };
  const osd = { ...common, identity: { ...OSD, store }, boot: 99, random: counting(0x80) };
  return { dialler: new Handshake(client, TO_OSD), acceptor: new Handshake(osd, null) };
}

function hmac(key: Uint8Array, ...parts: (string | Uint8Array)[]): Uint8Array {
  const hasher = new Bun.CryptoHasher("sha256", key);
  for (const part of parts) hasher.update(part);
  return new Uint8Array(hasher.digest());
}

function length(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(new Uint32Array([bytes.length]).buffer);
}

/** The first frame under a key: a sign of life. */
function sealed(key: Uint8Array, keyId: number): Uint8Array {
  const words = new Int32Array(16);
  const frame = new Frame();
  frame.kind = FrameKind.Ping;
  const sealing = new FrameSealing();
  sealing.reset(key, keyId);
  sealing.seal(frame, words, 0);
  return new Uint8Array(words.buffer);
}

describe("handshake", () => {
  test("its messages, and the first frames under its keys, are as the golden file says", async () => {
    const { dialler, acceptor } = ends();
    const hello = dialler.start();
    const challenge = acceptor.onHello(hello);
    const proof = dialler.onChallenge(challenge);
    const answer = acceptor.onClientProof(proof);
    dialler.onServerProof(answer);
    const parts = {
      Hello: hello,
      Challenge: challenge,
      "Proof of the dialler": proof,
      "Proof of the acceptor": answer,
      "first frame of the dialler": sealed(dialler.sendKey, dialler.keyId),
      "first frame of the acceptor": sealed(acceptor.sendKey, acceptor.keyId),
    };
    const text = Object.entries(parts).map(([name, bytes]) => `${name}: ${dump(bytes)}`);
    await golden("handshake", text.join(""));
    expect(acceptor.receiveKey).toEqual(dialler.sendKey);
    expect(dialler.receiveKey).toEqual(acceptor.sendKey);
  });

  test("proofs and keys are what proto/frame.md tells", () => {
    const { dialler, acceptor } = ends();
    const hello = dialler.start();
    const challenge = acceptor.onHello(hello);
    const proof = dialler.onChallenge(challenge);
    const answer = acceptor.onClientProof(proof);
    dialler.onServerProof(answer);
    const label = "fastblock rpc 1";
    const master = hmac(KEY, label, length(hello), hello, length(challenge), challenge);
    // A Proof is its tag, the length, the mac.
    expect(proof.subarray(2)).toEqual(hmac(master, "dialler proof"));
    expect(answer.subarray(2)).toEqual(hmac(master, "acceptor proof"));
    const first = sealed(hmac(master, "dialler sends").subarray(0, 16), 1);
    expect(sealed(dialler.sendKey, dialler.keyId)).toEqual(first);
    const other = sealed(hmac(master, "acceptor sends").subarray(0, 16), 1);
    expect(sealed(acceptor.sendKey, acceptor.keyId)).toEqual(other);
  });
});

// Numbers of wire and disk: one that changes, or is used again, is another format.
test.each([
  ["FrameKind", FrameKind],
  ["HandshakeStep", HandshakeStep],
  ["MessageType", MessageType],
  ["Method", Method],
  ["Role", Role],
  ["Status", Status],
])("numbers of %s are as the golden file says", async (name, numbers) => {
  const members = Object.entries(numbers).filter(([, value]) => typeof value === "number");
  const lines = members.map(([member, value]) => `${value} ${member}\n`);
  expect(lines.length).toBeGreaterThan(2);
  await golden(`numbers-${name.toLowerCase()}`, lines.join(""));
});
