// A request of the chat as something to run elsewhere. Loaded when somebody asks for it.

const python = (value, indent = 4) => {
  const pad = " ".repeat(indent);
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return value.length ? `[\n${value.map((each) => `${pad}    ${python(each, indent + 4)},\n`).join("")}${pad}]` : "[]";
  if (typeof value === "object") return `{\n${Object.entries(value).map(([name, each]) => `${pad}    ${JSON.stringify(name)}: ${python(each, indent + 4)},\n`).join("")}${pad}}`;
  return JSON.stringify(value);
};

const fields = (body) => Object.entries(body).map(([name, value]) => `    ${name}=${python(value)},\n`).join("");
const object = (body) => JSON.stringify(body, null, 2);

const curl = (dialect, body) => `curl ${location.origin}${dialect.path} \\
  -H 'content-type: application/json' -H "x-api-key: $KEY"${Object.entries(dialect.headers).map(([name, value]) => ` -H '${name}: ${value}'`).join("")} \\
  -d '${JSON.stringify(body).replaceAll("'", "'\\''")}'\n`;

const LANGUAGES = {
  curl,
  Python: (dialect, { stream, ...body }) => (dialect.path === "/v1/messages"
    ? `import os\n\nfrom anthropic import Anthropic\n\nclient = Anthropic(base_url=${JSON.stringify(location.origin)}, api_key=os.environ.get("KEY", "any"))
with client.messages.stream(\n${fields(body)}) as stream:\n    for text in stream.text_stream:\n        print(text, end="", flush=True)\nprint()\n`
    : `import os\n\nfrom openai import OpenAI\n\nclient = OpenAI(base_url=${JSON.stringify(`${location.origin}/v1`)}, api_key=os.environ.get("KEY", "any"))
stream = client.chat.completions.create(\n${fields({ stream: true, ...body })})\nfor chunk in stream:\n    for choice in chunk.choices:\n        print(choice.delta.content or "", end="", flush=True)\nprint()\n`),
  TypeScript: (dialect, { stream, ...body }) => (dialect.path === "/v1/messages"
    ? `import Anthropic from "@anthropic-ai/sdk";\n\nconst client = new Anthropic({ baseURL: ${JSON.stringify(location.origin)}, apiKey: process.env.KEY ?? "any" });
const stream = client.messages.stream(${object(body)});\nstream.on("text", (text) => process.stdout.write(text));\nawait stream.finalMessage();\n`
    : `import OpenAI from "openai";\n\nconst client = new OpenAI({ baseURL: ${JSON.stringify(`${location.origin}/v1`)}, apiKey: process.env.KEY ?? "any" });
const stream = await client.chat.completions.create(${object({ stream: true, ...body })});\nfor await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta?.content ?? "");\n`),
};

export const codeOf = (language, dialect, body) => LANGUAGES[language](dialect, body);
