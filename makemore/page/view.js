// What the page shows of the network. Texts of the model are only ever written as text, never as markup.

const LONGEST = 100; // characters of a word
const DRAWN = 12;
const FRUITLESS = 2000; // words in a row that may be drawn in vain
const ALL_SHOWN = 64; // symbols up to which each has its bar; of more, the likeliest have
const MOST_BARS = 40;
const MOST_LEAVES = 64; // characters of a context that the tree is drawn over
const MOST_CENTRED = 16; // of more, a node stands over its newest character, so that the last is in sight

const content = JSON.parse(document.getElementById("content").textContent);
const network = new Network(content);
const state = { symbols: [], at: 0, finished: false, member: 0 };
let known = null; // the words of the list, once they are unpacked

const by = (id) => document.getElementById(id);
const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
const count = (number) => number.toLocaleString("en");

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// Characters and numbers as one reads them ------------------------------------------------------------

const codeOf = (ch) => "U+" + ch.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
const invisible = (ch) => /[\p{C}\p{Z}\p{Default_Ignorable_Code_Point}]/u.test(ch);

function charOf(symbol) {
  return symbol === STOP ? "." : network.characters[symbol - 1];
}

// An element that shows a symbol, whatever it is, and lets it change nothing around it.
function glyph(symbol, className = "") {
  return refresh(element("span"), symbol, className);
}

function refresh(span, symbol, className = "") {
  const ch = charOf(symbol);
  const code = symbol !== STOP && invisible(ch);
  span.className = `char ${className}${symbol === STOP ? " stop" : ""}${code ? " code" : ""}`;
  span.textContent = code ? (ch === " " ? "space" : codeOf(ch)) : /\p{M}/u.test(ch) ? "◌" + ch : ch;
  return span;
}

// A symbol's name for a screen reader, which may not read out what is no letter.
function spoken(symbol, stop = "the end") {
  if (symbol === STOP) return stop;
  const ch = charOf(symbol);
  return /[\p{L}\p{N}]/u.test(ch) ? ch : codeOf(ch);
}

// A word as an element that keeps its direction to itself.
function wordElement(word) {
  const seen = [...word].some((ch) => !invisible(ch));
  return element("bdi", "", seen ? word : word ? [...word].map(codeOf).join(" ") : "(empty)");
}

function percent(p) {
  if (p < 0.000005) return "<0.001 %";
  return (100 * p).toFixed(p < 0.0005 ? 3 : 1) + " %";
}

function oneIn(nats) {
  const number = Math.exp(nats);
  if (number < 10) return number.toFixed(1);
  if (number < 1e9) return count(Number(number.toPrecision(2)));
  const power = Math.floor((nats + Math.log(10 / 9.5)) / Math.LN10); // so that 9.7 does not become 10
  return `${Math.round(Math.exp(nats - power * Math.LN10))} × 10` + [...String(power)].map((d) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]).join("");
}

// What the network says, kept as long as the word changes little ---------------------------------------

const said = new Map();

function logProbs(symbols) {
  const key = network.context(symbols).join();
  if (!said.has(key)) {
    if (said.size > 400) said.clear();
    said.set(key, network.logProbs(symbols));
  }
  return said.get(key);
}

function settings() {
  const topK = Math.floor(by("top-k").valueAsNumber);
  return { temperature: by("temperature").valueAsNumber, topK: topK >= 1 ? topK : Infinity };
}

// The symbols of a word with its stop, if it is finished; `at` is a place among them, or behind them.
const told = () => (state.finished ? [...state.symbols, STOP] : state.symbols);

function likelihood(symbols) {
  return symbols.reduce((sum, symbol, i) => sum + logProbs(symbols.slice(0, i))[symbol], 0);
}

const rank = (logs, symbol) => 1 + logs.reduce((n, x, i) => n + (x > logs[symbol] || (x === logs[symbol] && i < symbol)), 0);

// Toolbars: one stop of the Tab key each, and arrow keys within -----------------------------------------

