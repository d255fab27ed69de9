// The flow of turns. Gateway and loudspeaker are stand-ins that do what a test tells them; what they prove of the browser
// is nothing, which test_voice.py does.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Conversation, messagesOf, wordsOf } from "../../../gateway/admin/page/voice/conversation.js";
import { FRAME, FRAME_MS } from "../../../gateway/admin/page/voice/detector.js";
import { noise, powerOf, quiet, typing, utterance } from "./sounds.mjs";

const settled = () => new Promise((done) => setImmediate(done));
const ANSWER = ["Since you have asked for it, ", "this is the first sentence of it. And this is the second sentence, which is longer. ", "The end."];

class StandInSpeaker {
  constructor() {
    this.events = [];
    this.output = -100;
  }

  begin(onSound) {
    Object.assign(this, { onSound, clauses: [], heard: 0 });
    this.over = new Promise((done) => { this.finish = done; });
  }

  add(clause) {
    this.clauses.push(clause);
    if (this.clauses.length === 1) this.onSound(this.soundInMs);
  }

  end() { return this.over; }
  pause() { this.events.push("pause"); }
  resume() { this.events.push("resume"); }
  duck(is) { this.events.push(is ? "duck" : "loud"); }
  stop() { this.events.push("stop"); this.finish(); return this.clauses.slice(0, this.heard); }
  level() { return this.output; }
}

const stand = (options = {}) => {
  const speaker = new StandInSpeaker();
  const asked = { transcripts: [], messages: [], signals: [] };
  let now = 0;
  const texts = [];
  const answers = [];
  const effects = {
    speaker,
    now: () => now,
    changed() {},
    transcribe: (samples, signal) => {
      asked.transcripts.push(samples.length);
      asked.signals.push(signal);
      const text = texts.shift() ?? "What is it?";
      return text instanceof Error ? Promise.reject(text) : Promise.resolve(text);
    },
    async *answer(messages, signal) {
      asked.messages.push(messages);
      asked.answering = signal;
      for (const text of answers.shift() ?? ANSWER) {
        if (text === "hang") await new Promise((_, fail) => signal.addEventListener("abort", () => fail(new Error("aborted"))));
        if (text instanceof Error) throw text;
        yield text;
      }
    },
  };
  const talk = new Conversation(effects, options);
  const hear = async (samples) => {
    for (let at = 0; at + FRAME <= samples.length; at += FRAME) {
      now += FRAME_MS;
      talk.hear(samples.subarray(at, at + FRAME));
      await settled();
    }
  };
  return { talk, speaker, asked, texts, answers, hear, pass: (ms) => { now += ms; } };
};

const SPEECH = utterance(1, 3);
const say = (at) => at.hear(SPEECH).then(() => at.hear(quiet(0.8, 5)));
const ready = async (options) => {
  const at = stand(options);
  await at.hear(quiet(1, 4));
  return at;
};

const over = async (at) => {
  at.speaker.finish();
  await settled();
  await settled();
};

test("who speaks is transcribed, answered, and hears the answer clause by clause", async () => {
  const at = await ready();
  assert.equal(at.talk.state, "listening");
  await at.hear(SPEECH);
  assert.equal(at.talk.state, "hearing you");
  await at.hear(quiet(0.8, 5));
  assert.equal(at.talk.state, "speaking");
  assert.deepEqual(at.asked.messages, [[{ role: "user", content: "What is it?" }]]);
  assert.deepEqual(at.speaker.clauses.map((each) => each.spoken), ["Since you have asked for it,", "this is the first sentence of it. And this is the second sentence, which is longer.", "The end."]);
  assert.equal(at.speaker.clauses.map((each) => each.text).join(""), ANSWER.join(""));
  const [user, answer] = at.talk.turns;
  assert.deepEqual(answer.parts.map((part) => part.name), ["end of speech detected", "transcribed", "first token", "first clause", "first sound"]);
  assert.ok(answer.parts[0].ms >= 580 && answer.parts[0].ms <= 620);
  assert.equal(user.text, "What is it?");
  at.speaker.finish();
  await settled();
  await settled();
  assert.equal(at.talk.state, "listening");
  assert.equal(answer.text, ANSWER.join(""));
});

