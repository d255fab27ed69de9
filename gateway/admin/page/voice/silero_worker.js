// Silero in a thread of its own, the one place whose policy allows WebAssembly. Windows in; how likely each is a voice
// out, in their order; before that, {isReady} or {error}.

import { MODEL, RUNTIME, Silero } from "./silero.js";

const FILES = new URL("../silero/", import.meta.url);

const load = async () => {
  const runtime = await import(new URL(RUNTIME, FILES).href);
  runtime.env.wasm.numThreads = 1; // more need a page that is isolated from all others
  runtime.env.wasm.wasmPaths = FILES.href;
  const answer = await fetch(new URL(MODEL, FILES));
  if (!answer.ok) throw new Error(`the gateway answered ${answer.status}`);
  return Silero.load(runtime, new Uint8Array(await answer.arrayBuffer()));
};

const loaded = load();
const failed = (error) => postMessage({ error: error.message });
loaded.then(() => postMessage({ isReady: true }), failed);

let line = loaded;
onmessage = ({ data }) => {
  line = line.then(async () => postMessage({ likely: await (await loaded).feed(data) }));
  line.catch(failed);
};
