import { Act, Bar, Table, Time, Topic, action, bytes, count, figure, html, percent, plain, rowsOf, session, where } from "./ui.js";
import { call } from "./live.js";

const sum = (rows, name) => rows.reduce((total, row) => total + (row[name] || 0), 0);

// The pieces of a worker from the top down, each before what hangs below it, with how deep it hangs and what hangs there.
const treeOf = (pieces) => {
  const below = {};
  for (const [id, piece] of Object.entries(pieces)) (below[piece.above in pieces ? piece.above : ""] ||= []).push({ id, ...piece });
  const rows = [];
  const walk = (above, level) => {
    let all = 0;
    for (const piece of (below[above] || []).sort((a, b) => b.memory_bytes + b.stored_bytes - a.memory_bytes - a.stored_bytes)) {
      const row = { ...piece, level, ways: (below[piece.id] || []).length };
      rows.push(row);
      row.all_bytes = row.memory_bytes + row.stored_bytes + walk(piece.id, level + 1);
      all += row.all_bytes;
    }
    return all;
  };
  walk("", 1);
  return rows;
};

const drop = (body) => () => call("POST", "/api/cache", body);
const lost = "It is read anew, from its beginning or from another Mac's copy, when somebody asks again. What a request needs now stays.";

const Drop = ({ worker, row }) => html`<${Act} label=${`Drop tokens ${row.start} to ${row.end}`} run=${drop({ worker, pieces: [row.id] })}
  confirm=${{ title: "Drop this prefix?", text: `${count(row.end - row.start)} tokens and all that hangs below them, ${bytes(row.all_bytes)} in memory and on disk, are kept no longer. ${lost}`, word: "Drop it" }}>Drop<//>`;

const Tree = ({ worker, told, mayWrite }) => {
  const rows = treeOf(told.pieces);
  return html`<section aria-label=${`Kept by ${told.model} on ${told.host}`}><h3>${told.model} on ${told.host}</h3>
    ${told.late_s && html`<p class="notice">At work, and told nothing new since <${Time} at=${told.late_s} />: this is from then.</p>`}
    ${told.known ? html`<${Table} label=${`Prefixes of ${told.model} on ${told.host}`} rows=${rows} filter=${false} most=${300} empty="Nothing is kept: the next prompt is read from its beginning." columns=${[
      { name: "tokens", of: (row) => row.start, show: (row) => html`<span aria-hidden="true" class="muted">${"· ".repeat(Math.min(8, row.level - 1))}</span><span class="offscreen">level ${row.level}: </span>${count(row.start)} to ${count(row.end)}` },
      figure("in memory", "memory_bytes", bytes),
      figure("on disk", "stored_bytes", bytes),
      figure("used", "uses"),
      { name: "sessions", of: (row) => row.sessions.join(), show: (row) => (row.sessions.length ? html`<code>${row.sessions.join(" ")}</code>` : html`<span class="muted">from before, or none named</span>`) },
      { name: "then", of: (row) => row.ways, show: (row) => `${row.ways > 1 ? `parts into ${row.ways}` : row.ways ? "goes on" : "ends"}${row.in_use ? ", in use" : ""}` },
      ...(mayWrite ? [action((row) => html`<${Drop} worker=${worker} row=${row} />`)] : []),
    ]} />` : html`<p class="empty">Its engine does not tell what it keeps.</p>`}
    ${told.more && html`<p class="muted">And ${count(told.more)} more, further down.</p>`}</section>`;
};

const Kept = ({ state, mayWrite }) => {
  const workers = Object.entries(state.workers);
  return workers.length ? workers.map(([worker, told]) => html`<${Tree} key=${worker} worker=${worker} told=${told} mayWrite=${mayWrite} />`)
    : html`<p class="empty">No worker is here: prefixes are those of loaded models.</p>`;
};

