// Speech told by a model of which a stand-in says how likely each window is: what is decided, and how a worker is asked.
// That Silero's model tells voices is shown by `python -m tests.bench detectors` and `make test-voice`.
import assert from "node:assert/strict";
import { test } from "node:test";
import { FRAME } from "../../../gateway/admin/page/voice/detector.js";
import { LikelyDetector } from "../../../gateway/admin/page/voice/likely.js";
import { Silero, WINDOW, WINDOW_MS } from "../../../gateway/admin/page/voice/silero.js";
import { openSilero, Source } from "../../../gateway/admin/page/voice/silero_source.js";

const FRAMES = 40; // in 800 ms, which are 25 windows

// Events, with the window in which each is told, while windows are this likely. `late`: by how many windows.
const told = (likely, { late = 0, options } = {}) => {
  let asked = 0;
  let given = 0;
  const answers = () => {
    const come = likely.slice(given, Math.max(given, asked - late));
    given = Math.max(given, asked - late);
    return come;
  };
  const detector = new LikelyDetector({ ask: (window) => { assert.equal(window.length, WINDOW); asked += 1; }, answers }, options);
  const events = [];
  while (given < likely.length - late) {
    const { event } = detector.feed(new Float32Array(FRAME));
    if (event) events.push([event, asked]);
  }
  return events;
};
const run = (...pairs) => pairs.flatMap(([likely, windows]) => Array(windows).fill(likely));
const names = (events) => events.map(([event]) => event);

test("three likely windows of five are speech, and 600 ms of unlikely ones its end", () => {
  const events = told(run([0, 10], [0.9, 20], [0, 30]));
  assert.deepEqual(events, [["began", 13], ["paused", 37], ["ended", 49]]);
  assert.equal((49 - 30) * WINDOW_MS, 608);
});

test("one window or two are nothing, nor are many that are not likely enough", () => {
  assert.deepEqual(told(run([0, 10], [0.9, 2], [0, 10], [0.49, 40], [0, 9])), []);
});

test("a pause is taken back by what is likely enough to go on", () => {
  assert.deepEqual(names(told(run([0.9, 10], [0, 10], [0.4, 3], [0, 30]))), ["began", "paused", "resumed", "paused", "ended"]);
});

test("how long must be silent is a setting", () => {
  const [, , [, soon]] = told(run([0.9, 10], [0, 60]), { options: { silenceMs: 320 } });
  const [, , [, late]] = told(run([0.9, 10], [0, 60]), { options: { silenceMs: 960 } });
  assert.equal((late - soon) * WINDOW_MS, 640);
});

test("answers that come late, and several at once, tell the same events, one with each frame", () => {
  const likely = run([0, 5], [0.9, 10], [0, 10], [0.9, 5], [0, 40]);
  const soon = told(likely);
  const late = told([...likely, ...run([0, 7])], { late: 7 });
  assert.deepEqual(late.map(([event, window]) => [event, window - 7]), soon);
  let answers = [...likely];
  const detector = new LikelyDetector({ ask() {}, answers: () => answers.splice(0) });
  const events = Array.from({ length: FRAMES }, () => detector.feed(new Float32Array(FRAME)).event).filter(Boolean);
  assert.deepEqual(events, names(soon));
});

test("what is heard may be a voice as long as it is likely enough, and ends with the speech", () => {
  let likely = 0.9;
  const detector = new LikelyDetector({ ask() {}, answers: () => [likely] });
  assert.equal(detector.feed(new Float32Array(FRAME)).isVoice, true);
  likely = 0.1;
  assert.equal(detector.feed(new Float32Array(FRAME)).isVoice, false);
  detector.end();
  assert.deepEqual([detector.isSpeech, detector.likely], [false, []]);
});

test("the model sees each window with the end of the one before, and its own state", async () => {
  class Tensor { constructor(type, data, dims) { Object.assign(this, { type, data, dims }); } }
  const seen = [];
  const session = {
    run: async ({ input, state, sr }) => {
      seen.push({ input, state, sr });
      return { output: { data: [0.25] }, stateN: `state ${seen.length}` };
    },
  };
  const model = await Silero.load({ Tensor, InferenceSession: { create: async () => session } }, new Uint8Array(4));
  for (const value of [1, 2]) assert.equal(await model.feed(new Float32Array(WINDOW).fill(value)), 0.25);
  assert.deepEqual(seen.map(({ input }) => [input.dims, input.data[0], input.data[63], input.data[64]]), [[[1, 576], 0, 0, 1], [[1, 576], 1, 1, 2]]);
  assert.equal(seen[1].state, "state 1");
  assert.deepEqual([...seen[0].sr.data], [16000n]);
});

const worker = () => ({ asked: [], isOn: true, postMessage(window) { this.asked.push(window); }, terminate() { this.isOn = false; } });

test("a worker that is slow is asked no more than it can answer, and what is skipped is as likely as its last answer", () => {
  const slow = worker();
  const source = new Source(slow);
  for (let n = 0; n < 10; n += 1) source.ask(new Float32Array(WINDOW));
  assert.equal(slow.asked.length, 8);
  assert.deepEqual(source.answers(), [0, 0]);
  source.told(0.7);
  source.ask(new Float32Array(WINDOW));
  source.ask(new Float32Array(WINDOW));
  assert.deepEqual([slow.asked.length, source.answers()], [9, [0.7, 0.7]]);
});

test("a worker that cannot start says why, and one that ends later is told", async () => {
  const first = worker();
  const failing = openSilero(first, () => assert.fail("it was never there"));
  first.onmessage({ data: { error: "no such file" } });
  await assert.rejects(failing, /no such file/);
  assert.equal(first.isOn, false);

  const second = worker();
  const gone = [];
  const opening = openSilero(second, (error) => gone.push(error.message));
  second.onmessage({ data: { isReady: true } });
  const source = await opening;
  second.onmessage({ data: { likely: 0.5 } });
  assert.deepEqual(source.answers(), [0.5]);
  second.onerror({ message: "out of memory" });
  assert.deepEqual([gone, second.isOn], [["out of memory"], false]);
});
