// data path
import type { World } from "../reactor/world.ts";
import { type Connection, type ConnectionHandler, type Frame, Method } from "../rpc/rpc.ts";
import { serveAttach } from "./attach.ts";
import type { ClientRequests } from "./client-requests.ts";
import type { SessionGrants } from "./session-grants.ts";

/** Serves clients: gateways, the CLI, the monitor's own operations. */
export class ClientHandler implements ConnectionHandler {
  private readonly requests: ClientRequests;
  private readonly grants: SessionGrants;
  private readonly world: World;

  constructor(requests: ClientRequests, grants: SessionGrants, world: World) {
    this.requests = requests;
    this.grants = grants;
    this.world = world;
  }

  onRequest(connection: Connection, frame: Frame): void {
    switch (frame.method) {
      case Method.Write:
        this.requests.onWrite(connection, frame);
        break;
      case Method.Read:
        this.requests.onRead(connection, frame);
        break;
      case Method.SessionAttach:
        serveAttach(connection, frame, this.grants, this.world);
        break;
      default:
        connection.close("unexpected request, method " + String(frame.method));
    }
  }

  onOpen(_connection: Connection): void {}

  onOneway(connection: Connection, frame: Frame): void {
    connection.close("unexpected one-way frame, method " + String(frame.method));
  }

  onWritable(_connection: Connection): void {}

  onClose(_connection: Connection, _reason: string, _opened: boolean): void {}
}
