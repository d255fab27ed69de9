// Both detectors of voice on the same sounds: `node detectors.mjs SILERO SPEECH SECONDS`, folders of Silero's files and of
// utterances (16-bit samples at 16 kHz, *.pcm). A line of JSON for each kind of room.

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { Detector } from "../../gateway/admin/page/voice/detector.js";
import { LikelyDetector } from "../../gateway/admin/page/voice/likely.js";
import { MODEL, RUNTIME, Silero, WINDOW } from "../../gateway/admin/page/voice/silero.js";
import { alone, figures, found } from "../console/voice/finding.mjs";
import { ROOMS } from "../console/voice/sounds.mjs";

const [files, speech, seconds] = [process.argv[2], process.argv[3], Number(process.argv[4])];

const pcm = (path) => {
  const bytes = readFileSync(path);
  return Float32Array.from({ length: bytes.length >> 1 }, (_, n) => bytes.readInt16LE(2 * n) / 32768);
};

const loadSilero = async () => {
  const runtime = await import(pathToFileURL(join(files, RUNTIME)).href);
  runtime.env.wasm.numThreads = 1;
  runtime.env.wasm.wasmPaths = `${pathToFileURL(files).href}/`;
  runtime.env.wasm.wasmBinary = readFileSync(join(files, "ort-wasm-simd-threaded.wasm"));
  return () => Silero.load(runtime, readFileSync(join(files, MODEL)));
};

// All is asked ahead of time; each answer is told as soon as its window is whole, as by a machine that is fast enough.
const bySilero = (fresh) => async (samples) => {
  const model = await fresh();
  const likely = [];
  for (let at = 0; at + WINDOW <= samples.length; at += WINDOW) likely.push(await model.feed(samples.subarray(at, at + WINDOW)));
  const source = {
    asked: 0,
    told: 0,
    ask() { this.asked += 1; },
    answers() {
      const come = likely.slice(this.told, this.asked);
      this.told = this.asked;
      return come;
    },
  };
  return found(samples, new LikelyDetector(source));
};

const utterances = readdirSync(speech).filter((name) => name.endsWith(".pcm")).sort().map((name) => pcm(join(speech, name)));
const detectors = { level: (samples) => found(samples, new Detector()), silero: bySilero(await loadSilero()) };

for (const [room, [around, snr]] of Object.entries(ROOMS)) {
  for (const [detector, detect] of Object.entries(detectors)) {
    let next = 0;
    const say = () => utterances[next++ % utterances.length];
    const options = { seconds, detect, say };
    console.log(JSON.stringify({ room, detector, ...(await figures(around, snr, options)), alone: await alone(around, snr, options) }));
  }
}
