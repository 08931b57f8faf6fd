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

const settings = () => ({ temperature: by("temperature").valueAsNumber, topK: by("top-k").valueAsNumber || Infinity });

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
      step.ariaLabel = `${face.textContent} ${percent(p)}, character ${i + 1}, ${spoken(shown[i])}, rank ${place}`;
    } else {
      face.className = "char";
      face.textContent = "?";
      how.textContent = "next";
      step.style.setProperty("--p", 0);
      step.ariaLabel = `? next, character ${i + 1}, still to come`;
    }
    step.ariaCurrent = here ? "step" : null;
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

let tree = []; // of each row: its nodes with their tiles, links and places

function buildTree() {
  const member = network.members[state.member];
  const inner = element("div", "inner");
  const leaves = member.rows[0].places.filter((place) => place < MOST_LEAVES);
  const width = leaves.length;
  const centred = width <= MOST_CENTRED;
  inner.style.minWidth = `${width * 27}px`;
  if (!centred) inner.style.paddingRight = "68px";
  by("tree").replaceChildren(inner);

  // In the lecture's tree a node stands over the middle of those it is made of.
  const xs = [new Map(leaves.map((place, i) => [place, (i + 0.5) / width]))];
  for (const { places, children: below } of member.rows.slice(1)) {
    const under = member.rows[xs.length - 1].places;
    xs.push(new Map(places.flatMap((place, i) => {
      const own = below[i].map((child) => xs.at(-1).get(under[child])).filter((x) => x !== undefined);
      return own.length ? [[place, centred ? (own[0] + own.at(-1)) / 2 : own.at(-1)]] : [];
    })));
  }

  const faces = element("div", "row");
  faces.ariaHidden = "true";
  tree = [{ leaves: leaves.map((place) => {
    const face = element("span");
    face.style.marginLeft = `${100 * xs[0].get(place)}%`;
    faces.append(face);
    return { place, face };
  }) }];
  inner.append(faces);

  const last = member.rows.length - 1;
  member.rows.forEach(({ places, children: below }, r) => {
    const channels = r ? member.stages[r - 1].to : member.channels;
    const captions = element("p", "caption", rowName(member, r));
    captions.ariaHidden = "true";
    const row = element("div", "row");
    const across = r === last && channels <= ALL_SHOWN ? channels : Math.ceil(Math.sqrt(2 * channels));
    const down = Math.ceil(channels / across);
    const nodes = places.flatMap((place, i) => {
      const x = xs[r].get(place);
      if (x === undefined) return [];
      const button = element("button", "node");
      button.type = "button";
      const canvas = element("canvas");
      canvas.width = across;
      canvas.height = down;
      button.append(canvas);
      button.style.marginLeft = `${100 * x}%`;
      const wide = Math.min(r === last ? 320 : 11 * across, r === last && centred ? 320 : 132);
      button.style.width = `min(${wide}px, ${100 / xs[r].size}% - 4px)`;
      button.style.aspectRatio = r === last && down === 1 ? "12" : `${across} / ${down}`;
      row.append(button);
      const node = { r, i, place, x, button, canvas, window: windowOf(member, r, i), links: [] };
      for (const type of ["mouseenter", "focus", "click"]) button.addEventListener(type, () => choose(node));
      button.addEventListener("mouseleave", () => choose(null));
      button.addEventListener("blur", () => choose(null));
      return [node];
    });
    if (r) inner.append(links(nodes, below, xs[r - 1], member.rows[r - 1].places));
    inner.append(captions, row);
    tree.push({ nodes, channels, across, down });
  });
  current(by("tree"), by("tree").querySelector("button"));
  by("tree").scrollLeft = by("tree").scrollWidth;
}

function rowName(member, r) {
  const last = member.rows.length - 1;
  const cut = member.blockSize > MOST_LEAVES ? `; the newest ${MOST_LEAVES} of ${count(member.blockSize)}` : "";
  if (r === 0) return `embedding, ${member.channels} numbers a character${cut}`;
  const { to, lags } = member.stages[r - 1];
  if (r === last) return `one output for each symbol, ${count(to)}`;
  return `layer ${r}, ${to} numbers a node` + (lags.length > 1 ? ` made of ${lags.length}` : "");
}

// The places of the characters that a node has seen.
function windowOf(member, r, i) {
  if (r === 0) return [member.rows[0].places[i]];
  return [...new Set(member.rows[r].children[i].flatMap((child) => windowOf(member, r - 1, child)))];
}

