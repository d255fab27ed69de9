// The two dialects of the chat: what is sent of its turns, and what is read of an answer. A turn is one of
// {role: "user", text, images: [{type, data, name}]}, {role: "assistant", text, thinking, signature, calls: [{id, name, input}]},
// {role: "tool", results: [{id, name, text, failed}]}; `input` is the JSON text as it was generated.

// Server-sent events of a fetch.
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (data && data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

// Tools as a person writes them, in either vendor's form: [{name, description, schema, answer}]. Throws what is wrong.
export const parseTools = (text) => {
  if (!text.trim()) return [];
  const said = JSON.parse(text);
  return (Array.isArray(said) ? said : [said]).map((each, index) => {
    const tool = each?.function || each;
    if (!tool?.name) throw new Error(`tool ${index + 1} has no name`);
    return { name: tool.name, description: tool.description || "", schema: tool.input_schema || tool.parameters || { type: "object", properties: {} }, answer: each.answer };
  });
};

const parsed = (text) => { try { return JSON.parse(text || "{}"); } catch { return {}; } };
const number = (name, value) => (value === "" || value === undefined ? {} : { [name]: Number(value) });

const anthropicTurn = (turn) => {
  if (turn.role === "tool") return { role: "user", content: turn.results.map((each) => ({ type: "tool_result", tool_use_id: each.id, content: each.text, ...(each.failed && { is_error: true }) })) };
  if (turn.role === "user") {
    return { role: "user", content: turn.images?.length ? [...turn.images.map(({ type, data }) => ({ type: "image", source: { type: "base64", media_type: type, data } })), { type: "text", text: turn.text }] : turn.text };
  }
  const thinking = turn.signature ? [{ type: "thinking", thinking: turn.thinking, signature: turn.signature }] : [];
  const calls = (turn.calls || []).map((each) => ({ type: "tool_use", id: each.id, name: each.name, input: parsed(each.input) }));
  return { role: "assistant", content: [...thinking, ...(turn.text ? [{ type: "text", text: turn.text }] : []), ...calls] };
};

const openaiTurns = (turn) => {
  if (turn.role === "tool") return turn.results.map((each) => ({ role: "tool", tool_call_id: each.id, content: each.text }));
  if (turn.role === "user") {
    return [{ role: "user", content: turn.images?.length ? [...turn.images.map(({ type, data }) => ({ type: "image_url", image_url: { url: `data:${type};base64,${data}` } })), { type: "text", text: turn.text }] : turn.text }];
  }
  const calls = (turn.calls || []).map((each) => ({ id: each.id, type: "function", function: { name: each.name, arguments: each.input } }));
  return [{ role: "assistant", content: turn.text || null, ...(calls.length && { tool_calls: calls }) }];
};

// A call as it comes: `at` tells those of one answer apart.
const called = (turn, at, more) => {
  const call = (turn.open ||= {})[at] || ((turn.open[at] = { id: "", name: "", input: "" }), turn.calls.push(turn.open[at]), turn.open[at]);
  if (more.id) call.id = more.id;
  if (more.name) call.name += more.name;
  if (more.input) call.input += more.input;
};

export const DIALECTS = {
  anthropic: {
    name: "Anthropic Messages",
    path: "/v1/messages",
    headers: { "anthropic-version": "2023-06-01" },
    body: (ask) => ({
      model: ask.model, max_tokens: ask.most, stream: true, thinking: { type: "adaptive" }, ...(ask.system && { system: ask.system }),
      ...number("temperature", ask.temperature), ...number("top_p", ask.topP), ...number("top_k", ask.topK),
      ...(ask.tools.length && { tools: ask.tools.map(({ name, description, schema }) => ({ name, description, input_schema: schema })) }),
      messages: ask.turns.map(anthropicTurn).filter((each) => each.content.length),
    }),
    read: (event, turn, note) => {
      if (event.type === "message_start") note({ usage: event.message.usage });
      if (event.type === "content_block_start" && event.content_block.type === "tool_use") called(turn, event.index, { id: event.content_block.id, name: event.content_block.name });
      if (event.type === "content_block_delta") {
        if (event.delta.partial_json) called(turn, event.index, { input: event.delta.partial_json });
        if (event.delta.signature) turn.signature = event.delta.signature;
        note({ text: event.delta.text, thinking: event.delta.thinking });
      }
      if (event.type === "message_delta") note({ usage: event.usage, end: event.delta.stop_reason });
      if (event.type === "error") throw new Error(event.error.message);
    },
    tokens: (usage) => ({ prompt: (usage.input_tokens || 0) + (usage.cache_read_input_tokens || 0) + (usage.cache_creation_input_tokens || 0), cached: usage.cache_read_input_tokens, out: usage.output_tokens }),
  },
  openai: {
    name: "OpenAI Chat Completions",
    path: "/v1/chat/completions",
    headers: {},
    body: (ask) => ({
      model: ask.model, max_tokens: ask.most, stream: true, stream_options: { include_usage: true },
      ...number("temperature", ask.temperature), ...number("top_p", ask.topP),
      ...(ask.tools.length && { tools: ask.tools.map(({ name, description, schema }) => ({ type: "function", function: { name, description, parameters: schema } })) }),
      messages: [...(ask.system ? [{ role: "system", content: ask.system }] : []), ...ask.turns.flatMap(openaiTurns)],
    }),
    read: (event, turn, note) => {
      if (event.error) throw new Error(event.error.message);
      const choice = event.choices?.[0];
      for (const each of choice?.delta?.tool_calls || []) called(turn, each.index, { id: each.id, name: each.function?.name, input: each.function?.arguments });
      if (choice) note({ text: choice.delta?.content, thinking: choice.delta?.reasoning_content, end: choice.finish_reason });
      if (event.usage) note({ usage: event.usage });
    },
    tokens: (usage) => ({ prompt: usage.prompt_tokens, cached: usage.prompt_tokens_details?.cached_tokens, out: usage.completion_tokens }),
  },
};
