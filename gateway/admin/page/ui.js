// What all screens are made of. Everything that comes from elsewhere ends as a text node.

import { html, useEffect, useLayoutEffect, useRef, useState } from "./vendor/preact.js";

export { html, useEffect, useRef, useState };

const GIB = 2 ** 30;
export const bytes = (n) => (n === undefined ? "–" : n >= GIB / 10 ? `${(n / GIB).toFixed(1)} GiB` : n >= 2 ** 20 || !n ? `${Math.round(n / 2 ** 20)} MiB` : `${Math.ceil(n / 1024)} KiB`);
export const count = (n) => (n === undefined || n === null ? "–" : Number(n).toLocaleString("en"));
export const rate = (n) => (n === undefined ? "–" : n >= 10 ? `${Math.round(n)} tok/s` : `${n.toFixed(1)} tok/s`);
export const percent = (part, whole) => (whole > 0 ? `${Math.round((100 * part) / whole)} %` : "–");
export const seconds = (s) => {
  if (s === undefined || s === null) return "–";
  if (s < 10) return `${s.toFixed(2)} s`;
  if (s < 120) return `${Math.round(s)} s`;
  return s < 7200 ? `${Math.round(s / 60)} min` : `${Math.round(s / 3600)} h`;
};

const age = (s) => (s < 120 ? `${Math.ceil(s)} s` : s < 7200 ? `${Math.round(s / 60)} min` : s < 172800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} days`);

// Answers may come in another order than their questions: `const isNews = ask()` before one is sent, and what it brings is
// shown if `isNews()`, which it is unless a later one was answered before.
export const useOrder = () => {
  const turn = useRef({ asked: 0, told: 0 });
  return () => {
    const mine = ++turn.current.asked;
    return () => {
      const isNews = mine > turn.current.told;
      if (isNews) turn.current.told = mine;
      return isNews;
    };
  };
};

// Rows of a table from what a topic has by name, and columns that several tables have.
export const rowsOf = (told) => Object.entries(told).map(([id, each]) => ({ id, ...each }));
export const figure = (name, key, show = count) => ({ name, right: true, of: (row) => row[key], show: (row) => show(row[key]) });
export const plain = (name, key = name) => ({ name, of: (row) => row[key] });
export const action = (show) => ({ name: "action", of: () => "", show });
export const where = { name: "where", of: (row) => row.worker, show: (row) => html`<span title=${row.worker}>${(row.worker || "–").split(".")[0]}</span>` };
export const request = { name: "request", of: (row) => row.id, show: (row) => html`<a class="rowlink" href=${`#/requests/${row.id}`}>${row.id.slice(-8)}</a>` };
export const session = { name: "session", of: (row) => row.session, show: (row) => html`<code>${row.session || "–"}</code>` };

// Components that show an age look again each second.
export const useNow = () => {
  const [now, setNow] = useState(Date.now() / 1000);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now() / 1000), 1000);
    return () => clearInterval(timer);
  }, []);
  return now;
};

export const Time = ({ at }) => {
  const now = useNow();
  if (!at) return "–";
  const when = new Date(at * 1000);
  const ago = now - at;
  const text = ago < 0 ? `in ${age(-ago)}` : ago < 2 ? "now" : `${age(ago)} ago`;
  return html`<time dateTime=${when.toISOString()} title=${when.toLocaleString()}>${text}</time>`;
};

const SHAPES = { ok: "●", busy: "◐", idle: "○", bad: "▲" };
const KINDS = {
  ready: "ok", valid: "ok", lives: "ok", ok: "ok", live: "ok", decode: "ok",
  loading: "busy", draining: "busy", prefill: "busy", queued: "busy", connecting: "busy",
  failed: "bad", no_memory: "bad", stalled: "bad", revoked: "bad", expired: "bad", away: "bad",
};
const WORDS = { no_memory: "no memory", decode: "writing", prefill: "reading", available: "not loaded", unloaded: "not loaded" };

export const State = ({ of }) => {
  const kind = KINDS[of] || "idle";
  return html`<span class=${`state ${kind}`}><span aria-hidden="true">${SHAPES[kind]}</span> ${WORDS[of] || of}</span>`;
};

export const Bar = ({ part, whole, label, text }) => {
  const share = whole > 0 ? Math.min(1, part / whole) : 0;
  return html`<span class="bar"><progress max="1" value=${share} aria-label=${label}></progress><span>${text || percent(part, whole)}</span></span>`;
};

// What is to be confirmed is asked above all rows: a row may move to another table, or go, while somebody reads.
let ask = () => {};
export const Asking = () => {
  const [asked, setAsked] = useState(null);
  ask = setAsked;
  const close = () => setAsked(null);
  return asked && html`<${Dialog} title=${asked.title} onClose=${close}>
    <p>${asked.text}</p>
    <p class="row"><${Act} kind="danger" run=${async () => { await asked.run(); close(); }}>${asked.word}<//>
    <button type="button" onClick=${close}>Keep</button></p>
  <//>`;
};

