"""The model file of a run in training, written time and again (beyond the lecture)."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch.nn.functional as F

from makemore.commands.settings import Settings
from makemore.errors import DivergedError, TrainingError
from makemore.model_file import MODEL_FILE, Model, Progress, save_model
from makemore.training import Trainer
from makemore.words import WordList

PROBED = 256
"""Val examples that a network is tried on before it is saved."""

NONSENSE = 1e4
"""A loss that only a network that diverged has, in nats."""


class Saver:
    """Writes the model file of a run, and says how to go on from it."""

    def __init__(
        self,
        out_dir: Path,
        settings: Settings,
        words: WordList,
        trainer: Trainer,
        model: Model,
        writes: bool = True,
    ) -> None:
        self.out_dir = out_dir
        self.settings = settings
        self.words = words
        self.trainer = trainer
        self.model = model
        self.saved_step = trainer.step
        self.writes = writes
        self._due = 0.0

    def save(self, finished: bool = False) -> None:
        """Write the model file. Raises TrainingError, and leaves the old one, if the network is no good."""
        if not self.writes:
            return
        trainer = self.trainer
        X, Y = trainer.data.val[:PROBED]
        with trainer.network.evaluating() as network:
            probe = F.cross_entropy(network(X), Y).item()
        if not probe < NONSENSE:
            raise self.diverged(DivergedError(trainer.step, f"the val loss is {probe:.3g}"))
        progress = Progress.of(trainer, self.settings.values(), self.words.fingerprint, finished)
        save_model(replace(self.model, progress=progress), self.out_dir / MODEL_FILE)
        self.saved_step = trainer.step
        self._due = time.monotonic() + self.settings.run.save_every

    def save_if_due(self) -> None:
        """Write the model file if the last one is older than it should be."""
        if time.monotonic() >= self._due:
            self.save()

    def how_to_go_on(self) -> str:
        """Which step is on disk, and the command that goes on from there."""
        return (
            f"step {self.saved_step:,} is saved; go on with: makemore-train --resume --out-dir {self.out_dir}"
        )

    def diverged(self, error: DivergedError) -> TrainingError:
        """The error of a run that diverged, with what to try and what is left."""
        advice = f"try a lower --lr than {self.settings.recipe.lr:g} with --overwrite"
        return TrainingError(f"{error}; {advice} ({MODEL_FILE} holds step {self.saved_step:,})")
