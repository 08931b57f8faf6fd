"""Training callbacks: they observe a run and write further files. They do not change a bit of the run."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from torch import Generator

from makemore.core.errors import UsageError, WriteError
from makemore.inference.generation import Filters, generate
from makemore.pictures.recorder import GRADIENTS_FILE, Recorder, read_records, write_records
from makemore.run.catalog import PICTURES
from makemore.run.frames import FRAMES_DIRECTORY, check_number_kept, frame_files, frame_path
from makemore.run.label_choice import choose_labels
from makemore.run.model_file import Model, save_model
from makemore.run.settings import Settings
from makemore.training.evaluation import Evaluation
from makemore.training.trainer import Trainer

LOG_DIRECTORY = "tensorboard"
"""The directory of TensorBoard's event files within that of a run."""

MOST_POINTS = 2000
"""The largest number of points in a TensorBoard curve: those of a longer run are means over many steps."""


class Callback:
    """Called at several points of a run. ``path`` is the file or directory that it writes."""

    path: Path

    def on_steps(self) -> None:
        """Called after steps were done, and after the evaluation if one was due."""

    def on_save(self) -> None:
        """Called before the model file is written, so that the callback's files are of the same step."""

    def on_finish(self, losses: Evaluation) -> None:
        """Called at the end of the run with its final losses."""


class Gradients(Callback):
    """Records gradients and updates every ``every`` steps. A resumed run appends to its file."""

    def __init__(self, out_dir: Path, trainer: Trainer, every: int) -> None:
        self.path = out_dir / GRADIENTS_FILE
        known = read_records(self.path) if trainer.step and self.path.exists() else []
        self.recorder = Recorder(trainer.engine, trainer.network, every, trainer.step, known)
        trainer.engine = self.recorder

    def on_save(self) -> None:
        write_records(self.recorder.records(), self.path)


class TensorBoard(Callback):
    """Writes losses, learning rates, new words and pictures for TensorBoard.

    The step of a point is the number of steps done, and its batch loss is the mean since the point before. A
    resumed run appends to the log, and hides the points after the saved step.
    """

    def __init__(self, out_dir: Path, settings: Settings, model: Model, trainer: Trainer) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = out_dir / LOG_DIRECTORY
        self.settings, self.model, self.trainer = settings, model, trainer
        if trainer.step == 0:  # of a run that was stopped before it saved a step
            for old in self.path.glob("events.out.tfevents.*"):
                old.unlink()
        self.writer = SummaryWriter(str(self.path), purge_step=trainer.step + 1 if trainer.step else None)
        self.seen, self.evaluated = trainer.step, len(trainer.evaluations)

    def on_steps(self) -> None:
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

    def on_save(self) -> None:
        self.writer.flush()

    def on_finish(self, losses: Evaluation) -> None:
        from makemore.run.pictures import Subject, draw_picture

        self._evaluation(losses)
        subject = Subject(self.model, None, self.path.parent)
        for name in PICTURES:
            try:
                self.writer.add_figure(name, draw_picture(name, subject), losses.step)
            except UsageError:
                continue  # this network has no such picture, or nothing was recorded
        self.writer.close()

    def _evaluation(self, losses: Evaluation) -> None:
        """Write the losses of the splits, and words sampled with the same random numbers each time."""
        for split in ("train", "val", "test"):
            if (loss := getattr(losses, split)) is not None:
                self.writer.add_scalar(f"loss/{split}", loss, losses.step)
        run, generator = self.settings.run, Generator().manual_seed(self.settings.run.seed)
        filters, labels = Filters(cut=True), choose_labels(self.model).labels  # long words, too, are shown
        words = generate(
            self.trainer.network, self.model.vocabulary, generator, run.samples, filters, labels=labels
        )
        words = map(self.model.restored, words)
        self.writer.add_text("new words", "\n".join(f"    {word}" for word in words), losses.step)


class KeptNetworks(Callback):
    """Keeps the network at step 0, after every ``every`` steps, and after the last one.

    A resumed run continues with the files it has, without those after the saved step. Raises WriteError if a
    file cannot be written.
    """

    def __init__(self, out_dir: Path, model: Model, trainer: Trainer, every: int) -> None:
        self.path = out_dir / FRAMES_DIRECTORY
        self.model, self.trainer, self.every = model, trainer, every
        try:
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise WriteError(f"cannot create the directory {self.path}: {error.strerror}") from error
        for step, path in frame_files(out_dir).items():
            if step > trainer.step or trainer.step == 0:
                path.unlink()
        if trainer.step == 0:
            self._keep()

    def on_steps(self) -> None:
        if self.trainer.step % self.every == 0 or self.trainer.done:
            self._keep()

    def _keep(self) -> None:
        save_model(self.model, frame_path(self.path.parent, self.trainer.step))


def check_possible(settings: Settings) -> None:
    """Raise UsageError if the settings need a package that is not installed, or would keep too much."""
    check_number_kept(settings.recipe.steps, settings.run.keep_every)
    if settings.run.tensorboard and find_spec("tensorboard") is None:
        raise UsageError("--tensorboard needs the package tensorboard: pip install tensorboard")


def callbacks_for(out_dir: Path, settings: Settings, model: Model, trainer: Trainer) -> list[Callback]:
    """The callbacks that the settings of a run ask for."""
    found: list[Callback] = []
    if settings.run.record_every:
        found.append(Gradients(out_dir, trainer, settings.run.record_every))
    if settings.run.keep_every:
        found.append(KeptNetworks(out_dir, model, trainer, settings.run.keep_every))
    if settings.run.tensorboard:
        found.append(TensorBoard(out_dir, settings, model, trainer))
    return found
