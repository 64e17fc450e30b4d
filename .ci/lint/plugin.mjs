// The project's own oxlint rules. They need no type information and run under Node 20.
import { dataPath } from "./data-path.mjs";
import { layers } from "./layers.mjs";
import { reasons } from "./reasons.mjs";
import { seams } from "./seams.mjs";

export default {
  meta: { name: "fastblock" },
  rules: { layers, seams, "data-path": dataPath, reasons },
};
