import { describe, expect, test } from "bun:test";
import { createCipheriv } from "node:crypto";
import type { Random } from "../base/prng.ts";
import { Status } from "../base/status.ts";
import { MessageType } from "../raft/raft.ts";
import { SystemChecksum, SystemCiphers } from "../reactor/bun-system.ts";
import { CLIENT, KEY, OSD, TO_OSD } from "./bun-test-ends.ts";
import { DATA_LIMITS, FLAG_ENCRYPTED, Frame, FRAME_VERSION_MAX, FrameKind } from "./frame.ts";
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
function ends(encrypt = false): { dialler: Handshake; acceptor: Handshake } {
  const common = {
    psk: KEY,
    checksum,
    ciphers: new SystemCiphers(),
    limits: DATA_LIMITS,
    versionMax: FRAME_VERSION_MAX,
    encrypt,
  };
  const client = { ...common, identity: CLIENT, boot: 0x1_0203_0405_0607, random: counting(0x20) };
  const osd = { ...common, identity: { ...OSD, store }, boot: 99, random: counting(0x80) };
  return { dialler: new Handshake(client, TO_OSD), acceptor: new Handshake(osd, null) };
}

/** All four messages, in their order. */
function greet({ dialler, acceptor }: ReturnType<typeof ends>): Record<string, Uint8Array> {
  const hello = dialler.start();
  const challenge = acceptor.onHello(hello);
  const proof = dialler.onChallenge(challenge);
  const answer = acceptor.onClientProof(proof);
  dialler.onServerProof(answer);
  return {
    Hello: hello,
    Challenge: challenge,
    "Proof of the dialler": proof,
    "Proof of the acceptor": answer,
  };
}

/** The first frame under an encrypting key: a request with a header of 5 bytes and a payload of 20. */
function encrypted(key: Uint8Array, cipherKey: Uint8Array): Uint8Array {
  const words = new Int32Array(new ArrayBuffer(96));
  const bytes = new Uint8Array(words.buffer);
  bytes.set([1, 2, 3, 4, 5], 64);
  bytes.fill(6, 72, 92);
  const frame = new Frame();
  frame.kind = FrameKind.Request;
  frame.method = Method.Echo;
  frame.requestId = 7;
  frame.flags = FLAG_ENCRYPTED;
  frame.headerSize = 5;
  frame.payloadSize = 20;
  const sealing = new FrameSealing();
  sealing.reset(key, 1, new SystemCiphers().create(bytes, cipherKey, "seal"));
  sealing.seal(frame, words, 0);
  sealing.end();
  return bytes;
}

/** What `frame.md` says, by the runtime's own cipher: prefix, ciphertext, tag in its place. */
function encryptedByHand(cipherKey: Uint8Array, sent: Uint8Array): Uint8Array {
  const plain = new Uint8Array(32);
  plain.set([1, 2, 3, 4, 5]);
  plain.fill(6, 8, 28);
  const nonce = new Uint8Array(12);
  nonce[4] = 1;
  const cipher = createCipheriv("aes-256-gcm", cipherKey, nonce);
  cipher.setAAD(sent.subarray(0, 48));
  const text = Buffer.concat([cipher.update(plain), cipher.final()]);
  return Uint8Array.from([...sent.subarray(0, 48), ...cipher.getAuthTag(), ...text]);
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
    const parts = {
      ...greet({ dialler, acceptor }),
      "first frame of the dialler": sealed(dialler.sendKey, dialler.keyId),
      "first frame of the acceptor": sealed(acceptor.sendKey, acceptor.keyId),
    };
    const text = Object.entries(parts).map(([name, bytes]) => `${name}: ${dump(bytes)}`);
    await golden("handshake", text.join(""));
    expect(acceptor.receiveKey).toEqual(dialler.sendKey);
    expect(dialler.receiveKey).toEqual(acceptor.sendKey);
  });

  test("of a connection that is encrypted they are as the golden file says", async () => {
    const { dialler, acceptor } = ends(true);
    const messages = greet({ dialler, acceptor });
    const { sendKey, sendCipherKey } = dialler;
    const request = encrypted(sendKey, sendCipherKey);
    const parts = { ...messages, "first frame of the dialler": request };
    const text = Object.entries(parts).map(([name, bytes]) => `${name}: ${dump(bytes)}`);
    await golden("handshake-encrypted", text.join(""));
    expect(request).toEqual(encryptedByHand(sendCipherKey, request));
    expect(acceptor.receiveCipherKey).toEqual(dialler.sendCipherKey);
    expect(dialler.receiveCipherKey).toEqual(acceptor.sendCipherKey);
    const { Hello: hello, Challenge: challenge } = messages;
    const label = "fastblock rpc 1";
    const master = hmac(KEY, label, length(hello!), hello!, length(challenge!), challenge!);
    expect(sendCipherKey).toEqual(hmac(master, "dialler encrypts"));
    expect(acceptor.sendCipherKey).toEqual(hmac(master, "acceptor encrypts"));
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