function roving(bar, neighbour) {
  const all = () => [...bar.querySelectorAll("button")].filter((b) => !b.hidden);
  bar.addEventListener("keydown", (event) => {
    const buttons = all();
    const from = buttons.indexOf(document.activeElement);
    const to = neighbour(event.key, from, buttons);
    if (from < 0 || to === undefined) return;
    event.preventDefault();
    buttons[Math.max(0, Math.min(to, buttons.length - 1))].focus();
  });
  bar.addEventListener("focusin", (event) => current(bar, event.target.closest("button")));
}

function current(bar, button) {
  for (const other of bar.querySelectorAll("button")) other.tabIndex = other === button ? 0 : -1;
}

function settle(bar) {
  if (!bar.querySelector('button[tabindex="0"]:not([hidden])')) current(bar, bar.querySelector("button"));
}

function along(key, from, buttons) {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[key];
  if (step) return from + step;
  return { Home: 0, End: buttons.length - 1 }[key];
}

// As many children as wanted: old ones stay, and with them the focus.
function children(parent, number, make) {
  while (parent.children.length > number) parent.lastChild.remove();
  while (parent.children.length < number) parent.append(make(parent.children.length));
  return [...parent.children];
}

// The word and where each of its characters came from ---------------------------------------------------

function showSteps() {
  const shown = told();
  const places = shown.length + (state.finished ? 0 : 1);
  const steps = children(by("steps"), places, (i) => {
    const step = element("button", "step");
    step.type = "button";
    step.append(element("span"), " ", element("span", "how"));
    step.addEventListener("click", () => { stopPlaying(); goTo(i); });
    return step;
  });
  steps.forEach((step, i) => {
    const here = i === state.at;
    const [face, how] = step.children;
    if (i < shown.length) {
      const logs = logProbs(shown.slice(0, i));
      const p = Math.exp(logs[shown[i]]);
      refresh(face, shown[i]);
      if (shown[i] === STOP) face.textContent = "end";
      how.textContent = percent(p);
      step.style.setProperty("--p", p);
      const place = `${rank(logs, shown[i])} of ${count(network.size)}`;
      step.setAttribute("aria-label", `${face.textContent} ${percent(p)}, character ${i + 1}, ${spoken(shown[i])}, rank ${place}`);
    } else {
      face.className = "char";
      face.textContent = "?";
      how.textContent = "next";
      step.style.setProperty("--p", 0);
      step.setAttribute("aria-label", `? next, character ${i + 1}, still to come`);
    }
    step.setAttribute("aria-current", here ? "step" : "false");
    if (here && !by("steps").contains(document.activeElement)) current(by("steps"), step);
  });
  settle(by("steps"));

  const nats = -likelihood(shown);
  const fact = by("fact");
  if (state.finished) {
    fact.textContent = `One word in ${oneIn(nats)} drawn is this one: ${nats.toFixed(2)} nats, ${(nats / shown.length).toFixed(2)} per character.`;
  } else if (shown.length) {
    fact.textContent = `One word in ${oneIn(nats)} drawn begins like this.`;
  } else {
    fact.textContent = "Nothing is typed yet: this is how words begin.";
  }
  if (by("as-table").open) showTable();
}

function showTable() {
  const shown = told();
  const rows = children(by("table"), shown.length, () => {
    const row = element("tr");
    for (let i = 0; i < 4; i++) row.append(element("td"));
    return row;
  });
  rows.forEach((row, i) => {
    const logs = logProbs(shown.slice(0, i));
    const [context, ch, probability, place] = row.children;
    const symbols = network.context(shown.slice(0, i)).slice(-MOST_LEAVES);
    context.replaceChildren(...symbols.map((symbol) => glyph(symbol)));
    ch.replaceChildren(glyph(shown[i]), ...(shown[i] === STOP ? [" (the end)"] : []));
    probability.textContent = percent(Math.exp(logs[shown[i]]));
    place.textContent = count(rank(logs, shown[i]));
  });
}

