"use strict";
// The network of a model file: its forward pass, and sampling words. Nothing here depends on the page.

const STOP = 0; // the symbol that starts and stops every word

const codeOf = (ch) => "U+" + ch.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");

// Format characters that have no use in a word and are dropped, as in core/text.py.
const DROPPED =
  /[\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb\u{1d173}-\u{1d17a}\u{e0001}]/u;

class Member {
  // One network: an embedding, then stages. A stage is an affine map of n nodes of one earlier value, plus
  // nodes of other earlier values, then activations. Value 0 is the embeddings, value i + 1 the output of
  // stage i.
  constructor(description, takeValues) {
    const [symbols, channels] = description.embedding;
    this.embedding = takeValues(symbols * channels);
    this.labelRows = takeValues(description.labels * channels); // of all columns, one after another
    this.stages = description.stages.map(({ n, dilation, from, to, nodes, source, added, activations }) => {
      // One map for all nodes, or one for each, the oldest first.
      const affine = Array.from({ length: nodes }, () => ({
        weight: takeValues(n * from * to), // (n, from, to)
        bias: takeValues(to),
      }));
      let channels = to;
      const functions = activations.map(({ name, eps }) => {
        if (name === "rmsnorm") return rmsNorm(takeValues(channels), eps);
        if (name === "layernorm") return layerNorm(takeValues(channels), takeValues(channels), eps);
        if (name === "gate") channels /= 2;
        return ACTIVATIONS[name];
      });
      const lags = Array.from({ length: n }, (_, j) => (n - 1 - j) * dilation); // the oldest node comes first
      const bounded = ["tanh", "gate"].includes(activations.at(-1)?.name); // from -1 to 1
      return { lags, from, source, added, affine, functions, channels, bounded };
    });
    this.rows = this.neededNodes(channels);
    this.blockSize = 1 + this.rows[0].places[0];
  }

  // The nodes of each value that the network's output depends on, the oldest first. A node's place is the
  // number of symbols after its newest one; `made` are the nodes that its affine map reads, and `added` those
  // that are added, each as [value, node].
  neededNodes(embedded) {
    const places = [new Set(), ...this.stages.map(() => new Set())];
    places.at(-1).add(0);
    for (let i = this.stages.length - 1; i >= 0; i--) {
      const { lags, source, added } = this.stages[i];
      for (const place of places[i + 1]) {
        for (const lag of lags) places[source].add(place + lag);
        for (const value of added) places[value].add(place);
      }
    }
    const sorted = places.map((set) => [...set].sort((a, b) => b - a));
    const makers = [{ lags: [], added: [], channels: embedded }, ...this.stages];
    return sorted.map((own, r) => {
      const { lags, source, added, channels } = makers[r];
      return {
        places: own,
        channels,
        made: own.map((place) => lags.map((lag) => [source, sorted[source].indexOf(place + lag)])),
        added: own.map((place) => added.map((value) => [value, sorted[value].indexOf(place)])),
      };
    });
  }

  // What labels add to every embedding: the sum of rows, each times its share, given as [row, share].
  labelSum(rows) {
    const { channels } = this.rows[0];
    const sum = new Float64Array(channels);
    for (const [row, share] of rows) {
      for (let c = 0; c < channels; c++) sum[c] += share * this.labelRows[row * channels + c];
    }
    return sum;
  }

  // The numbers of every node for a context of blockSize symbols, rows from the embeddings to the logits, if
  // labels add `labelSum` to every embedding.
  nodes(context, labelSum = this.labelSum([])) {
    const newest = context.length - 1;
    const channels = this.rows[0].channels;
    const rows = [
      this.rows[0].places.map((place) => {
        const start = context[newest - place] * channels;
        return labelSum.map((x, c) => x + this.embedding[start + c]);
      }),
    ];
    const node = ([value, i]) => rows[value][i];
    this.stages.forEach((stage, i) => {
      const { places, made, added } = this.rows[i + 1];
      rows.push(
        places.map((_, j) => {
          let out = affineMap(stage, j, made[j].map(node));
          for (const other of added[j].map(node)) out = out.map((x, o) => x + other[o]);
          return stage.functions.reduce((x, f) => f(x), out);
        }),
      );
    });
    return rows;
  }
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x));

