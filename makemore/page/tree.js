// The nodes of a network for one context, their numbers, and the links between them.

let tree = { leaves: [], rows: [] }; // the characters, and the nodes of each row

function buildTree() {
  const member = network.members[state.member];
  const inner = element("div", "inner");
  const places = member.rows[0].places.filter((place) => place < MOST_LEAVES);
  const width = places.length;
  const isTree = member.stages.every(({ source, added }, i) => source === i && !added.length);
  const centred = isTree && width <= MOST_CENTRED;
  inner.style.minWidth = `${width * 27}px`;
  // Wide nodes and the links around them need room on the right.
  if (!centred) inner.style.paddingRight = isTree ? "68px" : "104px";
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
      // In the lecture's tree a node is above the middle of the nodes it reads; in the paper's network it is
      // above its newest character, since the residual is that of the newest position.
      const made = row.made[i].map(([value, child]) => tree.rows[value].nodes[child]).filter(Boolean);
      if (r ? !made.length : place >= MOST_LEAVES) return null;
      const x =
        r === 0 ? (width - place - 0.5) / width : centred ? (made[0].x + made.at(-1).x) / 2 : made.at(-1).x;
      const added = row.added[i].map(([value, child]) => tree.rows[value].nodes[child]).filter(Boolean);
      const button = element("button", "node");
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
    face.style.marginLeft = `${(100 * (width - place - 0.5)) / width}%`;
    faces.append(face);
    return { place, face };
  });

  const svg = svgElement("svg", { "aria-hidden": "true" });
  for (const node of tree.rows.flatMap(({ shown }) => shown)) {
    for (const below of [...node.made, ...node.added]) {
      const plain = node.made.includes(below);
      const path = svgElement("path", plain ? {} : { class: "added" });
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

// The number of columns of a tile with that number of squares: about twice as wide as high, with few empty
// squares.
function columnsFor(number) {
  const best = Math.sqrt(2 * number);
  const tries = [];
  for (let n = Math.ceil(0.82 * best); n <= Math.ceil(1.15 * best); n++) tries.push(n);
  const left = (n) => Math.ceil(number / n) * n - number;
  return tries.reduce((a, b) =>
    left(b) < left(a) || (left(b) === left(a) && Math.abs(b - best) < Math.abs(a - best)) ? b : a,
  );
}

function drawLinks() {
  const inner = by("tree").firstChild;
  const { left, top, width, height } = inner.getBoundingClientRect();
  // Positions are relative to the window.
  inner.firstChild.setAttribute("viewBox", `${left} ${top} ${width} ${height}`);
  const nodes = tree.rows.flatMap(({ shown }) => shown);
  const boxes = new Map(nodes.map((node) => [node, node.button.getBoundingClientRect()]));
  for (const [node, to] of boxes) {
    for (const { path, below, plain } of node.links) {
      const from = boxes.get(below);
      if (plain && below.r === node.r - 1) {
        const [x, end] = [from, to].map((box) => box.left + box.width / 2);
        const middle = (from.bottom + to.top) / 2;
        path.setAttribute("d", `M${x} ${from.bottom}C${x} ${middle} ${end} ${middle} ${end} ${to.top}`);
      } else {
        // around the rows in between
        const [y, end] = [(from.top + from.bottom) / 2, (to.top + to.bottom) / 2];
        const out = Math.max(from.right, to.right) + 10 + 2 * Math.min(12, node.r - below.r);
        path.setAttribute(
          "d",
          `M${from.right} ${y}C${out} ${y} ${out} ${y} ${out} ${(y + end) / 2}S${out} ${end} ${to.right} ${end}`,
        );
      }
    }
  }
}

function rowName(member, r) {
  const { channels } = member.rows[r];
  const cut =
    member.blockSize > MOST_LEAVES ? `; the newest ${MOST_LEAVES} of ${count(member.blockSize)}` : "";
  const ofLabels = network.labels.columns.length ? ", those of the labels added" : "";
  if (r === 0) return `embedding, ${plural(channels, "number")} a character${ofLabels}${cut}`;
  if (r === member.stages.length) return `one output for each symbol, ${count(channels)}`;
  const { added } = member.stages[r - 1];
  return `layer ${r}, ${plural(channels, "number")} a node${added.length ? ", others added" : ""}`;
}

let colors = {};

function readColors() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["accent", "zero", "warm"]) {
    const hex = style.getPropertyValue(`--${name}`).trim().slice(1);
    colors[name] = [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16));
  }
}

