import { Act, Bar, State, Table, action, bytes, count, figure, html, plain, rowsOf, useEffect, useOrder, useState } from "./ui.js";
import { call } from "./live.js";

const PULLS = "/api/models/pulls";
const LOCAL = "/api/models/local";
const path = (base, id) => `${base}/${encodeURIComponent(id)}`;

const FITS = { fits: "fits", tight: "fits short conversations", no: "does not fit" };

// The hub is asked when somebody says so, and never before.
const Search = ({ onLook }) => {
  const [found, setFound] = useState(null);
  const [state, setState] = useState("");
  const asking = useOrder();
  const search = async (event) => {
    event.preventDefault();
    const isNews = asking();
    setState("searching");
    const said = await call("POST", "/api/models/hub", { search: new FormData(event.target).get("words") }).catch((failed) => ({ error: failed.message }));
    if (!isNews()) return;
    setState(said.error ? `The hub was not searched: ${said.error}` : "");
    if (said.models) setFound(said.models);
  };
  return html`<form class="row" onSubmit=${search}><label>Search the hub <input name="words" type="search" required maxlength="100" placeholder="qwen3 4bit" /></label><button disabled=${state === "searching"}>Search</button></form>
    ${state === "searching" ? html`<p role="status" class="muted">Searching</p>` : state && html`<p role="alert" class="bad">${state}</p>`}
    ${found && html`<${Table} label="Found on the hub" rows=${found.map((each) => ({ id: each.model, ...each }))} filter=${false} empty="The hub has nothing of this name." columns=${[
      plain("model"), plain("files", "kind"), figure("downloads", "downloads"), plain("changed"),
      action((row) => html`<${Act} label=${`Look at ${row.id}`} run=${async () => { await onLook({ model: row.id }); return "below"; }}>Look<//>`),
    ]} />`}`;
};

// Weights, and beside them the cache of one conversation as long as somebody has it in mind.
const Fits = ({ plan }) => {
  const [tokens, setTokens] = useState(32768);
  const lengths = plan.fits.find((each) => each.contexts)?.contexts.map((each) => each.tokens);
  const told = (each) => {
    const context = each.contexts?.find((one) => one.tokens === tokens);
    if (!context || each.fit === "no") return `${FITS[each.fit]}, of ${bytes(each.usable_bytes)} that a model may use there`;
    const room = `${bytes(context.cache_bytes)} of cache beside the weights, of ${bytes(each.usable_bytes)} that a model may use there`;
    return context.fit === "fits" ? `fits with ${count(tokens)} tokens: ${room}` : `fits with ${count(each.most_tokens)} tokens at most: ${count(tokens)} tokens take ${room}`;
  };
  return html`${lengths && html`<p><label>With a conversation of <select name="tokens" value=${tokens} onChange=${(event) => setTokens(Number(event.target.value))}>
      ${lengths.map((each) => html`<option value=${each}>${count(each)} tokens</option>`)}</select></label></p>`}
    ${plan.cache_unknown && html`<p class="muted">Weights alone are compared: ${plan.cache_unknown}.</p>`}
    ${plan.fits.length ? html`<ul aria-label="Whether it fits">${plan.fits.map((each) => html`<li class=${each.fit === "no" ? "bad" : ""}>${each.host}: ${told(each)}</li>`)}</ul>` : html`<p class="muted">No Mac that is here says how much memory it has.</p>`}`;
};

// What is fetched is looked at first: its size, and whether it fits.
const Fetch = () => {
  const [plan, setPlan] = useState(null);
  const [error, setError] = useState("");
  const asking = useOrder();
  const see = async (wish) => {
    const isNews = asking();
    const said = await call("POST", PULLS, { ...wish, check: true }).catch((failed) => ({ error: failed.message }));
    if (!isNews()) return;
    setError(said.error);
    setPlan(said.lines && { wish, ...said });
  };
  const look = (event) => {
    event.preventDefault();
    see(Object.fromEntries(new FormData(event.target)));
  };
  return html`<details><summary>Fetch a model</summary><${Search} onLook=${see} /><form class="fields" onSubmit=${look}>
    <label>Model of the Hugging Face hub <input name="model" required placeholder="maker/model" /></label>
    <label>Quantisation of GGUF files <input name="quantization" placeholder="the largest that fits" /></label><button>Look</button></form>
    ${error && html`<p role="alert" class="bad">${error}</p>`}
    ${plan && html`<div class="card">${plan.lines.map((line) => html`<p>${line}</p>`)}
      <${Fits} plan=${plan} />
      <${Act} kind="primary" run=${async () => { await call("POST", PULLS, plan.wish); setPlan((shown) => (shown === plan ? null : shown)); }}>Fetch it<//></div>`}</details>`;
};

export const Disk = ({ pulls }) => {
  const [there, setThere] = useState({ models: {} });
  const rows = rowsOf(pulls);
  const ended = rows.filter((row) => row.state !== "fetching").length;
  const asking = useOrder();
  const look = async () => {
    const isNews = asking();
    const said = await call("GET", LOCAL).catch((failed) => ({ error: failed.message, models: {} }));
    if (isNews()) setThere(said);
  };
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
