// cold: once per connection
import { failOnBug } from "../../base/assert.ts";
import { ExportFlag, Info, Option, OptionReply } from "./protocol.ts";
import * as protocol from "./protocol.ts";
import { FastblockError } from "../../base/errors.ts";
import type { OpenExport } from "./export-source.ts";
import { optionText, parseInfoRequest, parseMetaRequest } from "./options.ts";
import type { World, Stream, StreamHandler } from "../../reactor/world.ts";

/** Longest option that is looked at: a name, and room for some info or context queries. */
const OPTION_SIZE_MAX = 8192;
/** Longer options are skipped and answered `TooBig`; beyond this the connection ends. */
const OPTION_SKIP_MAX = 1_048_576;
/** Options of one handshake. */
const OPTIONS_MAX = 64;

/** What the negotiation asks of the server. */
export interface NegotiationHost {
  readonly world: World;
  list(): Promise<readonly string[]>;
  open(name: string): Promise<OpenExport | null>;
  /** Run `continueHandshake` in the next drain of the reactor. */
  resumeLater(negotiation: Negotiation): void;
  /** The handshake is over: the stream belongs to the transmission phase from here on. */
  onNegotiated(negotiation: Negotiation): void;
  /** A client broke the protocol: its connection ends. */
  onBroken(stream: Stream, reason: string): void;
  onNegotiationClosed(negotiation: Negotiation, reason: string): void;
}

/**
 * The handshake of one connection (fixed newstyle).
 *
 * Reads options one by one; the ones that ask the mon (list, info, go …) pause the stream until
 * the answer is there, or the reason why there is none: the client may go on with other options.
 * Everything read is bounded: 8 KiB an option, 64 options, and the server ends connections that do
 * not come to an end (`HANDSHAKE_US_MAX` of `nbd.ts`; waiting for the mon does not count).
 */
export class Negotiation implements StreamHandler {
  readonly stream: Stream;
  /** When the client began; what it waited for us is taken out. */
  startedUs: number;
  structured = false;
  /** `base:allocation` is selected for the export that was opened. */
  metaSelected = false;
  chosen: OpenExport | null = null;
  chosenName = "";
  flags = 0;
  closed = false;

  private readonly host: NegotiationHost;
  private greeted = false;
  private noZeroes = false;
  private options = 0;
  private busy = false;
  private skip = 0;
  private skippedOption = 0;
  /** What a promise left for the next drain; null while none. */
  private pending: (() => void) | null = null;
  /** When the option that is being answered began to wait. */
  private askedUs = 0;
  private cached: OpenExport | null = null;
  private cachedName = "";
  private metaName: string | null = null;

  constructor(host: NegotiationHost, stream: Stream) {
    this.host = host;
    this.stream = stream;
    this.startedUs = host.world.clock.turnUs;
    const at = this.reserve(protocol.HELLO_SIZE);
    if (at < 0) return;
    const view = host.world.arena.view;
    view.setUint32(at, protocol.HELLO_MAGIC_HIGH);
    view.setUint32(at + 4, protocol.HELLO_MAGIC_LOW);
    view.setUint32(at + 8, protocol.OPTION_MAGIC_HIGH);
    view.setUint32(at + 12, protocol.OPTION_MAGIC_LOW);
    view.setUint16(at + 16, protocol.FIXED_NEWSTYLE | protocol.NO_ZEROES);
    stream.commit(protocol.HELLO_SIZE);
  }

  onOpen(): void {}

  onReceive(): void {
    this.parse();
  }

  onWritable(): void {
    this.parse();
  }

  onClose(_stream: Stream, reason: string): void {
    this.closed = true;
    this.pending = null;
    this.releaseCached();
    this.host.onNegotiationClosed(this, reason);
  }

  /** Go on after an answer of the mon; called by the server in a drain. */
  continueHandshake(): void {
    const pending = this.pending;
    this.pending = null;
    if (this.closed || pending === null) return;
    this.busy = false;
    this.startedUs += this.host.world.clock.turnUs - this.askedUs;
    pending();
    if (this.closed || this.chosen !== null) return;
    this.stream.resume();
    this.parse();
  }

  /** End the connection. Idempotent. */
  end(reason: string, flush = false): void {
    if (!this.closed) this.stream.close(reason, flush);
  }

  /** End the connection of a client that broke the protocol, and say so. */
  private breakOff(reason: string, flush = false): void {
    this.host.onBroken(this.stream, reason);
    this.end(reason, flush);
  }

