import { Copy, Topic, count, html, seconds, useEffect, useRef, useState } from "./ui.js";

// Server-sent events of a fetch: [name, data] each.
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (data && data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

const DIALECTS = {
  anthropic: {
    name: "Anthropic Messages",
    path: "/v1/messages",
    headers: { "anthropic-version": "2023-06-01" },
    body: ({ model, system, turns, most, temperature }) => ({ model, max_tokens: most, stream: true, thinking: { type: "adaptive" }, ...(system && { system }), ...(temperature !== "" && { temperature: Number(temperature) }), messages: turns.map(({ role, text }) => ({ role, content: text })) }),
    read: (event, note) => {
      if (event.type === "message_start") note({ usage: event.message.usage });
      if (event.type === "content_block_delta") note({ text: event.delta.text, thinking: event.delta.thinking });
      if (event.type === "content_block_start" && event.content_block.type === "tool_use") note({ text: `\n[calls ${event.content_block.name}]` });
      if (event.type === "message_delta") note({ usage: event.usage, end: event.delta.stop_reason });
      if (event.type === "error") throw new Error(event.error.message);
    },
    tokens: (usage) => ({ prompt: (usage.input_tokens || 0) + (usage.cache_read_input_tokens || 0) + (usage.cache_creation_input_tokens || 0), cached: usage.cache_read_input_tokens, out: usage.output_tokens }),
  },
  openai: {
    name: "OpenAI Chat Completions",
    path: "/v1/chat/completions",
    headers: {},
    body: ({ model, system, turns, most, temperature }) => ({ model, max_tokens: most, stream: true, stream_options: { include_usage: true }, ...(temperature !== "" && { temperature: Number(temperature) }), messages: [...(system ? [{ role: "system", content: system }] : []), ...turns.map(({ role, text }) => ({ role, content: text }))] }),
    read: (event, note) => {
      if (event.error) throw new Error(event.error.message);
      const choice = event.choices?.[0];
      if (choice) note({ text: choice.delta?.content, thinking: choice.delta?.reasoning_content, end: choice.finish_reason });
      if (event.usage) note({ usage: event.usage });
    },
    tokens: (usage) => ({ prompt: usage.prompt_tokens, cached: usage.prompt_tokens_details?.cached_tokens, out: usage.completion_tokens }),
  },
};

const curl = (dialect, body) => `curl ${location.origin}${dialect.path} -H 'content-type: application/json' -H "x-api-key: $KEY" ${Object.entries(dialect.headers).map(([name, value]) => `-H '${name}: ${value}' `).join("")}-d '${JSON.stringify(body).replaceAll("'", "'\\''")}'`;

const Turn = ({ turn, onEdit, onRetry }) => html`<article class=${`turn ${turn.role}`}><h3>${turn.role === "user" ? "You" : turn.model}</h3>
  ${turn.thinking && html`<details><summary>Reasoning${turn.thought_s ? `, ${seconds(turn.thought_s)}` : ""}</summary><div class="said">${turn.thinking}</div></details>`}
  <div class="said">${turn.text}</div>
  ${turn.error && html`<p role="alert" class="bad">${turn.error}${turn.request && html` <a href=${`#/requests/${turn.request}`}>Its request</a>`}</p>`}
  ${turn.tokens && html`<p class="muted">${count(turn.tokens.prompt)} tokens in, ${count(turn.tokens.cached ?? 0)} cached · ${count(turn.tokens.out)} out · first after ${seconds(turn.first_s)} · ${turn.total_s > turn.first_s ? `${Math.round(turn.tokens.out / (turn.total_s - turn.first_s))} tok/s` : ""}${turn.end ? ` · ended: ${turn.end}` : ""}</p>`}
  <p class="row">${onEdit && html`<button type="button" onClick=${onEdit}>Edit from here</button>`}${onRetry && html`<button type="button" onClick=${onRetry}>Ask again</button>`}</p></article>`;

export const Chat = ({ live, role }) => {
  const known = live.states.models ? Object.keys(live.states.models.models) : null;
  const [mine, setMine] = useState([]);
  useEffect(() => {
    if (role === "user") fetch("/v1/models").then((answer) => answer.json()).then((said) => setMine((said.data || []).map((each) => each.id)), () => {});
  }, [role]);
  const models = known || mine;
  const [settings, setSettings] = useState({ dialect: "anthropic", model: "", system: "", most: 1024, temperature: "" });
  const [turns, setTurns] = useState([]);
  const [text, setText] = useState("");
  const [stop, setStop] = useState(null);
  const end = useRef();
  const model = settings.model || models[0] || "";
  const dialect = DIALECTS[settings.dialect];
  const set = (name) => (event) => setSettings({ ...settings, [name]: event.target.value });
  useEffect(() => () => stop?.abort(), []);

  const ask = async (past) => {
    const body = dialect.body({ ...settings, model, turns: past, most: Number(settings.most) || 1024 });
    const leaving = new AbortController();
    setStop(leaving);
    const answer = { role: "assistant", model, text: "", thinking: "" };
    const began = performance.now();
    const since = () => (performance.now() - began) / 1000;
    let usage = {};
    let frame = 0;
    const show = () => setTurns([...past, { ...answer }]);
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
      const reply = await fetch(dialect.path, { method: "POST", signal: leaving.signal, body: JSON.stringify(body), headers: { "content-type": "application/json", ...dialect.headers } });
      answer.request = reply.headers.get("request-id");
      if (!reply.ok) throw new Error((await reply.json().catch(() => null))?.error?.message || `the gateway answered ${reply.status}`);
      for await (const event of events(reply)) dialect.read(event, note);
    } catch (error) {
      if (error.name === "AbortError") answer.end = "stopped";
      else answer.error = error.message;
    }
    cancelAnimationFrame(frame);
    answer.total_s = since();
    if (Object.keys(usage).length) answer.tokens = dialect.tokens(usage);
    setStop(null);
    show();
  };
  const send = (event) => {
    event.preventDefault();
    if (!text.trim() || stop || !model) return;
    setText("");
    ask([...turns, { role: "user", text }]);
  };
  return html`<h1>Chat</h1> <a href="/console/v/voice.html">Voice</a>
    <details><summary>${model || "No model"}, ${dialect.name}</summary><div class="fields">
      <label>Dialect <select value=${settings.dialect} onChange=${set("dialect")}>${Object.entries(DIALECTS).map(([id, each]) => html`<option value=${id}>${each.name}</option>`)}</select></label>
      <label>Model, or model:profile <input list="models" value=${settings.model} placeholder=${models[0] || ""} onInput=${set("model")} /></label><datalist id="models">${models.map((each) => html`<option value=${each} />`)}</datalist>
      <label>System <textarea rows="2" value=${settings.system} onInput=${set("system")}></textarea></label>
      <label>Most tokens <input type="number" min="1" value=${settings.most} onInput=${set("most")} /></label>
      <label>Temperature <input type="number" min="0" max="2" step="0.1" value=${settings.temperature} placeholder="the model's" onInput=${set("temperature")} /></label>
      <p class="row"><${Copy} text=${curl(dialect, dialect.body({ ...settings, model, turns, most: Number(settings.most) || 1024 }))}>Copy as curl<//></p></div></details>
    <div class="turns" aria-live="off">${turns.map((turn, index) => html`<${Turn} key=${index} turn=${turn}
      onEdit=${!stop && turn.role === "user" ? () => { setText(turn.text); setTurns(turns.slice(0, index)); } : null}
      onRetry=${!stop && turn.role === "assistant" && index === turns.length - 1 ? () => ask(turns.slice(0, index)) : null} />`)}<div ref=${end}></div></div>
    ${!turns.length && html`<p class="empty">${models.length ? "Nothing was said yet." : "No model is served: load one first."}</p>`}
    <form onSubmit=${send}><label>Message<textarea rows="3" value=${text} onInput=${(event) => setText(event.target.value)}
      onKeyDown=${(event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event); }}></textarea></label>
      <p class="row">${stop ? html`<button type="button" onClick=${() => stop.abort()}>Stop</button>` : html`<button class="primary">Send</button>`}
      <button type="button" onClick=${() => { stop?.abort(); setTurns([]); }}>New</button></p></form>`;
};