// The tree ----------------------------------------------------------------------------------------------

let tree = { leaves: [], rows: [] }; // the characters, and of each row its nodes

function buildTree() {
  const member = network.members[state.member];
  const inner = element("div", "inner");
  const places = member.rows[0].places.filter((place) => place < MOST_LEAVES);
  const width = places.length;
  const isTree = member.stages.every(({ source, added }, i) => source === i && !added.length);
  const centred = isTree && width <= MOST_CENTRED;
  inner.style.minWidth = `${width * 27}px`;
  if (!centred) inner.style.paddingRight = isTree ? "68px" : "104px"; // for wide nodes, and links around them
  by("tree").replaceChildren(inner);

  const faces = element("div", "row");
  faces.setAttribute("aria-hidden", "true");
  inner.append(faces);
  tree = { leaves: [], rows: [] };
  const last = member.rows.length - 1;
  member.rows.forEach((row, r) => {
    const across = r === last && row.channels <= ALL_SHOWN ? row.channels : columnsFor(row.channels);
    const down = Math.ceil(row.channels / across);
    const holder = element("div", "row");
    const wide = Math.min(r === last ? 320 : 11 * across, r === last && centred ? 320 : 132);
    const nodes = row.places.map((place, i) => {
      // In the lecture's tree a node stands over the middle of those it is made of, in the paper's stack of
      // convolutions over its newest character, whose residual it has.
      const made = row.made[i].map(([value, child]) => tree.rows[value].nodes[child]).filter(Boolean);
      if (r ? !made.length : place >= MOST_LEAVES) return null;
      const x = r === 0 ? (width - place - 0.5) / width : centred ? (made[0].x + made.at(-1).x) / 2 : made.at(-1).x;
      const added = row.added[i].map(([value, child]) => tree.rows[value].nodes[child]).filter(Boolean);
      const button = element("button", "node");
      button.type = "button";
      const canvas = element("canvas");
      canvas.width = across;
      canvas.height = down;
      button.append(canvas);
      button.style.marginLeft = `${100 * x}%`;
      button.style.aspectRatio = r === last && down === 1 ? "12" : `${across} / ${down}`;
      holder.append(button);
      const node = { r, place, x, button, canvas, made, added, links: [], window: new Set(r ? [] : [place]) };
      for (const below of [...made, ...added]) for (const one of below.window) node.window.add(one);
      for (const type of ["mouseenter", "focus", "click"]) button.addEventListener(type, () => choose(node));
      for (const type of ["mouseleave", "blur"]) button.addEventListener(type, () => choose(null));
      return node;
    });
    const shown = nodes.filter(Boolean);
    const gap = shown.reduce((least, { x }, j) => (j ? Math.min(least, x - shown[j - 1].x) : least), 1);
    for (const { button } of shown) button.style.width = `min(${wide}px, ${100 * gap}% - 4px)`;
    tree.rows.push({ nodes, shown, across, down });
    const caption = element("p", "caption", rowName(member, r));
    caption.setAttribute("aria-hidden", "true");
    if (shown.length) inner.append(caption, holder);
  });
  tree.leaves = places.map((place) => {
    const face = element("span");
    face.style.marginLeft = `${100 * (width - place - 0.5) / width}%`;
    faces.append(face);
    return { place, face };
  });

  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("aria-hidden", "true");
  for (const node of tree.rows.flatMap(({ shown }) => shown)) {
    for (const below of [...node.made, ...node.added]) {
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      const plain = node.made.includes(below);
      if (!plain) path.setAttribute("class", "added");
      svg.append(path);
      node.links.push({ path, below, plain });
    }
  }
  inner.prepend(svg);
  drawLinks();
  new ResizeObserver(drawLinks).observe(inner);
  current(by("tree"), by("tree").querySelector("button"));
  by("tree").scrollLeft = by("tree").scrollWidth;
}

