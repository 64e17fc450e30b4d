// data path
/**
 * What a frame asks for. Numbers are wire format and never reused: 1 to 15 data, 16 to 31 between
 * osds, 64 and above control (cold, the general codec).
 */
export enum Method {
  /** Request: data.WriteRequest + blocks; reply: data.WriteReply. */
  Write = 1,
  /** Request: data.ReadRequest; reply: data.ReadReply + blocks. */
  Read = 2,
  /** Ping-pong of the load generator: echoes the header; only where a bench server answers. */
  Echo = 15,
  /** One-way: raft.Append + blocks or a body. */
  RaftAppend = 16,
  /** One-way: raft.Control. */
  RaftControl = 17,
  /** One-way: raft.Heartbeat. */
  RaftHeartbeat = 18,
  /** Request: raft.BlockFetchRequest; reply: data.ReadReply + blocks. */
  BlockFetch = 19,
  // Control: proto/control.proto says for each who calls whom.
  OsdRegister = 64,
  OsdReport = 65,
  MapSubscribe = 66,
  /** One-way, pushed by the mon, or by an osd that refuses a client: control.MapUpdate. */
  MapUpdate = 67,
  /** Of the mon, or between osds. */
  MapGet = 68,
  ImageOpen = 69,
  ImageRefresh = 70,
  ImageClose = 71,
  ImageList = 72,
  /** One-way, mon to osd: control.OsdCommand. */
  OsdCommand = 73,
  /** One-way, mon to the holder of a session: control.ImageChanged. */
  ImageChanged = 74,
  /** One-way, mon to gateways and clients: control.TraceOrder. */
  TraceOrder = 75,
  /** To the mon: control.TraceTellRequest. */
  TraceTell = 76,
  SessionAttach = 80,
  // Catch-up by difference, replica to leader: proto/fill.proto.
  FillBegin = 96,
  FillList = 97,
  FillUnits = 98,
  // Scrub, leader to replica: proto/scrub.proto.
  ScrubList = 104,
  ScrubUnits = 105,
  ScrubRead = 106,
  ScrubRefill = 107,
  // Whether a store is an old copy, shard to shard, one-way: proto/starts.proto.
  StartsVerdict = 112,
  StartsMarked = 113,
}
