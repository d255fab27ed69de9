// The rules of claude_routing.json in their order: what a request must be, and who answers it then.

import { Table, count, html, plain } from "./ui.js";

// By what a rule may say: words for what it asks of a request.
const CONDITIONS = [
  ["classes", (classes) => `of class ${classes.join(" or ")}`],
  ["tools", (has) => (has ? "with tools" : "without tools")],
  ["images", (has) => (has ? "with images" : "without images")],
  ["least_prompt_bytes", (least) => `${count(least)} bytes of prompt or more`],
  ["most_prompt_bytes", (most) => `${count(most)} bytes of prompt at most`],
];
const asked = (rule) => rule.asked?.join(", ") || "any name of a vendor's own";
const condition = (rule) => CONDITIONS.filter(([name]) => rule[name] !== undefined).map(([name, say]) => say(rule[name])).join(", ");

const NAME = "claude_routing.json";
const toFile = () => {
  const area = document.querySelector(`section[aria-label="${NAME}"] textarea`);
  area.scrollIntoView({ block: "center" });
  area.focus();
};

export const Rules = ({ rules, mayEdit }) => html`<h2>Rules</h2>
  <p class="muted">The first that fits counts. One that says no names is for a vendor's own alone: who asks for a model by its name gets that model.${mayEdit && html` <button type="button" onClick=${toFile}>Edit them in ${NAME}</button>`}</p>
  <${Table} label="Rules" filter=${false} most=${500} rows=${rules.map((rule) => ({ id: String(rule.number), ...rule }))} empty="No rule: who answers does not depend on what a request is." columns=${[
    { name: "order", right: true, of: (row) => row.number }, { name: "asked for", of: asked }, { name: "when it is", of: condition }, plain("then", "model"),
  ]} />`;