// Columns of a tile of so many squares: about twice as wide as high, with few places left over.
function columnsFor(number) {
  const best = Math.sqrt(2 * number);
  const tries = [];
  for (let n = Math.ceil(0.82 * best); n <= Math.ceil(1.15 * best); n++) tries.push(n);
  const left = (n) => Math.ceil(number / n) * n - number;
  return tries.reduce((a, b) => (left(b) < left(a) || (left(b) === left(a) && Math.abs(b - best) < Math.abs(a - best)) ? b : a));
}

function drawLinks() {
  const inner = by("tree").firstChild.getBoundingClientRect();
  const boxes = new Map(tree.rows.flatMap(({ shown }) => shown).map((node) => {
    const { left, right, top, bottom } = node.button.getBoundingClientRect();
    return [node, { x: (left + right) / 2 - inner.left, right: right - inner.left, top: top - inner.top, bottom: bottom - inner.top }];
  }));
  for (const [node, to] of boxes) {
    for (const { path, below, plain } of node.links) {
      const from = boxes.get(below);
      if (plain && below.r === node.r - 1) {
        const middle = (from.bottom + to.top) / 2;
        path.setAttribute("d", `M${from.x} ${from.bottom}C${from.x} ${middle} ${to.x} ${middle} ${to.x} ${to.top}`);
      } else { // past the rows between
        const [y, end] = [(from.top + from.bottom) / 2, (to.top + to.bottom) / 2];
        const out = Math.max(from.right, to.right) + 10 + 2 * Math.min(12, node.r - below.r);
        path.setAttribute("d", `M${from.right} ${y}C${out} ${y} ${out} ${y} ${out} ${(y + end) / 2}S${out} ${end} ${to.right} ${end}`);
      }
    }
  }
}

function rowName(member, r) {
  const { channels } = member.rows[r];
  const cut = member.blockSize > MOST_LEAVES ? `; the newest ${MOST_LEAVES} of ${count(member.blockSize)}` : "";
  if (r === 0) return `embedding, ${channels} numbers a character${cut}`;
  if (r === member.stages.length) return `one output for each symbol, ${count(channels)}`;
  const { added } = member.stages[r - 1];
  return `layer ${r}, ${channels} numbers a node${added.length ? ", others added" : ""}`;
}

let colors = {};

function readColors() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["minus", "zero", "plus"]) {
    const hex = style.getPropertyValue(`--${name}`).trim().slice(1);
    colors[name] = [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16));
  }
}

function paint({ canvas }, values, most, { across, down }) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(across, down);
  values.forEach((value, i) => {
    const t = Math.max(-1, Math.min(1, value / most));
    const end = t < 0 ? colors.minus : colors.plus;
    colors.zero.forEach((zero, c) => { image.data[4 * i + c] = zero + (end[c] - zero) * Math.abs(t); });
    image.data[4 * i + 3] = 255;
  });
  context.putImageData(image, 0, 0);
}

function showTree() {
  const member = network.members[state.member];
  const context = network.context(state.symbols.slice(0, state.at));
  const rows = member.nodes(context);
  for (const { place, face } of tree.leaves) refresh(face, symbolAt(context, place), "leaf");
  tree.rows.forEach((row, r) => {
    const bounded = r > 0 && ["tanh", "gate"].includes(member.stages[r - 1].activations.at(-1));
    const most = bounded ? 1 : rows[r].reduce((m, v) => v.reduce((a, x) => Math.max(a, Math.abs(x)), m), 1e-9);
    row.shown.forEach((node, j) => {
      const window = symbolsOf(node, context);
      const lights = node.symbols !== undefined && node.symbols !== window.join() && !calm();
      node.symbols = window.join();
      node.values = rows[r][row.nodes.indexOf(node)];
      paint(node, node.values, most, row);
      const name = r === tree.rows.length - 1 ? "Outputs" : r === 0 ? `Embedding ${j + 1}` : `Layer ${r}, node ${j + 1}`;
      node.text = `${name} of ${row.shown.length}`;
      const text = window.slice(-12).map((symbol) => spoken(symbol, "start")).join(" ");
      node.button.setAttribute("aria-label", `${node.text}, has seen: ${text}`);
      if (lights) {
        node.button.animate(
          [{ boxShadow: "0 0 0 0 transparent" }, { boxShadow: "0 0 0 4px var(--warm)" }, { boxShadow: "0 0 0 0 transparent" }],
          { duration: 420, delay: 70 * r, easing: "ease-out" },
        );
      }
    });
  });
  choose(chosen);
}