test("a transcript is begun in the pause, and used when nothing more was said", async () => {
  const at = await ready();
  await say(at);
  assert.equal(at.asked.transcripts.length, 1);
  assert.ok(at.asked.transcripts[0] >= SPEECH.length);
});

test("a transcript of half a sentence is dropped when it goes on", async () => {
  const at = await ready();
  at.texts.push("half", "whole");
  await at.hear(SPEECH);
  await at.hear(quiet(0.4, 5));
  await say(at);
  assert.deepEqual(at.asked.signals.map((each) => each.aborted), [true, false]);
  assert.equal(at.talk.turns[0].text, "whole");
});

test("whoever speaks stops the answer: its request is cancelled, and what was heard is what was said", async () => {
  const at = await ready();
  at.answers.push([...ANSWER, "hang"]);
  await say(at);
  at.speaker.heard = 1;
  at.texts.push("Stop it.");
  await at.hear(SPEECH.subarray(0, 6400));
  assert.deepEqual(at.speaker.events.filter((each) => each !== "loud"), ["duck", "pause"]);
  assert.equal(at.asked.answering.aborted, false, "it is not known yet whether those were words");
  const first = at.asked.answering;
  await say(at);
  assert.equal(first.aborted, true);
  assert.equal(at.talk.turns[1].text, "Since you have asked for it,…");
  assert.equal(at.talk.turns[1].isCut, true);
  assert.deepEqual(at.asked.messages[1].map((each) => [each.role, each.content]), [["user", "What is it?"], ["assistant", "Since you have asked for it,…"], ["user", "Stop it."]]);
});

test("what were no words lets the answer go on where it was", async () => {
  const at = await ready();
  await say(at);
  at.texts.push("[BLANK_AUDIO]");
  await say(at);
  assert.deepEqual(at.speaker.events.filter((each) => /pause|resume|stop/.test(each)), ["pause", "resume"]);
  assert.equal(at.talk.turns.length, 2);
  assert.equal(at.talk.state, "speaking");
});

test("an answer that is held goes on after two seconds in which nothing was transcribed", async () => {
  const at = await ready();
  await say(at);
  at.texts.push(new Promise(() => {}));
  await say(at);
  assert.equal(at.speaker.events.at(-1), "pause");
  await at.hear(quiet(2.2, 6));
  assert.equal(at.speaker.events.at(-1), "resume");
});

test("who goes on before the answer is heard is heard, and asks for both", async () => {
  const at = await ready();
  at.answers.push(["hang"]);
  await say(at);
  assert.equal(at.talk.state, "waiting");
  at.texts.push("And that?");
  await say(at);
  assert.deepEqual(at.asked.messages[1], [{ role: "user", content: "What is it?\nAnd that?" }]);
});

test("in half duplex speech does not stop the answer, and the button does", async () => {
  const at = await ready({ isHalfDuplex: true });
  await say(at);
  await say(at);
  assert.equal(at.asked.transcripts.length, 1);
  at.talk.press();
  assert.deepEqual([at.speaker.events.at(-1), at.talk.state], ["pause", "hearing you"]);
  await at.hear(SPEECH);
  at.talk.release();
  await settled();
  await settled();
  assert.equal(at.asked.messages.length, 2);
});

test("without hands-free only what is said while the button is held counts, from shortly before", async () => {
  const at = await ready({ isHandsFree: false });
  await say(at);
  assert.equal(at.asked.transcripts.length, 0);
  at.talk.press();
  await at.hear(SPEECH);
  at.talk.release();
  assert.equal(at.talk.state, "transcribing");
  await settled();
  await settled();
  assert.equal(at.asked.transcripts[0], SPEECH.length - (SPEECH.length % FRAME) + 25 * FRAME);
  assert.equal(at.talk.turns[1].parts[0].ms, 0, "letting go ends the speech at once");
});

test("a button that was touched by mistake asks nothing, and what was held goes on", async () => {
  const at = await ready();
  await say(at);
  at.talk.press();
  at.pass(100);
  at.talk.release();
  assert.equal(at.asked.transcripts.length, 1);
  assert.deepEqual(at.speaker.events.slice(-3).filter((each) => each !== "loud"), ["pause", "resume"]);
});

