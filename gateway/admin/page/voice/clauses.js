// An answer, as it is written, in clauses that can be spoken one after another: {text, spoken}. `text` is what was
// written, mark for mark; `spoken` is what is said of it, empty where that is nothing.

const FIRST = { least: 25, most: 60, marks: /[,;:–—.!?…，；：、。！？]/ }; // so that something is heard soon
const LATER = { least: 40, most: 250, marks: /[.!?…。！？]/ };
const CLAUSE = /[,;:–—，；：、]/;
const WIDE = /[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]/g; // signs that take as long to say as three letters
const STANDS_ALONE = /[，；：、。！？]/; // no space follows it
const CLOSING = /["'”’)\]*_]/;
const SHORT = /(?:^|[\s(])(?:\p{L}\.)*\p{L}\.$|(?:^|[\s(])(?:Mr|Mrs|Ms|Dr|Prof|St|vs|etc|No|Fig|approx|ca|bzw|z\.B)\.$/u;
const NUMBERED = /^\s*\d+[.)]$/;
const FENCE = /^ {0,3}(`{3,}|~{3,})/;
const MAYBE_FENCE = /^ {0,3}(`{0,2}|~{0,2})$/;

const lengthOf = (text) => text.length + 2 * (text.match(WIDE)?.length || 0);

// Code, a link, or its address is still open: what is a mark there ends nothing.
const isInside = (before) => before.split("`").length % 2 === 0 || /\[[^\]]*$/.test(before) || /\]\([^)]*$/.test(before);

const endsHere = (line, at, marks) => {
  const mark = line[at];
  if (!marks.test(mark) || isInside(line.slice(0, at))) return 0;
  let end = at + 1;
  while (end < line.length && CLOSING.test(line[end])) end += 1;
  if (!STANDS_ALONE.test(mark) && !/\s/.test(line[end] || "")) return 0;
  if (mark === "." && (SHORT.test(line.slice(0, at + 1)) || NUMBERED.test(line.slice(0, at + 1)))) return 0;
  return end;
};

// Where too long a clause is cut: after its last comma, else at its last space.
const forced = (line, most) => {
  const head = line.slice(0, most);
  for (let at = head.length - 1; at > most / 2; at -= 1) {
    if (endsHere(line, at, CLAUSE)) return at + 1;
  }
  const space = head.lastIndexOf(" ");
  if (space > 0 && !isInside(head.slice(0, space))) return space + 1;
  return line.length > 4 * most ? most : 0;
};

// How much of a line is a clause; 0 where it has not ended yet.
const cutAt = (line, { least, most, marks }) => {
  for (let at = 0; at < line.length; at += 1) {
    const end = endsHere(line, at, marks);
    if (end && lengthOf(line.slice(0, end)) >= least) return end;
  }
  return lengthOf(line) > most ? forced(line, most) : 0;
};

// What is said of a line of Markdown.
export const spokenOf = (text) => {
  const said = text
    .replace(/^\s*(?:[-*+]|\d+[.)]|#{1,6}|>)\s+(?:\[[ xX]\]\s+)?/, "")
    .replace(/^\s*(?:[-*_]\s*){3,}$/, "")
    .replace(/!?\[([^\]]*)\]\([^)]*\)/g, "$1")
    .replace(/https?:\/\/(?:www\.)?([^\s/]+)\S*/g, "$1")
    .replace(/`([^`]*)`/g, "$1")
    .replace(/(\*\*|__|~~)(?=\S)(.*?\S)\1/g, "$2")
    .replace(/(^|[\s(])[*_](?=\S)([^*_]*\S)[*_]/g, "$1$2")
    .replace(/[*`]+/g, "")
    .replace(/\p{Extended_Pictographic}[\u{fe0f}\u{200d}\u{1f3fb}-\u{1f3ff}]*/gu, "")
    .replace(/\s+/g, " ")
    .trim();
  return /[\p{L}\p{N}]/u.test(said) ? said : "";
};

export class ClauseCutter {
  constructor() {
    this.rest = "";
    this.isLineStart = true;
    this.isFirst = true;
    this.isOver = false;
  }

  feed(text) {
    this.rest += text;
    return this.cut();
  }

  end() {
    this.isOver = true;
    return this.cut();
  }

  cut() {
    const found = [];
    for (let clause = this.next(); clause; clause = this.next()) {
      found.push(clause);
      if (clause.spoken) this.isFirst = false;
    }
    return found;
  }

  next() {
    if (!this.rest) return null;
    const [line, isWhole] = this.line();
    if (this.isLineStart) {
      if (FENCE.test(line)) return this.code(line, isWhole);
      if (/^\s*\|/.test(line)) return this.table();
      if (!isWhole && MAYBE_FENCE.test(line)) return null;
    }
    const end = cutAt(line, this.isFirst ? FIRST : LATER);
    if (end) return this.take(end, spokenOf(line.slice(0, end)));
    return isWhole ? this.take(line.length, spokenOf(line)) : null;
  }

  // The line that stands next, with its end, and whether it has one.
  line() {
    const at = this.rest.indexOf("\n");
    return at < 0 ? [this.rest, this.isOver] : [this.rest.slice(0, at + 1), true];
  }

  code(line, isWhole) {
    if (!isWhole) return null;
    const mark = FENCE.exec(line)[1];
    const end = new RegExp(`\\n {0,3}${mark[0]}{${mark.length},}[ \\t]*(?:\\n|$)`).exec(this.rest.slice(line.length - 1));
    const isClosed = end && (end[0].endsWith("\n") || this.isOver);
    if (!isClosed && !this.isOver) return null;
    return this.take(isClosed ? line.length - 1 + end.index + end[0].length : this.rest.length, "The code is on the screen.");
  }

  table() {
    const end = /\n(?!\s*\|)./.exec(`${this.rest}${this.isOver ? "\n." : ""}`);
    return end ? this.take(Math.min(this.rest.length, end.index + 1), "The table is on the screen.") : null;
  }

  take(count, spoken) {
    const text = this.rest.slice(0, count);
    this.rest = this.rest.slice(count);
    this.isLineStart = text.endsWith("\n");
    return { text, spoken };
  }
}
