// How a detector finds speech in what is around it. A detector is as detector.js has it: frames in, events out.

import { FRAME } from "../../../gateway/admin/page/voice/detector.js";
import { powerOf, RATE, scene } from "./sounds.mjs";

const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];
const ms = (count) => Math.round((1000 * count) / RATE);

// [begin, end] in samples of what is taken for speech.
export const found = (samples, detector) => {
  const spans = [];
  for (let at = 0; at + FRAME <= samples.length; at += FRAME) {
    const { event } = detector.feed(samples.subarray(at, at + FRAME));
    if (event === "began") spans.push([at + FRAME, samples.length]);
    if (event === "ended") spans.at(-1)[1] = at + FRAME;
  }
  return spans;
};

// Speech `spans` beside what was `found`: how much is missed, what is found where there is none, how often one utterance
// was ended before its end, and how late it began and ended, in ms.
export const compared = (spans, starts) => {
  const overlapping = ([begin, end]) => starts.filter(([b, e]) => b < end && e > begin);
  const hits = spans.map((span) => [span, overlapping(span)]).filter(([, each]) => each.length);
  return {
    said: spans.length,
    missed: spans.length - hits.length,
    invented: starts.filter(([b, e]) => !spans.some(([begin, end]) => b < end && e > begin)).length,
    cut: hits.filter(([[, end], each]) => each.some(([, e]) => e < end)).length,
    start_ms: median(hits.map(([[begin], [[b]]]) => ms(b - begin))),
    end_ms: median(hits.map(([[, end], each]) => ms(each.at(-1)[1] - end))),
  };
};

// Of `seconds` with utterances in them.
export const figures = async (around, snr, { seconds, detect, say }) => {
  const { samples, spans } = scene(seconds, around, snr, 7, say);
  return compared(spans, await detect(samples));
};

// Starts a minute of what is around alone.
export const alone = async (around, snr, { seconds, detect }) => {
  const samples = around(seconds, 5);
  const gain = Math.sqrt(0.01 / 10 ** (snr / 10) / powerOf(samples));
  return ((await detect(samples.map((x) => x * gain))).length * 60) / seconds;
};
