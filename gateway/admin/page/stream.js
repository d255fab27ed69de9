// One event stream for everybody who listens here: it asks for the union of their topics, keeps each topic's state, and
// hands on what changes. A gap in the numbers, or silence, and it asks again.

const SILENCE_MS = 10_000;
const RETRY_MS = 2_000;
const LINGER_MS = 3_000;

export const merge = (target, patch) => {
  if (patch === null || typeof patch !== "object" || Array.isArray(patch)) return patch;
  const result = target !== null && typeof target === "object" && !Array.isArray(target) ? { ...target } : {};
  for (const [name, value] of Object.entries(patch)) {
    if (value === null) delete result[name];
    else result[name] = merge(result[name], value);
  }
  return result;
};

export class Stream {
  constructor() {
    this.listeners = new Map(); // send -> topics
    this.states = {};
    this.numbers = {};
    this.asked = "";
    this.source = null;
    this.heard = Date.now();
    this.isAway = false;
    setInterval(() => this.watch(), 1000);
  }

  // `send` is called with {topic, state} or {status, since}.
  listen(send, topics) {
    this.listeners.set(send, topics);
    for (const topic of topics) {
      if (topic in this.states) send({ topic, state: this.states[topic] });
    }
    send(this.status());
    this.arrange();
  }

  leave(send) {
    this.listeners.delete(send);
    this.arrange();
  }

  status() {
    return { status: this.isAway ? "away" : "live", since: this.heard };
  }

  wanted() {
    return [...new Set([...this.listeners.values()].flat())].sort();
  }

  arrange() {
    clearTimeout(this.lingering);
    const wanted = this.wanted();
    const has = new Set(this.asked ? this.asked.split(",") : []);
    if (wanted.some((topic) => !has.has(topic))) this.open(wanted);
    else if (wanted.length < has.size) this.lingering = setTimeout(() => this.open(this.wanted()), LINGER_MS);
  }

  open(topics) {
    this.source?.close();
    clearTimeout(this.retrying);
    this.asked = topics.join(",");
    this.states = Object.fromEntries(Object.entries(this.states).filter(([name]) => topics.includes(name)));
    this.numbers = {};
    this.heard = Date.now();
    if (!this.asked) return;
    const source = new EventSource(`/api/events?topics=${this.asked}`);
    this.source = source;
    for (const name of ["snapshot", "patch", "failed", "beat"]) {
      source.addEventListener(name, (event) => this.hear(name, JSON.parse(event.data)));
    }
    source.onerror = () => {
      this.numbers = {};
      if (source.readyState === EventSource.CLOSED && this.source === source) {
        this.setAway(true);
        this.retrying = setTimeout(() => this.open(this.wanted()), RETRY_MS);
      }
    };
  }

  hear(name, said) {
    this.heard = Date.now();
    this.setAway(false);
    if (name === "failed") this.tell({ topic: said.topic, error: said.error });
    if (name === "snapshot") this.take(said, said.state);
    if (name === "patch") {
      if (said.number !== this.numbers[said.topic] + 1) this.open(this.wanted());
      else this.take(said, merge(this.states[said.topic], said.patch));
    }
  }

  take(said, state) {
    this.numbers[said.topic] = said.number;
    this.states[said.topic] = state;
    this.tell({ topic: said.topic, state });
  }

  tell(message) {
    for (const [send, topics] of this.listeners) {
      if (topics.includes(message.topic)) send(message);
    }
  }

  setAway(isAway) {
    if (isAway === this.isAway) return;
    this.isAway = isAway;
    for (const send of this.listeners.keys()) send(this.status());
  }

  watch() {
    if (this.asked && Date.now() - this.heard > SILENCE_MS) {
      this.setAway(true);
      if (Date.now() - this.heard > 2 * SILENCE_MS) {
        const heard = this.heard;
        this.open(this.wanted());
        this.heard = heard + SILENCE_MS;
      }
    }
  }
}
