// Choosing labels, labels as points, and the next characters for two labels side by side.

const MOST_OPTIONS = 100; // of a menu; for more labels there is a field with suggestions
const MOST_COMPARED = 12; // characters that are compared
const MOST_TRIED = 1000; // labels that are tried for room beside their points
const MOST_DOTS = 200; // dots that no text may cover

const pen = document.createElement("canvas").getContext("2d"); // measures texts
const compared = { k: 0, labels: null, fields: [] }; // a column, two of its labels once they are chosen

// A text whose direction of writing has no effect on the text around it.
const isolated = (text) => `\u2068${text}\u2069`;

const labelText = (k, label) => isolated(network.labels.text(k, label));

// The shares of a column's labels as text, such as "70 % Irish, 30 % Thai".
function sharesText(k, shares) {
  if (shares.length === 1) return labelText(k, shares[0][0]);
  return shares.map(([label, share]) => `${Math.round(100 * share)} % ${labelText(k, label)}`).join(", ");
}

const choiceText = (choice) => choice.map((shares, k) => sharesText(k, shares)).join(", ");

// A field for a label of column k: a menu, or if there are many labels a field with suggestions. A label that
// does not exist is reported in the element `note`. `changed` is called with true when the choice is complete.
// `nothing` is the text if no label is chosen; without it one always is.
function labelField(k, name, note, changed, nothing) {
  const { columns } = network.labels;
  const many = columns[k].values.length > MOST_OPTIONS;
  const holder = element("label"),
    input = element(many ? "input" : "select");
  holder.append(element("bdi", "", name), input);
  const field = {
    holder,
    input,
    label: null,
    set(label) {
      field.label = label;
      input.value = label === null ? "" : many ? network.labels.text(k, label) : label;
    },
  };
  const found = () => {
    if (input.value.trim() === "") return nothing === undefined ? undefined : null;
    return many ? network.labels.find(k, input.value.trim()) : Number(input.value);
  };
  const read = (final) => {
    const label = found();
    if (final && label === undefined && input.value.trim() === "") return field.set(field.label);
    input.setAttribute("aria-invalid", final && label === undefined);
    if (final)
      by(note).textContent =
        label === undefined
          ? `There is no label ${isolated(input.value.trim().slice(0, 50))} in ${isolated(columns[k].name)}.`
          : "";
    if (label === undefined || (!final && label === field.label)) return;
    field.label = label;
    changed(final);
  };
  input.addEventListener("change", () => read(true));
  if (many) {
    input.setAttribute("list", suggestions(k).id);
    input.setAttribute("aria-describedby", note);
    input.autocomplete = "off";
    input.spellcheck = false;
    if (nothing) input.placeholder = nothing;
    input.addEventListener("input", () => read(false));
  } else {
    if (nothing !== undefined) input.append(new Option(nothing, ""));
    for (const label of labelsOf(k)) input.append(new Option(network.labels.text(k, label), label));
  }
  return field;
}

// The labels of column k, with "no label" if there are words without one.
function labelsOf(k) {
  const { columns, totals } = network.labels;
  return [...(totals[k].has(0) ? [0] : []), ...columns[k].values.map((_, i) => i + 1)];
}

// The labels of column k as suggestions for a field.
function suggestions(k) {
  const id = `labels-of-${k}`;
  if (!by(id)) {
    const list = element("datalist");
    list.id = id;
    for (const label of labelsOf(k)) list.append(new Option(network.labels.text(k, label)));
    by("labels").append(list);
  }
  return by(id);
}

// The chooser -------------------------------------------------------------------------------------------

let choosers = []; // the fields of each column

function buildChooser() {
  const { columns } = network.labels;
  for (const id of ["labels", "compare", "how-labels"]) by(id).hidden = !columns.length;
  if (!columns.length) return;
  choosers = columns.map(buildColumn);
  const { counts, left_out: leftOut } = content.labels;
  if (leftOut)
    by("columns").append(
      element(
        "p",
        "small",
        `“Any” samples labels as in the list, from its ${count(counts.length)} most frequent combinations; ${count(leftOut)} others are left out.`,
      ),
    );
  columns.forEach(({ name }, k) => by("column").append(new Option(name, k)));
  by("which-column").hidden = columns.length === 1;
  by("column").addEventListener("change", () => compareColumn(Number(by("column").value)));
  new ResizeObserver(showPoints).observe(by("points"));
  compareColumn(0);
}

