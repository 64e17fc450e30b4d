import type { CommandUnknownOpts } from "@commander-js/extra-typings";

/**
 * Shell completion. The scripts hold no words of their own: they ask `fastblock __complete`, which
 * walks the command tree, so that what is offered can not drift from what is understood.
 *
 * Candidates come one a line: the word, a tab, and a description. `:file` as the only line leaves
 * the word to the shell's own file names.
 */
export const COMPLETION_SHELLS = ["bash", "zsh", "fish"] as const;
export type CompletionShell = (typeof COMPLETION_SHELLS)[number];

export interface Candidate {
  readonly word: string;
  readonly description: string;
}

/** Names that only the cluster knows. */
export interface LiveNames {
  /** `kind`: `POOL`, `POOL/IMAGE`, `OSD`, `PG`, `OPERATION`. Empty when the cluster is silent. */
  names(kind: string): Promise<readonly string[]>;
}

/** What may stand for the last of `words` (which may be empty), below `root`. */
export async function complete(
  root: CommandUnknownOpts,
  words: readonly string[],
  live: LiveNames,
): Promise<readonly Candidate[] | "file"> {
  const typed = words.at(-1) ?? "";
  const before = words.slice(0, -1);
  const { command, positional, waiting } = walk(root, before);
  const assigned = /^(--[a-z-]+)=(.*)$/.exec(typed);
  if (assigned !== null) {
    const values = valuesOf(optionOf(command, assigned[1]!));
    return values === "file"
      ? "file"
      : matching(values, assigned[2]!).map((one) => ({
          ...one,
          word: `${assigned[1]!}=${one.word}`,
        }));
  }
  if (waiting !== undefined) {
    const values = valuesOf(waiting);
    return values === "file" ? "file" : matching(values, typed);
  }
  if (typed.startsWith("-")) return matching(optionsOf(command), typed);
  const children = command.commands.filter((child) => !isHidden(child));
  if (children.length > 0) {
    return matching(
      children.map((child) => ({ word: child.name(), description: child.description() })),
      typed,
    );
  }
  const argument = command.registeredArguments[positional];
  const last = command.registeredArguments.at(-1);
  const wanted = argument ?? (last?.variadic === true ? last : undefined);
  if (wanted === undefined) return [];
  if (wanted.argChoices !== undefined) {
    return matching(
      wanted.argChoices.map((word) => ({ word, description: "" })),
      typed,
    );
  }
  const kind = wanted.name();
  if (/^(POOL|POOL\/IMAGE|OSD|PG|OPERATION)$/.test(kind)) {
    const names = await live.names(kind);
    return matching(
      names.map((word) => ({ word, description: "" })),
      typed,
    );
  }
  return /FILE|PATH|DIR|FROM|TO|^[AB]$/.test(kind) ? "file" : [];
}

/** The lines that `fastblock __complete` prints. */
export function formatCandidates(candidates: readonly Candidate[] | "file"): string {
  if (candidates === "file") return ":file\n";
  return candidates
    .map(({ word, description }) =>
      description === "" ? `${word}\n` : `${word}\t${description}\n`,
    )
    .join("");
}

/** The script to source: `source <(fastblock completion bash)`. */
export function completionScript(shell: CompletionShell): string {
  switch (shell) {
    case "bash":
      return BASH;
    case "zsh":
      return ZSH;
    case "fish":
      return FISH;
  }
}

type Option = CommandUnknownOpts["options"][number];

interface Place {
  readonly command: CommandUnknownOpts;
  /** Positional words of the command before the typed one. */
  readonly positional: number;
  /** An option whose value is typed next. */
  readonly waiting: Option | undefined;
}

function walk(root: CommandUnknownOpts, words: readonly string[]): Place {
  let command = root;
  let positional = 0;
  let waiting: Option | undefined;
  for (const word of words) {
    if (waiting !== undefined) {
      waiting = undefined;
    } else if (word.startsWith("-") && word !== "-") {
      const option = word.includes("=") ? undefined : optionOf(command, word);
      waiting = option?.required === true ? option : undefined;
    } else {
      const child = command.commands.find(
        (one) => one.name() === word || one.aliases().includes(word),
      );
      if (child === undefined) positional++;
      else command = child;
    }
  }
  return { command, positional, waiting };
}

/** The option of a command or of one above it. */
function optionOf(command: CommandUnknownOpts, flag: string): Option | undefined {
  for (let at: CommandUnknownOpts | null = command; at !== null; at = at.parent) {
    const option = at.options.find((one) => one.short === flag || one.long === flag);
    if (option !== undefined) return option;
  }
  return undefined;
}

function optionsOf(command: CommandUnknownOpts): Candidate[] {
  const found: Candidate[] = [];
  for (let at: CommandUnknownOpts | null = command; at !== null; at = at.parent) {
    for (const option of at.options) {
      if (option.hidden || option.long === undefined || option.long === null) continue;
      found.push({ word: option.long, description: option.description });
    }
  }
  return found;
}

function valuesOf(option: Option | undefined): Candidate[] | "file" {
  if (option === undefined) return [];
  if (option.argChoices !== undefined) {
    return option.argChoices.map((word) => ({ word, description: "" }));
  }
  return /<(dir|file|path)>/i.test(option.flags) ? "file" : [];
}

function matching(candidates: readonly Candidate[], typed: string): Candidate[] {
  return candidates.filter((one) => one.word.startsWith(typed));
}

function isHidden(command: CommandUnknownOpts): boolean {
  return command.name().startsWith("__");
}

const BASH = `# bash completion of fastblock: source <(fastblock completion bash)
_fastblock() {
  local line words=("\${COMP_WORDS[@]:1:COMP_CWORD}") IFS=$'\\n'
  COMPREPLY=()
  while read -r line; do
    if [ "$line" = ":file" ]; then
      compopt -o default 2>/dev/null
      COMPREPLY=()
      return 0
    fi
    COMPREPLY+=("\${line%%$'\\t'*}")
  done < <("\${COMP_WORDS[0]}" __complete -- "\${words[@]}" 2>/dev/null)
}
complete -F _fastblock fastblock
`;

const ZSH = `#compdef fastblock
# zsh completion of fastblock: source <(fastblock completion zsh)
_fastblock() {
  local -a lines names
  local line
  lines=("\${(@f)$("\${words[1]}" __complete -- "\${(@)words[2,CURRENT]}" 2>/dev/null)}")
  if [[ "\${lines[1]}" == ":file" ]]; then
    _files
    return
  fi
  for line in "\${lines[@]}"; do
    [[ -n "$line" ]] && names+=("\${\${line%%$'\\t'*}//:/\\\\:}:\${line#*$'\\t'}")
  done
  _describe fastblock names
}
if [ "$funcstack[1]" = "_fastblock" ]; then
  _fastblock "$@"
else
  compdef _fastblock fastblock
fi
`;

const FISH = `# fish completion of fastblock: fastblock completion fish | source
function __fastblock_complete
  set -l words (commandline -opc) (commandline -ct)
  set -l lines ($words[1] __complete -- $words[2..-1] 2>/dev/null)
  if test "$lines[1]" = ":file"
    __fish_complete_path (commandline -ct)
  else
    string join \\n -- $lines
  end
end
complete -c fastblock -f -a '(__fastblock_complete)'
`;
