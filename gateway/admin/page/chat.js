import { Act, copy, count, html, seconds, useEffect, useRef, useState } from "./ui.js";
import { call } from "./live.js";
import { DIALECTS, events, parseTools } from "./dialects.js";

const MOST_IMAGES = 20;
const MOST_IMAGE_BYTES = 10 * 2 ** 20;
const EXAMPLES = {
  weather: { name: "get_weather", description: "The weather of a place now.", input_schema: { type: "object", properties: { place: { type: "string" } }, required: ["place"] }, answer: "Sunny, 21 degrees." },
  search: { name: "search_files", description: "Lines of the project's files in which a text stands.", input_schema: { type: "object", properties: { text: { type: "string" }, most: { type: "integer" } }, required: ["text"] }, answer: "src/main.py:12: the text" },
};

const imageOf = (file) => new Promise((done, fail) => {
  if (!file.type.startsWith("image/")) fail(new Error(`${file.name} is no image`));
  else if (file.size > MOST_IMAGE_BYTES) fail(new Error(`${file.name} is larger than ${MOST_IMAGE_BYTES / 2 ** 20} MiB`));
  const reader = new FileReader();
  reader.onload = () => done({ type: file.type, name: file.name || "pasted image", data: reader.result.split(",")[1] });
  reader.onerror = () => fail(new Error(`${file.name} cannot be read`));
  reader.readAsDataURL(file);
});

const Images = ({ images, onRemove }) => images?.length > 0 && html`<ul class="images">${images.map((each, index) => html`<li><img src=${`data:${each.type};base64,${each.data}`} alt=${each.name} />
  ${onRemove && html`<button type="button" aria-label=${`Remove ${each.name}`} onClick=${() => onRemove(index)}>Remove</button>`}</li>`)}</ul>`;

const pretty = (text) => { try { return JSON.stringify(JSON.parse(text), null, 2); } catch { return text; } };

// What the tools that were called have answered: a person says it.
const Results = ({ calls, tools, onGive }) => {
  const [said, setSaid] = useState(calls.map((call) => ({ text: tools.find((each) => each.name === call.name)?.answer || "", failed: false })));
  const set = (index, more) => setSaid(said.map((each, at) => (at === index ? { ...each, ...more } : each)));
  const give = (event) => { event.preventDefault(); onGive(calls.map((call, index) => ({ id: call.id, name: call.name, ...said[index] }))); };
  return html`<form class="card results" aria-label="Results of tools" onSubmit=${give}>${calls.map((call, index) => html`
    <label>Result of ${call.name}<textarea rows="2" value=${said[index].text} onInput=${(event) => set(index, { text: event.target.value })}></textarea></label>
    <label><input type="checkbox" checked=${said[index].failed} onChange=${(event) => set(index, { failed: event.target.checked })} /> It failed</label>`)}
    <p class="row"><button class="primary">Give ${calls.length > 1 ? "the results" : "the result"}</button></p></form>`;
};

const Figures = ({ turn }) => turn.tokens && html`<p class="muted">${count(turn.tokens.prompt)} tokens in, ${count(turn.tokens.cached ?? 0)} cached · ${count(turn.tokens.out)} out · first after ${seconds(turn.first_s)} · ${turn.total_s > turn.first_s ? `${Math.round(turn.tokens.out / (turn.total_s - turn.first_s))} tok/s` : ""}${turn.end ? ` · ended: ${turn.end}` : ""}</p>`;

const NAMES = { user: "You", tool: "Tools" };

