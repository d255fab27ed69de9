// Speech told from what is around it by its energy alone: frames in, where speech begins, pauses and ends out.
//
// What is measured is the level of the band of a telephone, where speech is loudest. The floor is the quietest tenth of
// a second of the last two (minimum statistics: R. Martin, "Noise power spectral density estimation based on optimal
// smoothing and minimum statistics", 2001, in its simplest form), so that it follows noise that comes and goes while
// words, which have gaps, leave it where it is. How far above the floor a sound must be follows from how restless what
// was no speech has been: a fan may be near it, a keyboard or music may not.

export const RATE = 16000;
export const FRAME = 320; // samples
export const FRAME_MS = (1000 * FRAME) / RATE;
const QUIETEST_DB = -60; // of full scale; below it nobody speaks to this microphone
const FLOOR_FRAMES = 100;
const SMOOTHED_FRAMES = 5;
const LEAST_DB = 4.5; // above the floor
const MOST_DB = 14;
const SPREADS = 3;
const LEARNING = 0.02; // of the spread, a frame
const LEAVING = 0.6; // speech ends at this share of what it began at
const STROKE = 3; // frames in a row that are loud: a key that is struck has fewer, a syllable more
const BEGIN_WINDOW = 10; // frames, of which so many must be the third of a row or later
const BEGIN_LOUD = 3;

// A band-pass of 200 to 3,400 Hz, of two sections after Robert Bristow-Johnson's "Audio EQ Cookbook".
const section = (hz, isHigh) => {
  const w = (2 * Math.PI * hz) / RATE;
  const alpha = Math.sin(w) / Math.SQRT2;
  const cos = Math.cos(w);
  const edge = isHigh ? 1 + cos : 1 - cos;
  const gain = 1 + alpha;
  const [b0, b1, a1, a2] = [edge / 2 / gain, (isHigh ? -edge : edge) / gain, (-2 * cos) / gain, (1 - alpha) / gain];
  let [x1, x2, y1, y2] = [0, 0, 0, 0];
  return (x) => {
    const y = b0 * (x + x2) + b1 * x1 - a1 * y1 - a2 * y2;
    x2 = x1;
    x1 = x;
    y2 = y1;
    y1 = y;
    return y;
  };
};

export const decibels = (power) => 10 * Math.log10(power + 1e-10);

// Its level in dB of full scale, of samples from -1 to 1.
export const levelOf = (samples) => decibels(samples.reduce((sum, x) => sum + x * x, 0) / (samples.length || 1));

export class Meter {
  constructor() {
    this.high = section(200, true);
    this.low = section(3400, false);
  }

  feed(frame) {
    let sum = 0;
    for (const x of frame) sum += this.low(this.high(x)) ** 2;
    return decibels(sum / frame.length);
  }
}

export class Floor {
  constructor() {
    this.recent = [];
    this.smoothed = [];
    this.spread = 1;
    this.level = QUIETEST_DB;
  }

  // `isSpeech`: what is heard now says nothing of how restless the room is.
  feed(level, isSpeech) {
    this.recent = [...this.recent, level].slice(-SMOOTHED_FRAMES);
    this.smoothed.push(this.recent.reduce((sum, each) => sum + each, 0) / this.recent.length);
    if (this.smoothed.length > FLOOR_FRAMES) this.smoothed.shift();
    this.level = Math.max(QUIETEST_DB, Math.min(...this.smoothed));
    if (!isSpeech) this.spread += LEARNING * (Math.max(0, level - this.level) - this.spread);
  }

  get margin() {
    return Math.min(MOST_DB, Math.max(LEAST_DB, SPREADS * this.spread));
  }
}

// Where speech pauses and ends. `silentMs` is how long nothing was said, while speech has not ended.
export class Span {
  constructor({ silenceMs = 600, pauseMs = 200 } = {}) {
    this.silenceMs = silenceMs;
    this.pauseMs = pauseMs;
    this.isSpeech = false;
    this.silentMs = 0;
  }

  // What is heard is speech from here on, as something else has found.
  begin() {
    this.isSpeech = true;
    this.silentMs = 0;
  }

  // Of the next `ms`.
  goOn(isSaid, ms) {
    const was = this.silentMs;
    this.silentMs = isSaid ? 0 : was + ms;
    if (this.silentMs >= this.silenceMs) return this.end();
    if (was < this.pauseMs && this.silentMs >= this.pauseMs) return "paused";
    return was >= this.pauseMs && !this.silentMs ? "resumed" : "";
  }

  end() {
    this.isSpeech = false;
    return "ended";
  }
}

// `feed` tells {level, floor, isVoice, event}: "began", "paused" (after `pauseMs` of silence), "resumed", "ended" (after
// `silenceMs`), or "". Levels are dB of full scale. `isVoice`: what is heard now may be one.
export class Detector extends Span {
  constructor(options) {
    super(options);
    this.meter = new Meter();
    this.floor = new Floor();
    this.loud = [];
    this.run = 0;
  }

  feed(frame) {
    const level = this.meter.feed(frame);
    this.floor.feed(level, this.isSpeech);
    const above = level - this.floor.level;
    const event = this.isSpeech ? this.follow(above) : this.look(above);
    return { level, floor: this.floor.level, isVoice: true, event };
  }

  count(isLoud) {
    this.run = isLoud ? this.run + 1 : 0;
  }

  look(above) {
    this.count(above > this.floor.margin);
    this.loud = [...this.loud, this.run >= STROKE].slice(-BEGIN_WINDOW);
    if (this.loud.filter(Boolean).length < BEGIN_LOUD) return "";
    this.begin();
    return "began";
  }

  follow(above) {
    this.count(above > LEAVING * this.floor.margin);
    return this.goOn(this.run >= STROKE, FRAME_MS);
  }

  end() {
    this.loud = [];
    return super.end();
  }
}
