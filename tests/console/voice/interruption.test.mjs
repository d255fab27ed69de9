import assert from "node:assert/strict";
import { test } from "node:test";
import { Interruption } from "../../../gateway/admin/page/voice/interruption.js";

const FLOOR = -60;
const OUTPUT = -20;
const ECHO = -50; // of it, at the microphone

// What is told while frames of these levels are heard, with when, in ms after the first.
const told = (interruption, levels, output = OUTPUT) => levels
  .map((level, n) => [20 * (n + 1), interruption.feed({ level, output, floor: FLOOR })])
  .filter(([, event]) => event);
const frames = (level, ms) => Array(ms / 20).fill(level);

test("speech over the echo is ducked after 100 ms and stops the answer after 300", () => {
  const one = new Interruption();
  assert.deepEqual(told(one, frames(ECHO, 1000)), []);
  assert.deepEqual(told(one, frames(-25, 600)), [[100, "duck"], [300, "stop"]]);
});

test("less than 6 dB over the echo that is expected is nothing", () => {
  const one = new Interruption();
  assert.deepEqual(told(one, frames(OUTPUT - 20 + 5, 200)), []);
  assert.deepEqual(told(new Interruption(), frames(OUTPUT - 20 + 7, 300)), [[100, "duck"], [300, "stop"]]);
});

test("what is over after 200 ms makes it louder again and stops nothing", () => {
  const one = new Interruption();
  assert.deepEqual(told(one, [...frames(-25, 200), ...frames(ECHO, 400)]), [[100, "duck"], [400, "release"]]);
  assert.equal(one.state, "playing");
});

test("keys that are struck are nothing", () => {
  const stroke = [...frames(-10, 40), ...frames(ECHO, 160)];
  assert.deepEqual(told(new Interruption(), Array(20).fill(stroke).flat()), []);
});

test("speech with gaps between its syllables stops it all the same", () => {
  const syllable = [...frames(-25, 160), ...frames(ECHO, 40)];
  const events = told(new Interruption(), Array(5).fill(syllable).flat()).map(([, event]) => event);
  assert.deepEqual(events, ["duck", "stop"]);
});

test("an echo that is louder than expected is a false alarm once, and is expected from then on", () => {
  const one = new Interruption();
  assert.deepEqual(told(one, frames(OUTPUT - 5, 300)).map(([, event]) => event), ["duck", "stop"]);
  one.falseAlarm();
  assert.deepEqual(told(one, frames(OUTPUT - 5, 2000)), []);
  assert.deepEqual(told(one, frames(OUTPUT + 5, 300)).map(([, event]) => event), ["duck", "stop"]);
});

test("after a stop nothing more is told, until another answer is played", () => {
  const one = new Interruption();
  told(one, frames(-5, 300));
  assert.deepEqual(told(one, frames(-5, 600)), []);
  one.begin();
  assert.deepEqual(told(one, frames(-5, 300)).map(([, event]) => event), ["duck", "stop"]);
});

test("echo arrives later than it is played", () => {
  const one = new Interruption();
  told(one, frames(-40, 400), OUTPUT);
  assert.deepEqual(told(one, frames(-40, 200), -100), []);
});

test("in half duplex nobody is heard while it plays", () => {
  assert.deepEqual(told(new Interruption({ isHalfDuplex: true }), frames(0, 2000)), []);
});

test("where nothing is played the room's floor counts", () => {
  assert.deepEqual(told(new Interruption(), frames(FLOOR + 5, 400), -100), []);
  assert.deepEqual(told(new Interruption(), frames(FLOOR + 8, 300), -100).map(([, event]) => event), ["duck", "stop"]);
});

test("what is loud and no voice, as a detector knows it, neither stops the answer nor is taken for its echo", () => {
  const one = new Interruption();
  const told = Array.from({ length: 100 }, () => one.feed({ level: -10, output: OUTPUT, floor: FLOOR, isVoice: false }));
  assert.deepEqual(told.filter(Boolean), []);
  assert.equal(one.gain, -20);
});
