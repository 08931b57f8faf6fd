// What the page shows. Texts that come from the model are written as text, never as markup.

const ALL_SHOWN = 64; // up to this number of symbols each has a bar, else the likeliest MOST_BARS
const MOST_BARS = 40;
const MOST_BESIDE = 32; // more bars than these are higher than the tree: they go below it, in more columns
const MOST_LEAVES = 64; // characters of the context that the tree shows, the newest ones
const MOST_CENTRED = 16; // in a wider tree a node is above its newest character, to keep the last in sight

const content = JSON.parse(document.getElementById("content").textContent);
const LONGEST = content.longest; // characters of the longest word
let network = new Network(content); // that of the last step, if the page has those of several
const other = content.other && new Network(content.other); // which is shown beside it
const { any } = network.labels;
// The labels that are chosen, those of the word that is shown, and what they do to the network.
const state = { symbols: [], at: 0, finished: false, member: 0, choice: any, shown: any };
state.condition = network.typical;
let known = null; // the words of the list, after they are unpacked

// Probabilities, cached by context ----------------------------------------------------------------------

const cache = new Map();

function logProbs(symbols, condition = state.condition) {
  const key = `${condition.id}:${network.context(symbols).join()}`;
  if (!cache.has(key)) {
    if (cache.size > 400) cache.clear();
    cache.set(key, network.logProbs(symbols, condition));
  }
  return cache.get(key);
}

// The symbols of the word, with the stop if it is finished. `state.at` is an index into them, or one after.
const shownSymbols = () => (state.finished ? [...state.symbols, STOP] : state.symbols);

function likelihood(symbols, condition = state.condition) {
  return symbols.reduce((sum, symbol, i) => sum + logProbs(symbols.slice(0, i), condition)[symbol], 0);
}

const rank = (logs, symbol) =>
  1 + logs.reduce((n, x, i) => n + (x > logs[symbol] || (x === logs[symbol] && i < symbol)), 0);

// The word and the probability of each character --------------------------------------------------------

