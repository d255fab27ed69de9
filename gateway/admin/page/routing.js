import { Facts, Table, Topic, html, plain, rowsOf, useOrder, useState } from "./ui.js";
import { File } from "./file.js";
import { Rules } from "./rules.js";
import { call } from "./live.js";

const Try = () => {
  const [name, setName] = useState("");
  const [said, setSaid] = useState(null);
  const asking = useOrder();
  const ask = async (event) => {
    event.preventDefault();
    const isNews = asking();
    const found = await call("GET", `/api/names?name=${encodeURIComponent(name)}`).catch((error) => ({ error: error.message }));
    if (isNews()) setSaid({ ...found, name });
  };
  return html`<form class="row" onSubmit=${ask}><label>Try a name <input value=${name} required onInput=${(event) => setName(event.target.value)} /></label><button>Try</button>
    <span role="status">${said && (said.error ? html`<span class="bad">${said.error}</span>` : html`<code>${said.name}</code> stands for <strong>${said.model}</strong>${said.profile && ` with the profile ${said.profile}`}, ${said.workers.length ? `answered by ${said.workers.join(", ")}` : "loaded when it is asked"}`)}</span></form>`;
};

export const Routing = ({ live, mayWrite }) => html`<h1>Routing</h1><${Topic} live=${live} name="routing">${(state) => html`
  ${state.faults.map((fault) => html`<p class="notice bad" key=${fault}>${fault}: its last good content stays in force</p>`)}
  ${state.dead.map((line) => html`<p class="notice bad" key=${line}>${line}</p>`)}
  <${Try} />
  <h2>Tiers</h2><${Facts} of=${[...Object.entries(state.tiers).map(([tier, target]) => [tier, target.model ? [target.model, target.profile && `profile ${target.profile}`, target.backend, target.draft_model && `drafted by ${target.draft_model}`].filter(Boolean).join(", ") : "the default model"]),
    ["default", state.default_model.model ? html`${state.default_model.model} <span class="muted">set by ${state.default_model.set_by}</span>` : html`the first that is served <span class="muted">(${state.default_model.set_by} is not set)</span>`]]} />
  <h2>Aliases</h2><${Table} label="Aliases" rows=${Object.entries(state.aliases).map(([id, model]) => ({ id, model }))} empty="No alias: give a model another name in model_aliases.json." columns=${[plain("alias", "id"), plain("model")]} />
  <${Rules} rules=${state.rules} mayEdit=${mayWrite && state.writable} />
  <h2>Fallbacks</h2><${Table} label="Fallbacks" rows=${rowsOf(state.fallbacks)} empty="No fallback: where a model cannot answer its client gets the error." columns=${[plain("asked", "id"), { name: "then", of: (row) => row.models.join(", ") }, { name: "on", of: (row) => row.on.join(", ") }, { name: "rests", right: true, of: (row) => row.cool_down_s, show: (row) => `${row.cool_down_s} s` }]} />
  <h2>Remotes</h2><${Table} label="Remotes" rows=${rowsOf(state.remotes)} empty="No remote: servers elsewhere are listed in remotes.json." columns=${[plain("name", "id"), { name: "where", of: (row) => row.source || row.fault }, plain("speaks", "profile"), { name: "key", of: (row) => (row.keyed ? "set" : "none") }]} />
  <p class="muted">Remotes are changed in <code>remotes.json</code>, which may hold keys, and not here.</p>
  ${mayWrite && (state.writable ? html`<h2>Files</h2>${Object.entries(state.files).filter(([name]) => name !== "cache_settings.json").map(([name, file]) => html`<${File} key=${name} name=${name} file=${file} />`)}`
    : html`<p class="notice">There is no folder of settings files, so nothing can be written: start <code>mlx-gateway up</code> with <code>--config DIR</code>.</p>`)}`}<//>`;
