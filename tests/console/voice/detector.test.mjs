import assert from "node:assert/strict";
import { test } from "node:test";
import { Detector, FRAME, FRAME_MS, levelOf, Meter, RATE } from "../../../gateway/admin/page/voice/detector.js";
import { alone, figures, found as spansOf } from "./finding.mjs";
import { chance, quiet, ROOMS, utterance } from "./sounds.mjs";

const SECONDS = Number(process.env.SCENE_SECONDS || 15);

const found = (samples, options) => spansOf(samples, new Detector(options));
const options = { detect: found };

for (const [name, [around, snr]] of Object.entries(ROOMS)) {
  test(`speech is found: ${name}`, async (t) => {
    const said = await figures(around, snr, { ...options, seconds: SECONDS });
    const perMinute = await alone(around, snr, { ...options, seconds: 2 * SECONDS });
    t.diagnostic(`figures ${name} ${JSON.stringify({ ...said, alone_a_minute: perMinute })}`);
    assert.equal(said.invented, 0);
    assert.ok(perMinute <= 4, `${perMinute} starts a minute of ${name} alone`);
    if (name === "music0") return; // as loud as speech and of the same band: most is missed, which the button is for
    assert.equal(said.missed, 0);
    assert.ok(said.start_ms <= 300, `${said.start_ms} ms after speech began`);
    assert.ok(said.end_ms >= 500 && said.end_ms <= 700, `${said.end_ms} ms after speech ended`);
  });
}

test("a pause is told before the end, and taken back when speech goes on", () => {
  const gap = quiet(0.4, 1);
  const parts = [quiet(2, 1), utterance(1, 2), gap, utterance(1, 3), quiet(1.5, 4)];
  const samples = Float32Array.from(parts.flatMap((part) => [...part]));
  const detector = new Detector();
  const events = [];
  for (let at = 0; at + FRAME <= samples.length; at += FRAME) {
    const { event } = detector.feed(samples.subarray(at, at + FRAME));
    if (event) events.push(event);
  }
  assert.deepEqual(events, ["began", "paused", "resumed", "paused", "ended"]);
});

test("how long must be silent is a setting", () => {
  const samples = Float32Array.from([...quiet(2, 1), ...utterance(1, 2), ...quiet(2, 4)]);
  const [[, soon]] = found(samples, { silenceMs: 300 });
  const [[, late]] = found(samples, { silenceMs: 900 });
  assert.equal(Math.round((1000 * (late - soon)) / RATE / FRAME_MS) * FRAME_MS, 600);
});

test("silence, a click and a broken frame are no speech", () => {
  const samples = quiet(4, 1);
  samples[RATE] = 1;
  assert.deepEqual(found(samples), []);
  assert.deepEqual(found(new Float32Array(4 * RATE)), []);
});

test("a voice that begins at once, before there was anything to compare it with, is found at its second word or earlier", () => {
  const spans = found(Float32Array.from([...utterance(3, 9), ...quiet(1, 1)]));
  assert.ok(spans.length >= 1 && spans[0][0] < 1.5 * RATE);
});

test("a level is that of a sine, and the meter's that of the band alone", () => {
  const sine = (hz) => Float32Array.from({ length: 16 * FRAME }, (_, n) => 0.5 * Math.sin((2 * Math.PI * hz * n) / RATE));
  assert.ok(Math.abs(levelOf(sine(1000)) - -9.03) < 0.05);
  const metered = (hz) => { const meter = new Meter(); meter.feed(sine(hz)); return meter.feed(sine(hz)); };
  assert.ok(Math.abs(metered(1000) - -9.03) < 1);
  assert.ok(metered(50) < -25 && metered(7000) < -20);
  assert.ok(chance(1)() !== chance(2)());
});
