// Clauses as sound, one behind the other. `speak(text, signal)` is an async iterator of bytes of 16-bit samples.

import { decibels, levelOf } from "./detector.js";
import { Decoder } from "./sound.js";

export const RATE = 24000; // which the gateway's pcm has
const PIECE = 1200; // samples, 50 ms: less is not worth a buffer of its own
const LEAD_S = 0.05; // before what comes first
const AHEAD_S = 12; // of sound, at which no more is asked for
const DUCKED = 0.2;

export class Speaker {
  constructor(context, speak) {
    this.context = context;
    this.speak = speak;
    this.volume = context.createGain();
    this.ear = context.createAnalyser();
    this.ear.fftSize = 1024;
    this.window = new Float32Array(this.ear.fftSize);
    this.volume.connect(this.ear).connect(context.destination);
    this.begin(() => {});
  }

  // A new answer; `onSound` is called when its first sound is there, with the milliseconds until it is heard.
  begin(onSound) {
    this.leaving = new AbortController();
    this.onSound = onSound;
    this.clauses = [];
    this.nodes = new Set();
    this.at = 0;
    this.isWhole = false;
    this.working = null;
    this.failed = null;
    this.over = new Promise((done) => { this.finish = done; });
    this.duck(false);
    this.context.resume();
  }

  add(clause) {
    this.clauses.push({ ...clause, state: "waiting" });
    this.working ??= this.work(this.leaving.signal);
  }

  // Until all that was added has been heard. Raises what speech failed with.
  async end() {
    this.isWhole = true;
    this.look();
    await this.over;
    if (this.failed) throw this.failed;
  }

  pause() {
    this.context.suspend();
  }

  resume() {
    this.context.resume();
  }

  duck(isDucked) {
    this.volume.gain.setTargetAtTime(isDucked ? DUCKED : 1, this.context.currentTime, 0.01);
  }

  // Silence. The clauses that were heard to their end.
  stop() {
    const heard = this.clauses.slice(0, this.clauses.findIndex((each) => each.state !== "heard") >>> 0);
    this.leaving.abort();
    for (const node of this.nodes) node.stop();
    this.nodes.clear();
    this.finish();
    this.context.resume();
    return heard;
  }

  // Of what is played at this moment, in dB of full scale.
  level() {
    if (this.context.state !== "running" || !this.nodes.size) return decibels(0);
    this.ear.getFloatTimeDomainData(this.window);
    return levelOf(this.window);
  }

  // Asks for the sound of one clause after the other, as soon as there is room.
  async work(signal) {
    try {
      for (;;) {
        const clause = this.clauses.find((each) => each.state === "waiting");
        if (!clause || signal.aborted) break;
        clause.state = "asked";
        if (clause.spoken) await this.play(clause, signal);
        else clause.state = "played";
        this.look();
        await this.room(signal);
      }
    } catch (error) {
      if (!signal.aborted) this.failed = error;
      if (!signal.aborted) this.finish();
    }
    if (this.leaving.signal === signal) this.working = null;
  }

  room(signal) {
    if (this.at - this.context.currentTime < AHEAD_S) return Promise.resolve();
    return new Promise((done) => {
      this.onRoom = () => { if (signal.aborted || this.at - this.context.currentTime < AHEAD_S) done(); };
      signal.addEventListener("abort", done, { once: true });
    });
  }

  async play(clause, signal) {
    const decoder = new Decoder();
    let held = [];
    let last = null;
    const give = () => {
      if (held.length && !signal.aborted) last = this.schedule(Float32Array.from(held));
      held = [];
    };
    for await (const bytes of this.speak(clause.spoken, signal)) {
      for (const x of decoder.feed(bytes)) held.push(x);
      if (held.length >= PIECE) give();
    }
    give();
    if (signal.aborted) return;
    clause.state = "played";
    clause.last = last;
    if (last && !this.nodes.has(last)) clause.last = null; // it is over already
  }

  schedule(samples) {
    const buffer = this.context.createBuffer(1, samples.length, RATE);
    buffer.copyToChannel(samples, 0);
    const node = this.context.createBufferSource();
    node.buffer = buffer;
    node.connect(this.volume);
    const isFirst = !this.at;
    this.at = Math.max(this.at, this.context.currentTime + LEAD_S);
    node.start(this.at);
    this.at += buffer.duration;
    this.nodes.add(node);
    node.onended = () => {
      this.nodes.delete(node);
      this.onRoom?.();
      this.look();
    };
    if (isFirst) this.onSound(1000 * (this.at - buffer.duration - this.context.currentTime + (this.context.outputLatency || 0)));
    return node;
  }

  // What has been heard to its end, in order, and whether that is all.
  look() {
    for (const clause of this.clauses) {
      if (clause.state === "heard") continue;
      if (clause.state !== "played" || (clause.last && this.nodes.has(clause.last))) return;
      clause.state = "heard";
    }
    if (this.isWhole) this.finish();
  }
}
