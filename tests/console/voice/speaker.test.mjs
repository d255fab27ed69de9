// Clauses as sound. The browser's sound is a stand-in whose clock a test turns.
import assert from "node:assert/strict";
import { test } from "node:test";
import { RATE, Speaker } from "../../../gateway/admin/page/voice/speaker.js";

const settled = () => new Promise((done) => setImmediate(done));

class StandInContext {
  constructor() {
    Object.assign(this, { currentTime: 10, outputLatency: 0.02, state: "running", nodes: [], gains: [] });
    this.destination = {};
  }

  createGain() { return { gain: { setTargetAtTime: (value) => this.gains.push(value) }, connect: (to) => to }; }
  createAnalyser() { return { connect: (to) => to, getFloatTimeDomainData: (window) => window.fill(0.1) }; }
  createBuffer(_, length) { return { duration: length / RATE, copyToChannel() {} }; }

  createBufferSource() {
    const node = { connect() {}, start: (at) => { node.at = at; }, stop: () => { node.isStopped = true; } };
    this.nodes.push(node);
    return node;
  }

  suspend() { this.state = "suspended"; }
  resume() { this.state = "running"; }
}

// Each clause is a tenth of a second.
async function* tenth() { yield new Uint8Array(2 * RATE / 10); }

const stand = () => {
  const context = new StandInContext();
  const speaker = new Speaker(context, tenth);
  const sounds = [];
  speaker.begin((ms) => sounds.push(ms));
  return { context, speaker, sounds };
};
const clause = (text) => ({ text, spoken: text });

test("the first sound is told once, with the milliseconds until it is heard, and clauses follow each other without a gap", async () => {
  const { context, speaker, sounds } = stand();
  for (const text of ["one ", "two ", "three"]) speaker.add(clause(text));
  await settled();
  assert.deepEqual(sounds.map(Math.round), [70]); // what comes first waits 50 ms, the loudspeaker takes 20
  assert.deepEqual(context.nodes.map((node) => Math.round(1000 * (node.at - 10))), [50, 150, 250]);
});

test("what was heard are the clauses whose sound has ended", async () => {
  const { context, speaker } = stand();
  for (const text of ["one ", "two ", "three"]) speaker.add(clause(text));
  await settled();
  context.nodes[0].onended();
  assert.deepEqual(speaker.stop().map((each) => each.text), ["one "]);
  assert.deepEqual(context.nodes.map((node) => Boolean(node.isStopped)), [false, true, true]);
});

test("the answer has ended when its last sound has", async () => {
  const { context, speaker } = stand();
  speaker.add(clause("one"));
  let isOver = false;
  speaker.end().then(() => { isOver = true; });
  await settled();
  assert.equal(isOver, false);
  context.nodes[0].onended();
  await settled();
  assert.equal(isOver, true);
});

test("paused, it says nothing and its level is none; quieter is a fifth, until another answer", () => {
  const { context, speaker } = stand();
  speaker.nodes.add({});
  assert.ok(Math.abs(speaker.level() - -20) < 0.1);
  speaker.pause();
  assert.equal(speaker.level(), -100);
  speaker.duck(true);
  assert.equal(context.gains.at(-1), 0.2);
  speaker.begin(() => {});
  assert.deepEqual([context.gains.at(-1), context.state], [1, "running"]);
});
