// Changes one value of a JSON text and nothing else of it: order, spacing and everything beside stay as they were typed.
// Grammar: RFC 8259. Throws a SyntaxError for what is no JSON.

const STRING = /"(?:[^"\\\u0000-\u001f]|\\.)*"/y;
const SCALAR = /[^\s,\]}:"]+/y;

// The value at `at`: {start, end, members: [{name, start, value}]}, with members for objects alone.
const scan = (text, at) => {
  const blank = (from) => { while (/\s/.test(text[from] || "")) from += 1; return from; };
  const token = (pattern, from) => { pattern.lastIndex = from; const found = pattern.exec(text); if (!found) throw new SyntaxError(`no value at character ${from + 1}`); return from + found[0].length; };
  const start = blank(at);
  if (text[start] !== "{" && text[start] !== "[") return { start, end: token(text[start] === '"' ? STRING : SCALAR, start) };
  const isObject = text[start] === "{";
  const members = [];
  let from = blank(start + 1);
  while (text[from] !== (isObject ? "}" : "]")) {
    const member = { start: from };
    if (isObject) {
      const end = token(STRING, from);
      member.name = JSON.parse(text.slice(from, end));
      from = blank(end) + 1;
    }
    member.value = scan(text, from);
    members.push(member);
    from = blank(member.value.end);
    if (text[from] === ",") from = blank(from + 1);
  }
  return { start, end: from + 1, ...(isObject && { members }) };
};

const lineIndent = (text, at) => /^[ \t]*/.exec(text.slice(text.lastIndexOf("\n", at - 1) + 1, at))[0];
const shown = (value, indent) => JSON.stringify(value, null, 2).replaceAll("\n", `\n${indent}`);

const added = (text, object, name, value) => {
  const outer = lineIndent(text, object.start);
  const first = object.members[0];
  const isOneLine = first && !text.slice(object.start, first.start).includes("\n");
  const indent = first && !isOneLine ? lineIndent(text, first.start) : `${outer}  `;
  const member = `${JSON.stringify(name)}: ${isOneLine ? JSON.stringify(value) : shown(value, indent)}`;
  if (!first) return `${text.slice(0, object.start)}{\n${indent}${member}\n${outer}}${text.slice(object.end)}`;
  const end = object.members.at(-1).value.end;
  return `${text.slice(0, end)},${isOneLine ? " " : `\n${indent}`}${member}${text.slice(end)}`;
};

const removed = (text, object, index) => {
  const { members } = object;
  if (members.length === 1) return `${text.slice(0, object.start)}{}${text.slice(object.end)}`;
  const [from, to] = index ? [members[index - 1].value.end, members[index].value.end] : [members[0].start, members[1].start];
  return text.slice(0, from) + text.slice(to);
};

// The text with `value` at `path`, names of members from the top; undefined takes it out.
export const edit = (text, path, value) => {
  const whole = text.trim() ? text : "{}\n";
  JSON.parse(whole);
  let object = scan(whole, 0);
  for (const [depth, name] of path.entries()) {
    if (!object.members) throw new SyntaxError(`${JSON.stringify(path.slice(0, depth).join("."))} is no object`);
    const index = object.members.findLastIndex((each) => each.name === name);
    const isLast = depth === path.length - 1;
    if (index < 0) return value === undefined ? text : added(whole, object, name, path.slice(depth + 1).reduceRight((inner, each) => ({ [each]: inner }), value));
    const found = object.members[index].value;
    if (isLast) return value === undefined ? removed(whole, object, index) : whole.slice(0, found.start) + shown(value, lineIndent(whole, object.members[index].start)) + whole.slice(found.end);
    object = found;
  }
  return whole;
};
