import { Act, html, useEffect, useRef, useState } from "./ui.js";
import { call } from "./live.js";

// A settings file that is changed: checked, shown as a difference, written, undone. `form` is what else may change its text.
export const File = ({ name, file, form }) => {
  const [text, setText] = useState(file.text);
  const [base, setBase] = useState(file);
  const known = useRef(file); // the same at once: an effect may run with what was before an answer
  const [found, setFound] = useState(null);
  const [other, setOther] = useState(null);
  const [word, setWord] = useState("");
  const replaced = useRef(new Set()); // tags of what was written over from here, which may still be told
  const isChanged = text !== base.text;
  const typed = useRef(); // what stands there when an answer comes, which may be more than was asked about
  typed.current = text;
  const rebase = (said) => { known.current = said; setBase(said); setOther((one) => (one?.tag === said.tag ? null : one)); };
  useEffect(() => {
    // An edit from elsewhere: shown at once where nothing is being changed here, else both are.
    if (file.tag === known.current.tag) { replaced.current.clear(); rebase(file); }
    else if (replaced.current.has(file.tag)) return;
    else if (typed.current === known.current.text) { typed.current = file.text; setText(file.text); rebase(file); setFound(null); }
    else setOther(file);
  }, [file]);
  const path = `/api/routing/${name}`;
  const type = (said) => { setText(said); setFound(null); setWord(""); };
  const check = async () => {
    setFound(null);
    const said = await call("POST", `${path}/check`, { text });
    if (typed.current !== text) return "changed since: check again";
    setFound(said);
    return said.fault ? "not written" : said.diff ? "checked" : "nothing would change";
  };
  const show = (said, more, word) => {
    replaced.current.add(base.tag);
    replaced.current.delete(said.tag);
    rebase({ ...base, ...said, undo: base.undo + more });
    if (typed.current === text) { typed.current = said.text; setText(said.text); }
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
  const take = () => { rebase({ ...base, ...other }); setFound(null); };
  return html`<section class="card" aria-label=${name}><h3><code>${name}</code></h3>
    ${file.fault && html`<p role="alert" class="notice bad">${file.fault}</p>`}
    ${form?.(text, type)}
    <label>${form ? "The same as text" : "Content"}<textarea rows=${Math.min(24, Math.max(5, text.split("\n").length + 1))} spellcheck="false" value=${text} onInput=${(event) => type(event.target.value)}></textarea></label>
    ${other && html`<div class="notice" role="alert"><p>This file was changed meanwhile. It now says:</p><pre tabindex="0">${other.text || "(nothing)"}</pre>
      <p class="row"><button type="button" onClick=${take}>Keep mine, to write over it</button><button type="button" onClick=${() => { setText(other.text); take(); }}>Take that</button></p></div>`}
    ${found?.fault && html`<p role="alert" class="bad">${found.fault}</p>`}
    ${found?.diff && html`<pre class="diff" tabindex="0" aria-label="What changes">${found.diff.split("\n").map((line) => html`<span class=${line.startsWith("+") ? "ok" : line.startsWith("-") ? "bad" : ""}>${line + "\n"}</span>`)}</pre>`}
    <p class="row"><${Act} run=${check}>Check<//>
      ${found && !found.fault && found.diff && html`<${Act} kind="primary" run=${write}>Write<//>`}
      ${isChanged && html`<button type="button" onClick=${() => { setText(base.text); setFound(null); }}>Discard</button>`}
      ${base.undo > 0 && html`<${Act} run=${undo}>Undo the last write<//>`} <span role="status" class="muted">${word}</span></p></section>`;
};
