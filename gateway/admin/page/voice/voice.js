// The page of voice: what is heard and said, and the buttons. What is decided is decided in conversation.js.

import { html, render, useEffect, useRef, useState } from "../vendor/preact.js";
import { Conversation } from "./conversation.js";
import { Detector, RATE } from "./detector.js";
import { answer, servedModels, speak, transcribe } from "./gateway.js";
import { BUDGET_MS, medianOf, totalOf } from "./latency.js";
import { LikelyDetector } from "./likely.js";
import { openContext, openMicrophone, whyLost, whyNot } from "./microphone.js";
import { Session } from "./session.js";
import { hasSilero, openSilero, startWorker } from "./silero_source.js";
import { RATE as SPOKEN_RATE, Speaker } from "./speaker.js";

const HTTPS_PORT = 8443; // unless the gateway says another
const QUIET_DB = -70;
const KINDS = [["generate", "Answers"], ["transcribe", "Hears"], ["speak", "Speaks"]];

const saved = (name, otherwise) => { try { return localStorage.getItem(name) ?? otherwise; } catch { return otherwise; } };
const save = (name, value) => { try { localStorage.setItem(name, value); } catch { /* a private window */ } };
const theme = saved("theme", "system");
const isDark = theme === "dark" || (theme === "system" && matchMedia("(prefers-color-scheme: dark)").matches);
document.documentElement.dataset.theme = isDark ? "dark" : "light";

const conversation = [...crypto.getRandomValues(new Uint8Array(16))].map((each) => each.toString(16).padStart(2, "0")).join("");
const inSeconds = (ms) => `${(ms / 1000).toFixed(2)} s`;

// {detector, close()}. Where Silero cannot be had `told` says so, and the level decides.
const openDetector = async (kind, silenceMs, { told, instead }) => {
  const level = { detector: new Detector({ silenceMs }), close() {} };
  if (kind !== "silero") return level;
  const cannot = (error) => told(`Silero cannot be used (${error.message}); what is speech is told by its level.`);
  const gone = (error) => { cannot(error); instead(new Detector({ silenceMs })); };
  try {
    const source = await openSilero(startWorker(), gone);
    return { detector: new LikelyDetector(source, { silenceMs }), close: () => source.close() };
  } catch (error) {
    cannot(error);
    return level;
  }
};

// `wanted` is read again for every request, so that models may be changed between turns.
const openVoice = async (wanted, { isHandsFree, silenceMs }, { changed, lost, told }) => {
  const contexts = [await openContext(), new AudioContext({ sampleRate: SPOKEN_RATE })];
  const speaker = new Speaker(contexts[1], (text, signal) => speak(text, { model: wanted().speak, voice: wanted().voice }, signal));
  const effects = {
    transcribe: (samples, signal) => transcribe(samples, RATE, { model: wanted().transcribe, language: wanted().language }, signal),
    answer: (messages, signal) => answer(messages, { model: wanted().generate, session: conversation }, signal),
    speaker,
    now: () => performance.now(),
    changed,
  };
  const instead = (detector) => { talk.detector = detector; };
  const hearing = await openDetector(wanted().detector, silenceMs, { told, instead });
  const talk = new Conversation(effects, { isHandsFree, detector: hearing.detector });
  const open = async (onFrame, onLost) => {
    const microphone = await openMicrophone(contexts[0], onFrame, onLost);
    await contexts[0].resume();
    return microphone;
  };
  const session = new Session(talk, open, lost);
  const close = () => {
    session.close();
    hearing.close();
    for (const context of contexts) context.close();
  };
  try {
    await session.listen();
  } catch (error) {
    close();
    throw error;
  }
  return { talk, mute: (isMuted) => session.mute(isMuted), close };
};

const Latency = ({ parts }) => {
  const total = totalOf(parts);
  let at = 0;
  return html`<p class="muted">${inSeconds(total)} from the end of speech to the first sound</p>
    <svg class="parts" viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">${parts.map((part, n) => {
      const [x, width] = [at, (100 * part.ms) / (total || 1)];
      at += width;
      return html`<rect class=${`p${n}`} x=${x} y="0" width=${width} height="1" />`;
    })}</svg>
    <ul class="legend">${parts.map((part, n) => html`<li><span class=${`dot p${n}`} aria-hidden="true"></span>${part.name} ${Math.round(part.ms)} ms</li>`)}</ul>`;
};

const Turn = ({ turn }) => html`<article class=${`turn ${turn.role}`}><h2>${turn.role === "user" ? "You" : "Answer"}</h2>
  <div class="said">${turn.text}</div>
  ${turn.isCut && html`<p class="muted">Interrupted: the rest was not heard, and is not part of the conversation.</p>`}
  ${turn.error && html`<p role="alert" class="bad">${turn.error}</p>`}
  ${turn.parts?.length > 0 && html`<${Latency} parts=${turn.parts} />`}</article>`;