function buildColumn({ name }, k) {
  const box = element("div", "column"),
    share = element("label"),
    slider = element("input"),
    text = element("output");
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", name);
  const changed = (final) => chooseLabels(k, final);
  const first = labelField(k, name, "labels-note", changed, "any: as in the list");
  const second = labelField(k, "blended with", "labels-note", changed, "nothing");
  Object.assign(slider, { type: "range", min: 0, max: 100, step: 5, value: 50 });
  slider.addEventListener("input", () => changed(false));
  slider.addEventListener("change", () => changed(true));
  second.input.disabled = share.hidden = true;
  share.append(text, slider);
  box.append(first.holder, second.holder, share);
  by("columns").append(box);
  return { first, second, share, slider, text };
}

// Take over the choice after column k was changed; `final` if the change is complete.
function chooseLabels(k, final) {
  const { first, second, share, slider, text } = choosers[k];
  second.input.disabled = first.label === null;
  share.hidden = first.label === null || second.label === null;
  if (!share.hidden) {
    const [a, b] = [first, second].map(({ label }) => labelText(k, label));
    text.textContent = `${100 - slider.value} % ${a}, ${slider.value} % ${b}`;
  }
  state.choice = choosers.map(sharesOf);
  stopPlaying();
  showWith(state.choice);
  show();
  if (!share.hidden && k === compared.k) compareLabels([first.label, second.label]);
  if (final) sampleWords();
}

// The shares of labels that the fields of a column choose.
function sharesOf({ first, second, slider }) {
  if (first.label === null) return null;
  const share = Number(slider.value) / 100;
  if (second.label === null || second.label === first.label || share === 0) return [[first.label, 1]];
  if (share === 1) return [[second.label, 1]];
  return [
    [first.label, 1 - share],
    [second.label, share],
  ];
}

// Two labels --------------------------------------------------------------------------------------------

function compareColumn(k) {
  const labels = labelsOf(k);
  const total = (label) => network.labels.totals[k].get(label) ?? 0;
  const frequent = [...labels].sort((a, b) => total(b) - total(a) || a - b);
  compared.k = k;
  compared.fields = ["first label", "second label"].map((name) =>
    labelField(k, name, "two-note", () => compareLabels(compared.fields.map(({ label }) => label))),
  );
  by("two").replaceChildren(...compared.fields.map(({ holder }) => holder));
  compareLabels([frequent[0], frequent[1] ?? frequent[0]]);
}

function compareLabels(labels) {
  compared.labels = labels;
  compared.fields.forEach((field, i) => field.label === labels[i] || field.set(labels[i]));
  showPoints();
  showTwo();
}

function showTwo() {
  const { k, labels } = compared;
  if (!labels) return;
  const symbols = state.symbols.slice(0, state.at);
  const logs = labels.map((label) => {
    const choice = state.choice.map((shares, i) => (i === k ? [[label, 1]] : shares));
    return logProbs(symbols, network.condition(network.labels.mean(choice)));
  });
  const rows = [...logs[0].keys()].map((symbol) => [charOf(symbol), logs.map((of) => Math.exp(of[symbol]))]);
  showBeside("two", labels.map((label) => labelText(k, label)), new Map(rows.slice(1)), rows[0][1]);
}

// Probabilities of two side by side, those of the likeliest characters after the word, in a panel of the page:
// `of` has the two of each character, and `end` those of the end. One that does not exist is undefined.
function showBeside(panel, headings, of, end) {
  const table = by(`${panel}-table`);
  const larger = ([, two]) => Math.max(...two.map((p) => p ?? 0));
  const all = [[null, end], ...of]; // the end is not a character, so it has null
  const shown = all.sort((a, b) => larger(b) - larger(a)).slice(0, MOST_COMPARED);
  const most = larger(shown[0]);
  headings.forEach((text, i) => {
    table.querySelectorAll("th")[i + 1].textContent = text;
  });
  const rows = children(table.querySelector("tbody"), shown.length, () => {
    const row = element("tr");
    row.append(element("td"));
    for (let i = 0; i < 2; i++) {
      const cell = element("td"),
        pair = element("span", "pair-bar");
      pair.append(element("span", "bar same"), element("span", "how"));
      cell.append(pair);
      row.append(cell);
    }
    return row;
  });
  rows.forEach((row, j) => {
    const [ch, two] = shown[j];
    const face = refreshCharacter(element("span"), ch ?? "end", ch === null);
    row.firstChild.replaceChildren(face);
    two.forEach((p, i) => {
      const [bar, how] = row.children[i + 1].firstChild.children;
      bar.style.setProperty("--p", (p ?? 0) / most);
      how.textContent = p === undefined ? "–" : percent(p);
    });
  });
  by(`${panel}-after`).replaceChildren("The likeliest next characters ", ...afterText(), ":");
}

