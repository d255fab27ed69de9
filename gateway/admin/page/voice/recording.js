// What was said: frames from shortly before somebody was heard until they are taken.

import { FRAME_MS } from "./detector.js";

const BEFORE_MS = 500; // the first sound of a word is quieter than what the detector waits for
const MOST_MS = 60_000;

export class Recording {
  constructor(beforeMs = BEFORE_MS) {
    this.before = Math.round(beforeMs / FRAME_MS);
    this.drop();
  }

  feed(frame) {
    this.frames.push(frame);
    if (!this.isOn && this.frames.length > this.before) this.frames.shift();
  }

  begin() {
    this.isOn = true;
  }

  get isFull() {
    return this.frames.length * FRAME_MS >= MOST_MS;
  }

  // (samples,) so far; it goes on.
  copy() {
    const samples = new Float32Array(this.frames.reduce((sum, each) => sum + each.length, 0));
    let at = 0;
    for (const frame of this.frames) {
      samples.set(frame, at);
      at += frame.length;
    }
    return samples;
  }

  take() {
    const samples = this.copy();
    this.drop();
    return samples;
  }

  drop() {
    this.isOn = false;
    this.frames = [];
  }
}