function links(nodes, below, xs, under) {
  const holder = element("div", "links");
  holder.ariaHidden = "true";
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 100 10");
  svg.setAttribute("preserveAspectRatio", "none");
  for (const node of nodes) {
    for (const child of below[node.i]) {
      const x = xs.get(under[child]);
      if (x === undefined) continue;
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      path.setAttribute("d", `M${100 * x} 0C${100 * x} 6 ${100 * node.x} 4 ${100 * node.x} 10`);
      svg.append(path);
      node.links.push({ path, child });
    }
  }
  holder.append(svg);
  return holder;
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
  const [{ leaves }, ...shown] = tree;
  const symbolAt = (place) => context[context.length - 1 - place];
  for (const { place, face } of leaves) refresh(face, symbolAt(place), "leaf");
  shown.forEach((row, r) => {
    const bounded = r > 0 && member.stages[r - 1].activation !== null;
    const values = row.nodes.map(({ i }) => rows[r][i]);
    const most = bounded ? 1 : values.reduce((m, v) => v.reduce((a, x) => Math.max(a, Math.abs(x)), m), 1e-9);
    row.nodes.forEach((node, j) => {
      const window = node.window.map(symbolAt);
      const lights = node.symbols !== undefined && node.symbols !== window.join() && !calm();
      node.symbols = window.join();
      node.values = values[j];
      paint(node, values[j], most, row);
      const text = window.slice(-12).map((symbol) => spoken(symbol, "start")).join(" ");
      const name = r === shown.length - 1 ? "Outputs" : r === 0 ? `Embedding ${j + 1}` : `Layer ${r}, node ${j + 1}`;
      node.text = `${name} of ${row.nodes.length}`;
      node.button.ariaLabel = `${node.text}, has seen: ${text}`;
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

let chosen = null;

function choose(node) {
  chosen = node;
  const [{ leaves }, ...rows] = tree;
  for (const { nodes } of rows) {
    for (const other of nodes) {
      other.button.classList.toggle("chosen", other === node);
      other.button.classList.remove("seen");
      for (const { path } of other.links) path.classList.remove("seen");
    }
  }
  const seen = new Set(node ? node.window : []);
  for (const { place, face } of leaves) face.classList.toggle("seen", seen.has(place));
  const text = by("node");
  if (!node) {
    text.textContent = "Each small square is one number. Point at a node, or go there by Tab and the arrow keys, to see what it is made of.";
    return;
  }
  mark(node);
  const least = node.values.reduce((a, b) => Math.min(a, b));
  const most = node.values.reduce((a, b) => Math.max(a, b));
  const context = network.context(state.symbols.slice(0, state.at));
  const symbols = node.window.map((place) => context[context.length - 1 - place]);
  text.replaceChildren(
    `${node.text} has seen `, ...symbols.slice(-MOST_LEAVES).map((symbol) => glyph(symbol, "inline")),
    `: ${count(node.values.length)} numbers from ${least.toFixed(2)} to ${most.toFixed(2)}.`,
  );
}

// The links and nodes below a node.
function mark(node) {
  for (const { path, child } of node.links) {
    path.classList.add("seen");
    const below = tree[node.r].nodes.find(({ i }) => i === child); // tree[0] has the characters
    below.button.classList.add("seen");
    mark(below);
  }
}

function inTree(key, from, buttons) {
  const rows = tree.slice(1).map(({ nodes }) => nodes);
  const node = rows.flat().find(({ button }) => button === buttons[from]);
  if (!node) return undefined;
  const row = rows[node.r];
  const j = row.indexOf(node);
  const nearest = (other) => other?.toSorted((a, b) => Math.abs(a.x - node.x) - Math.abs(b.x - node.x))[0];
  const to = {
    ArrowLeft: row[j - 1], ArrowRight: row[j + 1], Home: row[0], End: row.at(-1),
    ArrowUp: nearest(rows[node.r - 1]), ArrowDown: nearest(rows[node.r + 1]),
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
    bar.ariaLabel = `${face.textContent} ${percent(p)}, ${spoken(symbol)}${filteredText}${symbol === came ? ", which came" : ""}`;
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
  by("play").ariaPressed = "false";
  by("play").textContent = "Play";
}

function play() {
  if (playing !== null) return stopPlaying();
  const places = told().length - (state.finished ? 1 : 0);
  by("play").ariaPressed = "true";
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
  if (!words || !words.packed) {
    by("novel-label").hidden = true;
    by("novel-is").textContent = words
      ? `The ${count(words.number)} words it was trained on are too many to come with this page: which words are new, it cannot tell.`
      : "The words it was trained on are not in this page: which words are new, it cannot tell.";
  } else by("novel-is").textContent = `none of the ${count(words.number)} it was trained on`;
  by("top-k").max = network.size;
  members.forEach((_, i) => by("member").append(new Option(`${i + 1} of ${members.length}`, i)));
  by("which").hidden = members.length === 1;
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
  const ready = content.words && content.words.packed ? unpackWords(content.words.packed) : Promise.resolve(null);
  ready.catch(() => null).then((words) => { known = words; drawWords(); });

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