const symbolAt = (context, place) => context[context.length - 1 - place];

// The symbols that a node has seen, the oldest first.
function symbolsOf(node, context) {
  return [...node.window].sort((a, b) => b - a).map((place) => symbolAt(context, place));
}

let chosen = null;

function choose(node) {
  chosen = node;
  for (const other of tree.rows.flatMap(({ shown }) => shown)) {
    other.button.classList.toggle("chosen", other === node);
    other.button.classList.remove("seen");
    for (const { path } of other.links) path.classList.remove("seen");
  }
  for (const { place, face } of tree.leaves) face.classList.toggle("seen", node !== null && node.window.has(place));
  const text = by("node");
  if (!node) {
    text.textContent = "Each small square is one number. Point at a node, or go there by Tab and the arrow keys, to see what it is made of.";
    return;
  }
  markBelow(node);
  const least = node.values.reduce((a, b) => Math.min(a, b));
  const most = node.values.reduce((a, b) => Math.max(a, b));
  const symbols = symbolsOf(node, network.context(state.symbols.slice(0, state.at)));
  text.replaceChildren(
    `${node.text} has seen `, ...symbols.slice(-MOST_LEAVES).map((symbol) => glyph(symbol, "inline")),
    `: ${count(node.values.length)} numbers from ${least.toFixed(2)} to ${most.toFixed(2)}.`,
  );
}

// The links and nodes below a node.
function markBelow(node, marked = new Set()) {
  for (const { path, below } of node.links) {
    path.classList.add("seen");
    below.button.classList.add("seen");
    if (!marked.has(below)) markBelow(below, marked.add(below));
  }
}

function inTree(key, from, buttons) {
  const rows = tree.rows.map(({ shown }) => shown).filter((row) => row.length);
  const row = rows.find((nodes) => nodes.some(({ button }) => button === buttons[from]));
  if (!row) return undefined;
  const j = row.findIndex(({ button }) => button === buttons[from]);
  const nearest = (other) => other && [...other].sort((a, b) => Math.abs(a.x - row[j].x) - Math.abs(b.x - row[j].x))[0];
  const to = {
    ArrowLeft: row[j - 1], ArrowRight: row[j + 1], Home: row[0], End: row.at(-1),
    ArrowUp: nearest(rows[rows.indexOf(row) - 1]), ArrowDown: nearest(rows[rows.indexOf(row) + 1]),
  }[key];
  return to && buttons.indexOf(to.button);
}

// What comes next ---------------------------------------------------------------------------------------

