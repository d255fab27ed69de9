// A text as a QR code, drawn here: bytes, error correction L, versions 1 to 10 (271 bytes). Loaded when one is shown.
// Model: ISO/IEC 18004:2015; the numbers in brackets are its sections.

// Codewords of data, those of correction per block, and blocks, by version (table 9).
const SIZES = [[19, 7, 1], [34, 10, 1], [55, 15, 1], [80, 20, 1], [108, 26, 1], [136, 18, 2], [156, 20, 2], [194, 24, 2], [232, 30, 2], [274, 18, 4]];
// Where alignment patterns stand (annex E).
const CENTRES = [[], [6, 18], [6, 22], [6, 26], [6, 30], [6, 34], [6, 22, 38], [6, 24, 42], [6, 26, 46], [6, 28, 50]];
const MASKS = [
  (x, y) => (x + y) % 2, (x, y) => y % 2, (x) => x % 3, (x, y) => (x + y) % 3,
  (x, y) => (Math.floor(y / 2) + Math.floor(x / 3)) % 2, (x, y) => ((x * y) % 2) + ((x * y) % 3),
  (x, y) => (((x * y) % 2) + ((x * y) % 3)) % 2, (x, y) => (((x + y) % 2) + ((x * y) % 3)) % 2,
];

// The field of 256 elements over x^8 + x^4 + x^3 + x^2 + 1 [7.5.2].
const EXP = new Uint8Array(510);
const LOG = new Uint8Array(256);
for (let power = 0, value = 1; power < 255; power += 1) {
  EXP[power] = EXP[power + 255] = value;
  LOG[value] = power;
  value = (value << 1) ^ (value > 127 ? 0x11d : 0);
}
const times = (a, b) => (a && b ? EXP[LOG[a] + LOG[b]] : 0);

const correction = (data, count) => {
  let generator = [1];
  for (let power = 0; power < count; power += 1) {
    generator = [...generator, 0].map((value, at) => value ^ times(at ? generator[at - 1] : 0, EXP[power]));
  }
  const rest = [...data, ...new Array(count).fill(0)];
  for (let at = 0; at < data.length; at += 1) {
    const factor = rest[at];
    generator.forEach((value, index) => { rest[at + index] ^= times(value, factor); });
  }
  return rest.slice(data.length);
};

// Mode, length, bytes, end and padding [7.4], in blocks with their correction, woven [7.6].
const codewords = (bytes, version) => {
  const [size, count, blocks] = SIZES[version - 1];
  const bits = [];
  const put = (value, length) => { for (let bit = length - 1; bit >= 0; bit -= 1) bits.push((value >> bit) & 1); };
  put(4, 4);
  put(bytes.length, version < 10 ? 8 : 16);
  for (const each of bytes) put(each, 8);
  put(0, Math.min(4, 8 * size - bits.length));
  put(0, (8 - (bits.length % 8)) % 8);
  const data = [];
  for (let at = 0; at < bits.length; at += 8) data.push(parseInt(bits.slice(at, at + 8).join(""), 2));
  for (let pad = 0xec; data.length < size; pad ^= 0xec ^ 0x11) data.push(pad);
  const short = Math.floor(size / blocks);
  const parts = [];
  for (let block = 0, at = 0; block < blocks; block += 1) {
    const length = short + (block >= blocks - (size % blocks) ? 1 : 0);
    parts.push(data.slice(at, (at += length)));
  }
  const weave = (rows) => Array.from({ length: Math.max(...rows.map((row) => row.length)) }, (_, at) => rows.map((row) => row[at])).flat().filter((value) => value !== undefined);
  return [...weave(parts), ...weave(parts.map((part) => correction(part, count)))];
};

// A remainder behind its value, for the words on format and version [7.9, 7.10].
const withRest = (value, generator, length) => {
  let rest = value << length;
  for (let bit = 31 - Math.clz32(rest); bit >= length; bit -= 1) if ((rest >> bit) & 1) rest ^= generator << (bit - length);
  return (value << length) | rest;
};

