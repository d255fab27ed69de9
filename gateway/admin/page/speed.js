// A speed test of a model: real requests of the lowest class, drawn as they end.

import { Act, Bar, Chart, State, Time, Topic, count, html, seconds, useEffect, useState } from "./ui.js";
import { call } from "./live.js";

const PATH = "/api/models/speed";
const TOKENS = { name: "tokens", show: count };
const STREAMS = { name: "at once", show: count };

// What it costs is asked first: nothing begins before somebody has read that.
const Start = ({ id, again }) => {
  const [told, setTold] = useState(null);
  useEffect(() => {
    let isHere = true;
    call("POST", PATH, { model: id, check: true }).then((said) => isHere && setTold(said), (failed) => isHere && setTold({ error: failed.message }));
    return () => { isHere = false; };
  }, [id]);
  if (!told) return html`<p class="muted">Asking what a test would cost</p>`;
  if (told.error) return html`<p class="muted">It cannot be tested now: ${told.error}</p>`;
  return html`<p>${count(told.requests)} requests in the lowest class, at most ${count(told.prompt_tokens)} tokens to read and ${count(told.answer_tokens)} to write${told.seconds ? `: about ${seconds(told.seconds)} of the model's time` : ""}. What others ask goes first.</p>
    <p><${Act} run=${async () => { await call("POST", PATH, { model: id }); return "begun"; }}>${again ? "Test it again" : "Test its speed"}<//></p>`;
};

const curve = (points, name) => points.map((each) => each[name]);

const Curves = ({ test }) => html`<div class="two">
  ${test.prefill.length > 0 && html`<${Chart} title="First token over the prompt" unit="seconds, by tokens of the prompt" at=${TOKENS} xs=${curve(test.prefill, "at")} series=${[{ name: "first token", values: curve(test.prefill, "first_s") }]} />
    <${Chart} title="Prefill over the prompt" unit="tokens a second, by tokens of the prompt" at=${TOKENS} xs=${curve(test.prefill, "at")} series=${[{ name: "read", values: curve(test.prefill, "tokens_per_s") }]} />`}
  ${test.decode.length > 0 && html`<${Chart} title="Decode over parallel answers" unit="tokens a second, by answers at once" at=${STREAMS} xs=${curve(test.decode, "at")}
    series=${[{ name: "all together", values: curve(test.decode, "tokens_per_s") }, { name: "each", values: test.decode.map((each) => each.tokens_per_s / each.at) }]} />`}</div>`;

const Test = ({ id, test, mayWrite }) => {
  const points = test && [...test.prefill, ...test.decode];
  const beside = points?.filter((each) => each.is_beside).length;
  const isRunning = test?.state === "running";
  return html`${!test && html`<p class="empty">Its speed was not tested yet.</p>`}
    ${test && html`<p><${State} of=${test.state} /> ${isRunning ? html`<${Bar} part=${test.done} whole=${test.steps} label=${`Speed test of ${id}`} text=${`${test.done} of ${test.steps} steps`} />` : html`<${Time} at=${test.began_s} />`}
      ${isRunning && mayWrite && html` <${Act} label=${`Cancel the speed test of ${id}`} run=${() => call("DELETE", `${PATH}/${encodeURIComponent(id)}`)}>Cancel<//>`}</p>
      ${test.reason && html`<p role="alert" class="bad">It ended early: ${test.reason}</p>`}
      <${Curves} test=${test} />
      ${!isRunning && points.length > 0 && points.length < test.steps && html`<p class="muted">${count(points.length)} of ${count(test.steps)} steps have a figure${test.missing ? `; in ${count(test.missing)} too little was said for one` : ""}.</p>`}
      ${beside > 0 && html`<p class="muted">During ${count(beside)} of these steps others asked the same gateway: they cost it time.</p>`}`}
    ${mayWrite && !isRunning && html`<${Start} id=${id} again=${Boolean(test)} />`}`;
};

export const Speed = ({ live, id, mayWrite }) => html`<h2>Speed</h2><${Topic} live=${live} name="speed">${(state) => html`<${Test} id=${id} test=${state.tests[id]} mayWrite=${mayWrite} />`}<//>`;
