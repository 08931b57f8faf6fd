// Characters, words and numbers as readable text, and helpers that build the page.

const by = (id) => document.getElementById(id);
const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
const count = (number) => number.toLocaleString("en");
const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function svgElement(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// Characters and numbers as text ----------------------------------------------------------------------

const invisible = (ch) => /[\p{C}\p{Z}\p{Default_Ignorable_Code_Point}]/u.test(ch);

function charOf(symbol) {
  return symbol === STOP ? "." : network.characters[symbol - 1];
}

// An element that shows any symbol, without effect on the text around it.
function glyph(symbol, className = "") {
  return refresh(element("span"), symbol, className);
}

const refresh = (span, symbol, className = "") =>
  refreshCharacter(span, charOf(symbol), symbol === STOP, className);

function refreshCharacter(span, ch, stops, className = "") {
  const code = !stops && invisible(ch);
  span.className = `char ${className}${stops ? " stop" : ""}${code ? " code" : ""}`;
  span.textContent = code ? (ch === " " ? "space" : codeOf(ch)) : /\p{M}/u.test(ch) ? "◌" + ch : ch;
  return span;
}

// A symbol's name for a screen reader, which may skip a character that is not a letter.
function spoken(symbol, stop = "the end") {
  if (symbol === STOP) return stop;
  const ch = charOf(symbol);
  return /[\p{L}\p{N}]/u.test(ch) ? ch : codeOf(ch);
}

// The label of a button that shows a symbol and its probability, with the code of a character that is not a
// letter.
function labelOf(face, symbol, p) {
  const name = spoken(symbol, "end");
  return `${face.textContent} ${percent(p)}${name === face.textContent ? "" : `, ${name}`}`;
}

// A word as an element that isolates its writing direction. A word that cannot be seen is replaced by its code
// points in the style of a label, as the text alone might be another word.
function wordElement(word) {
  if ([...word].some((ch) => !invisible(ch))) return element("bdi", "", word);
  return element("bdi", "label", [...word].map(codeOf).join(" "));
}

function percent(p) {
  if (p < 0.000005) return "<0.001 %";
  return (100 * p).toFixed(p < 0.0005 ? 3 : 1) + " %";
}

function oneIn(nats) {
  const number = Math.exp(nats);
  if (number < 10) return number.toFixed(1);
  if (number < 1e9) return count(Number(number.toPrecision(2)));
  const power = Math.floor((nats + Math.log(10 / 9.5)) / Math.LN10); // 9.7e9 becomes 1 × 10¹⁰
  return (
    `${Math.round(Math.exp(nats - power * Math.LN10))} × 10` +
    [...String(power)].map((d) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]).join("")
  );
}

// Toolbars: the Tab key stops once in each, the arrow keys move within ------------------------------------

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

// Gives an element that number of children. Existing children stay, and so does the focus.
function children(parent, number, make) {
  while (parent.children.length > number) parent.lastChild.remove();
  while (parent.children.length < number) parent.append(make(parent.children.length));
  return [...parent.children];
}
