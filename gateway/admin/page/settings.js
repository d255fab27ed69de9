import { Act, Copy, Dialog, Facts, State, Table, Time, Topic, action, count, html, plain, rowsOf, useState } from "./ui.js";
import { Inference } from "./inference.js";
import { CacheVariables, setBy } from "./variables.js";
import { call } from "./live.js";

const Revoke = ({ what, name, path, lost }) => {
  const [isAsking, setAsking] = useState(false);
  const [typed, setTyped] = useState("");
  return html`<button type="button" aria-label=${`Revoke ${name}`} onClick=${() => { setTyped(""); setAsking(true); }}>Revoke</button>
    ${isAsking && html`<${Dialog} title=${`Revoke the ${what} ${name}?`} onClose=${() => setAsking(false)}>
      <p>${lost}</p><label>Type its name <input value=${typed} onInput=${(event) => setTyped(event.target.value)} /></label>
      <p class="row">${typed === name && html`<${Act} kind="danger" run=${() => call("DELETE", `${path}/${encodeURIComponent(name)}`)}>Revoke it<//>`}<button type="button" onClick=${() => setAsking(false)}>Close</button></p><//>`}`;
};

// Its module is loaded when somebody wants to see one.
const Qr = ({ text }) => {
  const [cells, setCells] = useState(undefined);
  const show = async () => { setCells((await import("./qr.js")).encode(text)); return " "; };
  if (cells === undefined) return html`<p><${Act} run=${show}>Show as a QR code<//></p>`;
  if (!cells) return html`<p class="muted">It is too long for a QR code.</p>`;
  const size = cells.length + 8;
  const path = cells.map((row, y) => row.map((isDark, x) => (isDark ? `M${x + 4} ${y + 4}h1v1h-1z` : "")).join("")).join("");
  return html`<svg class="qr" role="img" aria-label="The line as a QR code" viewBox=${`0 0 ${size} ${size}`} shape-rendering="crispEdges"><rect width=${size} height=${size} fill="#fff" /><path d=${path} fill="#000" /></svg>`;
};

const Once = ({ title, text, note, onClose, qr }) => html`<${Dialog} title=${title} onClose=${onClose}><p>${note}</p><p><code class="secret">${text}</code></p>${qr && html`<${Qr} text=${text} />`}
  <p class="row"><${Copy} text=${text} /><button onClick=${onClose}>Close</button></p><//>`;

const limits = (row) => [...Object.entries(row.quota).filter(([, most]) => most).map(([name, most]) => `${count(most)} ${name.replaceAll("_", " ")}`), row.ceiling !== "interactive" && `class ${row.ceiling}`].filter(Boolean).join(", ") || "none";

const NewKey = () => {
  const [made, setMade] = useState(null);
  const [error, setError] = useState("");
  const make = async (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    const wish = { name: form.get("name"), role: form.get("role"), expires: form.get("expires"), models: form.get("models").split(",").map((each) => each.trim()).filter(Boolean) };
    for (const name of ["requests_per_minute", "tokens_per_day"]) wish[name] = Number(form.get(name) || 0);
    setError("");
    try {
      setMade(await call("POST", "/api/keys", wish));
      event.target.reset?.();
    } catch (failed) {
      setError(failed.message);
    }
  };
  return html`<details><summary>Make a key</summary><form class="fields" onSubmit=${make}>
    <label>Name <input name="name" required maxlength="40" /></label>
    <label>Role <select name="role"><option>user</option><option>viewer</option><option>admin</option></select></label>
    <label>Models, all if empty <input name="models" placeholder="qwen*, llama*" /></label>
    <label>Requests a minute <input name="requests_per_minute" type="number" min="0" /></label>
    <label>Tokens a day <input name="tokens_per_day" type="number" min="0" /></label>
    <label>Expires, never if empty <input name="expires" placeholder="30d" /></label>
    <button class="primary">Make it</button> ${error && html`<span role="alert" class="bad">${error}</span>`}</form></details>
    ${made && html`<${Once} title=${`The key of ${made.name}`} text=${made.key} note="This is the only time that it is shown." onClose=${() => setMade(null)} />`}`;
};

