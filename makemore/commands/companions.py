"""What goes along with a training run, is told of it, and writes files of its own (beyond the lecture).

None of it changes a bit of the run.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from torch import Generator

from makemore.commands.settings import Settings
from makemore.convolution import generate
from makemore.errors import UsageError
from makemore.model_file import Model
from makemore.pictures.recorder import GRADIENTS_FILE, Recorder, read_records, write_records
from makemore.training import Evaluation, Trainer

LOG_DIRECTORY = "tensorboard"
"""Where in a run's directory TensorBoard's event files lie."""

MOST_POINTS = 2000
"""Points of a curve in TensorBoard: a longer run has means of many steps."""


class Companion:
    """Something beside a run; ``path`` is what it writes."""

    path: Path

    def see(self) -> None:
        """Some steps are done, and the network is evaluated where that was due."""

    def save(self) -> None:
        """The model file is written next: stand where it does."""

    def finish(self, losses: Evaluation) -> None:
        """The run is at its end, with these losses."""


class Gradients(Companion):
    """Records gradients and updates, every ``every`` steps; a resumed run goes on with its file."""

    def __init__(self, out_dir: Path, trainer: Trainer, every: int) -> None:
        self.path = out_dir / GRADIENTS_FILE
        known = read_records(self.path) if trainer.step and self.path.exists() else []
        self.recorder = Recorder(trainer.engine, trainer.network, every, trainer.step, known)
        trainer.engine = self.recorder

    def save(self) -> None:
        write_records(self.recorder.records(), self.path)


class TensorBoard(Companion):
    """Writes losses, learning rates, new words and pictures for TensorBoard.

    A step there is the number of steps done, a batch loss the mean of those since the point before. A
    resumed run goes on with the log: what that has of steps behind the saved one is shown no more.
    """

    def __init__(self, out_dir: Path, settings: Settings, model: Model, trainer: Trainer) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = out_dir / LOG_DIRECTORY
        self.settings, self.model, self.trainer = settings, model, trainer
        if trainer.step == 0:
            for old in self.path.glob("events.out.tfevents.*"):
                old.unlink()
        self.writer = SummaryWriter(str(self.path), purge_step=trainer.step + 1 if trainer.step else None)
        self.seen, self.evaluated = trainer.step, len(trainer.evaluations)

    def see(self) -> None:
        trainer, recipe, add = self.trainer, self.settings.recipe, self.writer.add_scalar
        window = max(1, recipe.steps // MOST_POINTS)
        losses = trainer.losses
        for end in range((self.seen // window + 1) * window, trainer.step + 1, window):
            add("loss/batch", losses[end - window : end].mean().item(), end)
            for name, lr in recipe.lrs_at(end - 1).items():
                add(f"learning rate/{name}", lr, end)
        self.seen = trainer.step
        for evaluation in trainer.evaluations[self.evaluated :]:
            self._evaluation(evaluation)
        self.evaluated = len(trainer.evaluations)

    def save(self) -> None:
        self.writer.flush()

    def finish(self, losses: Evaluation) -> None:
        from makemore.commands.draw import MAKERS, Subject

        self._evaluation(losses)
        subject = Subject(self.model, None, self.path.parent)
        for name, make in MAKERS.items():
            try:
                self.writer.add_figure(name, make(subject), losses.step)
            except UsageError:
                continue  # this network has nothing of the kind, or nothing was recorded
        self.writer.close()

    def _evaluation(self, losses: Evaluation) -> None:
        """The losses of the splits, and words that are drawn from the same random numbers each time."""
        for split in ("train", "val", "test"):
            if (loss := getattr(losses, split)) is not None:
                self.writer.add_scalar(f"loss/{split}", loss, losses.step)
        run, generator = self.settings.run, Generator().manual_seed(self.settings.run.seed)
        words = generate(self.trainer.network, self.model.vocabulary, generator, run.samples)
        self.writer.add_text("new words", "\n".join(f"    {word}" for word in words), losses.step)


def check_installed(settings: Settings) -> None:
    """Raise UsageError if a run asks for a package that is not installed."""
    if settings.run.tensorboard and find_spec("tensorboard") is None:
        raise UsageError(
            "--tensorboard needs the package tensorboard: pip install 'makemore-wavenet[tensorboard]'"
        )


def companions(out_dir: Path, settings: Settings, model: Model, trainer: Trainer) -> list[Companion]:
    """What a run's settings ask for."""
    found: list[Companion] = []
    if settings.run.record_every:
        found.append(Gradients(out_dir, trainer, settings.run.record_every))
    if settings.run.tensorboard:
        found.append(TensorBoard(out_dir, settings, model, trainer))
    return found
