// Sampling words, and what to do with them.

const FRUITLESS = 2000; // words that are passed over in a row before the page gives up
const FRUITLESS_SYMBOLS = 20000; // and their symbols
const TRIES = 10; // to sample a word that does not become too long

let sampling = 0;
let sampled = []; // the words as texts

// The words of the list are in NFC, without capitals that the network did not learn.
const isInList = (word) =>
  known !== null &&
  [network.lower(word.normalize("NFC")), network.lower(word.normalize("NFD")).normalize("NFC")].some((form) =>
    known.has(form),
  );

// No word of a list begins or ends with a blank. One that was begun by the user begins as it was given.
const hasBlankAround = (word, begun) => (begun ? word !== word.trimEnd() : word !== word.trim());

// If the input for top k is empty or refused, all characters are used, see showSettings.
function settings() {
  const { validity, valueAsNumber } = by("top-k");
  const topK = validity.valid && valueAsNumber >= 1 ? valueAsNumber : Infinity;
  return { temperature: by("temperature").valueAsNumber, topK };
}

function showSettings() {
  const { temperature } = settings();
  by("temperature-value").textContent = temperature.toFixed(2);
  const numbers = ["number", "shortest", "longest"];
  const [number, shortest, longest] = numbers.map((id) => by(id).valueAsNumber);
  by("shortest").max = longest <= LONGEST ? longest : LONGEST;
  by("longest").min = shortest >= 1 ? Math.min(shortest, LONGEST) : 1;
  const whole = (most) => `must be a whole number from 1 to ${count(most)}`;
  explain("top-k-is", ["top-k"], "characters at each step (top k)", whole(network.size));
  explain("number-is", ["number"], "", whole(Number(by("number").max)));
  explain(
    "lengths-are",
    ["shortest", "longest"],
    "a longer word is not cut: another one is sampled",
    `must be whole numbers up to ${LONGEST}, the smaller one first`,
  );
  by("sample").textContent = by("number").validity.valid ? `Sample ${plural(number, "word")}` : "Sample words";
  showNext();
}

// What some inputs mean, or why they are refused.
function explain(id, inputs, meaning, refusal) {
  for (const input of inputs) by(input).setAttribute("aria-invalid", !by(input).validity.valid);
  by(id).textContent = inputs.every((input) => by(input).validity.valid) ? meaning : refusal;
}

async function sampleWords(quiet = false) {
  const mine = ++sampling;
  sampleBeside();
  const list = by("sampled"),
    note = by("sampled-note");
  const novel = by("novel").checked && known !== null;
  const beginning = by("begin").checked ? state.symbols : [];
  const [wanted, shortest, longest] = ["number", "shortest", "longest"].map((id) =>
    by(id).validity.valid ? by(id).valueAsNumber : Number(by(id).defaultValue),
  );
  const limits = { ...settings(), shortest, longest };
  const { choice } = state;
  const weights = network.labels.weights(choice);
  list.replaceChildren();
  note.textContent = "";
  sampled = [];
  showKeep();
  let fruitless = 0,
    symbolsPassed = 0,
    tooLong = 0,
    inList = 0,
    pause = performance.now() + 20;
  while (sampled.length < wanted && fruitless < FRUITLESS && symbolsPassed < FRUITLESS_SYMBOLS) {
    const labels = network.labels.sample(choice, weights);
    const symbols = network.sample(beginning, { ...limits, condition: network.condition(labels) });
    const word = symbols && network.decode(symbols);
    const isKnown = symbols !== null && isInList(word);
    const isWord = symbols !== null && !hasBlankAround(word, beginning.length > 0);
    if (!isWord || (novel && isKnown)) {
      fruitless++;
      tooLong += symbols === null;
      symbolsPassed += (symbols?.length ?? longest) + 1;
    } else {
      fruitless = symbolsPassed = tooLong = 0;
      inList += isKnown;
      sampled.push(word);
      list.append(sampledItem(symbols, labels, isKnown));
    }
    if (performance.now() > pause) {
      await new Promise((resume) => setTimeout(resume));
      if (mine !== sampling) return;
      note.textContent =
        fruitless > 50
          ? `${sampled.length} of ${wanted} so far; the last ${fruitless} sampled were passed over.`
          : "";
      pause = performance.now() + 20;
    }
  }
  note.textContent = "";
  if (sampled.length < wanted) {
    const kinds = [
      ...(tooLong ? [`at most ${plural(longest, "character")} long`] : []),
      ...(novel ? ["new"] : []),
    ];
    if (!kinds.length) kinds.push("without a blank at its beginning or end");
    note.textContent = `${sampled.length} of ${wanted}: none of the last ${count(fruitless)} sampled was ${kinds.join(" and ")}.`;
  } else if (known !== null && !novel)
    note.textContent = `${inList || "None"} of them ${inList > 1 ? "are" : "is"} in the list the network was trained on.`;
  showKeep();
  if (!quiet) say(`${plural(sampled.length, "word")} sampled. ${note.textContent}`, 100);
}

function sampledItem(symbols, labels, isKnown) {
  const item = element("li"),
    button = element("button");
  button.dataset.symbols = symbols.join();
  const nats = -likelihood([...symbols, STOP], network.condition(labels));
  const small = element("small", "", `one in ${oneIn(nats)}${isKnown ? ", in the list" : ""}`);
  button.append(wordElement(network.decode(symbols)), " ");
  if (labels.length) button.append(element("small", "labels", choiceText(labels)), " ");
  button.append(small);
  button.addEventListener("click", () => {
    stopPlaying();
    setWord(symbols, 0, true, labels);
    by("type-title").scrollIntoView({ behavior: calm() ? "auto" : "smooth", block: "start" });
    by("steps").firstChild.focus({ preventScroll: true });
  });
  item.append(button);
  return item;
}

// A word that a network samples after a beginning, and its labels; null if no try gave one.
function wordOf(which, beginning, choice) {
  const weights = which.labels.weights(choice);
  for (let i = 0; i < TRIES; i++) {
    const labels = which.labels.sample(choice, weights);
    const condition = which.condition(labels);
    const symbols = which.sample(beginning, { ...settings(), condition, longest: LONGEST });
    if (symbols !== null && !hasBlankAround(which.decode(symbols), beginning.length > 0)) return { symbols, labels };
  }
  return null;
}

// Finish the word that is shown. It gets labels where any is chosen.
function finish() {
  stopPlaying();
  const before = state.symbols.slice(0, state.finished ? state.at : undefined);
  const found = wordOf(network, before, state.shown);
  if (found !== null) {
    setWord(found.symbols, before.length, true, found.labels);
    return say(network.decode(found.symbols), 100);
  }
  by("note").textContent = `No word that begins like this ended within ${LONGEST} characters.`;
  say(by("note").textContent, 100);
}

// The words as text -------------------------------------------------------------------------------------

function showKeep() {
  for (const id of ["copy", "save"]) by(id).disabled = !sampled.length;
}

const sampledText = () => sampled.map((word) => `${word}\n`).join("");

async function copyWords() {
  let told = `${plural(sampled.length, "word")} copied.`;
  try {
    await navigator.clipboard.writeText(sampledText());
  } catch {
    told = "This browser did not let the page copy: save the words as a file.";
  }
  by("sampled-note").textContent = told;
  say(told, 100);
}

function saveWords() {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([sampledText()], { type: "text/plain" }));
  link.download = "words.txt";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