const Macs = ({ workers }) => html`<${Table} label="Macs" filter=${false} empty="" rows=${[...new Set(workers.map((each) => each.host))].map((id) => ({ id, all: workers.filter((each) => each.host === id) }))} columns=${[
  plain("Mac", "id"),
  { name: "models", right: true, of: (row) => new Set(row.all.map((each) => each.model)).size },
  { name: "in memory", right: true, of: (row) => sum(row.all, "bytes"), show: (row) => bytes(sum(row.all, "bytes")) },
  { name: "on disk", right: true, of: (row) => sum(row.all, "disk_bytes"), show: (row) => bytes(sum(row.all, "disk_bytes")) },
]} />`;

const Sessions = ({ rows, kept, mayWrite }) => {
  const own = new Set(Object.values(kept?.workers || {}).flatMap((told) => Object.values(told.pieces)).filter((piece) => piece.sessions.length === 1).map((piece) => piece.sessions[0]));
  return html`<p class="muted">Of the last thousand requests. Sizes only, never the text.</p>
    <${Table} label="Sessions" first=${{ name: "last", down: true }} rows=${rows} empty="No session yet: conversations of coding agents are listed here." columns=${[
      session,
      plain("model"),
      where,
      { name: "requests", right: true, of: (row) => row.requests },
      figure("prompt", "last_prompt"),
      { name: "cached", right: true, of: (row) => (row.last_prompt ? row.last_cached / row.last_prompt : 0), show: (row) => percent(row.last_cached, row.last_prompt) },
      { name: "cached in all", right: true, of: (row) => (row.prompt ? row.cached / row.prompt : 0), show: (row) => percent(row.cached, row.prompt) },
      { name: "parted in", of: (row) => row.parted_in, show: (row) => (row.parted_in ? `${row.parted_in}, after ${count(row.last_cached)} tokens` : "–") },
      { name: "last", of: (row) => row.last_s, show: (row) => html`<${Time} at=${row.last_s} />` },
      ...(mayWrite ? [action((row) => own.has(row.session) && html`<${Act} label=${`Drop the session ${row.session}`} run=${drop({ session: row.session })}
        confirm=${{ title: "Drop this session?", text: `What is kept of the session ${row.session} alone goes, on all Macs; what it shares with others stays. ${lost}`, word: "Drop it" }}>Drop<//>`)] : []),
    ]} />`;
};

export const Cache = ({ live, mayWrite }) => html`<h1>Cache</h1><${Topic} live=${live} name="cache">${(state) => {
  const workers = rowsOf(state.workers);
  return html`
    <h2>Kept by each worker</h2>
    <${Table} label="Workers" rows=${workers} filter=${false} empty="No worker is here: caches are those of loaded models." columns=${[
      plain("model"),
      plain("where", "host"),
      { name: "in memory", right: true, of: (row) => row.bytes, show: (row) => (row.max_bytes ? html`<${Bar} part=${row.bytes} whole=${row.max_bytes} label=${`Cache of ${row.model}`} text=${`${bytes(row.bytes)} of ${bytes(row.max_bytes)}`} />` : bytes(row.bytes)) },
      figure("on disk", "disk_bytes", bytes),
      { name: "hits", right: true, of: (row) => row.hits, show: (row) => `${count(row.hits)} of ${count((row.hits ?? 0) + (row.misses ?? 0))}` },
      { name: "tokens cached", right: true, of: (row) => row.cached_tokens_total, show: (row) => percent(row.cached_tokens_total, row.input_tokens_total) },
      figure("from disk", "restored_tokens_total"),
      figure("from other Macs", "fetched_tokens"),
      figure("dropped", "evictions"),
    ]} />
    ${workers.length > 0 && html`<h2>By Mac</h2><${Macs} workers=${workers} />`}
    <h2>Sessions</h2><${Sessions} rows=${rowsOf(state.sessions)} kept=${live.states.cache_tree} mayWrite=${mayWrite} />`;
}}<//><h2>Prefixes</h2><${Topic} live=${live} name="cache_tree">${(state) => html`<${Kept} state=${state} mayWrite=${mayWrite} />`}<//>`;
