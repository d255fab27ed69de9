import { Act, Bar, Facts, State, Table, Time, Topic, action, bytes, count, html, rate, seconds } from "./ui.js";
import { Disk } from "./disk.js";
import { Speed } from "./speed.js";
import { call } from "./live.js";

const order = ["ready", "loading", "draining", "stalled", "no_memory", "failed", "available", "unloaded"];
const stateOf = (model) => {
  const states = [...Object.values(model.hosts), ...Object.values(model.workers)].map((each) => each.state);
  return order.find((state) => states.includes(state)) || "available";
};
const able = (model) => {
  const workers = Object.values(model.workers);
  if (!workers.length) return "known once it is loaded";
  return ["tools", "reasoning", "images"].filter((name) => workers.every((each) => each[name])).join(", ") || "text";
};
const sizeOf = (model) => Math.max(0, ...Object.values(model.hosts).map((each) => each.needed_bytes || 0)) || undefined;

const Orders = ({ id, model }) => {
  const state = stateOf(model);
  const pinned = Object.values(model.hosts).some((each) => each.pinned);
  if (!Object.keys(model.hosts).length) return html`<span class="muted">started by hand</span>`;
  if (["ready", "loading", "draining"].includes(state)) {
    return pinned ? html`<span class="muted">pinned</span>` : html`<${Act} label=${`Unload ${id}`} run=${() => call("POST", "/api/models", { model: id, action: "unload" })}
      confirm=${{ title: "Unload this model?", text: `${id} leaves memory${sizeOf(model) ? ` (${bytes(sizeOf(model))})` : ""}, with what is cached there of its conversations. Who asks for it waits until it is loaded again.`, word: "Unload it" }}>Unload<//>`;
  }
  return html`<${Act} label=${`Load ${id}`} run=${() => call("POST", "/api/models", { model: id, action: "load" })}>Load<//>`;
};

const columns = (mayWrite) => [
  { name: "model", of: (row) => row.id, show: (row) => html`<a class="rowlink" href=${`#/models/${encodeURIComponent(row.id)}`}>${row.id}</a>` },
  { name: "state", of: (row) => stateOf(row.model), show: (row) => html`<${State} of=${stateOf(row.model)} />${Object.values(row.model.hosts).filter((each) => each.state === "loading").map((each) => html` <${Bar} part=${each.load_done || 0} whole=${1} label=${`${row.id} loads`} />`)}` },
  { name: "where", of: (row) => [...new Set([...Object.keys(row.model.hosts), ...Object.values(row.model.workers).map((each) => each.host)])].join(", ") },
  { name: "copies", right: true, of: (row) => Object.keys(row.model.workers).length },
  { name: "size", right: true, of: (row) => sizeOf(row.model), show: (row) => bytes(sizeOf(row.model)) },
  { name: "context", right: true, of: (row) => Math.max(0, ...Object.values(row.model.workers).map((each) => each.context_tokens)), show: (row) => count(Math.max(0, ...Object.values(row.model.workers).map((each) => each.context_tokens)) || undefined) },
  { name: "can", of: (row) => able(row.model) },
  ...(mayWrite ? [action((row) => html`<${Orders} id=${row.id} model=${row.model} />`)] : []),
];

export const Models = ({ live, mayWrite, id }) => html`<${Topic} live=${live} name="models">${(state) => {
  if (id) return html`<p><a href="#/models">All models</a></p><h1>${id}</h1>${state.models[id] ? html`<${Model} id=${id} model=${state.models[id]} mayWrite=${mayWrite} /><${Speed} live=${live} id=${id} mayWrite=${mayWrite} />` : html`<p class="empty">No Mac that is here has this model.</p>`}`;
  const rows = Object.entries(state.models).map(([name, model]) => ({ id: name, model }));
  return html`<h1>Models</h1><${Table} label="Models" columns=${columns(mayWrite)} rows=${rows} empty=${html`No model yet: start one with <code>mlx-gateway up --model NAME</code>, or list it in <code>models.json</code>.`} />`;
}}<//>${mayWrite && !id && html`<h2>On this gateway's disk</h2><${Topic} live=${live} name="pulls">${(state) => html`<${Disk} pulls=${state.pulls} />`}<//>`}`;

const Model = ({ id, model, mayWrite }) => html`
  ${mayWrite && html`<p><${Orders} id=${id} model=${model} /></p>`}
  <${Facts} of=${[["state", html`<${State} of=${stateOf(model)} />`], ["from", model.source], ["made", model.made_at_s ? html`<${Time} at=${model.made_at_s} />` : undefined], ["can", able(model)]]} />
  ${Object.entries(model.hosts).map(([host, each]) => html`<section class="card" aria-label=${host}><h2>${host}</h2>
    <${Facts} of=${[["state", html`<${State} of=${each.state} />`], ["weights", bytes(each.needed_bytes)], ["room for models", each.limit_bytes ? bytes(each.limit_bytes) : undefined], ["loaded in", each.load_s ? seconds(each.load_s) : undefined], ["restarts", each.restarts], ["pinned", each.pinned ? "yes" : undefined]]} />
    ${each.reason && html`<p class="bad">${each.reason}</p>`}</section>`)}
  ${Object.entries(model.workers).map(([name, each]) => html`<section class="card" aria-label=${name}><h2>Worker <code>${name}</code></h2>
    <${Facts} of=${[["state", html`<${State} of=${each.state} />`], ["engine", each.engine], ["context", `${count(each.context_tokens)} tokens`], ["requests", `${each.in_flight} of ${each.capacity}`], ["prefill", rate(each.prefill_tokens_per_s)], ["decode", rate(each.decode_tokens_per_s)], ["work", each.kinds.join(", ")],
      ...Object.entries(each.template).map(([key, value]) => [`template: ${key}`, value])]} />
    ${each.notes.length > 0 && html`<ul>${each.notes.map((note) => html`<li>${note}</li>`)}</ul>`}</section>`)}`;
