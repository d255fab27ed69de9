// Silero's model of speech: how likely each window of sound holds a voice. `runtime` is onnxruntime-web, which is given,
// so that this runs in a worker and in node.

import { RATE } from "./detector.js";

export const WINDOW = 512; // samples
export const WINDOW_MS = (1000 * WINDOW) / RATE;
export const MODEL = "silero_vad_v6.onnx";
export const RUNTIME = "ort.wasm.min.mjs";
const BEFORE = 64; // samples of the window before, which the model wants to see
const STATE = [2, 1, 128];

export class Silero {
  // `model`: its bytes.
  static async load(runtime, model) {
    return new Silero(runtime, await runtime.InferenceSession.create(model));
  }

  constructor({ Tensor }, session) {
    this.Tensor = Tensor;
    this.session = session;
    this.rate = new Tensor("int64", BigInt64Array.of(BigInt(RATE)), [1]);
    this.state = new Tensor("float32", new Float32Array(STATE.reduce((a, b) => a * b)), STATE);
    this.before = new Float32Array(BEFORE);
  }

  // 0..1, of the next window.
  async feed(window) {
    const samples = new Float32Array(BEFORE + WINDOW);
    samples.set(this.before);
    samples.set(window, BEFORE);
    this.before = samples.slice(-BEFORE);
    const input = new this.Tensor("float32", samples, [1, samples.length]);
    const { output, stateN } = await this.session.run({ input, state: this.state, sr: this.rate });
    this.state = stateN;
    return output.data[0];
  }
}