function showSteps() {
  const shown = shownSymbols();
  const steps = children(by("steps"), state.symbols.length + 1, (i) => {
    const step = element("button", "step");
    step.append(element("span"), " ", element("span", "how"));
    step.addEventListener("click", () => {
      stopPlaying();
      goTo(i);
    });
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
      step.setAttribute("aria-label", `${labelOf(face, shown[i], p)}, character ${i + 1}, rank ${place}`);
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
    fact.textContent = `${among()} in ${oneIn(nats)} is this one: ${nats.toFixed(2)} nats, ${(nats / shown.length).toFixed(2)} per character.`;
  } else if (shown.length) {
    fact.textContent = `${among()} in ${oneIn(nats)} begins like this.`;
  } else {
    fact.textContent = "Nothing is typed yet: these are the probabilities of the first character.";
  }
  if (by("as-table").open) showTable();
}

// Among which words the word that is shown is one in so many.
function among() {
  if (!state.shown.length) return "One sampled word";
  if (!state.shown.includes(null)) return `With ${choiceText(state.shown)}, one sampled word`;
  const chosen = state.shown.flatMap((shares, k) => (shares ? [sharesText(k, shares)] : []));
  const others = chosen.length ? "the mean of the other labels" : "the mean of the labels";
  return `With ${[...chosen, others].join(" and ")}, one word`;
}

function showTable() {
  const shown = shownSymbols();
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

// What comes next ---------------------------------------------------------------------------------------

function showNext() {
  const logs = logProbs(state.symbols.slice(0, state.at));
  const { temperature, topK } = settings();
  const after = filtered(logs, temperature, topK);
  const same = temperature === 1 && topK >= logs.length;
  const few = logs.length <= ALL_SHOWN;
  const byRank = ranked(logs);
  const symbols = few ? [...[...logs.keys()].slice(1), STOP] : byRank.slice(0, MOST_BARS);
  const likely = new Set(byRank.slice(0, 3));
  const came = shownSymbols()[state.at];
  const most = Math.max(0.25, Math.exp(logs[byRank[0]])); // the probability of a full bar
  const bars = children(by("next"), symbols.length, () => {
    const bar = element("button", "next");
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
    track.style.setProperty("--sampled", Math.min(1, after[symbol] / most));
    track.classList.toggle("same", same);
    how.textContent = percent(p);
    bar.classList.toggle("likely", likely.has(symbol));
    bar.classList.toggle("came", symbol === came);
    const filteredText = same ? "" : `, ${percent(after[symbol])} as sampled`;
    bar.setAttribute(
      "aria-label",
      `${labelOf(face, symbol, p)}${filteredText}${symbol === came ? ", which came" : ""}`,
    );
  });
  settle(by("next"));

  by("after").replaceChildren(...afterText());
  if (came !== undefined)
    by("after").append(" came ", came === STOP ? "the end" : glyph(came), ` (${percent(Math.exp(logs[came]))})`);
  const notes = [];
  if (!few) {
    const rest = symbols.reduce((sum, symbol) => sum - Math.exp(logs[symbol]), 1);
    notes.push(
      `The likeliest ${symbols.length} of ${count(logs.length)}; all others together: ${percent(Math.max(0, rest))}.`,
    );
  }
  if (!same) notes.push("The lines show the probabilities after temperature and top k.");
  by("others").textContent = notes.join(" ");
}

// What the next character comes after, as text and elements.
function afterText() {
  const before = network.decode(state.symbols.slice(0, state.at));
  return before ? ["after “", wordElement(before), "”"] : ["at the beginning"];
}

// State -------------------------------------------------------------------------------------------------

let toSay;

function say(text, wait = 600) {
  clearTimeout(toSay);
  toSay = setTimeout(() => {
    by("status").textContent = text;
  }, wait);
}

function summary() {
  const logs = logProbs(state.symbols.slice(0, state.at));
  const best = ranked(logs).slice(0, 3);
  return `Likeliest next: ${best.map((i) => `${spoken(i)} ${percent(Math.exp(logs[i]))}`).join(", ")}`;
}

function show() {
  showSteps();
  showTree();
  showNext();
  showTwo();
  showNetworks();
  const word = network.decode(state.symbols);
  by("begin-text").replaceChildren(
    "begin with ",
    ...(word ? ["“", wordElement(word), "”"] : ["what is typed"]),
  );
  for (const button of by("sampled").querySelectorAll("button")) {
    button.classList.toggle("chosen", state.finished && button.dataset.symbols === state.symbols.join());
  }
}

function goTo(at) {
  state.at = at;
  show();
}

// Show the word with these labels.
function showWith(choice) {
  if (choice === state.shown) return;
  state.shown = choice;
  state.condition = network.condition(network.labels.mean(choice));
}

function setWord(symbols, at = symbols.length, finished = false, choice = state.shown) {
  showWith(choice);
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

// The characters of a text that the network knows, in another case or Unicode form if necessary, and the others,
// without those that have no use in a word.
function understood(text, of = network) {
  const tries = [text.normalize("NFC"), text.normalize("NFD"), text].map((form) => {
    const symbols = [],
      strange = [];
    for (const ch of form) {
      const own = [ch, ch.toLowerCase(), ch.toUpperCase()].find((c) =>
        [...c].every((x) => of.symbolOf.has(x)),
      );
      if (own) symbols.push(...[...own].map((x) => of.symbolOf.get(x)));
      else if (!DROPPED.test(ch)) strange.push(ch);
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
  showWith(state.choice);
  if (word !== input.value) {
    const caret = network.decode(understood(input.value.slice(0, input.selectionStart)).symbols).length;
    input.value = word;
    input.setSelectionRange(caret, caret);
  }
  Object.assign(state, { symbols: short, at: short.length, finished: false });
  show();
  const note = strange.length
    ? `The network does not know ${[...new Set(strange)]
        .slice(0, 5)
        .map((ch) => (invisible(ch) || /\p{M}/u.test(ch) ? codeOf(ch) : ch))
        .join(" ")}: it has ${plural(network.size - 1, "character")}.`
    : symbols.length > LONGEST
      ? `A word has ${LONGEST} characters at most.`
      : "";
  by("note").textContent = note;
  say(note || summary());
}

let playing = null; // the button that was pressed and its timer

function stopPlaying() {
  if (playing === null) return;
  clearInterval(playing.timer);
  by(playing.id).setAttribute("aria-pressed", "false");
  by(playing.id).textContent = "Play";
  playing = null;
}

// Call `tick` again and again until it returns false, with a button that says Stop.
function startPlaying(id, tick) {
  stopPlaying();
  by(id).setAttribute("aria-pressed", "true");
  by(id).textContent = "Stop";
  playing = { id, timer: setInterval(() => tick() || stopPlaying(), 700) };
}

function play() {
  if (playing?.id === "play") return stopPlaying();
  if (!state.symbols.length) {
    const note = "There is no character to go through yet: type a beginning, or press “Finish it”.";
    by("note").textContent = note;
    return say(note, 100);
  }
  by("note").textContent = "";
  startPlaying("play", () => {
    if (state.at >= state.symbols.length) return false;
    goTo(state.at + 1);
    return true;
  });
  goTo(0);
}

// Start -------------------------------------------------------------------------------------------------

function showMark() {
  const svg = svgElement("svg", { viewBox: "0 0 232 30" });
  const rows = [8, 4, 2, 1].map((n, r) =>
    Array.from({ length: n }, (_, i) => [(232 / n) * (i + 0.5), 2 + r * 9]),
  );
  rows.slice(1).forEach((row, r) =>
    rows[r].forEach(([x, y], i) => {
      const [a, b] = row[i >> 1];
      svg.append(svgElement("path", { d: `M${x} ${y}C${x} ${y + 6} ${a} ${b - 6} ${a} ${b}` }));
    }),
  );
  for (const [x, y] of rows.flat()) svg.append(svgElement("circle", { cx: x, cy: y, r: 2 }));
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
  if (words)
    lead.append(
      `, after ${plural(words.number, "word")}`,
      ...(source ? [" of ", element("bdi", "", source)] : []),
    );
  lead.append(`. All ${count(parameters)} numbers are in this page: look at them work.`);
  if (!words) cannotTellNew("The words the network was trained on are not in this page");
  else if (!words.packed)
    cannotTellNew(`The ${plural(words.number, "word")} the network was trained on are too many for this page`);
  else by("novel-is").textContent = `not among the ${plural(words.number, "word")} it was trained on`;
  by("top-k").max = network.size;
  by("longest").max = by("longest").value = by("longest").defaultValue = LONGEST;
  members.forEach((_, i) => by("member").append(new Option(`${i + 1} of ${members.length}`, i)));
  by("which").hidden = members.length === 1;
}

function cannotTellNew(reason) {
  by("novel-label").hidden = true;
  by("novel-is").textContent = `${reason}, so it cannot say which words are new.`;
}

async function begin() {
  showMark();
  showTexts();
  by("pair").classList.toggle("stacked", Math.min(network.size, MOST_BARS) > MOST_BESIDE);
  readColors();
  roving(by("steps"), along);
  roving(by("next"), along);
  roving(by("tree"), inTree);
  const input = by("word");
  input.addEventListener("input", (event) => {
    if (!event.isComposing) typed();
  });
  input.addEventListener("compositionend", typed);
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.isComposing) by("finish").click();
  });
  by("finish").addEventListener("click", finish);
  by("clear").addEventListener("click", () => {
    stopPlaying();
    setWord([], 0, false, state.choice);
    input.focus();
  });
  by("play").addEventListener("click", play);
  by("as-table").addEventListener("toggle", () => {
    if (by("as-table").open) showTable();
  });
  by("settings").addEventListener("input", showSettings);
  by("settings").addEventListener("submit", (event) => {
    event.preventDefault();
    sampleWords();
  });
  by("copy").addEventListener("click", copyWords);
  by("save").addEventListener("click", saveWords);
  by("member").addEventListener("change", () => {
    state.member = Number(by("member").value);
    buildTree();
    showTree();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    readColors();
    showTree();
  });
  buildFrames();
  buildTree();
  setWord(content.word === null ? likeliestBeginning(3) : network.encode(content.word));
  buildChooser();
  buildBeside();
  showSettings();

  // For the browser's console.
  const conditionOf = (labels) => network.condition(network.labels.mean(network.labels.choiceOf(labels)));
  const logsOf = (word, labels = {}) =>
    Array.from(network.logProbs(network.encode(word), conditionOf(labels)));
  globalThis.makemore = {
    get network() {
      return network;
    },
    other,
    state,
    unpackWords,
    filtered,
    pick,
    isKnown: isInList,
    logProbs: logsOf,
    probabilities: (word, labels = {}) =>
      Object.fromEntries(logsOf(word, labels).map((x, i) => [i === STOP ? "the end" : charOf(i), Math.exp(x)])),
    sample: (beginning = "", { labels = {}, ...options } = {}) => {
      const choice = network.labels.choiceOf(labels);
      const condition = network.condition(network.labels.sample(choice, network.labels.weights(choice)));
      const symbols = network.sample(network.encode(beginning), { ...options, condition });
      return symbols && network.decode(symbols);
    },
  };

  if (content.words?.packed) {
    try {
      known = await unpackWords(content.words.packed);
    } catch {
      cannotTellNew("This browser cannot unpack the words the network was trained on");
    }
  }
  if (content.frames) showFrame(content.frames.length - 1);
  else sampleWords();
}

// The characters that are likeliest one after another, up to a number of them.
function likeliestBeginning(number) {
  const symbols = [];
  while (symbols.length < number) {
    const [next] = ranked(logProbs(symbols));
    if (next === STOP) break;
    symbols.push(next);
  }
  return symbols;
}

begin();
