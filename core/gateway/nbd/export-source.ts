// cold: once per connection
import type { ImageTarget } from "../../client/client.ts";

/** An export that a connection uses: one image, shared by all of its connections. */
export interface OpenExport {
  readonly target: ImageTarget;
  /** The connection ended. Called once. */
  release(): void;
}

/** Where the gateway finds what it serves: images of the cluster, or memory in tests. Cold. */
export interface ExportSource {
  /** The names to show, `POOL/IMAGE`. Rejects when the mon can not be reached. */
  list(): Promise<readonly string[]>;
  /**
   * Open an export, or answer null when there is none of this name. Rejects on other failures.
   * A name opened before answers with the size of now.
   */
  open(name: string): Promise<OpenExport | null>;
}
