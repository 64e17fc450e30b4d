import { type CommandUnknownOpts, Option } from "@commander-js/extra-typings";
import { FastblockError } from "../base/errors.ts";
import { recordOf, segment } from "./api.ts";
import { ageText, sizeText } from "./commands-pool.ts";
import { backendOf, type CliContext, SCRIPT_HELP } from "./context.ts";
import { Exit } from "./failure.ts";
import type { Column, Row } from "./output.ts";
import { counted, formatSize, parseImagePath, parseSize } from "./units.ts";

const IMAGE_COLUMNS: readonly Column[] = [
  { name: "image", path: "path" },
  { name: "size", path: "sizeBytes", show: sizeText, right: true },
  { name: "allocated", path: "allocatedBytes", show: sizeText, right: true },
  { name: "used", path: "usedBytes", show: sizeText, right: true, wide: true },
  { name: "age", path: "usedAgeMs", show: ageText, right: true, wide: true },
  { name: "sessions", show: countText, right: true },
  { name: "created", wide: true },
  { name: "lock-epoch", path: "lockEpoch", right: true, wide: true },
  { name: "id", right: true, wide: true },
];

const SPACE_COLUMNS: readonly Column[] = [
  { name: "image", path: "path" },
  { name: "size", path: "sizeBytes", show: sizeText, right: true },
  { name: "allocated", path: "allocatedBytes", show: sizeText, right: true },
  { name: "share", path: "allocatedBytes", show: shareText, right: true },
  { name: "used", path: "usedBytes", show: sizeText, right: true },
  { name: "age", path: "usedAgeMs", show: ageText, right: true, wide: true },
];

/** The osds are asked for what they hold now; figures beyond this age lack an answer. */
const AGE_MS_MAX = 2000;

/** `fastblock image …` */
export function imageCommands(root: CommandUnknownOpts, cli: CliContext): void {
  const image = root
    .command("image")
    .alias("volume")
    .description("Images: what users attach as disks")
    .helpGroup("Data:");
  createAndLook(image, cli);
  changeAndRemove(image, cli);
  image
    .command("verify")
    .description("read everything from each replica's own store, and compare")
    .argument("<POOL/IMAGE>")
    .option("--backend <backend>", "auto, uring or file", "auto")
    .addHelpText(
      "after",
      "\nExits with 0 when all replicas are equal and whole, with 1 when they differ or blocks are lost. Damage that it\nmeets is healed from other replicas before they answer: the osds log and count that (fastblock_blocks_healed_total).",
    )
    .action(async (path, options) => {
      parseImagePath(path);
      cli.refuseListFlags();
      const { verifyImage } = await import("./verify.ts");
      const bar = await cli.bar("verify");
      const attach = {
        cluster: cli.directory(),
        paths: [path],
        readOnly: true,
        backend: backendOf(options.backend),
        timeoutMs: cli.globals.timeoutMs,
      };
      const report = await cli.ports.programs
        .withImages(attach, async ([opened], world) => {
          const backend = await cli.backendWith(world.backend);
          const found = await verifyImage(opened!, world, (ms) => cli.ports.sleep(ms), {
            onProgress: (done, total) => bar.at(done, total),
          });
          return { ...found, backend };
        })
        .finally(() => bar.end());
      await cli.object(
        () => Promise.resolve(report),
        () => path,
      );
      if (!report.equal) {
        throw new FastblockError(
          "FB3004",
          `verifying ${path}: replicas differ, wanted equal ones`,
          {
            hint: `look at their groups: fastblock pg ls ${parseImagePath(path).pool}`,
          },
        );
      }
      if (report.lostBlocks > 0) {
        const text = `${counted(report.lostBlocks, "block is", "blocks are")} lost, wanted none`;
        throw new FastblockError("FB3008", `verifying ${path}: ${text}`);
      }
    });
}

function createAndLook(image: CommandUnknownOpts, cli: CliContext): void {
  image
    .command("create")
    .description("create an image; it takes no space before it is written")
    .argument("<POOL/IMAGE>")
    .requiredOption("--size <size>", "like 10GiB; a multiple of 4 KiB", parseSize)
    .addHelpText("after", "\nExample:\n  fastblock image create demo/disk1 --size 1GiB")
    .action(async (path, options) => {
      const { pool, image: name } = parseImagePath(path);
      const reply = await cli
        .api()
        .post(`/pools/${segment(pool)}/images`, { name, sizeBytes: options.size });
      await cli.changed(
        recordOf(reply, "image"),
        path,
        `image ${path} is created, ${formatSize(options.size)}`,
      );
    });
  image
    .command("ls")
    .alias("list")
    .description("list the images")
    .argument("[POOL]", "only of this pool")
    .action((pool) => cli.rows(() => imagesOf(cli, pool), IMAGE_COLUMNS, pathOf));
  image
    .command("du")
    .description("show the space that images take, the largest first")
    .argument("[POOL[/IMAGE]]", "only of this pool, or this image")
    .addHelpText("after", SPACE_HELP)
    .action((what) =>
      cli.rows(
        async () => {
          const rows =
            what?.includes("/") === true
              ? [await cli.api().object(`${urlOf(what)}?fresh=true`)]
              : await imagesOf(cli, what, "fresh=true");
          sayOld(cli, rows);
          return rows.toSorted(
            (left, right) => Number(right["usedBytes"]) - Number(left["usedBytes"]),
          );
        },
        SPACE_COLUMNS,
        pathOf,
      ),
    );
  image
    .command("info")
    .description("show one image and who holds it")
    .argument("<POOL/IMAGE>")
    .action((path) =>
      cli.object(
        () => cli.api().object(`${urlOf(path)}?fresh=true`),
        () => path,
        IMAGE_COLUMNS,
      ),
    );
}

