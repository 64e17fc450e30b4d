// cold: once a connection
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  AuthMethod,
  ChallengeSchema,
  type Endpoint,
  EndpointSchema,
  type Hello,
  HelloSchema,
  type Limits,
  ProofSchema,
} from "../../proto/gen/rpc_pb.ts";
import type { Checksum } from "../base/checksum.ts";
import { FORMAT_FIRST, FORMATS, type FormatState, judgeFormats } from "../base/formats.ts";
import type { Ciphers } from "../base/cipher.ts";
import type { Random } from "../base/prng.ts";
import { UUID_SIZE, uuidBytes, uuidText } from "../base/uuid.ts";
import {
  FRAME_VERSION,
  FRAME_VERSION_ENCRYPTED,
  type FrameLimits,
  HEADER_SIZE_HANDSHAKE_MAX,
} from "./frame.ts";
import { ID_ANY, Role, type RpcIdentity, type RpcPeer, type RpcReceiver } from "./peer.ts";

/**
 * The handshake, as bytes in and bytes out (proto/frame.md, Handshake).
 *
 * ```
 * dialler                                 acceptor
 *   Hello: cluster, who, whom, nonce  ──▶  checks cluster, receiver, version, method
 *   checks cluster, sender            ◀──  Challenge: who, version, nonce
 *   ClientProof: HMAC                 ──▶  checks
 *   checks; open                      ◀──  ServerProof: HMAC; open
 * ```
 *
 * master = HMAC-SHA256(psk, "fastblock rpc 1" ‖ length(Hello) ‖ Hello ‖ length(Challenge) ‖
 * Challenge); the proofs and the key of each direction are HMACs under it with a label each. Both
 * nonces are in there, so nothing that was recorded works again; both hellos are, so nobody in
 * between can change a field. The dialler proves first: an acceptor signs nothing for strangers.
 *
 * A connection is encrypted when one of its ends wants that: the dialler says so in its Hello, the
 * acceptor decides in its Challenge. Who wants it and does not get it refuses, so nothing ever goes on in
 * the clear that somebody wants encrypted.
 *
 * A simpler design, one proof over the other's nonce, was not enough: reflected to its sender in a
 * second connection, it is valid there.
 */
export enum HandshakeStep {
  Hello = 1,
  Challenge = 2,
  ClientProof = 3,
  ServerProof = 4,
  Refusal = 5,
}

/** The id of the pre-shared key; per-client keys get others. */
const KEY_ID_PSK = 1;
const NONCE_SIZE = 32;
/** Starts of a store (core/store/starts.ts): 32 of 16 bytes at most. */
const STARTS_BYTES_MAX = 512;
const START_SIZE = 16;
const encoder = /* @__PURE__ */ new TextEncoder();

/** Of an endpoint that says nothing else. */
const FORMATS_OPEN: FormatState = { range: FORMATS, wanted: 0 };

/** How a refusal begins that is about encryption. */
const NO_ENCRYPTION = "no encryption";

/** The code of an error that tells people why a handshake was refused, by either end. */
export function refusalCode(refusal: string): "FB1007" | "FB1018" {
  return refusal.includes(`${NO_ENCRYPTION}: `) ? "FB1018" : "FB1007";
}

/** Why a handshake ends: words for the log of both ends. */
export class HandshakeRefusal extends Error {
  override readonly name = "HandshakeRefusal";
}

/** What an endpoint brings into each of its handshakes. */
export interface HandshakeConfig {
  readonly identity: RpcIdentity;
  readonly boot: number;
  readonly psk: Uint8Array;
  readonly checksum: Checksum;
  readonly random: Random;
  readonly limits: Readonly<FrameLimits>;
  /** The newest version of frames that it speaks. */
  readonly versionMax: number;
  /** It wants its connections encrypted. */
  readonly encrypt: boolean;
  readonly ciphers: Ciphers;
}

enum Stage {
  Start = 0,
  HelloSent = 1,
  ChallengeSent = 2,
  ClientProofSent = 3,
  Done = 4,
  Failed = 5,
}

/** One handshake, on either side. Every method throws `HandshakeRefusal`. */
export class Handshake {
  private readonly config: HandshakeConfig;
  /** Whom a dialler wants; null on the accepting side. */
  private readonly receiver: RpcReceiver | null;
  private stage = Stage.Start;
  private hello: Uint8Array = new Uint8Array(0);
  private master: Uint8Array = new Uint8Array(0);
  /** Valid when done. */
  peer: RpcPeer | null = null;
  sendKey: Uint8Array = new Uint8Array(0);
  receiveKey: Uint8Array = new Uint8Array(0);
  /** What follows is encrypted, under these keys; else they are empty. */
  isEncrypted = false;
  sendCipherKey: Uint8Array = new Uint8Array(0);
  receiveCipherKey: Uint8Array = new Uint8Array(0);
  readonly keyId: number = KEY_ID_PSK;
  /** Of the frames that follow: the newest that both speak. */
  version: number = FRAME_VERSION;
  peerLimits: FrameLimits = { headerBytes: 0, payloadBytes: 0 };