  private parse(): void {
    while (!this.closed && !this.busy && this.chosen === null) {
      if (!this.greeted) {
        if (!this.readClientFlags()) return;
      } else if (this.skip > 0) {
        if (!this.skipData()) return;
      } else if (!this.readOption()) {
        return;
      }
    }
  }

  private readClientFlags(): boolean {
    const stream = this.stream;
    if (stream.receiveLength < 4) return false;
    const flags = this.host.world.arena.view.getUint32(stream.receiveOffset);
    stream.consume(4);
    if ((flags & ~(protocol.FIXED_NEWSTYLE | protocol.NO_ZEROES)) !== 0) {
      this.breakOff("unknown client flags");
      return false;
    }
    this.noZeroes = (flags & protocol.NO_ZEROES) !== 0;
    this.greeted = true;
    return true;
  }

  private skipData(): boolean {
    const count = Math.min(this.skip, this.stream.receiveLength);
    this.stream.consume(count);
    this.skip -= count;
    if (this.skip > 0) return false;
    this.replyError(this.skippedOption, OptionReply.TooBig, "the option is too long");
    return true;
  }

  private readOption(): boolean {
    const stream = this.stream;
    const view = this.host.world.arena.view;
    if (stream.receiveLength < protocol.OPTION_HEADER_SIZE) return false;
    const at = stream.receiveOffset;
    const isMagic =
      view.getUint32(at) === protocol.OPTION_MAGIC_HIGH &&
      view.getUint32(at + 4) === protocol.OPTION_MAGIC_LOW;
    if (!isMagic) {
      this.breakOff("bad option magic");
      return false;
    }
    const option = view.getUint32(at + 8);
    const length = view.getUint32(at + 12);
    if (length > OPTION_SKIP_MAX) {
      this.breakOff("option longer than 1 MiB");
      return false;
    }
    if (length > OPTION_SIZE_MAX) return this.startSkip(option, length);
    if (stream.receiveLength < protocol.OPTION_HEADER_SIZE + length) return false;
    const start = at + protocol.OPTION_HEADER_SIZE;
    // Copied: the answer may need the bytes after this handler has returned.
    const data = this.host.world.arena.bytes.slice(start, start + length);
    stream.consume(protocol.OPTION_HEADER_SIZE + length);
    if (!this.countOption()) return false;
    this.handle(option, data);
    return true;
  }

  private startSkip(option: number, length: number): boolean {
    this.stream.consume(protocol.OPTION_HEADER_SIZE);
    if (!this.countOption()) return false;
    if (option === Option.ExportName) {
      this.breakOff("export name longer than 4096 bytes");
      return false;
    }
    this.skippedOption = option;
    this.skip = length;
    return true;
  }

  private countOption(): boolean {
    this.options++;
    if (this.options <= OPTIONS_MAX) return true;
    this.breakOff("more than 64 options", true);
    return false;
  }

  private handle(option: number, data: Uint8Array): void {
    switch (option) {
      case Option.ExportName:
        this.exportName(data);
        return;
      case Option.Abort:
        this.reply(option, OptionReply.Ack, 0);
        this.end("aborted by the client", true);
        return;
      case Option.List:
        this.list(data);
        return;
      case Option.Info:
      case Option.Go:
        this.info(option, data);
        return;
      case Option.StructuredReply:
        if (data.length !== 0) {
          this.replyError(option, OptionReply.Invalid, "the option takes no data");
          return;
        }
        this.structured = true;
        this.reply(option, OptionReply.Ack, 0);
        return;
      case Option.ListMetaContext:
      case Option.SetMetaContext:
        this.metaContext(option, data);
        return;
      default:
        this.replyError(option, OptionReply.Unsupported, "unknown option");
    }
  }

  private exportName(data: Uint8Array): void {
    const name = optionText(data);
    if (name === null || data.length > protocol.NAME_SIZE_MAX) {
      this.breakOff("malformed export name");
      return;
    }
    this.withExport(name, (found, why) => {
      if (!found) {
        this.end(found === null ? "unknown export" : why);
        return;
      }
      const size = this.noZeroes ? 10 : 134;
      const at = this.reserve(size);
      if (at < 0) return;
      const arena = this.host.world.arena;
      arena.bytes.fill(0, at, at + size);
      this.choose(name, found);
      writeU64(arena.view, at, found.target.sizeBytes);
      arena.view.setUint16(at + 8, this.flags);
      this.stream.commit(size);
      this.host.onNegotiated(this);
    });
  }