const SPACE_HELP = `
ALLOCATED is what of the image takes space, in units of 64 KiB; USED is that on all replicas
together. The osds are asked for both; when one does not answer, how old its figures are is told,
and stands in AGE with -o wide.`;

function imagesOf(cli: CliContext, pool: string | undefined, query = ""): Promise<Row[]> {
  const words = [...(pool === undefined ? [] : [`pool=${segment(pool)}`]), query].filter(Boolean);
  return cli.api().list(words.length === 0 ? "/images" : `/images?${words.join("&")}`);
}

/** Say when figures are not of now. */
function sayOld(cli: CliContext, rows: readonly Row[]): void {
  const ages = rows.map((row) => row["usedAgeMs"]);
  const oldestMs = Math.max(0, ...ages.map(Number));
  if (ages.includes(null)) cli.say("an osd was not heard since the mon runs: its share is missing");
  else if (oldestMs > AGE_MS_MAX) {
    cli.say(`an osd does not answer: its share is as it was ${ageText(oldestMs)} ago`);
  }
}

function changeAndRemove(image: CommandUnknownOpts, cli: CliContext): void {
  image
    .command("resize")
    .description("grow an image, or shrink it (what lies beyond the new end is lost)")
    .argument("<POOL/IMAGE>")
    .requiredOption("--size <size>", "the new size", parseSize)
    .addHelpText("after", `\nA smaller size asks for the image's name. ${SCRIPT_HELP}`)
    .action(async (path, options) => {
      await confirmShrink(cli, path, options.size);
      const reply = await cli.api().post(`${urlOf(path)}:resize`, {
        sizeBytes: options.size,
      });
      const done = await cli.operation(recordOf(reply, "resize"));
      await cli.changed(done, path, `image ${path} has ${formatSize(options.size)}`);
    });
  image
    .command("rename")
    .description("give an image another name within its pool")
    .argument("<POOL/IMAGE>")
    .argument("<NAME>", "the new name, with or without the pool")
    .action(async (path, to) => {
      const { pool } = parseImagePath(path);
      const name = to.startsWith(`${pool}/`) ? to.slice(pool.length + 1) : to;
      if (name.includes("/")) {
        throw new FastblockError("FB1002", `renaming ${path}: ${to}, wanted a name in ${pool}`, {
          hint: "an image stays in its pool; copy it into another: fastblock client cp FROM TO",
        });
      }
      const reply = await cli.api().patch(urlOf(path), { name });
      await cli.changed(
        recordOf(reply, "image"),
        `${pool}/${name}`,
        `image ${path} is now ${pool}/${name}`,
      );
    });
  image
    .command("rm")
    .description("remove images with their data")
    .argument("<POOL/IMAGE...>")
    .addOption(
      new Option(
        "--force <code>",
        "go on in spite of one named refusal: FB3005 (the image is in use)",
      ).choices(["FB3005"] as const),
    )
    .addHelpText("after", `\nAsks for the image's name. ${SCRIPT_HELP}`)
    .action((paths, options) => removeImages(cli, paths, options.force));
}

/** Remove one after the other; goes on after a failure and tells each. */
async function removeImages(
  cli: CliContext,
  paths: readonly string[],
  force: string | undefined,
): Promise<void> {
  const query = force === undefined ? "" : `?force=${segment(force)}`;
  let removed = 0;
  let failure: Error | undefined;
  for (const path of paths) {
    try {
      await cli.confirm(`removing image ${path}`, path);
      const reply = await cli.api().delete(urlOf(path) + query);
      const row = typeof reply === "object" && reply !== null ? (reply as Row) : {};
      await cli.operation(row);
      await cli.changed({ name: path, removed: true }, path, `image ${path} is removed`);
      removed++;
    } catch (error) {
      if (paths.length === 1) throw error;
      failure = error instanceof Error ? error : new Error(String(error));
      cli.say(`${path}: ${failure.message}`);
    }
  }
  if (failure === undefined) return;
  if (removed === 0) throw failure;
  cli.exitCode = Exit.Partly;
}

function urlOf(path: string): string {
  const { pool, image } = parseImagePath(path);
  return `/pools/${segment(pool)}/images/${segment(image)}`;
}

/** What lies beyond a smaller size is lost: destroyed like a whole image. Throws FB1013. */
async function confirmShrink(cli: CliContext, path: string, sizeBytes: number): Promise<void> {
  const image = await cli.api().object(urlOf(path));
  const now = Number(image["sizeBytes"]);
  if (sizeBytes >= now) return;
  // Nobody is asked about what would be refused.
  if (!cli.globals.dryRun) await cli.api().post(`${urlOf(path)}:resize?dryRun=true`, { sizeBytes });
  const sizes = `${formatSize(now)} to ${formatSize(sizeBytes)}`;
  await cli.confirm(`shrinking image ${path} from ${sizes}`, path);
}

function pathOf(row: Row): string {
  return String(row["path"]);
}

/** Of the image's size, in percent. */
function shareText(value: unknown, row: Row): string {
  const share = Number(value) / Number(row["sizeBytes"]);
  return Number.isFinite(share) ? `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %` : "-";
}

function countText(value: unknown): string {
  return Array.isArray(value) ? String(value.length) : "-";
}