function paint({ canvas }, values, most, { across, down }) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(across, down);
  values.forEach((value, i) => {
    const t = Math.max(-1, Math.min(1, value / most));
    const end = t < 0 ? colors.accent : colors.warm;
    colors.zero.forEach((zero, c) => {
      image.data[4 * i + c] = zero + (end[c] - zero) * Math.abs(t);
    });
    image.data[4 * i + 3] = 255;
  });
  context.putImageData(image, 0, 0);
}

const LIGHT = { boxShadow: ["0 0 0 0 transparent", "0 0 0 4px var(--warm)", "0 0 0 0 transparent"] };

function showTree() {
  const member = network.members[state.member];
  const context = network.context(state.symbols.slice(0, state.at));
  const rows = member.nodes(context, state.condition.sums[state.member]);
  for (const { place, face } of tree.leaves) refresh(face, symbolAt(context, place), "leaf");
  tree.rows.forEach((row, r) => {
    const most = member.stages[r - 1]?.bounded
      ? 1
      : rows[r].reduce((m, v) => v.reduce((a, x) => Math.max(a, Math.abs(x)), m), 1e-9);
    row.shown.forEach((node, j) => {
      const window = symbolsOf(node, context);
      const lights = node.symbols !== undefined && node.symbols !== window.join() && !calm();
      node.symbols = window.join();
      node.values = rows[r][row.nodes.indexOf(node)];
      paint(node, node.values, most, row);
      const name =
        r === tree.rows.length - 1 ? "Outputs" : r === 0 ? `Embedding ${j + 1}` : `Layer ${r}, node ${j + 1}`;
      node.text = `${name} of ${row.shown.length}`;
      const text = window
        .slice(-12)
        .map((symbol) => spoken(symbol, "start"))
        .join(" ");
      node.button.setAttribute("aria-label", `${node.text}, has seen: ${text}`);
      if (lights) node.button.animate(LIGHT, { duration: 420, delay: 70 * r, easing: "ease-out" });
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
  for (const { place, face } of tree.leaves)
    face.classList.toggle("seen", node !== null && node.window.has(place));
  const text = by("node");
  if (!node) {
    text.textContent =
      "Each small square is one number. Point at a node, or go there by Tab and the arrow keys, to see what it is made of.";
    return;
  }
  markBelow(node);
  const least = node.values.reduce((a, b) => Math.min(a, b));
  const most = node.values.reduce((a, b) => Math.max(a, b));
  const symbols = symbolsOf(node, network.context(state.symbols.slice(0, state.at)));
  text.replaceChildren(
    `${node.text} has seen `,
    ...symbols.slice(-MOST_LEAVES).map((symbol) => glyph(symbol, "inline")),
    `: ${plural(node.values.length, "number")} from ${least.toFixed(2)} to ${most.toFixed(2)}.`,
  );
}

// Mark the links and nodes below a node.
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
  const nearest = (other) =>
    other && [...other].sort((a, b) => Math.abs(a.x - row[j].x) - Math.abs(b.x - row[j].x))[0];
  const to = {
    ArrowLeft: row[j - 1],
    ArrowRight: row[j + 1],
    Home: row[0],
    End: row.at(-1),
    ArrowUp: nearest(rows[rows.indexOf(row) - 1]),
    ArrowDown: nearest(rows[rows.indexOf(row) + 1]),
  }[key];
  return to && buttons.indexOf(to.button);
}