const Level = ({ voice }) => {
  const [level, setLevel] = useState(QUIET_DB);
  useEffect(() => {
    const timer = setInterval(() => setLevel(Math.max(QUIET_DB, voice?.talk.level ?? QUIET_DB)), 100);
    return () => clearInterval(timer);
  }, [voice]);
  return html`<progress class="level" max=${-QUIET_DB} value=${level - QUIET_DB} aria-label="Level of the microphone"></progress>`;
};

const useSpace = (voice) => useEffect(() => {
  if (!voice) return undefined;
  const isOurs = (event) => event.key === " " && !event.ctrlKey && !event.metaKey && !event.altKey && (event.target.classList?.contains("talk") || !/^(INPUT|TEXTAREA|SELECT|BUTTON|A|SUMMARY)$/.test(event.target.tagName));
  const down = (event) => { if (isOurs(event)) { event.preventDefault(); if (!event.repeat) voice.talk.press(); } };
  const up = (event) => { if (event.key === " " && voice.talk.isTalking) { event.preventDefault(); voice.talk.release(); } };
  const away = () => voice.talk.release();
  addEventListener("keydown", down);
  addEventListener("keyup", up);
  addEventListener("blur", away);
  return () => { removeEventListener("keydown", down); removeEventListener("keyup", up); removeEventListener("blur", away); };
}, [voice]);

const Choices = ({ models, wanted, set }) => html`<details open=${!wanted.generate || !wanted.transcribe || !wanted.speak}><summary>Models and voice</summary><div class="fields">
  ${KINDS.map(([kind, name]) => html`<label>${name} <select value=${wanted[kind]} onChange=${set(kind)}>${!wanted[kind] && html`<option value="">none is served</option>`}${models[kind].map((each) => html`<option value=${each}>${each}</option>`)}</select></label>`)}
  <label>Voice <input value=${wanted.voice} placeholder="the model's" onInput=${set("voice")} /></label>
  <label>Language <input value=${wanted.language} placeholder="found by the model" onInput=${set("language")} /></label>
  <label>Speech is told by <select value=${wanted.detector} onChange=${set("detector")}><option value="level">its level</option><option value="silero">Silero's model (14 MB)</option></select></label>
  <label>Silence that ends a turn, ms <input type="number" min="300" max="1500" step="50" value=${wanted.silence} onInput=${set("silence")} /></label></div></details>`;

const Refusal = ({ why }) => html`<p role="alert" class="notice bad">${why.text}${why.address && html` <a href=${why.address}>${why.address}</a>`}</p>`;

const Buttons = ({ voice, onEnd, setFailed }) => {
  const { talk } = voice;
  const mute = () => voice.mute(!talk.isMuted).then(() => setFailed(""), (error) => setFailed(error.message));
  const hold = (event) => {
    if (event.button) return;
    event.preventDefault();
    event.target.setPointerCapture?.(event.pointerId);
    talk.press();
  };
  const release = () => talk.release();
  // Of what cannot hold a button: Enter, or a screen reader. Its second click lets go.
  const click = (event) => { if (!event.detail) { if (talk.isTalking) talk.release(); else talk.press(); } };
  return html`<p class="row">
    <button type="button" class="primary talk" aria-pressed=${String(talk.isTalking)} disabled=${talk.isMuted} onPointerDown=${hold} onPointerUp=${release} onPointerCancel=${release} onClick=${click}>Talk (hold, or the space bar)</button>
    <button type="button" aria-pressed=${String(talk.isMuted)} onClick=${mute}>${talk.isMuted ? "Unmute" : "Mute"}</button>
    <button type="button" disabled=${!talk.running} onClick=${() => talk.stop()}>Stop</button>
    <button type="button" disabled=${Boolean(talk.running) || !talk.turns.length} onClick=${() => talk.repeat()}>Repeat</button>
    <button type="button" onClick=${onEnd}>End</button></p>`;
};

