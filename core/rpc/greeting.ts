// cold: once a connection
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { RefusalSchema } from "../../proto/gen/rpc_pb.ts";
import type { Arena, Stream } from "../reactor/world.ts";
import { assert } from "../base/assert.ts";
import {
  Frame,
  FrameFault,
  FrameKind,
  frameSize,
  HEADER_SIZE_HANDSHAKE_MAX,
  isZero,
  PREFIX_SIZE,
  PREFIX_TAGGED_SIZE,
  padded,
  writePrefix,
} from "./frame.ts";
import { Handshake, type HandshakeConfig, HandshakeRefusal, HandshakeStep } from "./handshake.ts";
import type { RpcReceiver } from "./peer.ts";

/** Carries one handshake over a new stream: frames in, frames out. */
export class Greeting {
  readonly handshake: Handshake;
  /** Why this ends without a connection; empty while it goes on. The stream is to be closed. */
  refusal = "";
  private readonly arena: Arena;
  private readonly stream: Stream;

  constructor(arena: Arena, stream: Stream, config: HandshakeConfig, receiver: RpcReceiver | null) {
    this.arena = arena;
    this.stream = stream;
    this.handshake = new Handshake(config, receiver);
  }

  /** Dialler: the first words. */
  hello(): void {
    this.send(HandshakeStep.Hello, this.handshake.start());
  }

  /** Take in a frame whose prefix is parsed. Then look at `refusal` and `handshake.isDone`. */
  onFrame(frame: Frame): FrameFault {
    const fault = this.check(frame);
    if (fault !== FrameFault.None) return fault;
    const end = frame.headerOffset + frame.headerSize;
    const header = this.arena.bytes.subarray(frame.headerOffset, end);
    try {
      this.step(frame.method, header);
    } catch (error) {
      if (!(error instanceof HandshakeRefusal)) throw error;
      this.refusal = error.message;
      const text = error.message.slice(0, 256);
      this.send(
        HandshakeStep.Refusal,
        toBinary(RefusalSchema, create(RefusalSchema, { reason: text })),
      );
    }
    return FrameFault.None;
  }

  private step(method: number, header: Uint8Array): void {
    switch (method) {
      case HandshakeStep.Hello:
        this.send(HandshakeStep.Challenge, this.handshake.onHello(header));
        return;
      case HandshakeStep.Challenge:
        this.send(HandshakeStep.ClientProof, this.handshake.onChallenge(header));
        return;
      case HandshakeStep.ClientProof:
        this.send(HandshakeStep.ServerProof, this.handshake.onClientProof(header));
        return;
      case HandshakeStep.ServerProof:
        this.handshake.onServerProof(header);
        return;
      case HandshakeStep.Refusal:
        this.refusal = `refused by the peer: ${reasonOf(header)}`;
        return;
      default:
        throw new HandshakeRefusal(`unknown handshake message: ${method}, wanted 1 to 5`);
    }
  }

  /** There is no key yet: every field that later carries something is zero. */
  private check(frame: Frame): FrameFault {
    if (frame.kind !== FrameKind.Handshake) return FrameFault.Kind;
    if (frame.flags !== 0) return FrameFault.Flags;
    if (frame.requestId !== 0) return FrameFault.RequestId;
    if (frame.counter !== 0) return FrameFault.Counter;
    if (frame.keyId !== 0) return FrameFault.KeyId;
    const tag = frame.headerOffset - PREFIX_SIZE + PREFIX_TAGGED_SIZE;
    if (!isZero(this.arena.bytes, tag, PREFIX_SIZE - PREFIX_TAGGED_SIZE)) return FrameFault.Tag;
    const end = frame.headerOffset + frame.headerSize;
    const padding = padded(frame.headerSize) - frame.headerSize;
    if (!isZero(this.arena.bytes, end, padding)) return FrameFault.Reserved;
    return FrameFault.None;
  }

  private send(step: HandshakeStep, header: Uint8Array): void {
    assert(header.length <= HEADER_SIZE_HANDSHAKE_MAX, "Greeting.send: message too long");
    const size = frameSize(header.length, 0);
    const at = this.stream.reserve(size);
    // Nothing was sent on this stream but the few messages before: there is space.
    assert(at >= 0, "Greeting.send: no send space");
    const frame = new Frame();
    frame.kind = FrameKind.Handshake;
    frame.method = step;
    frame.headerSize = header.length;
    this.arena.bytes.fill(0, at, at + size);
    writePrefix(frame, this.arena.words, at);
    this.arena.bytes.set(header, at + PREFIX_SIZE);
    this.stream.commit(size);
  }
}

function reasonOf(header: Uint8Array): string {
  try {
    const { reason } = fromBinary(RefusalSchema, header.slice());
    return reason.slice(0, 256).replaceAll(/[^\x20-\x7e]/g, "?");
  } catch {
    return "malformed reason";
  }
}