function showNext() {
  const logs = logProbs(state.symbols.slice(0, state.at));
  const { temperature, topK } = settings();
  const drawn = filtered(logs, temperature, topK);
  const same = temperature === 1 && topK >= logs.length;
  const few = logs.length <= ALL_SHOWN;
  const byRank = [...logs.keys()].sort((a, b) => logs[b] - logs[a] || a - b);
  const symbols = few ? [...[...logs.keys()].slice(1), STOP] : byRank.slice(0, MOST_BARS);
  const likely = new Set(byRank.slice(0, 3));
  const came = told()[state.at];
  const most = Math.max(0.25, Math.exp(logs[byRank[0]])); // the probability of a full bar
  const bars = children(by("next"), symbols.length, () => {
    const bar = element("button", "next");
    bar.type = "button";
    bar.append(element("span"), element("span", "bar"), " ", element("span", "how"));
    bar.addEventListener("click", () => type(Number(bar.dataset.symbol)));
    return bar;
  });
  bars.forEach((bar, i) => {
    const symbol = symbols[i];
    const p = Math.exp(logs[symbol]);
    const [face, track, how] = bar.children;
    bar.dataset.symbol = symbol;
    refresh(face, symbol);
    if (symbol === STOP) face.textContent = "end";
    track.style.setProperty("--p", p / most);
    track.style.setProperty("--drawn", Math.min(1, drawn[symbol] / most));
    track.classList.toggle("same", same);
    how.textContent = percent(p);
    bar.classList.toggle("likely", likely.has(symbol));
    bar.classList.toggle("came", symbol === came);
    const filteredText = same ? "" : `, ${percent(drawn[symbol])} as drawn`;
    bar.setAttribute("aria-label", `${face.textContent} ${percent(p)}, ${spoken(symbol)}${filteredText}${symbol === came ? ", which came" : ""}`);
  });
  settle(by("next"));

  const after = by("after");
  const before = network.decode(state.symbols.slice(0, state.at));
  after.replaceChildren(...(before ? ["after “", wordElement(before), "”"] : ["at the beginning"]));
  if (came !== undefined) after.append(" came ", came === STOP ? "the end" : glyph(came), ` (${percent(Math.exp(logs[came]))})`);
  const notes = [];
  if (!few) {
    const rest = symbols.reduce((sum, symbol) => sum - Math.exp(logs[symbol]), 1);
    notes.push(`The likeliest ${symbols.length} of ${count(logs.length)}; all others together: ${percent(Math.max(0, rest))}.`);
  }
  if (!same) notes.push("The lines show what temperature and top k make of it.");
  by("others").textContent = notes.join(" ");
}

// State -------------------------------------------------------------------------------------------------

let toSay;

function say(text, wait = 600) {
  clearTimeout(toSay);
  toSay = setTimeout(() => { by("status").textContent = text; }, wait);
}

function summary() {
  const logs = logProbs(state.symbols.slice(0, state.at));
  const best = [...logs.keys()].sort((a, b) => logs[b] - logs[a] || a - b).slice(0, 3);
  return "Likeliest next: " + best.map((symbol) => `${spoken(symbol)} ${percent(Math.exp(logs[symbol]))}`).join(", ");
}

function show() {
  showSteps();
  showTree();
  showNext();
  const word = network.decode(state.symbols);
  by("begin-text").replaceChildren("begin with ", ...(word ? ["“", wordElement(word), "”"] : ["what is typed"]));
  for (const button of by("drawn").querySelectorAll("button")) {
    button.classList.toggle("chosen", state.finished && button.dataset.symbols === state.symbols.join());
  }
}

function goTo(at) {
  state.at = at;
  show();
}

function setWord(symbols, at = symbols.length, finished = false) {
  Object.assign(state, { symbols, at, finished });
  by("word").value = network.decode(symbols);
  by("note").textContent = "";
  show();
}

function type(symbol) {
  stopPlaying();
  const symbols = state.symbols.slice(0, state.at);
  if (symbol === STOP) setWord(symbols, symbols.length, true);
  else if (symbols.length < LONGEST) setWord([...symbols, symbol]);
  say(summary());
}

// The characters of a text that the network knows, in another case or form if need be, and those it does not.
function understood(text) {
  const tries = ["", "NFC", "NFD"].map((form) => {
    const symbols = [], strange = [];
    for (const ch of form ? text.normalize(form) : text) {
      const own = [ch, ch.toLowerCase(), ch.toUpperCase()].find((c) => [...c].every((x) => network.symbolOf.has(x)));
      if (own) symbols.push(...network.encode(own));
      else strange.push(ch);
    }
    return { symbols, strange };
  });
  return tries.reduce((best, other) => (other.strange.length < best.strange.length ? other : best));
}

