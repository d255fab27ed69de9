import { Act, Bar, State, Table, action, bytes, html, plain, rowsOf, useEffect, useState } from "./ui.js";
import { call } from "./live.js";

const PULLS = "/api/models/pulls";
const LOCAL = "/api/models/local";
const path = (base, id) => `${base}/${encodeURIComponent(id)}`;

// What is fetched is looked at first: its size, and whether it fits.
const Fetch = () => {
  const [plan, setPlan] = useState(null);
  const [error, setError] = useState("");
  const look = async (event) => {
    event.preventDefault();
    const wish = Object.fromEntries(new FormData(event.target));
    const said = await call("POST", PULLS, { ...wish, check: true }).catch((failed) => ({ error: failed.message }));
    setError(said.error);
    setPlan(said.lines && { wish, lines: said.lines });
  };
  return html`<details><summary>Fetch a model</summary><form class="fields" onSubmit=${look}>
    <label>Model of the Hugging Face hub <input name="model" required placeholder="maker/model" /></label>
    <label>Quantisation of GGUF files <input name="quantization" placeholder="the largest that fits" /></label><button>Look</button></form>
    ${error && html`<p role="alert" class="bad">${error}</p>`}
    ${plan && html`<div class="card">${plan.lines.map((line) => html`<p>${line}</p>`)}
      <${Act} kind="primary" run=${async () => { await call("POST", PULLS, plan.wish); setPlan(null); }}>Fetch it<//></div>`}</details>`;
};

export const Disk = ({ pulls }) => {
  const [there, setThere] = useState({ models: {} });
  const rows = rowsOf(pulls);
  const ended = rows.filter((row) => row.state !== "fetching").length;
  const look = () => call("GET", LOCAL).then(setThere, (failed) => setThere({ error: failed.message, models: {} }));
  useEffect(() => { look(); }, [ended]);
  return html`<${Fetch} />
    ${rows.length > 0 && html`<${Table} label="Fetched" rows=${rows} columns=${[
      plain("model", "id"),
      { name: "state", of: (row) => row.state, show: (row) => html`<${State} of=${row.state} /> ${row.reason}` },
      { name: "done", of: (row) => row.fetched_bytes, show: (row) => html`<${Bar} part=${row.fetched_bytes} whole=${row.total_bytes} label=${`Fetched of ${row.id}`} />` },
      action((row) => row.state === "fetching" && html`<${Act} label=${`Cancel ${row.id}`} run=${() => call("DELETE", path(PULLS, row.id))}>Cancel<//>`),
    ]} />`}
    ${there.error && html`<p role="alert" class="bad">${there.error}</p>`}
    <${Table} label="On disk" rows=${rowsOf(there.models)} empty="No model lies here." columns=${[
      plain("model", "id"), plain("kind"), plain("place"),
      { name: "size", right: true, of: (row) => row.size_bytes, show: (row) => `${bytes(row.size_bytes)}${row.is_whole ? "" : ", unfinished"}` },
      action((row) => (row.is_served ? html`<span class="muted">served</span>` : html`<${Act} label=${`Delete ${row.id}`} run=${async () => { await call("DELETE", path(LOCAL, row.id)); look(); }}
        confirm=${{ title: "Delete this model?", text: `${row.id} (${bytes(row.size_bytes)}) is taken from the disk.`, word: "Delete it" }}>Delete<//>`)),
    ]} />`;
};
