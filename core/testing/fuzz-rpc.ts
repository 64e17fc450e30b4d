// cold: fuzzing of decoders
import { create, toBinary } from "@bufbuild/protobuf";
import { ProofSchema } from "../../proto/gen/rpc_pb.ts";
import { assert } from "../base/assert.ts";
import type { Checksum } from "../base/checksum.ts";
import type { Prng } from "../base/prng.ts";
import type { Status } from "../base/status.ts";
import { PAYLOAD_SIZE_MAX } from "../base/units.ts";
import { Simulation } from "../reactor/reactor.ts";
import {
  type Connection,
  type ConnectionHandler,
  FLAG_PAYLOAD_CRC,
  Frame,
  FrameFault,
  FrameKind,
  FrameSealing,
  frameSize,
  HANDSHAKE_LIMITS,
  HandshakeStep,
  isShort,
  Method,
  PREFIX_SIZE,
  PREFIX_TAGGED_SIZE,
  parsePrefix,
  parseShort,
  RequestOp,
  Role,
  RpcEndpoint,
  type RpcIdentity,
  type RpcReceiver,
  SHORT_PREFIX_SIZE,
  writePrefix,
  writeShort,
} from "../rpc/rpc.ts";
import type { FuzzTarget } from "./fuzz.ts";
import { FeedStream, FeedWorld } from "./fuzz-feed.ts";
import type { FuzzPorts, RecordedFrame } from "./fuzz-traffic.ts";

type Input = Uint8Array<ArrayBuffer>;

const CLUSTER = "0f0e0d0c-0b0a-0908-0706-050403020100";
const KEY: Uint8Array = new Uint8Array(32).fill(7);
const OSD: RpcIdentity = { clusterId: CLUSTER, role: Role.Osd, id: 3, shard: 1, name: "osd.3" };
const CLIENT: RpcIdentity = { clusterId: CLUSTER, role: Role.Client, id: 7, shard: 0, name: "nbd" };
const TO_OSD: RpcReceiver = { role: Role.Osd, id: 3, shard: 1 };
const ADDRESS = { kind: "tcp", host: "10.0.0.1", port: 1 } as const;
const STREAM_BYTES = 327_680;
const OPTIONS = { receiveBytes: STREAM_BYTES, sendBytes: STREAM_BYTES, requestsMax: 16 };
const LIMITS = { headerBytes: 8192, payloadBytes: PAYLOAD_SIZE_MAX };
/** Twice the largest frame. */
const BYTES_MAX: number = 2 * frameSize(LIMITS.headerBytes, LIMITS.payloadBytes);
const INPUT_BYTES_MAX = 65_536;
const OPEN_REQUESTS = 4;
const FRAMES_TAKEN_MAX = 30;
/** In front of the tag. */
const SHORT_SHAPE_BYTES = 8;

/**
 * A whole stream from its first byte on, of either end: handshake, then frames. The repair plays a
 * peer that has the key: it signs what the mutation made, proofs included.
 */
export function rpcTargets(ports: FuzzPorts, frames: readonly RecordedFrame[]): FuzzTarget[] {
  const acceptor = new End(ports, true);
  const dialler = new End(ports, false);
  const [said, answered] = greet(dialler, acceptor);
  const keys = new Keys(ports.checksum, said[0]!, answered[0]!);
  const wanted = frames.filter((frame) => frame.kind !== FrameKind.Handshake);
  const few = [wanted.slice(0, 6), ...eachMethod(wanted)];
  return [
    endTarget("rpc-acceptor", acceptor, keys, said, few),
    endTarget("rpc-dialler", dialler, keys, answered, few),
  ];
}

/** One frame of each kind and method, by themselves and in a row. */
function eachMethod(frames: readonly RecordedFrame[]): RecordedFrame[][] {
  const found = new Map<number, RecordedFrame>();
  for (const frame of frames) found.set(frame.kind * 65_536 + frame.method, frame);
  const all = [...found.values()].slice(0, FRAMES_TAKEN_MAX);
  return [...all.map((frame) => [frame]), all.slice(0, 8)];
}

/** What each end says in the handshake, frame by frame. */
function greet(dialler: End, acceptor: End): [Uint8Array[], Uint8Array[]] {
  dialler.begin();
  acceptor.begin();
  const said: Uint8Array[] = [dialler.stream.take()];
  const answered: Uint8Array[] = [];
  for (let turn = 0; turn < 2; turn++) {
    acceptor.hear(said[turn]!);
    answered.push(acceptor.stream.take());
    dialler.hear(answered[turn]!);
    if (turn === 0) said.push(dialler.stream.take());
  }
  assert(acceptor.isOpen && dialler.isOpen, "fuzz: the handshake fails");
  dialler.end();
  acceptor.end();
  return [said, answered];
}

function endTarget(
  name: string,
  end: End,
  keys: Keys,
  greeting: readonly Uint8Array[],
  frames: readonly (readonly RecordedFrame[])[],
): FuzzTarget {
  const seeds = frames.map((row) => keys.row(greeting, row, end.isAcceptor));
  return {
    name,
    seeds: seeds.filter((seed) => seed.length <= INPUT_BYTES_MAX),
    sizeMax: INPUT_BYTES_MAX,
    grain: 8,
    bytesMax: BYTES_MAX,
    repair: (input) => keys.sign(input, end.isAcceptor),
    run: (input, random) => end.run(input, random),
  };
}

