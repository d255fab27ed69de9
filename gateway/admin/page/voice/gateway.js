// What voice asks the gateway for, over the same API as everybody.

import { encodeWav } from "./sound.js";

const MOST_INPUT = 4096; // characters of one request for speech
const NOTE = "You are spoken with. Answer shortly, in whole sentences, in the language that you are spoken to in, without "
  + "Markdown, lists, code or tables unless you are asked for them.";

const refused = async (answer) => {
  const said = await answer.json().catch(() => null);
  return new Error(said?.error?.message || `the gateway answered ${answer.status}`);
};

const ask = async (path, body, signal, headers = {}) => {
  const answer = await fetch(path, { method: "POST", body, headers, signal }).catch((error) => {
    throw error.name === "AbortError" ? error : new Error("the gateway cannot be reached");
  });
  if (!answer.ok) throw await refused(answer);
  return answer;
};

const askJson = (path, body, signal, headers) => ask(path, JSON.stringify(body), signal, { "content-type": "application/json", ...headers });

async function* pieces(answer) {
  const reader = answer.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

// (samples,) at `rate` as text.
export const transcribe = async (samples, rate, { model, language }, signal) => {
  const form = new FormData();
  form.append("model", model);
  if (language) form.append("language", language);
  form.append("file", new Blob([encodeWav(samples, rate)], { type: "audio/wav" }), "speech.wav");
  return (await (await ask("/v1/audio/transcriptions", form, signal)).json()).text;
};

// The answer as it is written. Raises an Error with the gateway's own words.
export async function* answer(messages, { model, session }, signal) {
  const body = { model, max_tokens: 1024, stream: true, system: NOTE, messages, metadata: { user_id: `user_voice_account__session_${session}` } };
  const reply = await askJson("/v1/messages", body, signal, { "anthropic-version": "2023-06-01" });
  const decoder = new TextDecoder();
  let held = "";
  for await (const bytes of pieces(reply)) {
    held += decoder.decode(bytes, { stream: true });
    const events = held.split("\n\n");
    held = events.pop();
    for (const event of events) {
      const data = event.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      const said = data ? JSON.parse(data) : {};
      if (said.type === "error") throw new Error(said.error.message);
      if (said.type === "content_block_delta" && said.delta.text) yield said.delta.text;
    }
  }
}

// Bytes of 16-bit samples at 24 kHz, as they are made.
export async function* speak(text, { model, voice }, signal) {
  const body = { model, input: text.slice(0, MOST_INPUT), response_format: "pcm", ...(voice && { voice }) };
  yield* pieces(await askJson("/v1/audio/speech", body, signal));
}

// Models by what they do: {generate, transcribe, speak}. Whoever may not read what is served chooses among all names.
export const servedModels = async () => {
  const answer = await fetch("/api/models");
  if (answer.ok) {
    const models = Object.entries((await answer.json()).models);
    const doing = (kind) => models.filter(([, each]) => Object.values(each.workers || {}).some((worker) => worker.kinds.includes(kind))).map(([id]) => id);
    return { generate: doing("generate"), transcribe: doing("transcribe"), speak: doing("speak") };
  }
  const all = await fetch("/v1/models");
  if (!all.ok) throw await refused(all);
  const names = (await all.json()).data.map((each) => each.id);
  return { generate: names, transcribe: names, speak: names };
};
