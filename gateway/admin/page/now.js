import { Act, Bar, Chart, State, Table, Time, Topic, action, bytes, count, html, percent, plain, rate, request, rowsOf, session, useEffect, useRef, useState, where } from "./ui.js";
import { call } from "./live.js";

const FRESH_MS = 2000;
const MINUTES = 15;

// Tokens a second of every request, from how many it has said: 0 soon after the last.
export const useRates = (running) => {
  const seen = useRef({});
  const now = Date.now();
  const rates = {};
  for (const [id, row] of Object.entries(running)) {
    const was = seen.current[id] || { said: row.said, at: now, rate: 0, moved: now };
    if (row.said > was.said && now > was.at) {
      const latest = (1000 * (row.said - was.said)) / (now - was.at);
      seen.current[id] = { said: row.said, at: now, rate: was.rate ? 0.7 * was.rate + 0.3 * latest : latest, moved: now };
    } else seen.current[id] = was;
    rates[id] = now - seen.current[id].moved < FRESH_MS ? seen.current[id].rate : 0;
  }
  for (const id of Object.keys(seen.current)) if (!(id in running)) delete seen.current[id];
  const [, setTick] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => setTick((tick) => tick + 1), 1000);
    return () => clearInterval(timer);
  }, []);
  return rates;
};

export const CancelButton = ({ id, model }) => html`<${Act} label=${`Cancel ${id}`}
  confirm=${{ title: "Cancel this request?", text: `Its client gets an error, and what ${model} has written of the answer ends there.`, word: "Cancel it" }}
  run=${() => call("POST", `/api/requests/${encodeURIComponent(id)}/cancel`)}><span data-cancel>Cancel</span><//>`;

const Phase = ({ row, speed }) => {
  if (row.stage === "decode") return html`<${State} of="decode" /> ${rate(speed)}, ${count(row.said)} tokens`;
  return html`<${State} of="prefill" /> ${row.total ? html`<${Bar} part=${row.done} whole=${row.total} label="Prompt read" text=${`${percent(row.done, row.total)} of ${count(row.total)}`} />` : ""}`;
};

const Running = ({ rows, rates, mayWrite }) => html`<${Table} label="Running requests" rows=${rows} empty="Nothing runs."
  columns=${[
    request,
    plain("class"),
    plain("model"),
    where,
    session,
    { name: "phase", of: (row) => row.stage, show: (row) => html`<${Phase} row=${row} speed=${rates[row.id]} />` },
    { name: "cached", right: true, of: (row) => row.cached, show: (row) => `${count(row.cached)} of ${count(row.prompt)}` },
    { name: "since", right: true, of: (row) => row.since_s, show: (row) => html`<${Time} at=${row.since_s} />` },
    ...(mayWrite ? [action((row) => html`<${CancelButton} id=${row.id} model=${row.model} />`)] : []),
  ]} />`;

const Waiting = ({ rows, mayWrite }) => html`<${Table} label="Waiting requests" rows=${rows} empty="Nothing waits."
  columns=${[
    { name: "place", right: true, of: (row) => row.place },
    request,
    plain("class"),
    plain("model"),
    { name: "begins", of: (row) => row.starts_s, show: (row) => (row.starts_s ? html`<${Time} at=${row.starts_s} />` : "unknown") },
    { name: "at the latest", of: (row) => row.until_s, show: (row) => html`<${Time} at=${row.until_s} />` },
    plain("why"),
    ...(mayWrite ? [action((row) => html`<${CancelButton} id=${row.id} model=${row.model} />`)] : []),
  ]} />`;

const Host = ({ name, host, workers }) => {
  const { memory_total_bytes: total, memory_available_bytes: free, memory_pressure: pressure = 1, disk_free_bytes: disk } = host.figures;
  return html`<section class="card" aria-label=${name}>
    <h3>${name} ${host.draining && html`<${State} of="draining" />`}</h3>
    ${total !== undefined && html`<p><${Bar} part=${total - free} whole=${total} label=${`Memory of ${name}`} text=${`${bytes(total - free)} of ${bytes(total)}`} />
      ${pressure > 1 && html`<span class="state bad"><span aria-hidden="true">▲</span> memory pressure</span>`}</p>`}
    <p class="muted">${disk !== undefined && `${bytes(disk)} of disk free`}${host.figures.on_battery ? ", on battery" : ""}</p>
    <ul>${Object.entries(host.models).map(([id, model]) => html`<li><span>${id}</span> <${State} of=${model.state} />
      ${model.state === "loading" && html`<${Bar} part=${model.load_done || 0} whole=${1} label=${`${id} loads`} />`}
      ${model.reason && html`<div class=${model.state === "failed" ? "bad" : "muted"}>${model.reason}</div>`}
      ${workers.filter((each) => each.model === id).map((each) => html`<div class="muted">${each.in_flight}/${each.capacity} requests · ${rate(each.decode_tokens_per_s)} out · ${rate(each.prefill_tokens_per_s)} in · ${bytes(each.cache_bytes)} cached</div>`)}
      </li>`)}</ul>
  </section>`;
};

const median = (values) => (values.length ? values.sort((a, b) => a - b)[Math.floor(values.length / 2)] : null);
const kindOf = (row) => (!row.cached ? "cold" : row.cached >= 0.9 * (row.prompt || 0) ? "hot" : "warm");

