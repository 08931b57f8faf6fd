"""What goes along with a training run, is told of it, and writes files of its own (beyond the lecture)."""

from __future__ import annotations

from pathlib import Path

from makemore.pictures.recorder import GRADIENTS_FILE, Recorder, read_records, write_records
from makemore.training import Trainer


class Companion:
    """Something beside a run; ``path`` is what it writes. Whatever it does changes no bit of the run."""

    path: Path

    def save(self) -> None:
        """The model file is written next: stand where it does."""


class Gradients(Companion):
    """Records gradients and updates, every ``every`` steps; a resumed run goes on with its file."""

    def __init__(self, out_dir: Path, trainer: Trainer, every: int) -> None:
        self.path = out_dir / GRADIENTS_FILE
        self.recorder = Recorder(trainer.engine, trainer.network, every)
        self.recorder.resume(
            trainer.step, read_records(self.path) if trainer.step and self.path.exists() else []
        )
        trainer.engine = self.recorder

    def save(self) -> None:
        write_records(self.recorder.records(), self.path)
