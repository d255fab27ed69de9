"""The document as a page that asks nobody else for anything."""

from __future__ import annotations

from typing import Final

PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>mlx-gateway</title>
<style>
  :root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
  body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
  details { border: 1px solid #8886; border-radius: .4rem; margin: .4rem 0; padding: .4rem .8rem; }
  summary { cursor: pointer; } code, pre { font: 13px/1.5 ui-monospace, monospace; }
  pre { overflow: auto; background: #8881; padding: .6rem; border-radius: .4rem; }
  b { display: inline-block; min-width: 4.5rem; } small { opacity: .7; }
  table { border-collapse: collapse; } td { padding: .1rem .8rem .1rem 0; vertical-align: top; }
</style></head><body><h1>mlx-gateway</h1><p id="about"></p><div id="all"></div>
<script>
const make = (tag, text, ...inner) => {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  made.append(...inner);
  return made;
};
const kind = (s) => s.enum ? s.enum.join(" | ") : s.anyOf ? s.anyOf.map(kind).join(" or ")
  : s.type === "array" ? "list of " + (s.items ? kind(s.items) : "anything")
  : [].concat(s.type || "anything").join(" or ");
const fields = (schema) => {
  const table = make("table");
  for (const [name, s] of Object.entries(schema.properties || {})) {
    const must = (schema.required || []).includes(name) ? " *" : "";
    table.append(make("tr", "", make("td", "", make("code", name + must)), make("td", kind(s)),
      make("td", s.description || "")));
  }
  return table;
};
fetch("openapi.json").then((answer) => answer.json()).then((doc) => {
  document.getElementById("about").textContent = doc.info.description + " Version " + doc.info.version + ".";
  const all = document.getElementById("all");
  for (const [path, methods] of Object.entries(doc.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const box = make("details", "", make("summary", "", make("b", method.toUpperCase()), make("code", path),
        make("small", "  " + operation.summary)));
      const content = operation.requestBody && operation.requestBody.content["application/json"];
      if (content) {
        box.append(fields(doc.components.schemas[content.schema.$ref.split("/").pop()]));
        box.append(make("pre", JSON.stringify(content.example, null, 2)));
      }
      all.append(box);
    }
  }
});
</script></body></html>
"""
