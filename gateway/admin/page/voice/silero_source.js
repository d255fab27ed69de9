// Silero's worker, as what LikelyDetector asks.

import { MODEL } from "./silero.js";

const MOST_WAITING = 8; // windows, a quarter of a second: a slow machine skips what is more, so that it is never later

// Whether this gateway has its files.
export const hasSilero = async () => (await fetch(new URL(`../silero/${MODEL}`, import.meta.url), { method: "HEAD" })).ok;

// Answers of a worker, in their order. What is skipped is as likely as what was answered last.
export class Source {
  constructor(worker) {
    this.worker = worker;
    this.waiting = 0;
    this.come = [];
    this.last = 0;
  }

  ask(window) {
    if (this.waiting >= MOST_WAITING) {
      this.come.push(this.last);
      return;
    }
    this.waiting += 1;
    this.worker.postMessage(window, [window.buffer]);
  }

  told(likely) {
    this.waiting -= 1;
    this.last = likely;
    this.come.push(likely);
  }

  answers() {
    return this.come.splice(0);
  }

  close() {
    this.worker.terminate();
  }
}

// A promise of a Source. `onGone` is called if it ends by itself later.
export const openSilero = (worker, onGone) => new Promise((done, fail) => {
  const source = new Source(worker);
  let isReady = false;
  const end = (error) => {
    source.close();
    if (isReady) onGone(error);
    else fail(error);
  };
  worker.onerror = (event) => {
    event.preventDefault?.();
    end(new Error(event.message || "its thread cannot be started"));
  };
  worker.onmessage = ({ data }) => {
    if (data.error) end(new Error(data.error));
    else if (!data.isReady) source.told(data.likely);
    else {
      isReady = true;
      done(source);
    }
  };
});

export const startWorker = () => new Worker(new URL("./silero_worker.js", import.meta.url), { type: "module" });
