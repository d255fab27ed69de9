// A conversation, decided: frames of the microphone in, what is asked of the gateway and of the loudspeaker out. All
// effects are given, so that it runs without a browser.
//
// `effects`: `transcribe(samples, signal)` -> text; `answer(messages, signal)`, an async iterator of text; `speaker` as in
// speaker.js; `now()` in milliseconds; `changed()`.

import { ClauseCutter } from "./clauses.js";
import { Detector, FRAME_MS } from "./detector.js";
import { ECHO_MS, Interruption } from "./interruption.js";
import { partsOf } from "./latency.js";
import { Recording } from "./recording.js";

const DOUBT_MS = 2000; // of a held answer, after which it goes on while it is still not known whether somebody spoke
const LEAST_HELD_MS = 200; // of the button; less was a slip

// What was said without what a model of transcripts adds where there was no speech: "[BLANK_AUDIO]", "(music)", "♪".
export const wordsOf = (text) => {
  const said = text.replace(/\[[^\]]*\]|\([^)]*\)|[♪*]/g, " ").replace(/\s+/g, " ").trim();
  return /[\p{L}\p{N}]/u.test(said) ? said : "";
};

// Turns as messages: those of one side that follow each other are one.
export const messagesOf = (turns) => {
  const found = [];
  for (const { role, text } of turns.filter((turn) => turn.text.trim())) {
    if (found.at(-1)?.role === role) found.at(-1).content += `\n${text}`;
    else found.push({ role, content: text });
  }
  return found[0]?.role === "assistant" ? found.slice(1) : found;
};

export class Conversation {
  constructor(effects, { isHandsFree = true, isHalfDuplex = false, detector = new Detector() } = {}) {
    this.effects = effects;
    this.turns = []; // {role, text, marks, parts, error, isCut}
    this.detector = detector;
    this.recording = new Recording();
    this.interruption = new Interruption({ isHalfDuplex });
    this.isHandsFree = isHandsFree;
    this.isMuted = false;
    this.isTalking = false; // the button is held
    this.isHeld = false; // the answer, until it is known whether somebody spoke
    this.doubtMs = 0;
    this.echoMs = 0; // for which the answer that has ended may still be heard
    this.level = -100;
    this.running = null; // the answer
    this.early = null; // a transcript that is made before it is known that speech has ended
    this.transcribing = 0;
    this.line = Promise.resolve();
    this.closing = new AbortController();
  }

  get state() {
    if (this.isTalking || this.recording.isOn) return "hearing you";
    if (this.transcribing) return "transcribing";
    if (this.running) return this.running.hasSound ? "speaking" : "waiting";
    return this.isMuted ? "muted" : this.isHandsFree ? "listening" : "ready";
  }

  // --- what is heard ------------------------------------------------------------------------------------------------

  hear(frame) {
    const heard = this.detector.feed(frame);
    this.level = heard.level;
    if (this.isMuted) return;
    this.recording.feed(frame);
    if (this.isTalking) {
      if (this.recording.isFull) this.release();
      return;
    }
    if (this.isHandsFree) this.listen(heard);
    this.fade();
    this.doubt();
  }

  listen(heard) {
    if (this.recording.isOn) this.goOn(heard.event);
    else if ((this.running?.hasSound || this.echoMs) && !this.isHeld) this.watch(heard);
    else if (heard.event === "began") this.begin();
  }

  // While nothing is played: whoever is heard speaks.
  begin() {
    this.recording.begin();
    if (this.running) this.hold();
    this.effects.changed();
  }

  // What the detector took for speech while an answer was played may have been its echo, and was not listened to. Who
  // speaks when that is over is found anew.
  fade() {
    if (!this.echoMs || this.running) return;
    this.echoMs = Math.max(0, this.echoMs - FRAME_MS);
    if (this.echoMs || this.recording.isOn) return;
    this.detector.end();
    if (this.interruption.isHalfDuplex) this.recording.drop(); // its last half second is the answer's own
  }

  // While an answer is played: it may be its echo.
  watch({ level, floor, isVoice }) {
    const told = this.interruption.feed({ level, floor, isVoice, output: this.effects.speaker.level() });
    if (told === "duck" || told === "release") this.effects.speaker.duck(told === "duck");
    if (told !== "stop") return;
    this.detector.begin();
    this.begin();
  }

  goOn(event) {
    if (event === "paused") this.early = this.transcript(this.recording.copy());
    if (event === "resumed") this.dropEarly();
    if (event === "ended" || this.recording.isFull) this.endSpeech(this.effects.now() - this.detector.silentMs);
  }

  endSpeech(speech) {
    const early = this.early;
    this.early = null;
    const samples = this.recording.take();
    this.detector.end(); // whoever speaks for longer than is recorded at once begins anew
    this.doubtMs = 0;
    this.take({ speech, ended: this.effects.now() }, early ?? this.transcript(samples));
  }

  // --- the button ---------------------------------------------------------------------------------------------------

  press() {
    if (this.isTalking || this.isMuted) return;
    this.dropEarly();
    if (this.running) this.hold();
    this.interruption.goOn(); // whatever comes of it, it was not the echo
    this.isTalking = true;
    this.pressed = this.recording.isOn ? -Infinity : this.effects.now();
    this.recording.begin();
    this.effects.changed();
  }

  release() {
    if (!this.isTalking) return;
    this.isTalking = false;
    const now = this.effects.now();
    const samples = this.recording.take();
    this.detector.end();
    this.doubtMs = 0;
    if (now - this.pressed >= LEAST_HELD_MS) this.take({ speech: now, ended: now }, this.transcript(samples));
    else this.letGo();
    this.effects.changed();
  }

