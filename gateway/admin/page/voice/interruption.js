// Whether somebody speaks while an answer is played: who is louder than its echo for long enough.

import { FRAME_MS } from "./detector.js";

const ABOVE_DB = 6;
const DUCK_MS = 100;
const STOP_MS = 300;
const DELAY_FRAMES = 12; // of sound from the loudspeaker to the microphone, at most
export const ECHO_MS = DELAY_FRAMES * FRAME_MS; // for which an answer that has ended may still be heard
const FIRST_GAIN_DB = -20; // of the way from the loudspeaker to the microphone, with its echo cancelled
const GAINS_DB = [-60, 10];
const RISE_DB = 0.08; // a frame: 4 dB a second
const FALL_DB = 0.02;

// `feed` tells "duck", "stop", "release" (it was nothing: louder again), or "". Levels are dB of full scale.
export class Interruption {
  // `isHalfDuplex`: nothing takes the echo away, so that nobody is heard while it plays.
  constructor({ isHalfDuplex = false } = {}) {
    this.isHalfDuplex = isHalfDuplex;
    this.gain = FIRST_GAIN_DB;
    this.begin();
  }

  // Another answer is played, by the same loudspeaker.
  begin() {
    this.played = [];
    this.goOn();
  }

  // The answer does, and what was loud is not known to have been its echo.
  goOn() {
    this.loudMs = 0;
    this.state = "playing";
    this.seen = [];
  }

  // `level`: of the microphone; `output`: of what is played now; `floor`: of the room; `isVoice`: what is heard may be one.
  feed({ level, output, floor, isVoice = true }) {
    if (this.isHalfDuplex || this.state === "stopped") return "";
    this.played = [...this.played, output].slice(-DELAY_FRAMES);
    const loudest = Math.max(...this.played);
    const isAbove = level > Math.max(floor, loudest + this.gain) + ABOVE_DB;
    const isLoud = isAbove && isVoice;
    if (isLoud) this.seen.push(level - loudest);
    else if (!isAbove) this.learn(level - loudest);
    this.loudMs = isLoud ? this.loudMs + FRAME_MS : Math.max(0, this.loudMs - FRAME_MS);
    return this.decide();
  }

  decide() {
    if (this.loudMs >= STOP_MS) return this.become("stopped", "stop");
    if (this.loudMs >= DUCK_MS && this.state === "playing") return this.become("ducked", "duck");
    if (!this.loudMs && this.state === "ducked") return this.become("playing", "release");
    return "";
  }

  become(state, told) {
    this.state = state;
    return told;
  }

  learn(gain) {
    this.setGain(this.gain + Math.max(-FALL_DB, Math.min(RISE_DB, gain - this.gain)));
    if (!this.loudMs) this.seen = [];
  }

  setGain(gain) {
    this.gain = Math.min(GAINS_DB[1], Math.max(GAINS_DB[0], gain));
  }

  // What stopped it were no words: most likely the echo, which is louder than was thought.
  falseAlarm() {
    const seen = [...this.seen].sort((a, b) => a - b);
    if (seen.length) this.setGain(Math.max(this.gain, seen[Math.floor(seen.length / 2)]));
    this.begin();
  }
}
