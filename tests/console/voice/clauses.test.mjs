import assert from "node:assert/strict";
import { test } from "node:test";
import { ClauseCutter, spokenOf } from "../../../gateway/admin/page/voice/clauses.js";

const cut = (text, step = text.length) => {
  const cutter = new ClauseCutter();
  const found = [];
  for (let at = 0; at < text.length; at += step) found.push(...cutter.feed(text.slice(at, at + step)));
  return [...found, ...cutter.end()];
};
const said = (text, step) => cut(text, step).map((each) => each.spoken).filter(Boolean);

const LONG = "This sentence is long enough to stand alone when spoken.";
const CODE = "The code is on the screen.";
const CASES = {
  "a short answer": ["Yes.", ["Yes."]],
  "nothing": ["", []],
  "blanks": [" \n\n ", []],
  "the first clause ends at a comma": ["Since you have asked for it, here is all that I know.", ["Since you have asked for it,", "here is all that I know."]],
  "a comma too early is none": ["Well, that is another matter entirely, as you know.", ["Well, that is another matter entirely,", "as you know."]],
  "later clauses are sentences": [`First comes what is short, ${LONG} ${LONG}`, ["First comes what is short,", LONG, LONG]],
  "short sentences go together": [`${LONG} No. Yes. Never mind what they say of it.`, [LONG, "No. Yes. Never mind what they say of it."]],
  "a number is whole": ["The value of pi is about 3.14159, as everybody knows.", ["The value of pi is about 3.14159,", "as everybody knows."]],
  "thousands are whole": ["It has 1,234,567 tokens of context altogether, more or less.", ["It has 1,234,567 tokens of context altogether,", "more or less."]],
  "a time is whole": ["The train leaves at 10:45 from platform two, they say.", ["The train leaves at 10:45 from platform two,", "they say."]],
  "an abbreviation ends nothing": ["Use a tool that cuts, e.g. a knife. Then you are done with it.", ["Use a tool that cuts, e.g. a knife.", "Then you are done with it."]],
  "initials end nothing": ["The book was written by J. R. R. Tolkien. It is good.", ["The book was written by J. R. R. Tolkien.", "It is good."]],
  "a title ends nothing": ["You should go and ask good Dr. Smith. She knows of it.", ["You should go and ask good Dr. Smith.", "She knows of it."]],
  "letters of a country": ["It was first made somewhere in the U.S. of America. Then here.", ["It was first made somewhere in the U.S. of America.", "Then here."]],
  "an address is whole": ["You will find all of it at https://example.org/a,b.html?x=1. Have a look.", ["You will find all of it at example.org", "Have a look."]],
  "a link is said by its text": ["Have a look at [the manual, part 2](https://example.org/x), which is long.", ["Have a look at the manual, part 2,", "which is long."]],
  "a picture by what it shows": ["![A cat](https://example.org/cat.png)\nThat is a cat.", ["A cat", "That is a cat."]],
  "code in a line": ["Call `list.sort(key, reverse)` on it, and then you are done.", ["Call list.sort(key, reverse) on it,", "and then you are done."]],
  "a block of code": ["Here it is:\n```python\nprint(1)\n\nprint(2)\n```\nThat is all.", ["Here it is:", CODE, "That is all."]],
  "a block that never ends": ["Here:\n```\nprint(1)\nprint(2)", ["Here:", CODE]],
  "a block of tildes with backticks in it": ["~~~\n```\nx\n```\n~~~\nDone.", [CODE, "Done."]],
  "a longer fence": ["````\n```\nx\n```\n````\nDone.", [CODE, "Done."]],
  "nothing in a block": ["```\n```\nDone.", [CODE, "Done."]],
  "a table": ["See here.\n| a | b |\n|---|---|\n| 1 | 2 |\n\nThat was it.", ["See here.", "The table is on the screen.", "That was it."]],
  "a table at the end": ["| a | b |\n|---|---|\n| 1 | 2 |", ["The table is on the screen."]],
  "a list is said item by item": ["- tea\n- milk\n* sugar\n1. stir\n2) drink", ["tea", "milk", "sugar", "stir", "drink"]],
  "tasks": ["- [x] done\n- [ ] open", ["done", "open"]],
  "a heading": ["# What it is\nIt is nothing.", ["What it is", "It is nothing."]],
  "emphasis": ["It is **very** important, and *not* at all _easy_ to do.", ["It is very important,", "and not at all easy to do."]],
  "names with underscores stay": ["Set the snake_case_name of it to one, and be done.", ["Set the snake_case_name of it to one,", "and be done."]],
  "a product stays": ["Compute 3 * 4 * 5 and then tell me of it, please.", ["Compute 3 4 5 and then tell me of it,", "please."]],
  "a rule is not said": ["Above.\n\n---\n\nBelow.", ["Above.", "Below."]],
  "emoji are not said": ["Good morning 👋🏽 to you ☀️ and all of yours, friend.", ["Good morning to you and all of yours,", "friend."]],
  "emoji alone": ["👍", []],
  "a quotation": ["> Be brief, and nothing else will ever matter to them.", ["Be brief, and nothing else will ever matter to them."]],
  "closing quotes stay with their sentence": ['He said: "It is far too late for all that." Then he left us.', ['He said: "It is far too late for all that."', "Then he left us."]],
  "questions and cries": ["Are you sure that you want it? Yes! Then go on and do it at once!", ["Are you sure that you want it?", "Yes! Then go on and do it at once!"]],
  "an ellipsis": ["Let me think about it for a while… There it is.", ["Let me think about it for a while…", "There it is."]],
  "full stops of Chinese": ["今天天气很好，我们去公园散步吧。然后我们一起吃一顿很好的晚饭，好不好？", ["今天天气很好，我们去公园散步吧。", "然后我们一起吃一顿很好的晚饭，好不好？"]],
  "full stops of Japanese": ["これはとても良い考えだと思います。", ["これはとても良い考えだと思います。"]],
  "a long beginning without a mark": [`${"word ".repeat(30)}end.`, [`${"word ".repeat(12)}`.trim(), `${"word ".repeat(18)}end.`]],
  "a dash": ["That is what everybody thinks – but it is wrong.", ["That is what everybody thinks –", "but it is wrong."]],
  "lines": ["One line here\nAnother one\n", ["One line here", "Another one"]],
};

for (const [name, [text, spoken]] of Object.entries(CASES)) {
  test(name, () => {
    assert.deepEqual(said(text), spoken);
    for (const step of [1, 3, 7]) assert.deepEqual(said(text, step), spoken, `in pieces of ${step}`);
    assert.equal(cut(text, 2).map((each) => each.text).join(""), text, "what was written is whole");
  });
}

test("what is long is cut after a comma, and never longer than a model of speech takes", () => {
  const text = `Here it begins, as everything does. ${"and so it goes on, ".repeat(40)}`;
  const parts = said(text, 5);
  assert.ok(parts.every((each) => each.length <= 250));
  assert.ok(parts.slice(1, -1).every((each) => each.endsWith(",")));
  assert.ok(said("x".repeat(9000), 100).every((each) => each.length <= 1200));
});

test("the first clause is told as soon as what follows it is known", () => {
  const cutter = new ClauseCutter();
  assert.deepEqual(cutter.feed("Since you have asked for it,"), []);
  assert.deepEqual(cutter.feed(" here").map((each) => each.spoken), ["Since you have asked for it,"]);
});

test("marks alone are nothing to say", () => {
  for (const text of ["***", "- ", "``", "…", "|"]) assert.equal(spokenOf(text), "");
});
