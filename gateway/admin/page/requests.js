import { Copy, Facts, State, Table, Time, Topic, count, figure, html, percent, plain, request, rowsOf, seconds, session, useEffect, useState, where } from "./ui.js";
import { call } from "./live.js";
import { CancelButton } from "./now.js";

const csv = (rows) => {
  const names = ["at_s", "id", "route", "class", "asked", "model", "worker", "session", "outcome", "prompt", "cached", "out", "waited_s", "first_s", "total_s"];
  const cell = (value) => `"${String(value ?? "").replaceAll('"', '""').replace(/^[=+@-]/, "'$&")}"`;
  return [names.join(), ...rows.map((row) => names.map((name) => cell(row[name])).join())].join("\r\n");
};

const download = (text) => {
  const made = document.createElement("a");
  made.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  made.download = "requests.csv";
  made.click();
  setTimeout(() => URL.revokeObjectURL(made.href), 1000);
};

const COLUMNS = [
  { name: "time", of: (row) => row.at_s, show: (row) => html`<${Time} at=${row.at_s} />` },
  request,
  plain("class"),
  plain("asked"),
  plain("served", "model"),
  where,
  session,
  { name: "end", of: (row) => row.outcome, show: (row) => html`<${State} of=${row.outcome === "ok" ? "ok" : row.outcome === "cancelled" ? "cancelled" : "failed"} />${["ok", "cancelled"].includes(row.outcome) ? "" : ` ${row.outcome}`}` },
  figure("prompt", "prompt"),
  figure("cached", "cached"),
  figure("out", "out"),
  figure("waited", "waited_s", seconds),
  figure("first token", "first_s", seconds),
  figure("total", "total_s", seconds),
];

export const Requests = ({ live, mayWrite, id }) => id
  ? html`<${Detail} id=${id} live=${live} mayWrite=${mayWrite} />`
  : html`<h1>Requests</h1><${Topic} live=${live} name="requests">${(state) => {
    const rows = rowsOf(state.rows);
    return html`
      ${!state.kept && html`<p class="notice">Ended requests are not kept: <code>MLX_GATEWAY_TRACE_BYTES</code> or <code>MLX_GATEWAY_TRACE_DAYS</code> is 0.</p>`}
      ${rows.length > 0 && html`<p><button type="button" onClick=${() => download(csv(rows))}>Download as CSV</button></p>`}
      <${Table} label="Requests" first=${{ name: "time", down: true }} columns=${COLUMNS} rows=${rows} empty="No request has ended yet: what comes is listed here." />`;
  }}<//>`;

const Timeline = ({ told }) => {
  const { waited = 0, first_token: first, total = 0 } = told.seconds;
  const begins = waited ?? 0;
  const spans = [["waited", 0, begins], ["read the prompt", begins, first ?? total], ["wrote", first ?? total, total]].filter(([, from, to]) => to > from);
  return html`<table class="timeline"><caption>From its arrival on, to scale</caption><tbody>${spans.map(([name, from, to]) => html`<tr>
    <th scope="row">${name}</th><td>${seconds(to - from)}</td>
    <td class="wide"><svg viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true"><rect class="c1" x=${(100 * from) / total} width=${Math.max(0.5, (100 * (to - from)) / total)} y="0" height="8" /></svg></td></tr>`)}</tbody></table>`;
};

const Attempt = ({ told }) => html`<li>Attempt ${told.number} went to <code>${told.worker || "no worker"}</code>: ${told.reason || "nothing to choose from"}
  ${told.fault && html` <span class="bad">It ended with ${told.fault}.</span>`}${told.returned && html` It was given back: ${told.returned}.`}
  ${told.candidates?.length > 0 && html`<${Table} label=${`Candidates of attempt ${told.number}`} filter=${false} empty="" rows=${told.candidates.map((each) => ({ id: each.worker, ...each }))} columns=${[
    plain("worker"),
    figure("first token", "first_s", seconds),
    { name: "wait", right: true, of: (row) => row.wait_s, show: (row) => (row.wait_s === null ? "unknown" : seconds(row.wait_s)) },
    figure("prefill", "prefill_s", seconds),
    { name: "cached", right: true, of: (row) => row.cached_tokens, show: (row) => `${count(row.cached_tokens)} of ${count(row.prompt_tokens)} ${row.cached_in || ""}` },
  ]} />`}</li>`;

const Detail = ({ id, live, mayWrite }) => {
  const [told, setTold] = useState(null);
  const [error, setError] = useState("");
  const state = live.states.overview;
  const going = state?.running[id] || state?.waiting[id];
  useEffect(() => {
    let wanted = true;
    setTold(null);
    setError("");
    call("GET", `/api/requests/${encodeURIComponent(id)}`).then((said) => wanted && setTold(said), (failed) => wanted && setError(failed.message));
    return () => { wanted = false; };
  }, [id, Boolean(going)]);
  return html`<p><a href="#/requests">All requests</a></p><h1>Request <code>${id}</code></h1>
    <p class="row"><${Copy} text=${id}>Copy its id<//>${going && mayWrite && html`<${CancelButton} id=${id} model=${going.model} />`}</p>
    ${going && html`<${Facts} of=${[["state", html`<${State} of=${going.stage || "queued"} />`], ["model", going.model], ["where", going.worker], ["class", going.class], ["why", going.why], ["prompt", count(going.prompt)], ["cached", count(going.cached)], ["written", count(going.said)]]} />`}
    ${!going && error && html`<p class="notice">${error}. Traces are kept for days, and within bounds.</p>`}
    ${!going && told && html`
      <${Facts} of=${[["end", told.outcome], ["error", told.error], ["route", told.route], ["class", told.came.class], ["asked", told.came.model], ["served", told.canonical.model], ["session", told.came.session],
        ["prompt", count(told.tokens.input)], ["cached", `${count(told.tokens.cached)} (${percent(told.tokens.cached, told.tokens.input)})`], ["from disk", count(told.tokens.restored)], ["out", count(told.tokens.output)],
        ["parted in", told.tokens.parted_in || undefined], ["tools", count(told.came.tools)], ["messages", count(told.came.messages?.length)]]} />
      <h2>Timeline</h2><${Timeline} told=${told} />
      <h2>Where it went, and why</h2><ul>${told.attempts.map((each) => html`<${Attempt} told=${each} />`)}</ul>
      ${told.canonical.warnings?.length > 0 && html`<h2>Warnings</h2><ul>${told.canonical.warnings.map((each) => html`<li>${each}</li>`)}</ul>`}
      <h2>What was said</h2>
      ${told.body ? html`<pre tabindex="0">${told.body}</pre><pre tabindex="0">${JSON.stringify(told.answer, null, 2)}</pre>` : html`<p class="muted">Not kept: only a gateway with <code>MLX_GATEWAY_DEBUG=3</code> traces in full.</p>`}`}`;
};