test("who is muted is not heard, also in the middle of a word", async () => {
  const at = await ready();
  await at.hear(SPEECH);
  at.talk.mute(true);
  assert.equal(at.talk.state, "muted");
  await say(at);
  at.talk.press();
  assert.equal(at.talk.isTalking, false);
  assert.equal(at.asked.transcripts.length, 0);
  at.talk.mute(false);
  await at.hear(quiet(1, 4));
  await say(at);
  assert.equal(at.asked.transcripts.length, 1);
});

test("what fails is told at its turn, and the next turn is heard", async () => {
  const at = await ready();
  at.texts.push(new Error("no model hears"), "Hello?", "Are you there?");
  at.answers.push([new Error("no model answers")]);
  await say(at);
  assert.equal(at.talk.turns[0].error, "no model hears");
  await say(at);
  assert.equal(at.talk.turns[2].error, "no model answers");
  assert.equal(at.talk.state, "listening");
  await say(at);
  assert.deepEqual(at.asked.messages.at(-1), [{ role: "user", content: "Hello?\nAre you there?" }]);
});

test("Stop ends the answer, and what was heard stays", async () => {
  const at = await ready();
  at.answers.push([...ANSWER, "hang"]);
  await say(at);
  at.speaker.heard = 1;
  at.talk.stop();
  await settled();
  assert.equal(at.asked.answering.aborted, true);
  assert.deepEqual([at.talk.state, at.talk.turns[1].text], ["listening", "Since you have asked for it,…"]);
});

test("an answer of which all was heard is not cut by who speaks just then", async () => {
  const at = await ready();
  await say(at);
  at.speaker.heard = at.speaker.clauses.length;
  at.talk.stop();
  assert.deepEqual([at.talk.turns[1].text, at.talk.turns[1].isCut], [ANSWER.join(""), false]);
});

test("Repeat says the last answer again, without asking for it", async () => {
  const at = await ready();
  await say(at);
  at.speaker.finish();
  await settled();
  await settled();
  at.talk.repeat();
  await settled();
  assert.equal(at.speaker.clauses.map((each) => each.text).join(""), ANSWER.join(""));
  assert.deepEqual([at.asked.messages.length, at.talk.turns.length, at.talk.state], [1, 2, "speaking"]);
});

for (const [name, around, most] of [["pink noise", noise, 0], ["typing", typing, 4], ["a quiet room", quiet, 0]]) {
  test(`a minute of ${name} alone starts no turn`, async () => {
    const at = stand();
    at.texts.push(...Array(99).fill("[BLANK_AUDIO]"));
    const samples = around(60, 5);
    const gain = around === quiet ? 1 : Math.sqrt(0.01 / powerOf(samples));
    await at.hear(samples.map((x) => x * gain));
    assert.deepEqual(at.talk.turns, []);
    assert.equal(at.talk.state, "listening");
    assert.ok(at.asked.transcripts.length <= most, `${at.asked.transcripts.length} transcripts`);
    at.texts.length = 0;
    await say(at);
    assert.equal(at.talk.turns.length, 2, "it still hears");
  });
}

for (const isHalfDuplex of [false, true]) {
  test(`who begins just before an answer ends is heard${isHalfDuplex ? " in half duplex, too" : ""}`, async () => {
    const at = await ready({ isHalfDuplex });
    await say(at);
    await at.hear(SPEECH.subarray(0, 3200));
    await over(at);
    await at.hear(SPEECH.subarray(3200));
    assert.equal(at.talk.state, "hearing you");
    await at.hear(quiet(0.8, 5));
    assert.equal(at.asked.transcripts.length, 2);
  });
}

test("the echo of an answer that has just ended is nobody", async () => {
  const at = await ready();
  await say(at);
  at.speaker.output = 0;
  await at.hear(SPEECH);
  at.speaker.output = -100;
  await over(at);
  await at.hear(SPEECH.subarray(0, 3200));
  await at.hear(quiet(2, 5));
  assert.deepEqual([at.asked.transcripts.length, at.talk.state], [1, "listening"]);
});