/** One end of a connection, made anew for each input. */
class End implements ConnectionHandler {
  readonly isAcceptor: boolean;
  stream: FeedStream = null as unknown as FeedStream;
  isOpen = false;
  private readonly world: FeedWorld;
  private readonly endpoint: RpcEndpoint;
  private readonly scratch = new Int32Array(PREFIX_SIZE / 4);
  private readonly reader = new Uint8Array(this.scratch.buffer);
  private connection: Connection | null = null;

  constructor({ checksum, drainMicrotasks }: FuzzPorts, isAcceptor: boolean) {
    const simulation = new Simulation(1, { checksum, drainMicrotasks });
    const world = simulation.createWorld("fuzz", "10.0.0.1", { arenaBytes: 4 * 1_048_576 });
    this.isAcceptor = isAcceptor;
    this.world = new FeedWorld(world);
    const identity = isAcceptor ? OSD : CLIENT;
    this.endpoint = new RpcEndpoint(this.world, identity, KEY, OPTIONS);
    if (isAcceptor) this.endpoint.listen(ADDRESS, () => this);
  }

  begin(): void {
    this.isOpen = false;
    this.world.random.begin();
    if (this.isAcceptor) {
      this.stream = this.world.network.accept();
      return;
    }
    this.connection = this.endpoint.dial(ADDRESS, TO_OSD, this);
    this.stream = this.world.network.dialled;
    this.stream.handler.onOpen(this.stream);
  }

  hear(bytes: Uint8Array): void {
    this.stream.feed(bytes);
    while (this.stream.pump());
  }

  end(): void {
    this.connection?.close("the input is over");
    this.connection = null;
    this.stream.end();
    assert(this.endpoint.connections === 0, "rpc: a connection is left");
  }

  /** True when frames came through the handshake. */
  run(input: Input, random: Prng): boolean {
    this.begin();
    // A refusal of the handshake closes the stream behind it.
    for (let at = 0; at < input.length && !this.stream.isClosing; ) {
      const piece = random.below(4) === 0 ? 1 + random.below(100) : input.length - at;
      const count = this.stream.feed(input.subarray(at, at + piece));
      while (this.stream.pump());
      this.stream.take();
      // The receive buffer is full, and the end waits for more: it hears nothing.
      if (count === 0) break;
      at += count;
    }
    const opened = this.isOpen;
    this.end();
    return opened;
  }

  onOpen(connection: Connection): void {
    this.isOpen = true;
    if (this.isAcceptor) return;
    // Some wait for their answers.
    for (let count = 0; count < OPEN_REQUESTS; count++) {
      if (connection.beginRequest(new IdleOp(), Method.Echo, 8, 0, 0) >= 0) connection.finish();
    }
  }

  onRequest(connection: Connection, frame: Frame): void {
    this.check(frame);
    const { requestId, method } = frame;
    connection.refuse(requestId, method, 1 as Status);
  }

  onOneway(_connection: Connection, frame: Frame): void {
    this.check(frame);
  }

  onWritable(): void {}

  onClose(): void {}

  /** What was delivered is what was received: its prefix, written again, has the same bytes. */
  private check(frame: Frame): void {
    const { bytes } = this.world.arena;
    const at = frame.headerOffset - frame.prefixSize;
    const short = frame.prefixSize === SHORT_PREFIX_SIZE;
    if (short) writeShort(frame, this.scratch, 0);
    else writePrefix(frame, this.scratch, 0);
    for (let byte = 0; byte < (short ? SHORT_SHAPE_BYTES : PREFIX_TAGGED_SIZE); byte++) {
      assert(this.reader[byte] === bytes[at + byte], "rpc: a prefix changed");
    }
    assert(frame.headerSize <= LIMITS.headerBytes, "rpc: a header above the limit");
    assert(frame.payloadSize <= LIMITS.payloadBytes, "rpc: a payload above the limit");
  }
}

class IdleOp extends RequestOp {
  onReply(): void {}
  onFail(): void {}
}

/** The peer's half of proto/frame.md, for one dialler and one acceptor with fixed nonces. */
class Keys {
  private readonly checksum: Checksum;
  private readonly hello: Uint8Array;
  private readonly challenge: Uint8Array;
  private readonly frame = new Frame();
  private readonly sealing = new FrameSealing();
  private master: Uint8Array = new Uint8Array(0);

  /** The two frames that the keys are made from, as the ends say them. */
  constructor(checksum: Checksum, hello: Uint8Array, challenge: Uint8Array) {
    this.checksum = checksum;
    this.hello = headerOf(hello);
    this.challenge = headerOf(challenge);
  }

