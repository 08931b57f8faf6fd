// The networks of one training run, step by step: a slider, and Play.

const frameNetworks = []; // those that were shown

const frameAt = (i) => (frameNetworks[i] ??= new Network({ ...content, ...content.frames[i] }));

// Show the network that was kept at one step, everywhere in the page.
function showFrame(i) {
  const { step, loss, val } = content.frames[i];
  network = frameAt(i);
  state.condition = network.condition(network.labels.mean(state.shown));
  const lossText = (x) => (x === null ? "not finite" : `${x.toFixed(3)} nats per character`);
  const since = i ? "mean batch loss since the step before" : "batch loss of the first step";
  const text = [
    `Step ${count(step)} of ${count(content.frames.at(-1).step)}`,
    `${since}: ${lossText(loss)}`,
    val === null ? "the val loss was not evaluated here" : `val loss: ${val.toFixed(3)}`,
  ].join("; ");
  by("frame").value = i;
  by("frame").setAttribute("aria-valuetext", `step ${step}`);
  by("frame-is").textContent = `${text}.`;
  show();
  showPoints();
  sampleWords(playing?.id === "play-frames");
}

function playFrames() {
  if (playing?.id === "play-frames") return stopPlaying();
  const last = content.frames.length - 1;
  startPlaying("play-frames", () => {
    const at = Number(by("frame").value);
    if (at < last) showFrame(at + 1);
    return at + 1 < last;
  });
  showFrame(0);
}

function buildFrames() {
  by("frames").hidden = !content.frames;
  if (!content.frames) return;
  const last = content.frames.length - 1;
  by("frame").max = last;
  by("frame").value = last;
  by("frame").addEventListener("input", () => {
    stopPlaying();
    showFrame(Number(by("frame").value));
  });
  by("play-frames").addEventListener("click", playFrames);
}