test("somebody heard for less than 0.3 s makes the answer quieter for a while, and holds nothing", async () => {
  const at = await ready();
  await say(at);
  await at.hear(SPEECH.subarray(0, 3200));
  await at.hear(quiet(1, 5));
  assert.deepEqual(at.speaker.events, ["duck", "loud"]);
  assert.equal(at.talk.state, "speaking");
});

test("what is held goes on after two seconds without hands-free, too", async () => {
  const at = await ready({ isHandsFree: false });
  at.talk.press();
  await at.hear(SPEECH);
  at.talk.release();
  await settled();
  await settled();
  at.texts.push(new Promise(() => {}));
  at.talk.press();
  await at.hear(SPEECH);
  at.talk.release();
  assert.equal(at.speaker.events.at(-1), "pause");
  await at.hear(quiet(2.2, 6));
  assert.equal(at.speaker.events.at(-1), "resume");
});

test("who was transcribed too late is no echo: as loud again, they stop the answer again", async () => {
  const at = await ready();
  await say(at);
  at.speaker.output = -30;
  for (let turn = 0; turn < 2; turn += 1) {
    at.texts.push(new Promise(() => {}));
    at.speaker.events.length = 0;
    await say(at);
    assert.ok(at.speaker.events.includes("pause"), `time ${turn + 1}`);
    at.talk.line = Promise.resolve(); // the transcript that does not come holds up nothing here
    await at.hear(quiet(2.2, 6));
    assert.equal(at.speaker.events.at(-1), "resume");
  }
});

test("hands-free turned off in the middle of a word drops it, and what was held goes on", async () => {
  const at = await ready();
  await say(at);
  await at.hear(SPEECH);
  assert.equal(at.talk.state, "hearing you");
  at.talk.setHandsFree(false);
  assert.deepEqual([at.talk.state, at.speaker.events.at(-1)], ["speaking", "resume"]);
  await at.hear(quiet(10, 5));
  assert.ok(at.talk.recording.frames.length * FRAME_MS <= 500, "nothing is gathered");
  assert.equal(at.asked.transcripts.length, 1);
});

test("who speaks for more than a minute is transcribed minute by minute, without a gap", async () => {
  const at = await ready();
  at.answers.push(["hang"], ["hang"]);
  await at.hear(utterance(70, 3));
  assert.equal(at.talk.state, "hearing you");
  await at.hear(quiet(0.8, 5));
  assert.equal(at.talk.turns.filter((turn) => turn.role === "user").length, 2);
  assert.equal(at.asked.transcripts[0], 60 * 16000);
  assert.ok(at.asked.transcripts.at(-1) > 9.5 * 16000);
});

test("the button touched by mistake while somebody speaks loses nothing of it", async () => {
  const at = await ready();
  await at.hear(SPEECH);
  at.talk.press();
  at.pass(100);
  at.talk.release();
  await settled();
  assert.equal(at.asked.transcripts.length, 1);
  assert.ok(at.asked.transcripts[0] >= SPEECH.length - FRAME);
});

test("End while a transcript is made cancels it, and nothing is answered", async () => {
  const at = await ready();
  let tell;
  at.texts.push(new Promise((done) => { tell = done; }));
  await say(at);
  at.talk.close();
  assert.equal(at.asked.signals[0].aborted, true);
  tell("What is it?");
  await settled();
  await settled();
  assert.deepEqual([at.asked.messages, at.talk.turns], [[], []]);
});

test("the first sound counts from when it is heard, not from when it is there", async () => {
  const at = await ready();
  at.speaker.soundInMs = 70;
  await say(at);
  assert.equal(at.talk.turns[1].parts.at(-1).ms, 70);
});

test("what a model of transcripts writes of silence is no words", () => {
  for (const text of ["", " ", "[BLANK_AUDIO]", "(music)", "♪ ♪", "...", " [ Silence ] . "]) assert.equal(wordsOf(text), "");
  assert.equal(wordsOf(" Hello (laughs) there. "), "Hello there.");
});

test("a conversation begins with who asks, and its sides take turns", () => {
  const turn = (role, text) => ({ role, text });
  assert.deepEqual(messagesOf([turn("assistant", "a"), turn("user", "b"), turn("user", ""), turn("user", "c")]), [{ role: "user", content: "b\nc" }]);
});
