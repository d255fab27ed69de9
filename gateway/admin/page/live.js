// What the gateway says, as state that components read. Hidden tabs do not listen.

import { useEffect, useState } from "./vendor/preact.js";
import { Stream } from "./stream.js";

const store = { states: {}, errors: {}, status: "connecting", since: Date.now() };
const watchers = new Set();
let topics = [];
let post = null;

const hear = (message) => {
  if (message.status) Object.assign(store, message);
  else if (message.error) store.errors = { ...store.errors, [message.topic]: { text: message.error, at: Date.now() } };
  else {
    store.states = { ...store.states, [message.topic]: message.state };
    if (store.errors[message.topic]) store.errors = { ...store.errors, [message.topic]: undefined };
  }
  for (const watch of watchers) watch();
};

const connect = () => {
  if (typeof SharedWorker !== "undefined") {
    const worker = new SharedWorker(new URL("./worker.js", import.meta.url), { type: "module", name: "mlx-gateway" });
    worker.port.onmessage = ({ data }) => hear(data);
    worker.port.start();
    return (names) => worker.port.postMessage({ topics: names });
  }
  const stream = new Stream();
  return (names) => (names.length ? stream.listen(hear, names) : stream.leave(hear));
};

export const listenTo = (names) => {
  topics = names;
  if (!post && names.length) post = connect();
  post?.(document.hidden ? [] : topics);
};

document.addEventListener("visibilitychange", () => post?.(document.hidden ? [] : topics));
window.addEventListener("pagehide", () => post?.([]));
window.addEventListener("pageshow", () => post?.(document.hidden ? [] : topics));

export const useLive = () => {
  const [, setTick] = useState(0);
  useEffect(() => {
    let frame = 0;
    const watch = () => {
      cancelAnimationFrame(frame);
      frame = requestAnimationFrame(() => setTick((tick) => tick + 1));
    };
    watchers.add(watch);
    watch();
    return () => {
      watchers.delete(watch);
      cancelAnimationFrame(frame);
    };
  }, []);
  return store;
};

export class Refused extends Error {
  constructor(status, said) {
    super(said?.error?.message || `the gateway answered ${status}`);
    this.status = status;
    this.said = said;
  }
}

export const call = async (method, path, body, headers = {}) => {
  const answer = await fetch(path, {
    method,
    headers: body === undefined ? headers : { "content-type": "application/json", ...headers },
    body: body === undefined ? undefined : JSON.stringify(body),
  }).catch(() => {
    throw new Refused(0, { error: { message: "the gateway cannot be reached" } });
  });
  const said = await answer.json().catch(() => null);
  if (!answer.ok) throw new Refused(answer.status, said);
  return said;
};