const Keys = ({ state }) => html`
  ${state.fault && html`<p role="alert" class="notice bad">${state.fault}</p>`}
  ${!state.owner && !Object.keys(state.keys).length && html`<p class="notice">Nobody has a key: whoever sits at this machine may everything. With the first key made, every request needs one, also here.</p>`}
  <${NewKey} />
  <${Table} label="Keys" rows=${rowsOf(state.keys)} empty="No key yet." columns=${[
    plain("name"),
    { name: "key", of: (row) => row.shown, show: (row) => html`<code>${row.shown}…</code>` },
    { name: "state", of: (row) => row.state, show: (row) => html`<${State} of=${row.state} />` },
    plain("role"),
    { name: "models", of: (row) => row.models.join(", ") || "all" },
    { name: "limits", of: limits },
    { name: "today", right: true, of: (row) => row.tokens_today, show: (row) => `${count(row.tokens_today)} tokens, ${count(row.requests_today)} requests` },
    { name: "last used", of: (row) => row.last_used, show: (row) => row.last_used || "never" },
    { name: "expires", of: (row) => row.expires_s, show: (row) => (row.expires_s ? html`<${Time} at=${row.expires_s} />` : "never") },
    action((row) => row.state === "valid" && html`<${Revoke} what="key" name=${row.name} path="/api/keys" lost="Whoever uses it is locked out at once, and it does not come back." />`),
  ]} />`;

const Hosts = ({ state }) => {
  const [made, setMade] = useState(null);
  return html`<${Act} run=${async () => { setMade(await call("POST", "/api/hosts")); }}>Make a join code<//>
  ${made && html`<${Once} title="The line for the other Mac" text=${made.line} note=${made.hint} qr=${true} onClose=${() => setMade(null)} />`}
  <${Table} label="Macs" filter=${false} rows=${rowsOf(state.hosts)} empty="No other Mac has joined." columns=${[
  plain("name"),
  { name: "state", of: (row) => row.state, show: (row) => html`<${State} of=${row.state} />` },
  { name: "joined", of: (row) => row.joined, show: (row) => row.joined || "this one" },
  { name: "version", of: (row) => row.version, show: (row) => row.version || "–" },
  action((row) => row.joined && row.state !== "revoked" && html`<${Revoke} what="Mac" name=${row.name} path="/api/hosts" lost="Its key and certificate mean nothing from now on. What it computes is asked elsewhere." />`),
  ]} />`;
};

export const Settings = ({ live, mayWrite, session, signOut, letters, setLetters }) => html`<h1>Settings</h1>
  ${mayWrite && html`<h2>Inference</h2><${Topic} live=${live} name="routing">${(state) => html`<${Inference} state=${state} models=${Object.keys(live.states.models?.models || {})} />`}<//>
    <h2>Keys</h2><${Topic} live=${live} name="keys">${(state) => html`<${Keys} state=${state} />`}<//>
    <h2>Macs</h2><${Topic} live=${live} name="hosts">${(state) => html`<${Hosts} state=${state} />`}<//>`}
  <h2>Cache variables</h2><${Topic} live=${live} name="about">${(state) => html`<${CacheVariables} about=${state} live=${live} mayWrite=${mayWrite} />`}<//>
  <h2>This browser</h2>
  <p><label><input type="checkbox" checked=${letters} onChange=${(event) => setLetters(event.target.checked)} /> Single letters are shortcuts (? lists them)</label></p>
  ${session.needs_key && html`<p>Signed in as ${session.name || "the owner"}, ${session.role}. <${Act} run=${signOut}>Sign out<//></p>`}
  <h2>About</h2><${Topic} live=${live} name="about">${(state) => html`
    <${Facts} of=${[["mlx-gateway", state.version], ["gateway", state.gateway], ["Python", state.python], ["made with", Object.entries(state.licences).map(([name, licence]) => `${name} (${licence})`).join(", ")]]} />
    <details><summary>Settings of this gateway</summary><${Table} label="Settings" most=${500} rows=${Object.entries(state.settings).map(([id, value]) => ({ id, value, given: state.given[id] }))} empty="" columns=${[
      { name: "variable", of: (row) => row.id, show: (row) => html`<code>${row.id}</code>` }, plain("value"), { name: "set by", of: (row) => row.given || "default", show: (row) => setBy(row.given) }]} /></details>`}<//>`;
