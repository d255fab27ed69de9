// Samples on their way: to another rate, into a file, out of a stream of bytes.

const TAPS = 16; // to each side, in samples of the lower rate
const WAV_HEADER = 44; // bytes

// From one rate to a lower or equal one, by a low-pass of a windowed sinc (Hann). Pieces go in as they come.
export class Resampler {
  constructor(from, to) {
    this.step = from / to;
    this.cut = 1 / Math.max(1, this.step);
    this.reach = Math.ceil(TAPS / this.cut);
    this.held = new Float32Array(this.reach);
    this.at = this.reach; // of the next sample, in those that are held
  }

  feed(samples) {
    const all = new Float32Array(this.held.length + samples.length);
    all.set(this.held);
    all.set(samples, this.held.length);
    const out = [];
    for (; this.at + this.reach < all.length; this.at += this.step) out.push(this.value(all, this.at));
    const kept = Math.max(0, Math.floor(this.at) - this.reach);
    this.held = all.slice(kept);
    this.at -= kept;
    return Float32Array.from(out);
  }

  value(all, at) {
    if (this.step === 1) return all[at];
    let sum = 0;
    for (let n = Math.ceil(at - this.reach); n <= at + this.reach; n += 1) {
      const x = (n - at) * this.cut;
      const sinc = x ? Math.sin(Math.PI * x) / (Math.PI * x) : 1;
      sum += all[n] * sinc * this.cut * (0.5 + 0.5 * Math.cos((Math.PI * (n - at)) / (this.reach + 1)));
    }
    return sum;
  }
}

// Samples of one channel as a WAV file of 16 bits: an ArrayBuffer.
export const encodeWav = (samples, rate) => {
  const view = new DataView(new ArrayBuffer(WAV_HEADER + 2 * samples.length));
  const word = (at, text) => [...text].forEach((sign, n) => view.setUint8(at + n, sign.charCodeAt(0)));
  word(0, "RIFF");
  view.setUint32(4, view.byteLength - 8, true);
  word(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  word(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((x, n) => view.setInt16(WAV_HEADER + 2 * n, Math.round(Math.max(-1, Math.min(1, x)) * 32767), true));
  return view.buffer;
};

// Bytes of 16-bit samples, cut anywhere, as samples from -1 to 1.
export class Decoder {
  constructor() {
    this.held = new Uint8Array(0);
  }

  feed(bytes) {
    const all = new Uint8Array(this.held.length + bytes.length);
    all.set(this.held);
    all.set(bytes, this.held.length);
    const whole = all.length - (all.length % 2);
    this.held = all.slice(whole);
    const view = new DataView(all.buffer, 0, whole);
    return Float32Array.from({ length: whole / 2 }, (_, n) => view.getInt16(2 * n, true) / 32768);
  }
}
