// Speech told by a model that says of each window how likely it holds a voice. It answers later than it is asked, so that
// what is decided in a frame are the windows whose answers have come.

import { Floor, Meter, Span } from "./detector.js";
import { WINDOW, WINDOW_MS } from "./silero.js";

const BEGIN = 0.5; // likely enough to begin
const LEAVE = 0.35; // and to go on
const BEGIN_WINDOWS = 5, BEGIN_LIKELY = 3; // so many of the last

// `source`: `ask(window)`, and `answers()`, those in 0..1 that have come since it was last called.
export class LikelyDetector extends Span {
  constructor(source, options) {
    super(options);
    this.source = source;
    this.meter = new Meter();
    this.floor = new Floor();
    this.held = [];
    this.answers = [];
    this.likely = [];
  }

  // As `Detector.feed`. One event is told at a time: answers behind it wait for the next frame.
  feed(frame) {
    this.ask(frame);
    const level = this.meter.feed(frame);
    this.floor.feed(level, this.isSpeech);
    this.answers.push(...this.source.answers());
    let event = "";
    while (!event && this.answers.length) event = this.decide(this.answers.shift());
    return { level, floor: this.floor.level, isVoice: (this.likely.at(-1) ?? 0) >= LEAVE, event };
  }

  ask(frame) {
    for (const x of frame) this.held.push(x);
    while (this.held.length >= WINDOW) this.source.ask(Float32Array.from(this.held.splice(0, WINDOW)));
  }

  decide(likely) {
    this.likely = [...this.likely, likely].slice(-BEGIN_WINDOWS);
    if (this.isSpeech) return this.goOn(likely >= LEAVE, WINDOW_MS);
    if (this.likely.filter((each) => each >= BEGIN).length < BEGIN_LIKELY) return "";
    this.begin();
    return "began";
  }

  end() {
    this.likely = [];
    return super.end();
  }
}