  constructor(config: HandshakeConfig, receiver: RpcReceiver | null) {
    this.config = config;
    this.receiver = receiver;
  }

  get isDone(): boolean {
    return this.stage === Stage.Done;
  }

  /** The dialler's first message. */
  start(): Uint8Array {
    const receiver = this.receiver;
    if (receiver === null || this.stage !== Stage.Start) throw this.fail("handshake out of order");
    this.hello = toBinary(
      HelloSchema,
      create(HelloSchema, {
        clusterId: uuidBytes(this.config.identity.clusterId),
        sender: this.ownEndpoint(),
        receiver: {
          role: Number(receiver.role),
          id: receiver.id,
          shard: receiver.shard,
          storeUuid: uuidBytes(receiver.storeUuid),
        },
        versionMin: FRAME_VERSION,
        versionMax: this.config.versionMax,
        authMethod: AuthMethod.PSK,
        keyId: KEY_ID_PSK,
        nonce: this.nonce(),
        limits: this.ownLimits(),
        encrypt: this.config.encrypt,
      }),
    );
    this.stage = Stage.HelloSent;
    return this.hello;
  }

  /** Acceptor: take the hello in; answers the challenge. */
  onHello(bytes: Uint8Array): Uint8Array {
    if (this.receiver !== null || this.stage !== Stage.Start) {
      throw this.fail("handshake out of order");
    }
    // The receive buffer moves on; the transcript needs the bytes again.
    this.hello = bytes.slice();
    const hello = this.parse(() => fromBinary(HelloSchema, this.hello));
    this.checkCluster(hello.clusterId);
    this.checkNonce(hello.nonce);
    this.version = this.commonVersion(hello);
    this.checkMethod(hello.authMethod, hello.keyId);
    this.checkReceiver(hello);
    this.peer = this.checkSender(hello.sender);
    this.peerLimits = this.checkLimits(hello.limits);
    this.judgeEncryption(hello.encrypt);
    const challenge = toBinary(
      ChallengeSchema,
      create(ChallengeSchema, {
        clusterId: uuidBytes(this.config.identity.clusterId),
        sender: this.ownEndpoint(),
        version: this.version,
        authMethod: AuthMethod.PSK,
        keyId: KEY_ID_PSK,
        nonce: this.nonce(),
        limits: this.ownLimits(),
        encrypted: this.isEncrypted,
      }),
    );
    this.deriveKeys(challenge);
    this.stage = Stage.ChallengeSent;
    return challenge;
  }

  /** Dialler: take the challenge in; answers the proof. */
  onChallenge(bytes: Uint8Array): Uint8Array {
    if (this.receiver === null || this.stage !== Stage.HelloSent) {
      throw this.fail("handshake out of order");
    }
    const challenge = this.parse(() => fromBinary(ChallengeSchema, bytes.slice()));
    this.checkCluster(challenge.clusterId);
    this.checkNonce(challenge.nonce);
    const { versionMax } = this.config;
    if (challenge.version < FRAME_VERSION || challenge.version > versionMax) {
      const wanted = `${FRAME_VERSION} to ${versionMax}`;
      throw this.fail(`wrong version: ${challenge.version}, wanted ${wanted}`);
    }
    this.version = challenge.version;
    this.checkMethod(challenge.authMethod, challenge.keyId);
    this.peer = this.checkSender(challenge.sender);
    this.checkDialled(this.peer, this.receiver);
    this.peerLimits = this.checkLimits(challenge.limits);
    this.judgeEncryption(challenge.encrypted);
    if (this.isEncrypted && !challenge.encrypted) {
      throw this.fail(`${NO_ENCRYPTION}: the peer goes on without, wanted it as was said`);
    }
    this.deriveKeys(bytes);
    this.stage = Stage.ClientProofSent;
    return this.proof("dialler proof");
  }

  /** Acceptor: check the dialler's proof; answers our own. Then the connection is open. */
  onClientProof(bytes: Uint8Array): Uint8Array {
    if (this.stage !== Stage.ChallengeSent) throw this.fail("handshake out of order");
    this.checkProof(bytes, "dialler proof");
    this.finish("acceptor", "dialler");
    return this.proof("acceptor proof");
  }

  /** Dialler: check the acceptor's proof. Then the connection is open. */
  onServerProof(bytes: Uint8Array): void {
    if (this.stage !== Stage.ClientProofSent) throw this.fail("handshake out of order");
    this.checkProof(bytes, "acceptor proof");
    this.finish("dialler", "acceptor");
  }