// A button that shows its own running and its own result.
export const Act = ({ run, children, confirm, kind = "", label }) => {
  const [state, setState] = useState({});
  const alive = useRef(true);
  useEffect(() => () => { alive.current = false; }, []);
  const done = (said) => alive.current && setState({ done: typeof said === "string" ? said : said?.done || "done" });
  const act = async () => {
    setState({ running: true });
    try {
      done(await run());
    } catch (error) {
      if (alive.current) setState({ error: error.message });
    }
  };
  return html`<span class="act">
    <button type="button" class=${kind} disabled=${state.running} aria-label=${label} aria-busy=${state.running ? "true" : undefined}
      onClick=${() => (confirm ? ask({ ...confirm, run: async () => done(await run()) }) : act())}>${children}${state.running ? " …" : ""}</button>
    ${state.done && html`<span role="status" class="muted">${state.done}</span>`}
    ${state.error && html`<span role="alert" class="bad">${state.error}</span>`}
  </span>`;
};

export const Dialog = ({ title, onClose, children }) => {
  const box = useRef();
  useLayoutEffect(() => {
    const before = document.activeElement;
    box.current.showModal();
    return () => before?.isConnected && before.focus();
  }, []);
  return html`<dialog ref=${box} aria-label=${title} onClose=${onClose} onCancel=${onClose}>
    <h2>${title}</h2>${children}
  </dialog>`;
};

export const copy = (text) => {
  // `navigator.clipboard` is missing on plain http.
  const area = document.createElement("textarea");
  area.value = text;
  area.setAttribute("aria-hidden", "true");
  area.className = "offscreen";
  const before = document.activeElement;
  (document.querySelector("dialog[open]") || document.body).append(area); // beside an open dialog nothing can be selected
  area.select();
  const isDone = document.execCommand("copy");
  area.remove();
  before?.focus();
  if (!isDone) throw new Error("this browser lets nothing be copied here");
};

export const Copy = ({ text, children = "Copy" }) =>
  html`<${Act} run=${async () => { copy(text); return "copied"; }}>${children}<//>`;

// `columns`: {name, of: row => what sorts, show: row => what is shown, right}. `rows` have an `id`.
export const Table = ({ label, columns, rows, empty, first, filter = true, most = 200 }) => {
  const [sort, setSort] = useState(first || {});
  const [text, setText] = useState("");
  const column = columns.find((each) => each.name === sort.name);
  const words = text.toLowerCase();
  const isFound = (row) => columns.some((each) => String(each.of(row) ?? "").toLowerCase().includes(words));
  let shown = words ? rows.filter(isFound) : rows;
  if (column) {
    const way = sort.down ? -1 : 1;
    shown = [...shown].sort((a, b) => {
      const [x, y] = [column.of(a), column.of(b)];
      return x === y ? 0 : way * ((x ?? "") < (y ?? "") ? -1 : 1);
    });
  }
  const turn = (name) => setSort({ name, down: sort.name === name ? !sort.down : false });
  const sorted = (name) => (sort.name === name ? (sort.down ? "descending" : "ascending") : undefined);
  if (!rows.length) return html`<p class="empty">${empty}</p>`;
  return html`
    ${filter && rows.length > 9 && html`<p><label>Filter <input class="filter" type="search" value=${text} aria-label=${`Filter ${label}`}
      onInput=${(event) => setText(event.target.value)} /></label> <span class="muted">${count(shown.length)} of ${count(rows.length)}</span></p>`}
    ${!shown.length && html`<p class="empty">Nothing has “${text}”. <button type="button" onClick=${() => setText("")}>Show all</button></p>`}
    ${shown.length > 0 && html`<div class="scroll" tabindex="0" role="region" aria-label=${label}><table>
      <thead><tr>${columns.map((each) => html`<th scope="col" class=${each.right ? "right" : ""} aria-sort=${sorted(each.name)}>
        <button type="button" class="sort" onClick=${() => turn(each.name)}>${each.name}<span aria-hidden="true">${sort.name === each.name ? (sort.down ? " ↓" : " ↑") : ""}</span></button></th>`)}</tr></thead>
      <tbody>${shown.slice(0, most).map((row) => html`<tr key=${row.id}>${columns.map((each) =>
        html`<td class=${each.right ? "right" : ""}>${each.show ? each.show(row) : each.of(row) ?? "–"}</td>`)}</tr>`)}</tbody>
    </table></div>`}
    ${shown.length > most && html`<p class="muted">The first ${count(most)} are shown: filter for others.</p>`}`;
};