const Talking = ({ voice, isHandsFree, setHandsFree, onEnd, setFailed }) => {
  const { talk } = voice;
  const end = useRef();
  useSpace(voice);
  useEffect(() => end.current?.scrollIntoView({ block: "nearest" }), [talk.turns.length]);
  const median = medianOf(talk.turns.map((turn) => turn.parts || []));
  return html`<div class="controls"><p class="said-now" role="status">${talk.state[0].toUpperCase() + talk.state.slice(1)}</p>
    <${Buttons} voice=${voice} onEnd=${onEnd} setFailed=${setFailed} />
    <p class="row"><label><input type="checkbox" checked=${isHandsFree} onChange=${(event) => setHandsFree(event.target.checked)} /> Hands-free</label> <${Level} voice=${voice} /></p></div>
    ${talk.interruption.isHalfDuplex && html`<p class="notice">This browser does not take the answer's echo out of the microphone: while an answer is spoken, only the button interrupts it.</p>`}
    <div class="turns">${talk.turns.map((turn, index) => html`<${Turn} key=${index} turn=${turn} />`)}</div>
    ${!talk.turns.length && html`<p class="empty">Nothing was said yet.</p>`}
    ${median !== undefined && html`<p class="median">Median ${inSeconds(median)}; the aim is ${inSeconds(BUDGET_MS)}, on a Mac of 32 GB.</p>`}<div ref=${end}></div>`;
};

// What there is to talk with, and why there is nothing.
const useServed = (onError) => {
  const [served, setServed] = useState({ models: null, why: null });
  useEffect(() => {
    const look = async () => {
      const said = await (await fetch("/api/session")).json();
      if (!said.signed_in) throw new Error("Sign in at the console first.");
      if (said.role === "viewer") throw new Error("A viewer's key has no voice.");
      const about = await fetch("/api/about").then((each) => (each.ok ? each.json() : null));
      const httpsPort = about?.settings.MLX_GATEWAY_HTTPS_PORT || HTTPS_PORT;
      const why = whyNot({ isSecureContext, mediaDevices: navigator.mediaDevices, hostname: location.hostname, httpsPort });
      setServed({ models: await servedModels(), why });
    };
    look().catch(onError);
  }, []);
  return served;
};

// What was chosen, as far as it is served, and else the first that is.
const useChoices = (models) => {
  const [chosen, setChosen] = useState(() => { try { return JSON.parse(saved("voice", "{}")); } catch { return {}; } });
  const pick = (kind) => (models?.[kind].includes(chosen[kind]) ? chosen[kind] : models?.[kind][0] || "");
  const wanted = { voice: "", language: "", silence: 600, detector: "level", ...chosen, ...Object.fromEntries(KINDS.map(([kind]) => [kind, pick(kind)])) };
  const set = (name) => (event) => {
    const now = { ...chosen, [name]: event.target.value };
    setChosen(now);
    save("voice", JSON.stringify(now));
  };
  return [wanted, set];
};

// Whether Silero is wanted and not there.
const useMissing = (detector) => {
  const [isMissing, setMissing] = useState(false);
  useEffect(() => {
    setMissing(false);
    if (detector === "silero") hasSilero().then((isThere) => setMissing(!isThere), () => {});
  }, [detector]);
  return isMissing;
};

const Missing = () => html`<p role="status" class="notice">Silero's files are not on this gateway. <code>mlx-gateway detector</code>, on its Mac, fetches them; until then what is speech is told by its level.</p>`;

const Voice = () => {
  const [, setTick] = useState(0);
  const [failed, setFailed] = useState("");
  const [voice, setVoice] = useState(null);
  const [isStarting, setStarting] = useState(false);
  const [isHandsFree, setHandsFree] = useState(saved("hands-free", "on") === "on");
  const fail = (error) => setFailed(error.message);
  const changed = () => setTick((tick) => tick + 1);
  const { models, why } = useServed(fail);
  const [wanted, set] = useChoices(models);
  const isMissing = useMissing(wanted.detector);
  const [note, setNote] = useState("");
  const latest = useRef({});
  latest.current = wanted;
  useEffect(() => () => voice?.close(), [voice]);
  useEffect(() => {
    voice?.talk.setHandsFree(isHandsFree);
    save("hands-free", isHandsFree ? "on" : "off");
    changed();
  }, [voice, isHandsFree]);

  const start = async () => {
    setFailed("");
    setNote("");
    setStarting(true);
    const silenceMs = Math.min(1500, Math.max(300, Number(wanted.silence) || 600));
    const lost = async () => setFailed(await whyLost(navigator.permissions));
    const options = { isHandsFree, silenceMs };
    try { setVoice(await openVoice(() => latest.current, options, { changed, lost, told: setNote })); } catch (error) { fail(error); }
    setStarting(false);
  };
  const isReady = models && KINDS.every(([kind]) => wanted[kind]);
  return html`<header><strong>mlx-gateway</strong> <a href="/#/chat">Console</a></header><main><h1>Voice</h1>
    ${why && html`<${Refusal} why=${why} />`} ${failed && html`<p role="alert" class="notice bad">${failed}</p>`}
    ${!models && !failed && html`<p role="status">Loading</p>`}
    ${isMissing && html`<${Missing} />`} ${note && !isMissing && html`<p role="status" class="notice">${note}</p>`}
    ${models && html`<${Choices} models=${models} wanted=${wanted} set=${set} />`}
    ${models && !isReady && html`<p class="empty">Voice needs three models: one that answers, one with the engine <code>transcription</code>, and one with the engine <code>speech</code>.</p>`}
    ${isReady && !why && !voice && html`<p><button type="button" class="primary talk" disabled=${isStarting} onClick=${start}>${isStarting ? "Starting" : "Start"}</button></p>`}
    ${voice && html`<${Talking} voice=${voice} isHandsFree=${isHandsFree} setHandsFree=${setHandsFree} onEnd=${() => setVoice(null)} setFailed=${setFailed} />`}</main>`;
};

const root = document.getElementById("voice");
root.textContent = "";
render(html`<${Voice} />`, root);
