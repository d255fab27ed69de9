import { Bar, Table, Time, Topic, bytes, count, figure, html, percent, plain, rowsOf, session, where } from "./ui.js";

export const Cache = ({ live }) => html`<h1>Cache</h1><${Topic} live=${live} name="cache">${(state) => {
  const workers = rowsOf(state.workers);
  const sessions = rowsOf(state.sessions);
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
    <h2>Sessions</h2>
    <p class="muted">Of the last thousand requests. Sizes only, never the text.</p>
    <${Table} label="Sessions" first=${{ name: "last", down: true }} rows=${sessions} empty="No session yet: conversations of coding agents are listed here." columns=${[
      session,
      plain("model"),
      where,
      { name: "requests", right: true, of: (row) => row.requests },
      figure("prompt", "last_prompt"),
      { name: "cached", right: true, of: (row) => (row.last_prompt ? row.last_cached / row.last_prompt : 0), show: (row) => percent(row.last_cached, row.last_prompt) },
      { name: "cached in all", right: true, of: (row) => (row.prompt ? row.cached / row.prompt : 0), show: (row) => percent(row.cached, row.prompt) },
      plain("parted in", "parted_in"),
      { name: "last", of: (row) => row.last_s, show: (row) => html`<${Time} at=${row.last_s} />` },
    ]} />`;
}}<//>`;
