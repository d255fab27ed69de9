// inference_settings.json as forms: what is asked of models where clients leave it open, for all, by model and by profile.

import { html, useState } from "./ui.js";
import { File } from "./file.js";
import { edit } from "./jsonedit.js";

const NAME = "inference_settings.json";
const EFFORTS = ["minimal", "low", "medium", "high", "xhigh", "max"];
const SAMPLING = [
  ["temperature", { min: 0, max: 2, step: "any" }],
  ["top_p", { min: 0, max: 1, step: "any" }],
  ["top_k", { min: -1, step: 1 }],
  ["min_p", { min: 0, max: 1, step: "any" }],
  ["presence_penalty", { min: -2, max: 2, step: "any" }],
  ["frequency_penalty", { min: -2, max: 2, step: "any" }],
  ["repetition_penalty", { min: 0, max: 10, step: "any" }],
  ["max_tokens", { min: 1, step: 1 }],
  ["seed", { step: 1 }],
];
const words = (name) => name.replaceAll("_", " ");
const read = (text) => { try { return [text.trim() ? JSON.parse(text) : {}, ""]; } catch (error) { return [{}, error.message]; } };

const Number_ = ({ name, bounds, table, put }) => html`<label>${words(name)} <input type="number" ...${bounds} name=${name} value=${table[name] ?? ""} placeholder="left open"
  onChange=${(event) => put(name, event.target.value === "" ? undefined : Number(event.target.value))} /></label>`;

const Own = ({ table, put }) => html`
  <label>thinking <select name="thinking" value=${table.thinking === undefined ? "" : String(table.thinking)} onChange=${(event) => put("thinking", event.target.value === "" ? undefined : event.target.value === "true")}>
    <option value="">left open</option><option value="true">on</option><option value="false">off</option></select></label>
  <label>effort <select name="effort" value=${table.effort ?? ""} onChange=${(event) => put("effort", event.target.value || undefined)}>
    <option value="">left open</option>${EFFORTS.map((each) => html`<option value=${each}>${each}</option>`)}</select></label>
  <${Number_} name="budget_tokens" bounds=${{ min: 0, step: 1 }} table=${table} put=${put} />
  <label>system <textarea name="system" rows="2" value=${table.system ?? ""} placeholder="none" onChange=${(event) => put("system", event.target.value || undefined)}></textarea></label>`;

const scopesOf = (said, models) => [
  { id: "", name: "All models", path: ["defaults"] },
  ...[...new Set([...Object.keys(said.models || {}), ...models])].map((each) => ({ id: `m ${each}`, name: `The model ${each}`, path: ["models", each] })),
  ...Object.keys(said.profiles || {}).map((each) => ({ id: `p ${each}`, name: `The profile ${each}`, path: ["profiles", each], isProfile: true })),
];

const Form = ({ text, type, models }) => {
  const [id, setId] = useState("");
  const [made, setMade] = useState("");
  const [said, error] = read(text);
  if (error || typeof said !== "object" || Array.isArray(said)) return html`<p role="alert" class="bad">The text is no object of JSON now, so that no form can show it: ${error}</p>`;
  const scopes = scopesOf(said, models);
  const scope = scopes.find((each) => each.id === id) || scopes[0];
  const table = said[scope.path[0]]?.[scope.path[1]] ?? (scope.path.length === 1 ? said.defaults : undefined) ?? {};
  const put = (name, value) => type(edit(text, [...scope.path, name], value));
  const add = () => { type(edit(text, ["profiles", made], {})); setId(`p ${made}`); setMade(""); };
  return html`<div class="fields"><label>Of <select name="scope" value=${scope.id} onChange=${(event) => setId(event.target.value)}>${scopes.map((each) => html`<option value=${each.id}>${each.name}</option>`)}</select></label>
      <label>A new profile <input name="profile" value=${made} maxlength="60" placeholder="careful" onInput=${(event) => setMade(event.target.value)} /></label>
      <p class="row"><button type="button" disabled=${!made.trim() || made.includes(":") || Object.hasOwn(said.profiles || {}, made)} onClick=${add}>Add it</button>
        ${(scope.isProfile || (scope.id && said.models?.[scope.path[1]])) && html`<button type="button" onClick=${() => { type(edit(text, scope.path, undefined)); setId(""); }}>Take ${scope.path[1]} out</button>`}</p></div>
    <fieldset class="fields"><legend>${scope.name}</legend>${SAMPLING.map(([name, bounds]) => html`<${Number_} key=${scope.id + name} name=${name} bounds=${bounds} table=${table} put=${put} />`)}
      ${scope.isProfile && html`<${Own} key=${scope.id} table=${table} put=${put} />`}</fieldset>`;
};

export const Inference = ({ state, models }) => html`<p class="muted">Where a client says nothing: first its profile (<code>model:profile</code>), then what is said of its model, then of all. What is left open is the model's own.</p>
  ${state.writable ? html`<${File} name=${NAME} file=${state.files[NAME]} form=${(text, type) => html`<${Form} text=${text} type=${type} models=${models} />`} />`
    : html`<p class="notice">There is no folder of settings files, so nothing can be written: start <code>mlx-gateway up</code> with <code>--config DIR</code>.</p>`}`;