  private list(data: Uint8Array): void {
    if (data.length !== 0) {
      this.replyError(Option.List, OptionReply.Invalid, "the option takes no data");
      return;
    }
    this.wait(this.host.list(), (names, why) => {
      if (names === undefined) {
        this.replyError(Option.List, OptionReply.Policy, why);
        return;
      }
      for (const name of names) {
        const bytes = asciiOf(name);
        const at = this.replyAt(Option.List, OptionReply.Server, 4 + bytes.length);
        if (at < 0) return;
        this.host.world.arena.view.setUint32(at, bytes.length);
        this.host.world.arena.bytes.set(bytes, at + 4);
        this.stream.commit(protocol.OPTION_REPLY_HEADER_SIZE + 4 + bytes.length);
      }
      this.reply(Option.List, OptionReply.Ack, 0);
    });
  }

  private info(option: Option.Info | Option.Go, data: Uint8Array): void {
    const request = parseInfoRequest(data);
    if (request === null) {
      this.replyError(option, OptionReply.Invalid, "the option is malformed");
      return;
    }
    this.withExport(request.name, (found, why) => {
      if (!found) {
        this.replyMissing(option, found, why);
        return;
      }
      const selected = this.metaSelected && this.metaName === request.name;
      this.replyInfoExport(option, found);
      this.replyInfoBlockSize(option);
      if (request.wantsName) this.replyInfoName(option, request.name);
      this.reply(option, OptionReply.Ack, 0);
      if (option === Option.Info || this.closed) return;
      this.metaSelected = selected;
      this.choose(request.name, found);
      this.host.onNegotiated(this);
    });
  }

  private replyInfoExport(option: number, found: OpenExport): void {
    const at = this.replyAt(option, OptionReply.Info, 12);
    if (at < 0) return;
    const view = this.host.world.arena.view;
    view.setUint16(at, Info.Export);
    writeU64(view, at + 2, found.target.sizeBytes);
    view.setUint16(at + 10, this.flagsOf(found));
    this.stream.commit(protocol.OPTION_REPLY_HEADER_SIZE + 12);
  }

  private replyInfoBlockSize(option: number): void {
    const at = this.replyAt(option, OptionReply.Info, 14);
    if (at < 0) return;
    const view = this.host.world.arena.view;
    view.setUint16(at, Info.BlockSize);
    view.setUint32(at + 2, protocol.BLOCK_SIZE_MIN);
    view.setUint32(at + 6, protocol.BLOCK_SIZE_PREFERRED);
    view.setUint32(at + 10, protocol.REQUEST_LENGTH_MAX);
    this.stream.commit(protocol.OPTION_REPLY_HEADER_SIZE + 14);
  }

  private replyInfoName(option: number, name: string): void {
    const bytes = asciiOf(name);
    const at = this.replyAt(option, OptionReply.Info, 2 + bytes.length);
    if (at < 0) return;
    this.host.world.arena.view.setUint16(at, Info.Name);
    this.host.world.arena.bytes.set(bytes, at + 2);
    this.stream.commit(protocol.OPTION_REPLY_HEADER_SIZE + 2 + bytes.length);
  }

  private metaContext(
    option: Option.ListMetaContext | Option.SetMetaContext,
    data: Uint8Array,
  ): void {
    const request = parseMetaRequest(data);
    // A failed selection leaves none, as a successful one without a match does.
    if (option === Option.SetMetaContext) this.metaSelected = false;
    if (request === null) {
      this.replyError(option, OptionReply.Invalid, "the option is malformed");
      return;
    }
    if (!this.structured) {
      this.replyError(option, OptionReply.Invalid, "negotiate structured replies first");
      return;
    }
    this.withExport(request.name, (found, why) => {
      if (!found) {
        this.replyMissing(option, found, why);
        return;
      }
      const isList = option === Option.ListMetaContext;
      const matches = isList ? request.matchesList : request.matchesExactly;
      if (matches) this.replyMetaContext(option, isList ? 0 : protocol.BASE_ALLOCATION_ID);
      if (!isList) {
        this.metaSelected = matches;
        this.metaName = request.name;
      }
      this.reply(option, OptionReply.Ack, 0);
    });
  }

  private replyMetaContext(option: number, id: number): void {
    const bytes = asciiOf(protocol.BASE_ALLOCATION);
    const at = this.replyAt(option, OptionReply.MetaContext, 4 + bytes.length);
    if (at < 0) return;
    this.host.world.arena.view.setUint32(at, id);
    this.host.world.arena.bytes.set(bytes, at + 4);
    this.stream.commit(protocol.OPTION_REPLY_HEADER_SIZE + 4 + bytes.length);
  }

