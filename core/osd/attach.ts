// cold path: once per session and connection.
import { AssertionError } from "../base/assert.ts";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Status } from "../base/status.ts";
import type { World } from "../reactor/world.ts";
import type { Connection, Frame } from "../rpc/rpc.ts";
import {
  SessionAttachReplySchema,
  SessionAttachRequestSchema,
} from "../../proto/gen/control_pb.ts";
import { ClientContext, type SessionGrants } from "./session-grants.ts";

/** Answer a SessionAttach request: believe the grant, or not. */
export function serveAttach(
  connection: Connection,
  frame: Frame,
  grants: SessionGrants,
  world: World,
): void {
  const from = frame.headerOffset;
  const header = world.arena.bytes.slice(from, from + frame.headerSize);
  let status = Status.Denied;
  if (connection.context instanceof ClientContext) {
    try {
      const request = fromBinary(SessionAttachRequestSchema, header);
      status = grants.attach(connection.context, request.grant, request.mac);
    } catch (error) {
      if (error instanceof AssertionError) throw error;
      connection.close(`malformed session attach: ${String(error)}`);
      return;
    }
  }
  const reply = toBinary(SessionAttachReplySchema, create(SessionAttachReplySchema, { status }));
  const at = connection.beginReply(frame.requestId, frame.method, reply.length, 0);
  if (at < 0) {
    // A peer whose first words fill the send space does not read: it may come again.
    connection.close("no room for the answer to a session attach");
    return;
  }
  world.arena.bytes.set(reply, at);
  connection.finish();
}