  mute(isMuted) {
    this.isMuted = isMuted;
    this.isTalking = false;
    this.forget();
    this.effects.changed();
  }

  setHandsFree(isHandsFree) {
    if (this.isHandsFree === isHandsFree) return;
    this.isHandsFree = isHandsFree;
    if (!this.isTalking) this.forget();
    this.effects.changed();
  }

  // What is being said is not listened to. What was said before is still transcribed.
  forget() {
    this.dropEarly();
    this.recording.drop();
    this.detector.end();
    this.letGo(false);
  }

  // Nothing more is asked or said.
  close() {
    this.closing.abort();
    this.mute(true);
    this.stop();
  }

  // --- an answer that is held ---------------------------------------------------------------------------------------

  hold() {
    this.isHeld = true;
    this.effects.speaker.pause();
  }

  // The answer goes on. `wasNobody`: as is known now, and not only supposed.
  letGo(wasNobody = true) {
    if (!this.isHeld) return;
    this.isHeld = false;
    if (wasNobody) this.interruption.falseAlarm();
    else this.interruption.goOn();
    this.effects.speaker.duck(false);
    this.effects.speaker.resume();
  }

  doubt() {
    if (!this.isHeld || this.recording.isOn) return;
    this.doubtMs += FRAME_MS;
    if (this.doubtMs >= DOUBT_MS) this.letGo(false);
  }

  // --- turns --------------------------------------------------------------------------------------------------------

  // {text: a promise, leave()}. That it fails is told to whoever awaits it.
  transcript(samples) {
    const leaving = new AbortController();
    const leave = () => leaving.abort();
    this.closing.signal.addEventListener("abort", leave);
    const text = this.effects.transcribe(samples, leaving.signal);
    text.catch(() => {}).then(() => this.closing.signal.removeEventListener("abort", leave));
    return { text, leave };
  }

  dropEarly() {
    this.early?.leave();
    this.early = null;
  }

  // One turn after another, as they were said.
  take(marks, transcript) {
    this.transcribing += 1;
    this.line = this.line.then(() => this.turn(marks, transcript));
    this.effects.changed();
    return this.line;
  }

  async turn(marks, transcript) {
    const said = { role: "user", text: "", marks };
    try {
      said.text = wordsOf(await transcript.text);
    } catch (error) {
      said.error = error.message;
    }
    this.transcribing -= 1;
    if (this.closing.signal.aborted) return;
    marks.transcribed = this.effects.now();
    if (said.text) {
      this.stop();
      this.turns.push(said);
      this.reply(marks);
    } else {
      if (said.error) this.turns.push(said);
      this.letGo();
    }
    this.effects.changed();
  }

  // Ends the answer, whatever it does; what was heard of it stays.
  stop() {
    const running = this.running;
    if (!running) return;
    this.running = null;
    this.isHeld = false;
    running.leaving.abort();
    this.keep(running, this.effects.speaker.stop(), true);
    this.fallSilent(running);
    this.effects.changed();
  }

  // Whoever spoke over the answer's end goes on to be watched.
  fallSilent({ hasSound }) {
    this.echoMs = hasSound ? ECHO_MS : 0;
    if (this.interruption.state === "stopped") this.interruption.goOn();
  }

  keep(running, heard, isCut) {
    running.turn.written = running.turn.text;
    const text = heard.map((clause) => clause.text).join("").trimEnd();
    running.turn.isCut = isCut && !(running.isWhole && text === running.turn.text.trimEnd());
    if (running.turn.isCut) running.turn.text = text && `${text}…`;
  }

  reply(marks) {
    const messages = messagesOf(this.turns);
    return this.say((signal) => this.effects.answer(messages, signal), marks);
  }

  // Says something again, which is no new turn of the model's.
  repeat() {
    const last = this.turns.findLast((turn) => turn.role === "assistant");
    if (!last || this.running) return;
    this.say(async function* again() { yield last.written || last.text; }, {}, { ...last });
  }

  async say(ask, marks, turn) {
    const leaving = new AbortController();
    const running = { leaving, turn: turn || { role: "assistant", text: "", marks }, hasSound: false };
    this.running = running;
    this.interruption.begin();
    this.echoMs = 0;
    if (!turn) this.turns.push(running.turn);
    else running.turn.text = "";
    this.effects.changed();
    try {
      await this.play(ask, running, marks);
      if (this.running === running) this.keep(running, [], false);
    } catch (error) {
      if (this.running === running) {
        running.turn.error = error.message;
        this.keep(running, this.effects.speaker.stop(), Boolean(running.turn.text));
      }
    }
    if (this.running === running) {
      this.running = null;
      this.isHeld = false;
      this.fallSilent(running);
    }
    leaving.abort();
    this.effects.changed();
  }

  async play(ask, running, marks) {
    const { speaker, now, changed } = this.effects;
    const cutter = new ClauseCutter();
    speaker.begin((inMs = 0) => {
      running.hasSound = true;
      marks.sound = now() + inMs;
      running.turn.parts = partsOf(marks);
      changed();
    });
    const tell = (clauses) => {
      for (const clause of clauses) {
        if (clause.spoken) marks.clause ??= now();
        speaker.add(clause);
      }
    };
    for await (const text of ask(running.leaving.signal)) {
      if (this.running !== running) return;
      marks.token ??= now();
      running.turn.text += text;
      tell(cutter.feed(text));
      changed();
    }
    if (this.running !== running) return;
    running.isWhole = true;
    tell(cutter.end());
    await speaker.end();
  }
}