// Labels as points --------------------------------------------------------------------------------------

// The least and the largest x and y of the points of column k at all steps, so that they can be followed from
// step to step.
const pointRanges = [];

function pointRange(k) {
  if (!pointRanges[k]) {
    const all = (content.frames ?? [content]).flatMap((frame) => (frame.points ?? content.points)[k].points);
    const [xs, ys] = [0, 1].map((at) => all.filter((_, i) => i % 2 === at));
    pointRanges[k] = [xs, ys].map((of) => [Math.min, Math.max].map((f) => of.reduce((a, b) => f(a, b))));
  }
  return pointRanges[k];
}

function showPoints() {
  const svg = by("points"),
    { k, labels } = compared;
  if (!labels) return;
  const { name, values } = network.labels.columns[k];
  const { points, variance } = network.points[k];
  by("figure").hidden = values.length < 3; // which are on a line
  const { clientWidth: width, clientHeight: height } = svg;
  if (!width) return;
  const scale = ([least, most], size) => (v) =>
    14 + (size - 28) * (most > least ? (v - least) / (most - least) : 0.5);
  const [ofX, ofY] = pointRange(k);
  const [across, up] = [scale(ofX, width), scale(ofY, height)];
  const place = (label) => [across(points[2 * label - 2]), height - up(points[2 * label - 1])];
  const kind = (label) => ["first", "second"][labels.indexOf(label)] ?? "";
  const total = (label) => network.labels.totals[k].get(label) ?? 0;
  const all = values.map((_, i) => i + 1).sort((a, b) => total(b) - total(a) || a - b);
  const inFront = [...new Set(labels)].filter(Boolean);
  const dots = [...all.filter((label) => !kind(label)), ...inFront].map((label) => {
    const [cx, cy] = place(label);
    const dot = svgElement("circle", { cx, cy, r: kind(label) ? 6 : 3, class: kind(label) });
    dot.append(svgElement("title", {}));
    dot.firstChild.textContent = labelText(k, label);
    return dot;
  });
  const taken = (all.length > MOST_DOTS ? inFront : all).map((label) => {
    const [x, y] = place(label);
    const r = kind(label) ? 6 : 3;
    return [x - r, y - r, x + r, y + r];
  });
  const texts = [];
  const { fontFamily } = getComputedStyle(document.body);
  for (const label of new Set([...inFront, ...all.slice(0, MOST_TRIED)])) {
    const text = besidePoint(labelText(k, label), place(label), width, taken, kind(label) !== "", fontFamily);
    if (!text) continue;
    text.setAttribute("class", kind(label));
    texts.push(text);
  }
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("aria-label", `${plural(values.length, "label")} of ${isolated(name)} as points`);
  const group = svgElement("g", { class: all.length > MOST_DOTS ? "many" : "" });
  group.append(...dots);
  svg.replaceChildren(group, ...texts);
  const seen = `${Math.round(100 * (variance[0] + variance[1]))} %`;
  const which = content.members.length > 1 ? " of the first network" : "";
  const directions = `the two directions of largest variance${content.frames ? " at the last step" : ""}`;
  by("points-is").textContent =
    `What each label adds${which}, in ${directions} (${seen} of the variance): labels that are used in a similar way are close together.` +
    (texts.length < values.length ? " Point at a dot for its label." : "");
}

// The text of a label to the right or left of its point; null if there is no room and it is not a chosen one.
function besidePoint(whole, [x, y], width, taken, isChosen, family) {
  const text = whole.length > 26 ? `${[...whole].slice(0, 24).join("")}…\u2069` : whole;
  pen.font = `${isChosen ? "700 " : ""}12px ${family}`;
  const length = pen.measureText(text).width;
  const sides = [x + 8, x - 8 - length].filter((left) => left > 2 && left + length < width - 2);
  for (const [i, left] of sides.entries()) {
    const box = [left, y - 7, left + length, y + 7];
    const crosses = taken.some(([a, b, c, d]) => box[0] < c && a < box[2] && box[1] < d && b < box[3]);
    if (crosses && !(isChosen && i === sides.length - 1)) continue;
    taken.push(box);
    const made = svgElement("text", {
      x: left > x ? x + 8 : x - 8,
      y: y + 4,
      "text-anchor": left > x ? "start" : "end",
    });
    made.textContent = text;
    return made;
  }
  return null;
}
