// From the end of speech to the first sound of the answer: what each part of it took.

// `mark`: what ends the part. The budget is what is aimed at on a Mac of 32 GB with a model of eight billion parameters
// in four bits whose prompt is mostly cached.
export const PARTS = [
  { mark: "ended", name: "end of speech detected", budget_ms: 600 },
  { mark: "transcribed", name: "transcribed", budget_ms: 150 },
  { mark: "token", name: "first token", budget_ms: 250 },
  { mark: "clause", name: "first clause", budget_ms: 200 },
  { mark: "sound", name: "first sound", budget_ms: 250 },
];
export const BUDGET_MS = PARTS.reduce((sum, each) => sum + each.budget_ms, 0);

// `marks`: when, in milliseconds, speech ended (`speech`) and each part did. [{name, ms, budget_ms}] of those parts that
// are over; what was ready before the part ahead of it had ended took no time.
export const partsOf = (marks) => {
  const found = [];
  let before = marks.speech;
  for (const { mark, name, budget_ms } of PARTS) {
    if (before === undefined || marks[mark] === undefined) return found;
    const ms = Math.max(0, marks[mark] - before);
    found.push({ name, ms, budget_ms });
    before += ms;
  }
  return found;
};

export const totalOf = (parts) => parts.reduce((sum, each) => sum + each.ms, 0);

// Of turns that came to a sound.
export const medianOf = (turns) => {
  const totals = turns.filter((parts) => parts.length === PARTS.length).map(totalOf).sort((a, b) => a - b);
  if (!totals.length) return undefined;
  const middle = totals.length >> 1;
  return totals.length % 2 ? totals[middle] : (totals[middle - 1] + totals[middle]) / 2;
};