function typed() {
  stopPlaying();
  const input = by("word");
  const { symbols, strange } = understood(input.value);
  const short = symbols.slice(0, LONGEST);
  const word = network.decode(short);
  if (word !== input.value) {
    const caret = network.decode(understood(input.value.slice(0, input.selectionStart)).symbols).length;
    input.value = word;
    input.setSelectionRange(caret, caret);
  }
  Object.assign(state, { symbols: short, at: short.length, finished: false });
  show();
  const note = strange.length
    ? `The network does not know ${[...new Set(strange)].slice(0, 5).map((ch) => (invisible(ch) ? codeOf(ch) : ch)).join(" ")}: it has ${count(network.size - 1)} characters.`
    : symbols.length > LONGEST ? `A word has ${LONGEST} characters at most.` : "";
  by("note").textContent = note;
  say(note || summary());
}

let playing = null;

function stopPlaying() {
  clearInterval(playing);
  playing = null;
  by("play").setAttribute("aria-pressed", "false");
  by("play").textContent = "Play";
}

function play() {
  if (playing !== null) return stopPlaying();
  const places = told().length - (state.finished ? 1 : 0);
  by("play").setAttribute("aria-pressed", "true");
  by("play").textContent = "Stop";
  goTo(0);
  playing = setInterval(() => {
    if (state.at >= places) stopPlaying();
    else goTo(state.at + 1);
  }, 700);
}

// Drawing words -----------------------------------------------------------------------------------------

let drawing = 0;

async function drawWords() {
  const mine = ++drawing;
  const list = by("drawn"), note = by("drawn-note");
  const novel = by("novel").checked && known !== null;
  const beginning = by("begin").checked ? state.symbols : [];
  list.replaceChildren();
  note.textContent = "";
  let found = 0, fruitless = 0, inList = 0, pause = performance.now() + 20;
  while (found < DRAWN && fruitless < FRUITLESS) {
    const symbols = network.draw(beginning, { ...settings(), longest: LONGEST });
    const isKnown = known !== null && known.has(network.decode(symbols));
    if (novel && isKnown) fruitless++;
    else {
      found++;
      fruitless = 0;
      inList += isKnown;
      list.append(drawnItem(symbols, isKnown));
    }
    if (performance.now() > pause) {
      await new Promise((resume) => setTimeout(resume));
      if (mine !== drawing) return;
      pause = performance.now() + 20;
    }
  }
  if (found < DRAWN) note.textContent = `${found} of ${DRAWN}: none of the last ${count(FRUITLESS)} drawn was new.`;
  else if (known !== null && !novel) note.textContent = `${inList || "None"} of them ${inList > 1 ? "stand" : "stands"} in the list the network was trained on.`;
  say(`${found} words drawn. ${note.textContent}`, 100);
}

function drawnItem(symbols, isKnown) {
  const item = element("li"), button = element("button");
  button.type = "button";
  button.dataset.symbols = symbols.join();
  const nats = -likelihood([...symbols, STOP]);
  const small = element("small", "", `one in ${oneIn(nats)}${isKnown ? ", in the list" : ""}`);
  button.append(wordElement(network.decode(symbols)), " ", small);
  button.addEventListener("click", () => {
    stopPlaying();
    setWord(symbols, 0, true);
    by("type-title").scrollIntoView({ behavior: calm() ? "auto" : "smooth", block: "start" });
    by("steps").firstChild.focus({ preventScroll: true });
  });
  item.append(button);
  return item;
}

// Beginning ---------------------------------------------------------------------------------------------