  private finish(own: string, other: string): void {
    this.sendKey = this.hmac(this.master, `${own} sends`);
    this.receiveKey = this.hmac(this.master, `${other} sends`);
    if (this.isEncrypted) {
      this.sendCipherKey = this.hmac(this.master, `${own} encrypts`);
      this.receiveCipherKey = this.hmac(this.master, `${other} encrypts`);
    }
    this.stage = Stage.Done;
  }

  /** Encrypt when this end or the other one wants it, or say why that can not be. */
  private judgeEncryption(peerWants: boolean): void {
    const { encrypt, ciphers } = this.config;
    if (!encrypt && !peerWants) return;
    if (this.version < FRAME_VERSION_ENCRYPTED) {
      const both = `both speak frames of version ${this.version}`;
      throw this.fail(`${NO_ENCRYPTION}: ${both}, wanted ${FRAME_VERSION_ENCRYPTED} or newer`);
    }
    const { missing } = ciphers;
    if (missing !== "") throw this.fail(`${NO_ENCRYPTION}: ${missing}, wanted one`);
    this.isEncrypted = true;
  }

  private deriveKeys(challenge: Uint8Array): void {
    const label = encoder.encode("fastblock rpc 1");
    const transcript = new Uint8Array(label.length + this.hello.length + challenge.length + 8);
    const view = new DataView(transcript.buffer);
    let at = 0;
    transcript.set(label, at);
    at += label.length;
    for (const part of [this.hello, challenge]) {
      view.setUint32(at, part.length, true);
      transcript.set(part, at + 4);
      at += 4 + part.length;
    }
    this.master = this.config.checksum.hmacSha256(this.config.psk, transcript);
  }

  private hmac(key: Uint8Array, label: string): Uint8Array {
    return this.config.checksum.hmacSha256(key, encoder.encode(label));
  }

  private proof(label: string): Uint8Array {
    return toBinary(ProofSchema, create(ProofSchema, { mac: this.hmac(this.master, label) }));
  }

  /** The bytes as we would send them, no others: nothing that could be changed is left over. */
  private checkProof(bytes: Uint8Array, label: string): void {
    const wanted = this.proof(label);
    let difference = bytes.length ^ wanted.length;
    for (let at = 0; at < wanted.length; at++) difference |= (bytes[at] ?? 0) ^ wanted[at]!;
    if (difference !== 0) throw this.fail("wrong key: the proof does not verify");
  }

  private checkCluster(bytes: Uint8Array): void {
    const own = uuidText(uuidBytes(this.config.identity.clusterId));
    const seen = uuidText(bytes);
    if (seen !== own) throw this.fail(`wrong cluster: ${seen || "none"}, wanted ${own}`);
  }

  private checkNonce(nonce: Uint8Array): void {
    if (nonce.length !== NONCE_SIZE) {
      throw this.fail(`malformed nonce: ${nonce.length} bytes, wanted ${NONCE_SIZE}`);
    }
  }

  /** The newest version that both speak. */
  private commonVersion({ versionMin, versionMax }: Hello): number {
    const version = Math.min(versionMax, this.config.versionMax);
    if (version < FRAME_VERSION || version < versionMin) {
      const own = `${FRAME_VERSION} to ${this.config.versionMax}`;
      throw this.fail(`no common version: peer speaks ${versionMin} to ${versionMax}, we ${own}`);
    }
    return version;
  }

  private checkMethod(method: AuthMethod, keyId: number): void {
    if (method !== AuthMethod.PSK || keyId !== KEY_ID_PSK) {
      throw this.fail(`unknown authentication: method ${method} key ${keyId}, wanted psk`);
    }
  }

  private checkReceiver(hello: Hello): void {
    const own = this.config.identity;
    const wanted = hello.receiver;
    if (wanted === undefined) throw this.fail("wrong receiver: none, wanted one");
    const anyMon = own.role === Role.Mon && wanted.id === ID_ANY;
    const store = uuidText(wanted.storeUuid);
    const ownStore = uuidText(uuidBytes(own.storeUuid));
    const matches =
      Number(wanted.role) === Number(own.role) &&
      (wanted.id === own.id || anyMon) &&
      wanted.shard === own.shard &&
      (store === "" || store === ownStore);
    if (!matches) {
      const seen = describe(wanted.role, wanted.id, wanted.shard, store);
      throw this.fail(
        `wrong receiver: ${seen}, this is ${describe(own.role, own.id, own.shard, ownStore)}`,
      );
    }
  }