  /** A handshake and the frames behind it, signed. */
  row(
    greeting: readonly Uint8Array[],
    frames: readonly RecordedFrame[],
    toAcceptor: boolean,
  ): Uint8Array {
    const parts = [...greeting];
    frames.forEach((frame, at) => parts.push(frameBytes(frame, at)));
    const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) {
      bytes.set(part, at);
      at += part.length;
    }
    this.sign(bytes, toAcceptor);
    return bytes;
  }

  /** Sign every whole frame whose prefix is well-formed, in order, in place. */
  sign(input: Input, toAcceptor: boolean): void {
    const words = new Int32Array(input.buffer, 0, input.length >>> 2);
    this.derive(this.hello, this.challenge, toAcceptor);
    let isOpen = false;
    for (let at = 0; at + SHORT_PREFIX_SIZE <= input.length; at += this.frame.sizeBytes) {
      const { frame } = this;
      const limits = isOpen ? LIMITS : HANDSHAKE_LIMITS;
      const short = isOpen && isShort(words, at);
      if (!short && at + PREFIX_SIZE > input.length) return;
      const parse = short ? parseShort : parsePrefix;
      if (parse(frame, words, at, limits) !== FrameFault.None) return;
      if (at + frame.sizeBytes > input.length) return;
      clear(input, frame.headerOffset + frame.headerSize, frame.payloadOffset);
      clear(input, frame.payloadOffset + frame.payloadSize, at + frame.sizeBytes);
      if (isOpen) this.seal(input, words, at);
      else isOpen = this.prove(input, at, toAcceptor);
    }
  }

  private seal(input: Input, words: Int32Array, at: number): void {
    const { frame } = this;
    if ((frame.flags & FLAG_PAYLOAD_CRC) !== 0) {
      const end = frame.payloadOffset + frame.payloadSize;
      frame.payloadCrc = this.checksum.crc32(input.subarray(frame.payloadOffset, end), 0);
    }
    this.sealing.seal(frame, words, at);
  }

  /** A message of the handshake; true when the connection is open behind it. */
  private prove(input: Input, at: number, toAcceptor: boolean): boolean {
    const { frame } = this;
    clear(input, at + PREFIX_TAGGED_SIZE, at + PREFIX_SIZE);
    const header = input.subarray(frame.headerOffset, frame.headerOffset + frame.headerSize);
    if (toAcceptor && frame.method === HandshakeStep.Hello) {
      this.derive(header, this.challenge, toAcceptor);
      return false;
    }
    if (!toAcceptor && frame.method === HandshakeStep.Challenge) {
      this.derive(this.hello, header, toAcceptor);
      return false;
    }
    const mac = this.hmac(toAcceptor ? "dialler proof" : "acceptor proof");
    const proof = toBinary(ProofSchema, create(ProofSchema, { mac }));
    if (header.length !== proof.length) return false;
    header.set(proof);
    return true;
  }

  private derive(hello: Uint8Array, challenge: Uint8Array, toAcceptor: boolean): void {
    const parts = [ascii("fastblock rpc 1"), u32(hello.length), hello];
    parts.push(u32(challenge.length), challenge);
    const transcript = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) {
      transcript.set(part, at);
      at += part.length;
    }
    this.master = this.checksum.hmacSha256(KEY, transcript);
    this.sealing.reset(this.hmac(toAcceptor ? "dialler sends" : "acceptor sends"), 1);
  }

  private hmac(label: string): Uint8Array {
    return this.checksum.hmacSha256(this.master, ascii(label));
  }
}

function headerOf(bytes: Uint8Array): Uint8Array {
  const size = new DataView(bytes.buffer, bytes.byteOffset).getUint32(12, true);
  return bytes.slice(PREFIX_SIZE, PREFIX_SIZE + size);
}

function clear(bytes: Uint8Array, from: number, to: number): void {
  bytes.fill(0, from, to);
}

function ascii(text: string): Uint8Array {
  return Uint8Array.from(text, (letter) => letter.charCodeAt(0));
}

function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, true);
  return bytes;
}

/** A recorded frame as bytes, unsigned. */
function frameBytes(recorded: RecordedFrame, at: number): Uint8Array {
  const frame = new Frame();
  const { kind, method, header, payload } = recorded;
  const paddedHeader = (header.length + 7) & ~7;
  frame.kind = kind;
  frame.method = method;
  frame.headerSize = header.length;
  frame.payloadSize = payload.length;
  frame.flags = payload.length % 4096 === 0 ? 0 : FLAG_PAYLOAD_CRC;
  if (kind === FrameKind.Request) frame.requestId = 31 + at;
  if (recorded.isShort) {
    const short = new Uint8Array(SHORT_PREFIX_SIZE + paddedHeader);
    writeShort(frame, new Int32Array(short.buffer), 0);
    short.set(header, SHORT_PREFIX_SIZE);
    return short;
  }
  // The ids that the table of requests gives out, one after the other.
  if (kind === FrameKind.Reply) frame.requestId = 16 + 17 * at;
  const bytes = new Uint8Array(frameSize(header.length, payload.length));
  writePrefix(frame, new Int32Array(bytes.buffer), 0);
  bytes.set(header, PREFIX_SIZE);
  bytes.set(payload, PREFIX_SIZE + paddedHeader);
  return bytes;
}