  /** There is no such export (null), or it can not be opened now (undefined). */
  private replyMissing(option: number, found: null | undefined, why: string): void {
    if (found === null) {
      this.replyError(option, OptionReply.Unknown, "there is no such export");
    } else {
      this.replyError(option, OptionReply.Policy, why);
    }
  }

  /**
   * Open an export, or take the one that an earlier option opened, and go on in a drain. Null:
   * there is none; undefined: it can not be opened now, and why.
   */
  private withExport(
    name: string,
    next: (found: OpenExport | null | undefined, why: string) => void,
  ): void {
    if (this.cached !== null && this.cachedName === name) {
      next(this.cached, "");
      return;
    }
    this.releaseCached();
    this.wait(this.host.open(name), (found, why) => {
      this.cached = found ?? null;
      this.cachedName = name;
      next(found, why);
    });
  }

  /** Stop parsing until the promise is settled; undefined stands for a rejection, for `why`. */
  private wait<Value>(
    promise: Promise<Value>,
    next: (value: Value | undefined, why: string) => void,
  ): void {
    this.busy = true;
    this.askedUs = this.host.world.clock.turnUs;
    this.stream.pause();
    promise.then(
      (value) => {
        if (this.closed) dropExport(value);
        else this.later(() => next(value, ""));
      },
      (error: unknown) => {
        if (failOnBug(this.host.world, error)) return;
        const text = error instanceof Error ? error.message : String(error);
        this.host.world.logger.warn("nbd handshake: an export can not be opened", { text });
        if (!this.closed) this.later(() => next(undefined, refusalText(error)));
      },
    );
  }

  private later(next: () => void): void {
    this.pending = next;
    this.host.resumeLater(this);
  }

  private choose(name: string, found: OpenExport): void {
    this.flags = this.flagsOf(found);
    this.chosen = found;
    this.chosenName = name;
    this.cached = null;
  }

  private releaseCached(): void {
    this.cached?.release();
    this.cached = null;
  }

  private flagsOf(found: OpenExport): number {
    const changes = found.target.readOnly
      ? ExportFlag.ReadOnly
      : ExportFlag.Fua | ExportFlag.Trim | ExportFlag.WriteZeroes | ExportFlag.FastZero;
    return (
      ExportFlag.HasFlags |
      ExportFlag.Flush |
      ExportFlag.MultiConnection |
      ExportFlag.Cache |
      (this.structured ? ExportFlag.DontFragment : 0) |
      changes
    );
  }

  private reserve(lengthBytes: number): number {
    const at = this.stream.reserve(lengthBytes);
    if (at < 0) this.end("the client does not read its handshake");
    return at;
  }

  private replyAt(option: number, type: OptionReply, lengthBytes: number): number {
    if (this.closed) return -1;
    const at = this.reserve(protocol.OPTION_REPLY_HEADER_SIZE + lengthBytes);
    if (at < 0) return -1;
    const view = this.host.world.arena.view;
    view.setUint32(at, protocol.OPTION_REPLY_MAGIC_HIGH);
    view.setUint32(at + 4, protocol.OPTION_REPLY_MAGIC_LOW);
    view.setUint32(at + 8, option);
    view.setUint32(at + 12, type);
    view.setUint32(at + 16, lengthBytes);
    return at + protocol.OPTION_REPLY_HEADER_SIZE;
  }

  private reply(option: number, type: OptionReply, lengthBytes: number): void {
    const at = this.replyAt(option, type, lengthBytes);
    if (at >= 0) this.stream.commit(protocol.OPTION_REPLY_HEADER_SIZE + lengthBytes);
  }

  private replyError(option: number, type: OptionReply, text: string): void {
    const bytes = asciiOf(text);
    const at = this.replyAt(option, type, bytes.length);
    if (at < 0) return;
    this.host.world.arena.bytes.set(bytes, at);
    this.stream.commit(protocol.OPTION_REPLY_HEADER_SIZE + bytes.length);
  }
}

/** What the client is told: who holds the image, or that nobody answers; no address of ours. */
function refusalText(error: unknown): string {
  if (error instanceof FastblockError) {
    if (error.code === "FB3005") return error.message;
    if (error.code === "FB1004" || error.code === "FB1006") return "the mon does not answer";
  }
  return "the export can not be opened now";
}

/** The answer came after the client had gone: give an opened export back. */
function dropExport(value: unknown): void {
  if (typeof value === "object" && value !== null && "release" in value) {
    (value as OpenExport).release();
  }
}

function asciiOf(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

function writeU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / 4_294_967_296));
  view.setUint32(at + 4, value >>> 0);
}
