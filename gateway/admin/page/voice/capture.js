// In the thread of sound: what the microphone hears, as frames for the detector.

import { FRAME, RATE } from "./detector.js";
import { Resampler } from "./sound.js";

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.resampler = new Resampler(sampleRate, RATE);
    this.held = [];
  }

  process([[samples]]) {
    if (samples) this.held.push(...this.resampler.feed(samples));
    while (this.held.length >= FRAME) {
      const frame = Float32Array.from(this.held.splice(0, FRAME));
      this.port.postMessage(frame, [frame.buffer]);
    }
    return true;
  }
}

registerProcessor("capture", Capture);