const Turn = ({ turn, versions, onGo, onEdit, onRetry }) => {
  const at = versions.indexOf(turn.id);
  return html`<article class=${`turn ${turn.role}`}><h3>${NAMES[turn.role] || turn.model}</h3>
  ${turn.thinking && html`<details><summary>Reasoning${turn.thought_s ? `, ${seconds(turn.thought_s)}` : ""}</summary><div class="said">${turn.thinking}</div></details>`}
  <${Images} images=${turn.images} />
  ${turn.text && html`<div class="said">${turn.text}</div>`}
  ${turn.calls?.map((call) => html`<div class="card call"><p>Calls <strong>${call.name}</strong></p><pre tabindex="0" aria-label=${`What ${call.name} is given`}>${pretty(call.input)}</pre></div>`)}
  ${turn.results?.map((each) => html`<p class=${each.failed ? "bad" : ""}>${each.name}${each.failed ? " failed" : ""}: <span class="said">${each.text}</span></p>`)}
  ${turn.error && html`<p role="alert" class="bad">${turn.error}${turn.request && html` <a href=${`#/requests/${turn.request}`}>Its request</a>`}</p>`}
  <${Figures} turn=${turn} />
  <p class="row">${versions.length > 1 && html`<span class="row versions"><button type="button" aria-label="Version before" disabled=${at === 0} onClick=${() => onGo(versions[at - 1])}>‹</button>
      <span>version ${at + 1} of ${versions.length}</span><button type="button" aria-label="Version after" disabled=${at === versions.length - 1} onClick=${() => onGo(versions[at + 1])}>›</button></span>`}
    ${onEdit && html`<button type="button" onClick=${onEdit}>Edit from here</button>`}${onRetry && html`<button type="button" onClick=${onRetry}>Ask again</button>`}</p></article>`;
};

// Turns are a tree: an edited turn is one more child of what came before it, and `chosen` is which child is shown.
const wayOf = (turns, chosen) => {
  const way = [];
  let above = "";
  for (;;) {
    const below = Object.values(turns).filter((each) => each.above === above).map((each) => each.id);
    if (!below.length) return way;
    const id = below.includes(chosen[above]) ? chosen[above] : below.at(-1);
    way.push({ turn: turns[id], versions: below });
    above = id;
  }
};

const Setup = ({ settings, set, setSettings, models, profiles, tools, toolError, children }) => {
  const dialect = DIALECTS[settings.dialect];
  const add = (event) => {
    const made = EXAMPLES[event.target.value];
    event.target.value = "";
    if (made && !toolError) setSettings({ ...settings, tools: JSON.stringify([...(settings.tools.trim() ? [].concat(JSON.parse(settings.tools)) : []), made], null, 2) });
  };
  return html`<details><summary>${settings.model || models[0] || "No model"}${settings.profile && `:${settings.profile}`}, ${dialect.name}${tools.length ? `, ${tools.length} ${tools.length > 1 ? "tools" : "tool"}` : ""}</summary><div class="fields">
      <label>Dialect <select value=${settings.dialect} onChange=${set("dialect")}>${Object.entries(DIALECTS).map(([id, each]) => html`<option value=${id}>${each.name}</option>`)}</select></label>
      <label>Model <input list="models" value=${settings.model} placeholder=${models[0] || ""} onInput=${set("model")} /></label><datalist id="models">${models.map((each) => html`<option value=${each} />`)}</datalist>
      <label>Profile <input list="profiles" value=${settings.profile} placeholder="none" onInput=${set("profile")} /></label><datalist id="profiles">${profiles.map((each) => html`<option value=${each} />`)}</datalist>
      <label>System <textarea rows="2" value=${settings.system} onInput=${set("system")}></textarea></label>
      <label>Most tokens <input type="number" min="1" value=${settings.most} onInput=${set("most")} /></label>
      <label>Temperature <input type="number" min="0" max="2" step="0.1" value=${settings.temperature} placeholder="the model's" onInput=${set("temperature")} /></label>
      <label>Top p <input type="number" min="0" max="1" step="0.05" value=${settings.topP} placeholder="the model's" onInput=${set("topP")} /></label>
      ${settings.dialect === "anthropic" && html`<label>Top k <input type="number" min="1" value=${settings.topK} placeholder="the model's" onInput=${set("topK")} /></label>`}
      <label>Example of a tool <select onChange=${add}><option value="">Add one</option>${Object.keys(EXAMPLES).map((name) => html`<option value=${name}>${name}</option>`)}</select></label></div>
      <label>Tools as JSON, in either vendor's form; <code>answer</code> is what the result is to begin with<textarea class="tools" rows=${settings.tools ? 8 : 2} spellcheck="false" value=${settings.tools} aria-invalid=${toolError ? "true" : undefined} onInput=${set("tools")}></textarea></label>
      ${toolError && html`<p role="alert" class="bad">These tools cannot be used: ${toolError}</p>`}
      ${children}</details>`;
};

const CopyAs = ({ dialect, body }) => html`<p class="row">Copy as ${["curl", "Python", "TypeScript"].map((language) => html`<${Act} run=${async () => { copy((await import("./code.js")).codeOf(language, dialect, body)); return "copied"; }}>${language}<//>`)}</p>`;

const toolsOf = (text) => { try { return [parseTools(text), ""]; } catch (error) { return [[], error.message]; } };

export const Chat = ({ live, role }) => {
  const known = live.states.models ? live.states.models.models : null;
  const [mine, setMine] = useState([]);
  const [unread, setUnread] = useState("");
  useEffect(() => {
    if (role === "user") call("GET", "/v1/models").then((said) => setMine(said.data.map((each) => each.id)), (failed) => setUnread(failed.message));
  }, [role]);
  const models = known ? Object.keys(known) : mine;
  const [settings, setSettings] = useState({ dialect: "anthropic", model: "", profile: "", system: "", most: 1024, temperature: "", topP: "", topK: "", tools: "" });
  const [turns, setTurns] = useState({});
  const [chosen, setChosen] = useState({});
  const [text, setText] = useState("");
  const [images, setImages] = useState([]);
  const [imageError, setImageError] = useState("");
  const [edited, setEdited] = useState(null); // the turn that is said anew
  const [stop, setStop] = useState(null);
  const next = useRef(1);
  const box = useRef();
  const model = settings.model || models[0] || "";
  const dialect = DIALECTS[settings.dialect];
  const [tools, toolError] = toolsOf(settings.tools);
  const set = (name) => (event) => setSettings({ ...settings, [name]: event.target.value });
  const going = useRef();
  useEffect(() => () => going.current?.abort(), []);
  const way = wayOf(turns, chosen);
  const last = way.at(-1)?.turn;
  const bodyOf = (past) => dialect.body({ ...settings, model: settings.profile ? `${model}:${settings.profile}` : model, tools, turns: past, most: Number(settings.most) || 1024 });
  const put = (turn) => {
    setTurns((before) => ({ ...before, [turn.id]: turn }));
    setChosen((before) => ({ ...before, [turn.above]: turn.id }));
  };
  const made = (turn) => ({ ...turn, id: String(next.current++) });

  const ask = async (past) => {
    const leaving = new AbortController();
    going.current = leaving;
    setStop(leaving);
    const answer = made({ role: "assistant", above: past.at(-1).id, model, text: "", thinking: "", calls: [] });
    const began = performance.now();
    const since = () => (performance.now() - began) / 1000;
    let usage = {};
    let frame = 0;
    const show = () => put({ ...answer });
    const note = (said) => {
      if (answer.first_s === undefined && (said.text || said.thinking)) answer.first_s = since();
      if (said.thinking) answer.thinking += said.thinking;
      if (said.text) {
        if (answer.thinking && answer.thought_s === undefined) answer.thought_s = since() - answer.first_s;
        answer.text += said.text;
      }
      if (said.usage) usage = { ...usage, ...said.usage };
      if (said.end) answer.end = said.end;
      cancelAnimationFrame(frame);
      frame = requestAnimationFrame(show);
    };
    show();
    try {
      const reply = await fetch(dialect.path, { method: "POST", signal: leaving.signal, body: JSON.stringify(bodyOf(past)), headers: { "content-type": "application/json", ...dialect.headers } });
      answer.request = reply.headers.get("request-id");
      if (!reply.ok) throw new Error((await reply.json().catch(() => null))?.error?.message || `the gateway answered ${reply.status}`);
      for await (const event of events(reply)) dialect.read(event, answer, note);
      if (!answer.end) throw new Error("the answer broke off");
    } catch (error) {
      if (error.name === "AbortError") answer.end = "stopped";
      else answer.error = error.message;
    }
    cancelAnimationFrame(frame);
    answer.total_s = since();
    answer.first_s ??= answer.total_s;
    if (Object.keys(usage).length) answer.tokens = dialect.tokens(usage);
    answer.isOver = true;
    setStop(null);
    show();
  };
  const past = (id) => { const found = []; for (let turn = turns[id]; turn; turn = turns[turn.above]) found.unshift(turn); return found; };
  const say = (turn) => { put(turn); ask([...past(turn.above), turn]); };
  const send = (event) => {
    event.preventDefault();
    if (!(text.trim() || images.length) || stop || !model || toolError) return;
    const turn = made({ role: "user", above: edited ? edited.above : last?.id || "", text, images });
    setText("");
    setImages([]);
    setEdited(null);
    say(turn);
  };
  const take = async (files, event) => {
    if (!files.length) return;
    event.preventDefault();
    const read = await Promise.allSettled([...files].map(imageOf));
    const found = read.filter((each) => each.value).map((each) => each.value);
    setImages((before) => { // others may have been read meanwhile
      setImageError(before.length + found.length > MOST_IMAGES ? `${MOST_IMAGES} images at the most` : read.find((each) => each.reason)?.reason.message || "");
      return [...before, ...found].slice(0, MOST_IMAGES);
    });
  };
  const edit = (turn) => { setText(turn.text); setImages(turn.images); setEdited(turn); box.current.focus(); };
  const isBlind = images.length > 0 && Object.values(known?.[model]?.workers || {}).some((each) => !each.images);
  return html`<h1>Chat</h1><p><a class="rowlink" href="/console/v/voice.html">Voice</a></p>
    <${Setup} settings=${settings} set=${set} setSettings=${setSettings} models=${models} profiles=${live.states.routing?.profiles || []} tools=${tools} toolError=${toolError}>
      <${CopyAs} dialect=${dialect} body=${bodyOf(way.map((each) => each.turn).slice(0, last?.role === "assistant" ? -1 : undefined))} /><//>
    <div class="turns" aria-live="off">${way.map(({ turn, versions }) => html`<${Turn} key=${turn.id} turn=${turn} versions=${versions} onGo=${(id) => setChosen({ ...chosen, [turn.above]: id })}
      onEdit=${!stop && turn.role === "user" ? () => edit(turn) : null}
      onRetry=${!stop && turn.role === "assistant" && turn === last ? () => ask(past(turn.above)) : null} />`)}
      ${last?.isOver && !last.error && last.end !== "stopped" && last.calls?.length > 0 && html`<${Results} key=${last.id} calls=${last.calls} tools=${tools} onGive=${(results) => say(made({ role: "tool", above: last.id, results }))} />`}</div>
    ${unread && html`<p role="alert" class="notice bad">What is served could not be read: ${unread}</p>`}
    ${!way.length && !unread && html`<p class="empty">${models.length ? "Nothing was said yet." : "No model is served: load one first."}</p>`}
    <form onSubmit=${send} onDragOver=${(event) => event.preventDefault()} onDrop=${(event) => take(event.dataTransfer.files, event)}>
      ${edited && html`<p class="notice">Said anew, as one more version: what followed the other stays there. <button type="button" onClick=${() => { setEdited(null); setText(""); setImages([]); }}>Leave it</button></p>`}
      <label>Message<textarea ref=${box} rows="3" value=${text} onInput=${(event) => setText(event.target.value)} onPaste=${(event) => take(event.clipboardData.files, event)}
      onKeyDown=${(event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event); }}></textarea></label>
      <${Images} images=${images} onRemove=${(index) => setImages(images.filter((_, at) => at !== index))} />
      ${imageError && html`<p role="alert" class="bad">${imageError}</p>`}
      ${isBlind && html`<p class="muted">${model} was not found to read images.</p>`}
      <p class="row">${stop ? html`<button type="button" onClick=${() => stop.abort()}>Stop</button>` : html`<button class="primary">Send</button>`}
      <label class="row">Images, also pasted or dropped <input type="file" accept="image/*" multiple onChange=${(event) => { take(event.target.files, event); event.target.value = ""; }} /></label>
      <button type="button" onClick=${() => { stop?.abort(); setTurns({}); setChosen({}); setEdited(null); }}>New</button></p></form>`;
};
