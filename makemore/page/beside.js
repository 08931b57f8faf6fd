// A second network beside the first: the next characters after the same word, and words that both sample.

const WORDS_BESIDE = 12; // words that each of the two networks samples

let samplingBeside = 0;

// The labels of a choice for the second network: the same ones if it has the same columns, else any.
function otherChoice(choice) {
  const columnsOf = ({ labels }) => JSON.stringify(labels.columns.map(({ name, values }) => [name, values]));
  return columnsOf(other) === columnsOf(network) ? choice : other.labels.any;
}

function showNetworks() {
  if (!other) return;
  const text = network.decode(state.symbols.slice(0, state.at));
  const { symbols, strange } = understood(text, other);
  const condition = other.condition(other.labels.mean(otherChoice(state.shown)));
  const logs = [logProbs(state.symbols.slice(0, state.at)), other.logProbs(symbols, condition)];
  const characters = new Set([...network.characters, ...other.characters]);
  const of = [...characters].map((ch) => {
    const at = [network, other].map(({ symbolOf }) => symbolOf.get(ch));
    return [ch, at.map((symbol, i) => (symbol === undefined ? undefined : Math.exp(logs[i][symbol])))];
  });
  const ends = logs.map((each) => Math.exp(each[STOP]));
  const names = namesBeside();
  names.forEach((name, i) => (by(["networks-first-name", "networks-second-name"][i]).textContent = name));
  showBeside("networks", names, new Map(of), ends);
  const notes = [];
  if (strange.length) {
    const left = strange.map((ch) => (invisible(ch) ? codeOf(ch) : ch)).join(" ");
    notes.push(`${names[1]} does not know ${isolated(left)}: it sees the word without.`);
  }
  if (network.labels.columns.length && !other.labels.columns.length)
    notes.push(`${names[1]} takes no labels.`);
  if (other.labels.columns.length) {
    const same = otherChoice(state.shown) === state.shown;
    if (!same) notes.push(`${names[1]} has other labels: its probabilities are for their mean.`);
    else if (state.shown.every((shares) => shares)) notes.push("Both are for the labels that are chosen.");
    else notes.push("Both are for the labels that are chosen, and for the mean of the others.");
  }
  by("networks-note").textContent = notes.join(" ");
}

// The two names, the first one with its step if the page has the networks of several.
function namesBeside() {
  const [first, second] = content.names;
  const step = content.frames ? `, step ${count(content.frames[by("frame").value].step)}` : "";
  return [isolated(first) + step, isolated(second)];
}

async function sampleBeside() {
  if (!other) return;
  const mine = ++samplingBeside;
  const both = [
    [network, state.choice],
    [other, otherChoice(state.choice)],
  ];
  const lists = ["networks-first", "networks-second"].map(by);
  const words = [[], []];
  for (let i = 0; i < WORDS_BESIDE; i++) {
    both.forEach(([which, choice], j) => {
      const found = wordOf(which, [], choice);
      words[j].push(found && which.decode(found.symbols));
    });
    await new Promise((resume) => setTimeout(resume));
    if (mine !== samplingBeside) return;
  }
  lists.forEach((list, j) => {
    list.replaceChildren(
      ...words[j].map((word) => {
        const item = element("li");
        item.append(word === null ? "…" : wordElement(word));
        return item;
      }),
    );
  });
}

function buildBeside() {
  by("networks").hidden = !other;
  if (!other) return;
  by("sample-both").addEventListener("click", () => {
    sampleBeside();
    say(`${WORDS_BESIDE} words of each network sampled.`, 100);
  });
  showNetworks();
}
