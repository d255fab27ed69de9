// Sounds made here, of fixed seeds: something like speech, and what is around it. Samples from -1 to 1 at 16 kHz.

export const RATE = 16000;

export const chance = (seed) => () => {
  // mulberry32
  seed = (seed + 0x6d2b79f5) | 0;
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
};

const resonator = (hz, width) => {
  const r = Math.exp((-Math.PI * width) / RATE);
  const a = 2 * r * Math.cos((2 * Math.PI * hz) / RATE);
  let [y1, y2] = [0, 0];
  return (x) => {
    const y = x + a * y1 - r * r * y2;
    y2 = y1;
    y1 = y;
    return y;
  };
};

const VOWELS = [[730, 1090, 2440], [270, 2290, 3010], [530, 1840, 2480], [570, 840, 2410], [300, 870, 2240]];

const scaled = (samples, power) => {
  const gain = Math.sqrt(power / powerOf(samples));
  return samples.map((x) => x * gain);
};

export const powerOf = (samples) => samples.reduce((sum, x) => sum + x * x, 0) / samples.length;

// Syllables of a buzz through three formants, some with a hiss before, in words with short gaps.
export const utterance = (seconds, seed) => {
  const random = chance(seed);
  const out = new Float32Array(Math.round(seconds * RATE));
  let at = 0;
  let phase = 0;
  while (at < out.length) {
    const formants = VOWELS[Math.floor(random() * VOWELS.length)].map((hz, n) => resonator(hz, 60 + 40 * n));
    const pitch = 95 + 90 * random();
    const strength = 0.5 + random();
    const hiss = random() < 0.4 ? Math.round((0.04 + 0.05 * random()) * RATE) : 0;
    for (let n = 0; n < hiss && at < out.length; n += 1, at += 1) out[at] = 0.6 * strength * (2 * random() - 1);
    const length = Math.round((0.12 + 0.13 * random()) * RATE);
    for (let n = 0; n < length && at < out.length; n += 1, at += 1) {
      phase += (pitch * (1 + (0.15 * n) / length)) / RATE;
      const pulse = phase >= 1 ? 40 : 0;
      if (phase >= 1) phase -= 1;
      const envelope = Math.sin((Math.PI * (n + 1)) / (length + 1)) ** 0.7;
      out[at] = strength * envelope * formants.reduce((sum, each, k) => sum + each(pulse) / (k + 1), 0) * 0.02;
    }
    at += Math.round((random() < 0.3 ? 0.08 + 0.07 * random() : 0.01 * random()) * RATE);
  }
  return scaled(out, 0.01);
};

const filled = (seconds, next) => {
  const out = new Float32Array(Math.round(seconds * RATE));
  for (let n = 0; n < out.length; n += 1) out[n] = next(0, n);
  return out;
};

// Pink, by Paul Kellet's three poles.
export const noise = (seconds, seed) => {
  const random = chance(seed);
  let [a, b, c] = [0, 0, 0];
  return filled(seconds, () => {
    const white = 2 * random() - 1;
    a = 0.99765 * a + white * 0.099046;
    b = 0.963 * b + white * 0.2965164;
    c = 0.57 * c + white * 1.0526913;
    return a + b + c + white * 0.1848;
  });
};

// Key after key, each two clicks of a few milliseconds.
export const typing = (seconds, seed) => {
  const random = chance(seed);
  const out = filled(seconds, () => 0.002 * (2 * random() - 1));
  for (let at = 0; at < out.length; at += Math.round((0.09 + 0.2 * random()) * RATE)) {
    for (const [delay, strength] of [[0, 1], [Math.round(0.06 * RATE), 0.5]]) {
      for (let n = 0; n < 500 && at + delay + n < out.length; n += 1) {
        out[at + delay + n] += strength * (2 * random() - 1) * Math.exp(-n / 80);
      }
    }
  }
  return out;
};

// Chords of four notes that change twice a second, with a bass and a beat.
export const music = (seconds, seed) => {
  const random = chance(seed);
  let notes = [];
  return filled(seconds, (_, n) => {
    const within = n % (RATE / 2);
    if (!within) notes = [0, 4, 7, 12].map((step) => 220 * 2 ** ((step + Math.floor(12 * random())) / 12));
    const t = n / RATE;
    const chord = notes.reduce((sum, hz) => sum + Math.sin(2 * Math.PI * hz * t) + 0.4 * Math.sin(4 * Math.PI * hz * t), 0);
    const beat = within < 1600 ? (2 * random() - 1) * Math.exp(-within / 400) : 0;
    return chord * (0.6 + 0.4 * Math.exp(-within / 4000)) + Math.sin(2 * Math.PI * 82 * t) + 3 * beat;
  });
};

export const quiet = (seconds, seed) => {
  const random = chance(seed);
  return filled(seconds, () => 0.0005 * (2 * random() - 1));
};

export const ROOMS = { quiet: [quiet, 26], noise10: [noise, 10], noise0: [noise, 0], music10: [music, 10], music0: [music, 0], typing10: [typing, 10], typing0: [typing, 0] };

// Utterances of one to three seconds with gaps of two, after three seconds: {samples, spans: [begin, end] in samples}.
// `around` is what else is heard, as loud as `snr` dB below speech, which `say(seconds, seed)` says.
export const scene = (seconds, around, snr, seed, say = utterance) => {
  const random = chance(seed);
  const samples = scaled(around(seconds, seed + 1), 0.01 / 10 ** (snr / 10));
  const spans = [];
  for (let at = 3 * RATE; ; ) {
    const said = scaled(say(1 + 2 * random(), seed + at), 0.01);
    if (at + said.length + 2 * RATE > samples.length) return { samples, spans };
    said.forEach((x, n) => { samples[at + n] += x; });
    spans.push([at, at + said.length]);
    at += said.length + Math.round(2 * RATE);
  }
};
