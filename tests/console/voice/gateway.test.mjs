// What the page of voice asks the gateway for. The gateway is a stand-in that keeps what it was asked.
import assert from "node:assert/strict";
import { test } from "node:test";
import { answer, speak, transcribe } from "../../../gateway/admin/page/voice/gateway.js";
import { messagesOf, wordsOf } from "../../../gateway/admin/page/voice/conversation.js";

const asking = async (reply, ask) => {
  const asked = [];
  const { fetch } = globalThis;
  globalThis.fetch = async (path, { body }) => {
    asked.push({ path, body });
    return reply();
  };
  try {
    return { got: await ask(), asked };
  } finally {
    globalThis.fetch = fetch;
  }
};

const all = async (pieces) => {
  const found = [];
  for await (const each of pieces) found.push(each);
  return found;
};

const SAID = {
  de: "Wie spät ist es in Köln? Schöne Grüße!",
  fr: "Où est l'hôtel, s'il vous plaît ?",
  ja: "今は何時ですか。",
  ar: "كم الساعة الآن؟",
  hi: "अभी कितने बजे हैं?",
};

for (const [language, text] of Object.entries(SAID)) {
  test(`what is said in another language is passed on as it is: ${language}`, async () => {
    const heard = await asking(() => Response.json({ text }), () => transcribe(new Float32Array(320), 16000, { model: "w", language }));
    assert.equal(heard.asked[0].path, "/v1/audio/transcriptions");
    assert.equal(heard.asked[0].body.get("language"), language);
    assert.equal(wordsOf(heard.got), text);

    const messages = messagesOf([{ role: "user", text: wordsOf(heard.got) }]);
    const event = `data: ${JSON.stringify({ type: "content_block_delta", delta: { text } })}\n\n`;
    const bytes = new TextEncoder().encode(event);
    const cutAnywhere = () => new Response(new ReadableStream({
      start(out) {
        for (const byte of bytes) out.enqueue(Uint8Array.of(byte));
        out.close();
      },
    }));
    const answered = await asking(cutAnywhere, () => all(answer(messages, { model: "m", session: "s" })));
    const body = JSON.parse(answered.asked[0].body);
    assert.deepEqual(body.messages, [{ role: "user", content: text }]);
    assert.match(body.system, /in the language that you are spoken to in/);
    assert.deepEqual(answered.got, [text]);

    const spoken = await asking(() => new Response("sound"), () => all(speak(text, { model: "s", voice: "" })));
    assert.equal(JSON.parse(spoken.asked[0].body).input, text);
  });
}

test("without a language the model of transcripts finds it, and without a voice that of speech has its own", async () => {
  const heard = await asking(() => Response.json({ text: "" }), () => transcribe(new Float32Array(1), 16000, { model: "w", language: "" }));
  assert.equal(heard.asked[0].body.has("language"), false);
  const spoken = await asking(() => new Response("sound"), () => all(speak("a", { model: "s", voice: "" })));
  assert.equal("voice" in JSON.parse(spoken.asked[0].body), false);
});

test("a refusal is told in the gateway's own words", async () => {
  const refusal = () => Response.json({ error: { message: "no such model" } }, { status: 404 });
  await asking(refusal, () => assert.rejects(all(speak("a", { model: "s", voice: "" })), /no such model/));
});
