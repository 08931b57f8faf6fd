"use strict";
// The network of a model file, with its forward pass and its draws. Nothing here knows the page.

const STOP = 0; // the symbol that starts and stops every word

class Member {
  // One network: an embedding, then stages; each is an affine map of n nodes, and an activation.
  constructor(description, takeValues) {
    const [symbols, channels] = description.embedding;
    this.channels = channels;
    this.embedding = takeValues(symbols * channels);
    this.stages = description.stages.map(({ n, dilation, from, to, activation }) => ({
      lags: Array.from({ length: n }, (_, j) => (n - 1 - j) * dilation), // the oldest node comes first
      from, to, activation,
      weight: takeValues(n * from * to), // (n, from, to)
      bias: takeValues(to),
    }));
    // The nodes that the last stage's newest one needs. A node's place is how many symbols ago it ends.
    let places = [0];
    this.rows = [{ places }];
    for (const stage of this.stages.toReversed()) {
      const above = this.rows[0];
      const below = [...new Set(places.flatMap((place) => stage.lags.map((lag) => place + lag)))];
      below.sort((a, b) => b - a); // the oldest first
      above.children = places.map((place) => stage.lags.map((lag) => below.indexOf(place + lag)));
      this.rows.unshift({ places: (places = below) });
    }
    this.blockSize = 1 + this.stages.reduce((sum, stage) => sum + stage.lags[0], 0);
  }

  // The values of every node over a context of blockSize symbols, row by row, from the symbols to the logits.
  nodes(context) {
    const newest = context.length - 1;
    let nodes = this.rows[0].places.map((place) => {
      const start = context[newest - place] * this.channels;
      return Float64Array.from(this.embedding.subarray(start, start + this.channels));
    });
    const rows = [nodes];
    this.stages.forEach((stage, r) => {
      nodes = this.rows[r + 1].children.map((children) => affine(stage, children.map((i) => nodes[i])));
      rows.push(nodes);
    });
    return rows;
  }
}

function affine({ weight, bias, from, to, activation }, inputs) {
  const out = Float64Array.from(bias);
  let at = 0;
  for (const input of inputs) {
    for (let i = 0; i < from; i++, at += to) {
      const x = input[i];
      for (let o = 0; o < to; o++) out[o] += x * weight[at + o];
    }
  }
  return activation === "tanh" ? out.map(Math.tanh) : out;
}

function logSoftmax(logits) {
  const most = logits.reduce((a, b) => Math.max(a, b));
  const total = Math.log(logits.reduce((sum, x) => sum + Math.exp(x - most), 0)) + most;
  return logits.map((x) => x - total);
}

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

class Network {
  // One member, or several whose probabilities are averaged.
  constructor({ characters, members, weights }) {
    const values = new Float32Array(bytesOf(weights).buffer); // little-endian, as all that browsers run on
    let at = 0;
    const takeValues = (number) => values.subarray(at, (at += number));
    this.characters = [...characters];
    this.symbolOf = new Map(this.characters.map((ch, i) => [ch, i + 1]));
    this.size = this.characters.length + 1;
    this.members = members.map((member) => new Member(member, takeValues));
    this.blockSize = this.members[0].blockSize;
  }

  // The symbols of a word, or an error that names a character the network does not know.
  encode(word) {
    return [...word].map((ch) => {
      if (!this.symbolOf.has(ch)) throw new Error(`${JSON.stringify(ch)} is not one of its characters`);
      return this.symbolOf.get(ch);
    });
  }

  decode(symbols) {
    return symbols.map((symbol) => this.characters[symbol - 1]).join("");
  }

  // The symbols that are looked at after some others: the last ones, behind as many stops as are missing.
  context(symbols) {
    const missing = Math.max(0, this.blockSize - symbols.length);
    return [...Array(missing).fill(STOP), ...symbols.slice(missing ? 0 : symbols.length - this.blockSize)];
  }

  // Log-probabilities of the symbol that comes next.
  logProbs(symbols) {
    const context = this.context(symbols);
    const each = this.members.map((member) => logSoftmax(member.nodes(context).at(-1)[0]));
    if (each.length === 1) return each[0];
    return each[0].map((_, i) => {
      const most = each.reduce((a, logs) => Math.max(a, logs[i]), -Infinity);
      const total = each.reduce((sum, logs) => sum + Math.exp(logs[i] - most), 0);
      return Math.log(total / each.length) + most;
    });
  }

  // Symbols up to the stop, which is left out; begins with some and has at most `longest`.
  draw(beginning, { temperature = 1, topK = Infinity, longest = 100, random = Math.random } = {}) {
    const symbols = [...beginning];
    while (symbols.length < longest) {
      const next = pick(filtered(this.logProbs(symbols), temperature, topK), random());
      if (next === STOP) break;
      symbols.push(next);
    }
    return symbols;
  }
}

// Probabilities after the filters, as makemore-sample has them: temperature divides the logits (0: always
// the likeliest), then the K likeliest symbols are kept; of equally likely ones the first.
function filtered(logProbs, temperature, topK) {
  const likeliest = logProbs.indexOf(logProbs.reduce((a, b) => Math.max(a, b)));
  if (temperature === 0) return logProbs.map((_, i) => (i === likeliest ? 1 : 0));
  let logits = logProbs.map((x) => (x - logProbs[likeliest]) / temperature);
  if (topK < logits.length) {
    const order = [...logits.keys()].sort((a, b) => logits[b] - logits[a] || a - b);
    for (const i of order.slice(topK)) logits[i] = -Infinity;
  }
  return logSoftmax(logits).map(Math.exp);
}

// The symbol that a number u in [0, 1) falls on.
function pick(probs, u) {
  let rest = u * probs.reduce((a, b) => a + b);
  let last = 0;
  for (let i = 0; i < probs.length; i++) {
    if (probs[i] === 0) continue;
    if (rest < probs[i]) return i;
    rest -= probs[i];
    last = i; // rounding may leave a rest
  }
  return last;
}

// The words of the list, from sorted ones that leave out what they share with the one before.
async function unpackWords(packed) {
  const stream = new Blob([bytesOf(packed)]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  const words = new Set();
  let before = [];
  for (const line of (await new Response(stream).text()).split("\n")) {
    const [shared, ...rest] = line;
    before = [...before.slice(0, shared.codePointAt(0) - 48), ...rest];
    words.add(before.join(""));
  }
  return words;
}
