/** A word as a POSIX shell reads it back: quoted where it needs that, as it stands where not. */
export function shellWord(word: string): string {
  return /^[\w./:=@%+,-]+$/.test(word) ? word : quoteWord(word);
}

/** The same, quoted always. */
export function quoteWord(word: string): string {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}
