import { Bar, Table, Time, Topic, Where, bytes, count, html, percent } from "./ui.js";

export const Cache = ({ live }) => html`<h1>Cache</h1><${Topic} live=${live} name="cache">${(state) => {
  const workers = Object.entries(state.workers).map(([id, each]) => ({ id, ...each }));
  const sessions = Object.entries(state.sessions).map(([id, each]) => ({ id, ...each }));
  return html`
    <h2>Kept by each worker</h2>
    <${Table} label="Workers" rows=${workers} filter=${false} empty="No worker is here: caches are those of loaded models." columns=${[
      { name: "model", of: (row) => row.model },
      { name: "where", of: (row) => row.host },
      { name: "in memory", right: true, of: (row) => row.bytes, show: (row) => (row.max_bytes ? html`<${Bar} part=${row.bytes} whole=${row.max_bytes} label=${`Cache of ${row.model}`} text=${`${bytes(row.bytes)} of ${bytes(row.max_bytes)}`} />` : bytes(row.bytes)) },
      { name: "on disk", right: true, of: (row) => row.disk_bytes, show: (row) => bytes(row.disk_bytes) },
      { name: "hits", right: true, of: (row) => row.hits, show: (row) => `${count(row.hits)} of ${count((row.hits ?? 0) + (row.misses ?? 0))}` },
      { name: "tokens cached", right: true, of: (row) => row.cached_tokens_total, show: (row) => percent(row.cached_tokens_total, row.input_tokens_total) },
      { name: "from disk", right: true, of: (row) => row.restored_tokens_total, show: (row) => count(row.restored_tokens_total) },
      { name: "from other Macs", right: true, of: (row) => row.fetched_tokens, show: (row) => count(row.fetched_tokens) },
      { name: "dropped", right: true, of: (row) => row.evictions, show: (row) => count(row.evictions) },
    ]} />
    <h2>Sessions</h2>
    <p class="muted">Of the last thousand requests. Sizes only, never the text.</p>
    <${Table} label="Sessions" first=${{ name: "last", down: true }} rows=${sessions} empty="No session yet: conversations of coding agents are listed here." columns=${[
      { name: "session", of: (row) => row.session, show: (row) => html`<code>${row.session}</code>` },
      { name: "model", of: (row) => row.model },
      { name: "where", of: (row) => row.worker, show: (row) => html`<${Where} worker=${row.worker} />` },
      { name: "requests", right: true, of: (row) => row.requests },
      { name: "prompt", right: true, of: (row) => row.last_prompt, show: (row) => count(row.last_prompt) },
      { name: "cached", right: true, of: (row) => (row.last_prompt ? row.last_cached / row.last_prompt : 0), show: (row) => percent(row.last_cached, row.last_prompt) },
      { name: "cached in all", right: true, of: (row) => (row.prompt ? row.cached / row.prompt : 0), show: (row) => percent(row.cached, row.prompt) },
      { name: "parted in", of: (row) => row.parted_in },
      { name: "last", of: (row) => row.last_s, show: (row) => html`<${Time} at=${row.last_s} />` },
    ]} />`;
}}<//>`;