// What a topic shows while it is not there, or no more.
export const Topic = ({ live, name, children }) => {
  const [isLate, setLate] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => setLate(true), 200);
    return () => clearTimeout(timer);
  }, []);
  const state = live.states[name];
  const error = live.errors[name];
  return html`
    ${error && html`<p role="alert" class="notice bad">This cannot be shown since ${new Date(error.at).toLocaleTimeString()}: ${error.text}. It is tried again by itself.</p>`}
    ${state ? children(state) : !error && isLate && html`<div class="skeleton" role="status"><span class="offscreen">Loading</span></div>`}`;
};

export const Facts = ({ of }) => html`<dl class="facts">${of.filter(([, value]) => value !== undefined && value !== "").map(([name, value]) =>
  html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;

const COLOURS = ["--hot", "--warm", "--cold", "--accent", "--ok"];
const DASHES = [[], [6, 4], [2, 3], [8, 2, 2, 2], [1, 4]];

const TIMES = { name: "time", isTime: true, show: (at) => new Date(at * 1000).toLocaleTimeString() };

// `series`: {name, values}; `xs` Unix times, or what `at` says of them. The numbers are also a table, behind a button.
export const Chart = ({ title, unit, xs, series, at = TIMES }) => {
  const box = useRef();
  const chart = useRef();
  const [isTable, setTable] = useState(false);
  const names = series.map((each) => each.name).join();
  const latest = series.map((each) => `${each.name} ${each.values.findLast((value) => value !== null)?.toFixed(2) ?? "nothing"}`).join(", ");
  const data = [xs, ...series.map((each) => each.values)];
  useEffect(() => {
    const held = box.current; // the place is taken from the ref before the observer of its size ends
    if (!held || typeof uPlot === "undefined") return undefined;
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } };
    const lines = series.map((each, index) => ({ label: each.name, stroke: colour(COLOURS[index]), dash: DASHES[index], width: 2, spanGaps: false, points: { size: 5 } }));
    const options = { width: held.clientWidth || 300, height: 160, series: [{}, ...lines], axes: [axis, { ...axis, size: 48 }],
      scales: { x: { time: Boolean(at.isTime) }, y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] } }, legend: { show: false }, cursor: { sync: { key: "all" } } };
    chart.current = new uPlot(options, data, held);
    const resize = new ResizeObserver(() => chart.current?.setSize({ width: held.clientWidth || 300, height: 160 }));
    resize.observe(held);
    return () => {
      resize.disconnect();
      chart.current.destroy();
      chart.current = null;
    };
  }, [names, document.documentElement.dataset.theme, isTable]);
  useEffect(() => chart.current?.setData(data));
  return html`<figure><figcaption>${title} <span class="muted">(${unit})</span>
      ${series.map((each, index) => html`<span class="key"><span class=${`swatch c${index}`} aria-hidden="true"></span>${each.name}</span>`)}
      <button type="button" aria-pressed=${isTable ? "true" : "false"} onClick=${() => setTable(!isTable)}>As a table</button></figcaption>
    ${isTable ? html`<${Table} label=${title} filter=${false} empty="Nothing yet." rows=${xs.map((x, index) => ({ id: x, x, index }))[at.isTime ? "reverse" : "slice"]()}
      columns=${[{ name: at.name, of: (row) => row.x, show: (row) => at.show(row.x) },
        ...series.map((each) => ({ name: each.name, right: true, of: (row) => each.values[row.index], show: (row) => each.values[row.index]?.toFixed(2) ?? "–" }))]} />`
      : html`<div class="chart" ref=${box} role="img" aria-label=${`${title}, ${unit}, latest: ${latest}`}></div>`}
  </figure>`;
};
