// What prefix caches may take: cache_settings.json as a form, who has set each, and workers that take it when they start anew.

import { Act, State, Table, action, bytes, count, html, plain, rowsOf } from "./ui.js";
import { File } from "./file.js";
import { edit } from "./jsonedit.js";
import { call } from "./live.js";

const NAME = "cache_settings.json";
const words = (name) => name.replaceAll("_", " ");
const read = (text) => { try { return [text.trim() ? JSON.parse(text) : {}, ""]; } catch (error) { return [{}, error.message]; } };
const isFixed = (source) => source && source !== NAME; // by whoever started this gateway
export const setBy = (source) => (source === NAME ? html`<code>${NAME}</code>` : source ? `the ${source}` : "default");
const amount = ({ value, unit }) => (unit === "bytes" && value > 0 ? `${bytes(value)} (${count(value)})` : `${count(value)}${unit === "bytes" ? "" : ` ${unit}`}`);

const Field = ({ row, source, value, put }) => {
  const say = (event) => put(row.name, event.target.value === "" ? undefined : Number(event.target.value));
  if (isFixed(source)) return html`<label>${words(row.name)} <input name=${row.name} value=${row.value} disabled title=${`${row.id} is set by the ${source}`} /></label>`;
  if (row.among) return html`<label>${words(row.name)} <select name=${row.name} value=${value ?? ""} onChange=${say}><option value="">left open</option>${row.among.map((each) => html`<option value=${each}>${each}</option>`)}</select></label>`;
  return html`<label>${words(row.name)} <input type="number" name=${row.name} min=${row.least} max=${row.most} step="1" value=${value ?? ""} placeholder="left open" onChange=${say} /></label>`;
};

const Form = ({ text, type, rows, given }) => {
  const [said, error] = read(text);
  if (error || said === null || typeof said !== "object" || Array.isArray(said)) return html`<p role="alert" class="bad">The text is no object of JSON now, so that no form can show it: ${error}</p>`;
  const put = (name, value) => type(edit(text, [name], value));
  const fixed = rows.filter((row) => isFixed(given[row.id]));
  return html`<fieldset class="fields"><legend>Of this Mac</legend>${rows.map((row) => html`<${Field} key=${row.id} row=${row} source=${given[row.id]} value=${said[row.name]} put=${put} />`)}</fieldset>
    ${fixed.length > 0 && html`<p class="muted">Not changed here, for what this gateway was started with comes before the file: ${fixed.map((row) => `${row.id} (the ${given[row.id]})`).join(", ")}.</p>`}`;
};

// Workers that a host holds, which starts a new one when one has drained; but those of Macs that joined, which have a file of their own.
const held = (models, hosts) => Object.entries(models).flatMap(([model, each]) => Object.entries(each.workers).filter(([, worker]) => each.hosts[worker.host] && !hosts[worker.host]?.joined).map(([id, worker]) => ({ id, model, ...worker })));

const Anew = ({ models, hosts }) => html`<p>A worker takes what is written here when it starts: one that runs goes on with what it began with. Started anew it finishes what it holds and loads its model again; what it has in memory of conversations goes, what lies on disk stays.</p>
  <${Table} label="Workers to start anew" filter=${false} rows=${held(models, hosts)} empty="No worker runs that a host would start again: what starts next takes what is written." columns=${[
    plain("model"), plain("where", "host"), { name: "state", of: (row) => row.state, show: (row) => html`<${State} of=${row.state} />` },
    action((row) => html`<${Act} label=${`Start ${row.model} on ${row.host} anew`} run=${() => call("POST", `/admin/drain/${encodeURIComponent(row.id)}`)}
      confirm=${{ title: "Start this worker anew?", text: `${row.model} on ${row.host} finishes what it holds and is loaded again with the settings as they are written. What it keeps in memory of conversations goes.`, word: "Start it anew" }}>Start anew<//>`),
  ]} />`;

const Edit = ({ about, routing, models, hosts }) => (routing.writable
  ? html`${routing.faults.filter((fault) => fault.includes(NAME)).map((fault) => html`<p role="alert" class="notice bad" key=${fault}>${fault}: its last good content stays in force</p>`)}<${File} name=${NAME} file=${routing.files[NAME]} form=${(text, type) => html`<${Form} text=${text} type=${type} rows=${rowsOf(about.cache)} given=${about.given} />`} /><${Anew} models=${models} hosts=${hosts} />`
  : html`<p class="notice">There is no folder of settings files, so nothing can be written: start <code>mlx-gateway up</code> with <code>--config DIR</code>.</p>`);

export const CacheVariables = ({ about, live, mayWrite }) => html`<p class="muted">What prefix caches of this Mac may take: what the environment or the command line says, else <code>${NAME}</code>, else the default; other Macs have their own. What is kept now is at <a href="#/cache">Cache</a>.</p>
  <${Table} label="Cache variables" filter=${false} empty="" rows=${rowsOf(about.cache)} columns=${[
    { name: "variable", of: (row) => row.id, show: (row) => html`<code>${row.id}</code>` },
    { name: "value", right: true, of: (row) => row.value, show: amount },
    plain("meaning"), { name: "set by", of: (row) => about.given[row.id] || "default", show: (row) => setBy(about.given[row.id]) },
  ]} />
  ${mayWrite && live.states.routing && html`<${Edit} about=${about} routing=${live.states.routing} models=${live.states.models?.models || {}} hosts=${live.states.hosts?.hosts || {}} />`}`;
