import assert from "node:assert/strict";
import { test } from "node:test";
import { BUDGET_MS, medianOf, PARTS, partsOf, totalOf } from "../../../gateway/admin/page/voice/latency.js";
import { whyNot } from "../../../gateway/admin/page/voice/microphone.js";
import { Recording } from "../../../gateway/admin/page/voice/recording.js";
import { Decoder, encodeWav, Resampler } from "../../../gateway/admin/page/voice/sound.js";

const sine = (hz, rate, seconds = 0.5) => Float32Array.from({ length: seconds * rate }, (_, n) => Math.sin((2 * Math.PI * hz * n) / rate));
const loudest = (samples) => samples.reduce((most, x) => Math.max(most, Math.abs(x)), 0);

for (const rate of [16000, 44100, 48000, 96000]) {
  test(`from ${rate} Hz to 16,000: as long, as loud, whatever the pieces, and what is too high is gone`, () => {
    const whole = (hz, step) => {
      const resampler = new Resampler(rate, 16000);
      const samples = sine(hz, rate);
      const out = [];
      for (let at = 0; at < samples.length; at += step) out.push(...resampler.feed(samples.subarray(at, at + step)));
      return Float32Array.from(out);
    };
    const out = whole(440, 128);
    assert.ok(Math.abs(out.length - 8000) < 60);
    assert.ok(Math.abs(loudest(out.subarray(200)) - 1) < 0.02);
    const other = whole(440, 1000);
    assert.ok(loudest(out.subarray(0, 7000).map((x, n) => x - other[n])) < 1e-4);
    if (rate > 16000) assert.ok(loudest(whole(11000, 128).subarray(200)) < 0.02);
  });
}

test("a WAV file says what it holds, and what is too loud is cut", () => {
  const bytes = new Uint8Array(encodeWav(Float32Array.from([0, 1, -1, 2, 0.5]), 16000));
  const view = new DataView(bytes.buffer);
  const word = (at, length = 4) => String.fromCharCode(...bytes.slice(at, at + length));
  assert.deepEqual([word(0), word(8, 8), word(36)], ["RIFF", "WAVEfmt ", "data"]);
  assert.deepEqual([view.getUint32(4, true), view.getUint32(24, true), view.getUint32(28, true), view.getUint32(40, true)], [46, 16000, 32000, 10]);
  assert.deepEqual([0, 1, 2, 3, 4].map((n) => view.getInt16(44 + 2 * n, true)), [0, 32767, -32767, 32767, 16384]);
});

test("bytes of samples may be cut anywhere", () => {
  const bytes = new Uint8Array(encodeWav(sine(440, 24000, 0.01), 24000)).slice(44);
  const whole = [...new Decoder().feed(bytes)];
  for (const step of [1, 3, 5]) {
    const decoder = new Decoder();
    const out = [];
    for (let at = 0; at < bytes.length; at += step) out.push(...decoder.feed(bytes.slice(at, at + step)));
    assert.deepEqual(out, whole);
  }
  assert.equal(whole.length, 240);
});

test("a recording holds the half second before it began, and no more of it", () => {
  const recording = new Recording();
  for (let n = 0; n < 100; n += 1) recording.feed(Float32Array.of(n));
  recording.begin();
  recording.feed(Float32Array.of(100));
  assert.equal(recording.copy()[0], 75);
  assert.deepEqual([recording.take().length, recording.isOn, recording.copy().length], [26, false, 0]);
});

test("the parts of a turn add up to its whole", () => {
  const parts = partsOf({ speech: 1000, ended: 1600, transcribed: 1750, token: 2000, clause: 2200, sound: 2450 });
  assert.deepEqual(parts.map((part) => part.ms), [600, 150, 250, 200, 250]);
  assert.equal(totalOf(parts), BUDGET_MS);
  assert.equal(BUDGET_MS, 1450);
});

test("what was ready before its turn took no time, and what has not come is not told", () => {
  assert.deepEqual(partsOf({ speech: 0, ended: 600, transcribed: 400, token: 900 }).map((part) => part.ms), [600, 0, 300]);
  assert.deepEqual(partsOf({}), []);
  assert.deepEqual(partsOf({ ended: 3 }), []);
});

test("a median is of turns that were heard", () => {
  const turn = (ms) => PARTS.map(() => ({ ms: ms / PARTS.length }));
  assert.equal(medianOf([]), undefined);
  assert.equal(medianOf([turn(1000), [{ ms: 9 }], turn(3000), turn(2000)]), 2000);
  assert.equal(medianOf([turn(1000), turn(2000)]), 1500);
});

test("why there is no microphone, and where there is one", () => {
  const at = (isSecureContext, mediaDevices) => whyNot({ isSecureContext, mediaDevices, hostname: "mini.local", httpsPort: "8443" });
  assert.equal(at(true, { getUserMedia() {} }), null);
  assert.equal(at(false, undefined).address, "https://mini.local:8443/console/v/voice.html");
  assert.match(at(false, undefined).text, /HTTPS alone/);
  assert.equal(at(true, undefined).address, "");
});
