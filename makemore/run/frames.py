"""The networks of a run that were kept while it was training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from makemore.core.errors import ModelFileError, UsageError
from makemore.core.layer import Layer
from makemore.run.model_file import MODEL_FILE, Model, load_model

FRAMES_DIRECTORY = "frames"
"""The directory of the networks that a run kept, within that of the run."""

FRAME_FILE = "step-{}.safetensors"
"""The name of the model file of a network that was kept, by the number of steps done."""

MAX_KEPT = 1000
"""The most networks that a run may keep."""


class Frame(NamedTuple):
    """A network that a run kept after ``step`` steps.

    ``loss`` is the mean batch loss of the steps since the frame before, that of the first step at step 0, and
    ``val`` the val loss, if it was evaluated at this step.
    """

    step: int
    network: Layer
    loss: float
    val: float | None


def frame_path(out_dir: Path, step: int) -> Path:
    """The model file of the network that the run of a directory kept after that many steps."""
    return out_dir / FRAMES_DIRECTORY / FRAME_FILE.format(step)


def frame_files(out_dir: Path) -> dict[int, Path]:
    """The model files of the networks that a run kept, by step, in order."""
    paths = (out_dir / FRAMES_DIRECTORY).glob(FRAME_FILE.format("[0-9]*"))
    before, after = FRAME_FILE.split("{}")
    steps = {path.name.removeprefix(before).removesuffix(after): path for path in paths}
    return {int(step): steps[step] for step in sorted(filter(str.isdecimal, steps), key=int)}


def check_number_kept(steps: int, every: int) -> None:
    """Raise UsageError if a run of that many steps would keep more than ``MAX_KEPT`` networks."""
    number = 0 if every == 0 else 1 + math.ceil(steps / every)
    if number > MAX_KEPT:
        least = math.ceil(steps / (MAX_KEPT - 1))
        raise UsageError(
            f"--keep-every {every} would keep {number:,} networks of {steps:,} steps: a run keeps at most"
            f" {MAX_KEPT:,}; give it --keep-every {least} or more"
        )


def evenly_chosen(steps: list[int], most: int) -> list[int]:
    """At most that many steps, evenly spaced, with the first and the last.

    >>> evenly_chosen([0, 10, 20, 30, 40, 50], 3)
    [0, 20, 50]
    """
    if len(steps) <= most:
        return steps
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


class FrameFiles(NamedTuple):
    """The networks that a run kept: the model of the run, and the files by step."""

    model: Model
    paths: dict[int, Path]

    def frames(self, most: int) -> Iterator[Frame]:
        """At most that many frames, evenly chosen. Raises ModelFileError."""
        progress = self.model.progress
        assert progress is not None
        val, before = {e.step: e.val for e in progress.evaluations}, 0
        for step in evenly_chosen([*self.paths], most):
            network = self._network(step)
            losses = progress.losses[before:step] if step else progress.losses[:1]
            yield Frame(step, network, float(losses.mean()), val.get(step))
            before = step

    def _network(self, step: int) -> Layer:
        model, run = load_model(self.paths[step]), self.model
        if (model.vocabulary.characters, model.plan, model.labels is None) != (
            run.vocabulary.characters,
            run.plan,
            run.labels is None,
        ):
            raise ModelFileError(f"{self.paths[step]} is not a network of the run in its directory")
        return model.network


def open_frames(out_dir: Path) -> FrameFiles:
    """The networks that the run of a directory kept up to its saved step.

    Raises ModelFileError, and UsageError if the run kept none.
    """
    model = load_model(out_dir / MODEL_FILE)
    if model.progress is None:
        raise UsageError(f"{out_dir / MODEL_FILE} has only a network, without the run it comes from")
    last = model.progress.step
    paths = {step: path for step, path in frame_files(out_dir).items() if step <= last}
    if len(paths) < 2 or last == 0:
        raise UsageError(
            f"the run in {out_dir} kept no networks of several steps: train it with --keep-every N"
        )
    return FrameFiles(model, paths)