  private checkDialled(peer: RpcPeer, wanted: RpcReceiver): void {
    const store = uuidText(uuidBytes(wanted.storeUuid));
    const anyMon = wanted.role === Role.Mon && wanted.id === ID_ANY;
    const matches =
      peer.role === wanted.role &&
      (peer.id === wanted.id || anyMon) &&
      peer.shard === wanted.shard &&
      (store === "" || store === peer.storeUuid);
    if (!matches) {
      const seen = describe(peer.role, peer.id, peer.shard, peer.storeUuid);
      throw this.fail(
        `wrong peer: ${seen}, wanted ${describe(wanted.role, wanted.id, wanted.shard, store)}`,
      );
    }
  }

  private checkSender(sender: Endpoint | undefined): RpcPeer {
    if (sender === undefined) throw this.fail("malformed hello: no sender");
    const role = Number(sender.role);
    if (role !== Role.Mon && role !== Role.Osd && role !== Role.Client) {
      throw this.fail(`unknown role: ${role}, wanted 1 to 3`);
    }
    const storeSize = sender.storeUuid.length;
    if (storeSize !== 0 && storeSize !== UUID_SIZE) {
      throw this.fail(`malformed store uuid: ${storeSize} bytes, wanted ${UUID_SIZE}`);
    }
    if (sender.boot > BigInt(Number.MAX_SAFE_INTEGER)) {
      throw this.fail("malformed boot number: above 2^53 - 1");
    }
    const startsSize = sender.starts.length;
    if (startsSize > STARTS_BYTES_MAX || startsSize % START_SIZE !== 0) {
      throw this.fail(
        `malformed starts: ${startsSize} bytes, wanted up to ${STARTS_BYTES_MAX} by ${START_SIZE}`,
      );
    }
    if (!/^[\x21-\x7e]{0,64}$/.test(sender.name)) {
      throw this.fail("malformed name: wanted up to 64 printable characters");
    }
    const formats = formatsOf(sender);
    const why = judgeFormats(this.ownFormats, formats);
    if (why !== "") throw this.fail(`${sender.name} is ${why}`);
    return {
      role,
      id: sender.id,
      shard: sender.shard,
      storeUuid: uuidText(sender.storeUuid),
      boot: Number(sender.boot),
      name: sender.name,
      starts: sender.starts,
      asking: sender.asking,
      formats,
    };
  }

  private get ownFormats(): FormatState {
    return this.config.identity.formats ?? FORMATS_OPEN;
  }

  /** What both ends take: we never send more than the peer's limits, nor than our own. */
  private checkLimits(limits: Limits | undefined): FrameLimits {
    if (limits === undefined || limits.headerBytes < HEADER_SIZE_HANDSHAKE_MAX) {
      throw this.fail(
        `limits too small: header ${limits?.headerBytes ?? 0}, wanted ${HEADER_SIZE_HANDSHAKE_MAX}`,
      );
    }
    return {
      headerBytes: Math.min(limits.headerBytes, this.config.limits.headerBytes),
      payloadBytes: Math.min(limits.payloadBytes, this.config.limits.payloadBytes),
    };
  }

  private ownEndpoint(): Endpoint {
    const own = this.config.identity;
    const { range, wanted } = this.ownFormats;
    return create(EndpointSchema, {
      role: Number(own.role),
      id: own.id,
      shard: own.shard,
      storeUuid: uuidBytes(own.storeUuid),
      boot: BigInt(this.config.boot),
      name: own.name,
      ...own.store,
      formatMin: range.min,
      formatMax: range.max,
      formatWanted: wanted,
    });
  }

  private ownLimits(): { headerBytes: number; payloadBytes: number } {
    const { headerBytes, payloadBytes } = this.config.limits;
    return { headerBytes, payloadBytes };
  }

  private nonce(): Uint8Array {
    const nonce = new Uint8Array(NONCE_SIZE);
    this.config.random.fill(nonce);
    return nonce;
  }

  private parse<T>(decode: () => T): T {
    try {
      return decode();
    } catch (error) {
      throw this.fail(`malformed handshake message: ${String(error)}`);
    }
  }

  private fail(reason: string): HandshakeRefusal {
    this.stage = Stage.Failed;
    return new HandshakeRefusal(reason);
  }
}

/** Programs that announce nothing are the first ones. */
function formatsOf({ formatMin, formatMax, formatWanted }: Endpoint): FormatState {
  const range = { min: formatMin || FORMAT_FIRST, max: formatMax || FORMAT_FIRST };
  return { range, wanted: formatWanted };
}

function describe(role: number, id: number, shard: number, store: string): string {
  const name = Role[role]?.toLowerCase() ?? `role ${role}`;
  const place = shard === 0xffff_ffff ? "" : ` shard ${shard}`;
  return `${name}.${id === ID_ANY ? "*" : id}${place}${store === "" ? "" : ` store ${store}`}`;
}