function showMark() {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 232 30");
  const add = (name, attributes) => {
    const part = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) part.setAttribute(key, value);
    svg.append(part);
  };
  const rows = [8, 4, 2, 1].map((n, r) => Array.from({ length: n }, (_, i) => [(232 / n) * (i + 0.5), 2 + r * 9]));
  rows.slice(1).forEach((row, r) => rows[r].forEach(([x, y], i) => {
    const [a, b] = row[i >> 1];
    add("path", { d: `M${x} ${y}C${x} ${y + 6} ${a} ${b - 6} ${a} ${b}` });
  }));
  for (const [x, y] of rows.flat()) add("circle", { cx: x, cy: y, r: 2 });
  const letters = element("span", "letters");
  letters.append(...[..."makemore"].map((ch) => element("span", "", ch)));
  for (const part of [letters, svg]) part.setAttribute("aria-hidden", "true");
  by("mark").append(letters, svg);
}

function showTexts() {
  const { parameters, words, source, members } = content;
  const several = members.length > 1 ? `${members.length} small networks, averaged,` : "A small network";
  const verb = members.length > 1 ? "make" : "makes";
  const lead = by("lead");
  lead.append(`${several} that ${verb} up words, one character at a time`);
  if (words) lead.append(`, after ${count(words.number)} words`, ...(source ? [" of ", element("bdi", "", source)] : []));
  lead.append(`. All ${count(parameters)} numbers are in this page: look at them work.`);
  if (!words) cannotTellNew("The words it was trained on are not in this page");
  else if (!words.packed) cannotTellNew(`The ${count(words.number)} words it was trained on are too many for this page`);
  else by("novel-is").textContent = `none of the ${count(words.number)} it was trained on`;
  by("top-k").max = network.size;
  members.forEach((_, i) => by("member").append(new Option(`${i + 1} of ${members.length}`, i)));
  by("which").hidden = members.length === 1;
}

function cannotTellNew(reason) {
  by("novel-label").hidden = true;
  by("novel-is").textContent = `${reason}: which words are new, it cannot tell.`;
}

function showSettings() {
  const { temperature } = settings();
  by("temperature-value").textContent = temperature.toFixed(2);
  showNext();
}

function begin() {
  showMark();
  showTexts();
  readColors();
  roving(by("steps"), along);
  roving(by("next"), along);
  roving(by("tree"), inTree);
  const input = by("word");
  input.addEventListener("input", (event) => { if (!event.isComposing) typed(); });
  input.addEventListener("compositionend", typed);
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.isComposing) by("finish").click();
  });
  by("finish").addEventListener("click", () => {
    stopPlaying();
    const before = state.symbols.slice(0, state.finished ? state.at : undefined);
    setWord(network.draw(before, { ...settings(), longest: LONGEST }), before.length, true);
    say(`${network.decode(state.symbols)}`, 100);
  });
  by("clear").addEventListener("click", () => { stopPlaying(); setWord([]); input.focus(); });
  by("play").addEventListener("click", play);
  by("as-table").addEventListener("toggle", () => { if (by("as-table").open) showTable(); });
  by("temperature").addEventListener("input", showSettings);
  by("top-k").addEventListener("input", showSettings);
  by("settings").addEventListener("submit", (event) => { event.preventDefault(); drawWords(); });
  by("member").addEventListener("change", () => { state.member = Number(by("member").value); buildTree(); showTree(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColors(); showTree(); });
  buildTree();
  setWord(network.draw([], { temperature: 0, longest: 3 }));
  showSettings();
  if (content.words?.packed) {
    unpackWords(content.words.packed)
      .then((words) => { known = words; }, () => cannotTellNew("This browser cannot unpack the words it was trained on"))
      .then(drawWords);
  } else drawWords();

  // For the console, and for whoever wants the numbers.
  globalThis.makemore = {
    network, state, unpackWords, filtered, pick,
    isKnown: (word) => known !== null && known.has(word),
    logProbs: (word) => Array.from(network.logProbs(network.encode(word))),
    probabilities: (word) => Object.fromEntries(
      [...network.logProbs(network.encode(word))].map((x, i) => [i === STOP ? "the end" : charOf(i), Math.exp(x)])),
    draw: (beginning = "", options = {}) => network.decode(network.draw(network.encode(beginning), options)),
  };
}

begin();