const ACTIVATIONS = {
  tanh: (x) => x.map(Math.tanh),
  relu: (x) => x.map((v) => Math.max(v, 0)),
  gate: (x) => x.slice(0, x.length / 2).map((f, i) => Math.tanh(f) * sigmoid(x[x.length / 2 + i])),
};

function layerNorm(gamma, beta, eps) {
  return (x) => {
    const mean = x.reduce((sum, v) => sum + v, 0) / x.length;
    const root = Math.sqrt(x.reduce((sum, v) => sum + (v - mean) ** 2, 0) / x.length + eps);
    return x.map((v, i) => (gamma[i] * (v - mean)) / root + beta[i]);
  };
}

function rmsNorm(gamma, eps) {
  return (x) => {
    const root = Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / x.length + eps);
    return x.map((v, i) => (gamma[i] * v) / root);
  };
}

// The affine map of node j of a stage.
function affineMap({ affine, from }, j, inputs) {
  const { weight, bias } = affine.length > 1 ? affine[j] : affine[0];
  const out = Float64Array.from(bias);
  const to = out.length;
  let at = 0;
  for (const input of inputs) {
    for (let i = 0; i < from; i++, at += to) {
      const x = input[i];
      for (let o = 0; o < to; o++) out[o] += x * weight[at + o];
    }
  }
  return out;
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

// The numbers of float16, see IEEE 754; none of them is infinite.
function fromHalves(halves) {
  return Float32Array.from(halves, (bits) => {
    const exponent = (bits >> 10) & 31,
      fraction = (bits & 1023) / 1024;
    const size = exponent ? (1 + fraction) * 2 ** (exponent - 15) : fraction * 2 ** -14;
    return bits >> 15 ? -size : size;
  });
}

class Network {
  // One member, or several whose probabilities are averaged. The weights are float32, or float16 if `half`.
  constructor({ characters, capitals, labels, points, members, weights, half }) {
    const { buffer } = bytesOf(weights); // machines with a browser are little-endian
    const values = half ? fromHalves(new Uint16Array(buffer)) : new Float32Array(buffer);
    let at = 0;
    const takeValues = (number) => values.subarray(at, (at += number));
    this.characters = [...characters];
    this.symbolOf = new Map(this.characters.map((ch, i) => [ch, i + 1]));
    this.size = this.characters.length + 1;
    this.capitals = capitals;
    this.capitalOf = new Map(Object.entries(capitals?.of ?? {}));
    this.smallOf = new Map([...this.capitalOf].map(([small, capital]) => [capital, small]));
    this.members = members.map((member) => new Member(member, takeValues));
    this.blockSize = this.members[0].blockSize;
    this.labels = new Labels(labels);
    this.points = points; // for each column of labels, see label_points in building.py
    this.conditions = new Map();
    this.typical = this.condition(this.labels.mean(this.labels.any));
  }

  // What the labels of a word do to the network. `choice` has the shares of labels for each column, see Labels.
  condition(choice) {
    const key = JSON.stringify(choice);
    if (!this.conditions.has(key)) {
      if (this.conditions.size > 200) this.conditions.clear();
      const rows = this.labels.rowsOf(choice);
      this.conditions.set(key, { id: conditionsMade++, sums: this.members.map((m) => m.labelSum(rows)) });
    }
    return this.conditions.get(key);
  }

  // The symbols of a word, in the Unicode form that the network knows: NFC, NFD, or as given. Throws an error
  // that names a character the network does not know.
  encode(text) {
    const forms = [text.normalize("NFC"), text.normalize("NFD"), text].map((form) => this.lower(form));
    const known = forms.find((form) => [...form].every((ch) => this.symbolOf.has(ch)));
    return [...(known ?? forms[0])].map((ch) => {
      if (!this.symbolOf.has(ch)) {
        const plain = /[\p{L}\p{N}\p{P}\p{S} ]/u.test(ch);
        throw new Error(`the network does not know ${plain ? JSON.stringify(ch) : codeOf(ch)}`);
      }
      return this.symbolOf.get(ch);
    });
  }

  // The word of some symbols, with the capitals that the network did not learn.
  decode(symbols) {
    return this.restore(symbols.map((symbol) => this.characters[symbol - 1]));
  }

  // A text without the capitals that the network did not learn.
  lower(text) {
    return [...text].map((ch) => this.smallOf.get(ch) ?? ch).join("");
  }

  // The word of some characters with the capitals of the rule, see data/capitals.py. It has as many characters.
  restore(characters) {
    if (!this.capitals) return characters.join("");
    const { everywhere, after, small } = this.capitals;
    const capital = (ch) => this.capitalOf.get(ch) ?? ch;
    if (everywhere) return characters.map(capital).join("");
    const word = characters.join("");
    const restored = [...characters];
    let start = 0; // of the part that ends at `end`
    for (let end = 0; end <= characters.length; end++) {
      if (end < characters.length && !after.includes(characters[end])) continue;
      const part = characters.slice(start, end).join("");
      if (part && (part === word || !small.includes(part))) restored[start] = capital(characters[start]);
      start = end + 1;
    }
    return restored.join("");
  }

  // The context after these symbols: the last blockSize of them, after stops if there are fewer.
  context(symbols) {
    const missing = Math.max(0, this.blockSize - symbols.length);
    return [...Array(missing).fill(STOP), ...symbols.slice(missing ? 0 : symbols.length - this.blockSize)];
  }

  // Log-probabilities of the next symbol.
  logProbs(symbols, condition = this.typical) {
    const context = this.context(symbols);
    const each = this.members.map((member, i) =>
      logSoftmax(member.nodes(context, condition.sums[i]).at(-1)[0]),
    );
    if (each.length === 1) return each[0];
    return each[0].map((_, i) => {
      const most = each.reduce((a, logs) => Math.max(a, logs[i]), -Infinity);
      const total = each.reduce((sum, logs) => sum + Math.exp(logs[i] - most), 0);
      return Math.log(total / each.length) + most;
    });
  }

  // The symbols of a new word without its stop, which begins with `beginning`; null if it would have more than
  // `longest` symbols. It does not end before it has `shortest`.
  sample(beginning, options = {}) {
    const { condition = this.typical, temperature = 1, topK = Infinity } = options;
    const { shortest = 1, longest = 100, random = Math.random } = options;
    const symbols = [...beginning];
    for (;;) {
      const logs = this.logProbs(symbols, condition);
      const next = pick(filtered(logs, temperature, topK, symbols.length >= shortest), random());
      if (next === STOP) return symbols;
      if (symbols.length >= longest) return null;
      symbols.push(next);
    }
  }
}

let conditionsMade = 0;

// All symbols, the likeliest first; ties go to the lower symbol.
const ranked = (logits) => [...logits.keys()].sort((a, b) => logits[b] - logits[a] || a - b);

// Probabilities after the filters, as in makemore-sample: temperature divides the logits (0 always takes the
// likeliest symbol), the stop is left out unless the word may end, then the topK likeliest symbols are kept;
// ties go to the lower symbol.
function filtered(logProbs, temperature, topK, mayStop = true) {
  if (!mayStop) logProbs = logProbs.map((x, i) => (i === STOP ? -Infinity : x));
  const likeliest = logProbs.indexOf(logProbs.reduce((a, b) => Math.max(a, b)));
  if (temperature === 0) return logProbs.map((_, i) => (i === likeliest ? 1 : 0));
  let logits = logProbs.map((x) => (x - logProbs[likeliest]) / temperature);
  if (topK < logits.length) {
    for (const i of ranked(logits).slice(topK)) logits[i] = -Infinity;
  }
  return logSoftmax(logits).map(Math.exp);
}

// The symbol whose part of the cumulative probabilities a number u in [0, 1) falls into.
function pick(probs, u) {
  let rest = u * probs.reduce((a, b) => a + b);
  let last = 0;
  for (let i = 0; i < probs.length; i++) {
    if (probs[i] === 0) continue;
    if (rest < probs[i]) return i;
    rest -= probs[i];
    last = i; // taken if rounding leaves a rest
  }
  return last;
}

// The words of a packed list, see pack_words in building.py.
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