const Curves = ({ rows }) => {
  const end = Math.floor(Date.now() / 60_000);
  const xs = Array.from({ length: MINUTES }, (_, index) => (end - MINUTES + 1 + index) * 60);
  const of = (minute, test) => rows.filter((row) => Math.floor(row.at_s / 60) * 60 === minute && test(row));
  const first = ["hot", "warm", "cold"].map((name) => ({ name, values: xs.map((at) => median(of(at, (row) => row.first_s !== undefined && kindOf(row) === name).map((row) => row.first_s))) }));
  const sum = (name) => xs.map((at) => of(at, () => true).reduce((total, row) => total + (row[name] || 0), 0) / 60);
  return html`<div class="two"><${Chart} title="First token, median" unit="seconds" xs=${xs} series=${first} />
    <${Chart} title="Tokens" unit="a second, of requests that ended" xs=${xs} series=${[{ name: "out", values: sum("out") }, { name: "in", values: sum("prompt") }]} /></div>`;
};

const Connect = () => {
  const lines = `export ANTHROPIC_BASE_URL=${location.origin}\nexport ANTHROPIC_API_KEY=any   # or a key of yours\nclaude`;
  return html`<section class="card" aria-label="Connect"><h2>No request yet</h2><p>To use Claude Code with this gateway:</p><pre tabindex="0">${lines}</pre></section>`;
};

export const Now = ({ live, mayWrite }) => html`<h1>Now</h1><${Topic} live=${live} name="overview">${(state) => html`<${Body} state=${state} past=${live.states.requests} mayWrite=${mayWrite} />`}<//>`;

const Body = ({ state, past, mayWrite }) => {
  const rates = useRates(state.running);
  const running = rowsOf(state.running);
  const waiting = rowsOf(state.waiting);
  const workers = Object.values(state.workers);
  const rows = past ? rowsOf(past.rows) : [];
  const total = (name) => workers.reduce((sum, each) => sum + each[name], 0);
  const oldest = Math.min(...waiting.map((row) => row.since_s));
  const cached = rows.reduce((sum, row) => sum + (row.cached || 0), 0);
  const prompts = rows.reduce((sum, row) => sum + (row.prompt || 0), 0);
  const failed = rows.filter((row) => !["ok", "cancelled"].includes(row.outcome)).slice(-5).reverse();
  const broken = Object.entries(state.hosts).flatMap(([host, each]) => Object.entries(each.models).filter(([, model]) => ["failed", "no_memory"].includes(model.state)).map(([id, model]) => ({ host, id, model })));
  return html`
    ${!state.redis && html`<p role="alert" class="notice bad">Redis cannot be reached: what is shown is from before.</p>`}
    ${broken.map(({ host, id, model }) => html`<p class="notice bad" key=${host + id}><${State} of=${model.state} /> <strong>${id}</strong> on ${host}: ${model.reason}
      ${mayWrite && html`<${Act} run=${() => call("POST", "/api/models", { model: id, action: "load" })}>Try again<//>`}</p>`)}
    ${Object.keys(state.faults).map((fault) => html`<p class="notice bad" key=${fault}>${fault}</p>`)}
    ${Object.entries(state.strangers).map(([name, why]) => html`<p class="notice bad" key=${name}>${name} gets no work: ${why}</p>`)}
    <dl class="strip">
      <div><dt>running</dt><dd>${running.length}</dd></div>
      <div><dt>waiting</dt><dd>${waiting.length}</dd></div>
      <div><dt>out</dt><dd>${rate(total("decode_tokens_per_s"))}</dd></div>
      <div><dt>in</dt><dd>${rate(total("prefill_tokens_per_s"))}</dd></div>
      <div><dt>cached</dt><dd>${percent(cached, prompts)}</dd></div>
      <div><dt>oldest wait</dt><dd>${waiting.length ? html`<${Time} at=${oldest} />` : "–"}</dd></div>
    </dl>
    <h2>Running</h2><${Running} rows=${running} rates=${rates} mayWrite=${mayWrite} />
    <h2>Waiting</h2><${Waiting} rows=${waiting} mayWrite=${mayWrite} />
    ${past && !rows.length && !running.length && html`<${Connect} />`}
    <h2>Macs</h2>
    ${Object.keys(state.hosts).length ? html`<div class="cards">${Object.entries(state.hosts).map(([name, host]) => html`<${Host} key=${name} name=${name} host=${host} workers=${workers.filter((each) => each.host === name)} />`)}</div>`
      : workers.length ? html`<ul>${workers.map((each) => html`<li>${each.model} on ${each.host} <${State} of=${each.state} /></li>`)}</ul>` : html`<p class="empty">No Mac is here: start one with <code>mlx-gateway up</code>.</p>`}
    ${rows.length > 0 && html`<h2>The last 15 minutes</h2><${Curves} rows=${rows} />`}
    ${failed.length > 0 && html`<h2>Refused and failed last</h2><ul>${failed.map((row) => html`<li key=${row.id}><${Time} at=${row.at_s} /> <a href=${`#/requests/${row.id}`}>${row.outcome}</a> ${row.asked}: ${row.error || ""}</li>`)}</ul>`}
    <p class="offscreen" role="status">${running.length} running, ${waiting.length} waiting</p>`;
};
