import { Act, Facts, Table, Topic, html, plain, rowsOf, useEffect, useRef, useState } from "./ui.js";
import { call } from "./live.js";

const File = ({ name, file }) => {
  const [text, setText] = useState(file.text);
  const [base, setBase] = useState(file);
  const [found, setFound] = useState(null);
  const [other, setOther] = useState(null);
  const [word, setWord] = useState("");
  const replaced = useRef(new Set()); // tags of what was written over from here, which may still be told
  const isChanged = text !== base.text;
  useEffect(() => {
    // An edit from elsewhere: shown at once where nothing is being changed here, else both are.
    if (file.tag === base.tag) { replaced.current.clear(); setBase(file); }
    else if (replaced.current.has(file.tag)) return;
    else if (!isChanged) { setText(file.text); setBase(file); setFound(null); }
    else setOther(file);
  }, [file]);
  const path = `/api/routing/${name}`;
  const check = async () => {
    setFound(null);
    const said = await call("POST", `${path}/check`, { text });
    setFound(said);
    return said.fault ? "not written" : said.diff ? "checked" : "nothing would change";
  };
  const show = (said, more, word) => {
    replaced.current.add(base.tag);
    replaced.current.delete(said.tag);
    setBase({ ...base, ...said, undo: base.undo + more });
    setText(said.text);
    setFound(null);
    setWord(word);
  };
  const write = async () => {
    const said = await call("PUT", path, { text }, { "if-match": `"${base.tag}"` }).catch((error) => {
      if (error.status === 412) setOther(error.said);
      throw error;
    });
    show(said, 1, "written");
  };
  const undo = async () => {
    const said = await call("POST", `${path}/undo`, undefined, { "if-match": `"${base.tag}"` });
    show(said, -1, "as before");
  };
  const take = () => { setBase({ ...base, ...other }); setOther(null); setFound(null); };
  return html`<section class="card" aria-label=${name}><h3><code>${name}</code></h3>
    ${file.fault && html`<p role="alert" class="notice bad">${file.fault}</p>`}
    <label>Content<textarea rows=${Math.min(24, Math.max(5, text.split("\n").length + 1))} spellcheck="false" value=${text} onInput=${(event) => { setText(event.target.value); setFound(null); setWord(""); }}></textarea></label>
    ${other && html`<div class="notice" role="alert"><p>This file was changed meanwhile. It now says:</p><pre tabindex="0">${other.text || "(nothing)"}</pre>
      <p class="row"><button type="button" onClick=${take}>Keep mine, to write over it</button><button type="button" onClick=${() => { setText(other.text); take(); }}>Take that</button></p></div>`}
    ${found?.fault && html`<p role="alert" class="bad">${found.fault}</p>`}
    ${found?.diff && html`<pre class="diff" tabindex="0" aria-label="What changes">${found.diff.split("\n").map((line) => html`<span class=${line.startsWith("+") ? "ok" : line.startsWith("-") ? "bad" : ""}>${line + "\n"}</span>`)}</pre>`}
    <p class="row"><${Act} run=${check}>Check<//>
      ${found && !found.fault && found.diff && html`<${Act} kind="primary" run=${write}>Write<//>`}
      ${isChanged && html`<button type="button" onClick=${() => { setText(base.text); setFound(null); }}>Discard</button>`}
      ${base.undo > 0 && html`<${Act} run=${undo}>Undo the last write<//>`} <span role="status" class="muted">${word}</span></p></section>`;
};

const Try = () => {
  const [name, setName] = useState("");
  const [said, setSaid] = useState(null);
  const ask = async (event) => {
    event.preventDefault();
    setSaid(await call("GET", `/api/names?name=${encodeURIComponent(name)}`).catch((error) => ({ error: error.message })));
  };
  return html`<form class="row" onSubmit=${ask}><label>Try a name <input value=${name} required onInput=${(event) => setName(event.target.value)} /></label><button>Try</button>
    <span role="status">${said && (said.error ? html`<span class="bad">${said.error}</span>` : html`stands for <strong>${said.model}</strong>${said.profile && ` with the profile ${said.profile}`}, ${said.workers.length ? `answered by ${said.workers.join(", ")}` : "loaded when it is asked"}`)}</span></form>`;
};

export const Routing = ({ live, mayWrite }) => html`<h1>Routing</h1><${Topic} live=${live} name="routing">${(state) => html`
  ${state.faults.map((fault) => html`<p class="notice bad" key=${fault}>${fault}: its last good content stays in force</p>`)}
  ${state.dead.map((line) => html`<p class="notice bad" key=${line}>${line}</p>`)}
  <${Try} />
  <h2>Tiers</h2><${Facts} of=${[...Object.entries(state.tiers).map(([tier, target]) => [tier, target.model ? [target.model, target.profile && `profile ${target.profile}`, target.backend, target.draft_model && `drafted by ${target.draft_model}`].filter(Boolean).join(", ") : "the default model"]),
    ["default", state.default_model.model ? html`${state.default_model.model} <span class="muted">set by ${state.default_model.set_by}</span>` : html`the first that is served <span class="muted">(${state.default_model.set_by} is not set)</span>`]]} />
  <h2>Aliases</h2><${Table} label="Aliases" rows=${Object.entries(state.aliases).map(([id, model]) => ({ id, model }))} empty="No alias: give a model another name in model_aliases.json." columns=${[plain("alias", "id"), plain("model")]} />
  <h2>Fallbacks</h2><${Table} label="Fallbacks" rows=${rowsOf(state.fallbacks)} empty="No fallback: where a model cannot answer its client gets the error." columns=${[plain("asked", "id"), { name: "then", of: (row) => row.models.join(", ") }, { name: "on", of: (row) => row.on.join(", ") }, { name: "rests", right: true, of: (row) => row.cool_down_s, show: (row) => `${row.cool_down_s} s` }]} />
  <h2>Remotes</h2><${Table} label="Remotes" rows=${rowsOf(state.remotes)} empty="No remote: servers elsewhere are listed in remotes.json." columns=${[plain("name", "id"), { name: "where", of: (row) => row.source || row.fault }, plain("speaks", "profile"), { name: "key", of: (row) => (row.keyed ? "set" : "none") }]} />
  <p class="muted">Remotes are changed in <code>remotes.json</code>, which may hold keys, and not here.</p>
  ${mayWrite && (state.writable ? html`<h2>Files</h2>${Object.entries(state.files).map(([name, file]) => html`<${File} key=${name} name=${name} file=${file} />`)}`
    : html`<p class="notice">There is no folder of settings files, so nothing can be written: start <code>mlx-gateway up</code> with <code>--config DIR</code>.</p>`)}`}<//>`;