const drawn = (version) => {
  const size = 17 + 4 * version;
  const cells = Array.from({ length: size }, () => new Array(size).fill(null)); // null: for data
  const square = (left, top, radius, isDark) => {
    for (let y = -radius; y <= radius; y += 1) for (let x = -radius; x <= radius; x += 1) if (cells[top + y]?.[left + x] !== undefined) cells[top + y][left + x] = isDark(Math.max(Math.abs(x), Math.abs(y)));
  };
  for (const [x, y] of [[3, 3], [size - 4, 3], [3, size - 4]]) square(x, y, 4, (ring) => ring !== 2 && ring !== 4);
  const centres = CENTRES[version - 1];
  for (const x of centres) for (const y of centres) if (cells[y][x] === null) square(x, y, 2, (ring) => ring !== 1);
  for (let at = 8; at < size - 8; at += 1) {
    cells[6][at] ??= at % 2 === 0;
    cells[at][6] ??= at % 2 === 0;
  }
  if (version > 6) {
    const word = withRest(version, 0x1f25, 12);
    for (let bit = 0; bit < 18; bit += 1) {
      const [near, far] = [Math.floor(bit / 3), size - 11 + (bit % 3)];
      cells[near][far] = cells[far][near] = Boolean((word >> bit) & 1);
    }
  }
  return cells;
};

const format = (cells, mask) => {
  const size = cells.length;
  const word = withRest((1 << 3) | mask, 0x537, 10) ^ 0x5412; // 1: L
  for (let bit = 0; bit < 15; bit += 1) {
    const isDark = Boolean((word >> bit) & 1);
    cells[bit < 6 ? bit : bit < 8 ? bit + 1 : size - 15 + bit][8] = isDark;
    cells[8][bit < 8 ? size - 1 - bit : bit === 8 ? 7 : 14 - bit] = isDark;
  }
  cells[size - 8][8] = true;
};

// How hard it is to read [7.8.3].
const penalty = (cells) => {
  const size = cells.length;
  let points = 0;
  for (const rows of [cells, cells.map((_, x) => cells.map((row) => row[x]))]) {
    for (const row of rows) {
      const text = row.map(Number).join("");
      for (const run of text.match(/0{5,}|1{5,}/g) || []) points += run.length - 2;
      for (let at = 0; at + 11 <= size; at += 1) if (["10111010000", "00001011101"].includes(text.slice(at, at + 11))) points += 40;
    }
  }
  for (let y = 1; y < size; y += 1) for (let x = 1; x < size; x += 1) if (cells[y][x] === cells[y - 1][x] && cells[y][x] === cells[y][x - 1] && cells[y][x] === cells[y - 1][x - 1]) points += 3;
  const dark = cells.flat().filter(Boolean).length / size ** 2;
  return points + 10 * Math.floor(Math.abs(dark - 0.5) * 20);
};

const filled = (version, words, mask) => {
  const cells = drawn(version);
  const size = cells.length;
  format(cells, 0); // so that its cells are not for data
  const free = cells.map((row) => row.map((cell) => cell === null));
  let bit = 0;
  for (let right = size - 1; right > 0; right -= 2) {
    if (right === 6) right = 5;
    const isUp = ((right + 1) & 2) === 0;
    for (let step = 0; step < size; step += 1) {
      const y = isUp ? size - 1 - step : step;
      for (const x of [right, right - 1]) {
        if (free[y][x]) {
          cells[y][x] = Boolean(((words[bit >> 3] ?? 0) >> (7 - (bit & 7))) & 1) !== (MASKS[mask](x, y) === 0);
          bit += 1;
        }
      }
    }
  }
  format(cells, mask);
  return cells;
};

// Rows of cells, true for dark; null for a text that is too long.
export const encode = (text) => {
  const bytes = new TextEncoder().encode(text);
  const version = SIZES.findIndex(([size], index) => bytes.length + (index < 9 ? 2 : 3) <= size) + 1;
  if (!version) return null;
  const words = codewords(bytes, version);
  const tried = MASKS.map((_, mask) => filled(version, words, mask)).map((cells) => ({ cells, points: penalty(cells) }));
  return tried.reduce((best, each) => (each.points < best.points ? each : best)).cells;
};
