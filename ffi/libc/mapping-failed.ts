/** The system gave no addresses for memory. Apart, so that it can be told where no call is possible. */
export class MappingFailed extends Error {
  override readonly name = "MappingFailed";

  constructor(sizeBytes: number, errno: number) {
    super(`mapping ${sizeBytes / 1_048_576} MiB of memory: errno ${errno}, wanted all of it`);
  }
}
