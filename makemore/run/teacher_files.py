"""The files of a run's teachers, in its directory."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from makemore.core.atomic_write import atomic_write
from makemore.core.layer import Layer
from makemore.data.labels import Labels
from makemore.lecture.words import Vocabulary
from makemore.run.catalog import Plan
from makemore.run.model_file import Model, Progress, model_bytes, model_path, read_bytes, read_model
from makemore.training.processes import Processes
from makemore.training.recipe import Recipe
from makemore.training.trainer import Trainer

TEACHER_FILE = "teacher-{}.safetensors"
"""The name of a teacher's file, by its number."""


def given_teacher(path: str, out_dir: Path, resumed: bool, processes: Processes) -> tuple[Layer, bytes]:
    """The trained network that a run distils from, and the bytes of its model file.

    A new run reads it at ``path``. A run that is resumed has a copy in its directory, as the file at that
    path may have changed. Raises ModelFileError.
    """
    file = out_dir / TEACHER_FILE.format(1) if resumed else model_path(path)
    content = processes.broadcast_bytes(read_bytes(file) if processes.is_first else b"")
    return read_model(content, str(file)).network, content


def write_given_teacher(content: bytes, out_dir: Path) -> None:
    """Write the copy of a trained network that a run distils from."""
    with atomic_write(out_dir / TEACHER_FILE.format(1)) as file:
        file.write(content)


@dataclass(frozen=True)
class TeacherFiles:
    """One model file for each teacher: see ``training.trainer.NetworkFiles``."""

    directory: Path
    plan: Plan
    vocabulary: Vocabulary
    labels: Labels | None
    fingerprint: str
    seed: int

    def read(self, number: int) -> bytes:
        """The bytes of a teacher's file; empty if there is none."""
        path = self._path(number)
        return read_bytes(path) if path.exists() else b""

    def write(self, number: int, content: bytes) -> None:
        """Write a teacher's file."""
        with atomic_write(self._path(number)) as file:
            file.write(content)

    def pack(self, number: int, trainer: Trainer) -> bytes:
        """The bytes of the model file for a teacher that has been trained."""
        settings = self._settings(number, trainer.recipe)
        history = trainer.step, trainer.losses, trainer.evaluations, trainer.generator.get_state()
        progress = Progress(settings, self.fingerprint, True, *history, {})
        return model_bytes(Model(trainer.network, self.vocabulary, self.plan, progress, self.labels))

    def unpack(self, number: int, content: bytes, recipe: Recipe) -> tuple[Layer, float] | None:
        """The teacher and its val loss, or None if it was trained with other settings or words."""
        model = read_model(content, str(self._path(number)))
        progress = model.progress
        if progress is None or progress.settings != self._settings(number, recipe):
            return None
        val = progress.evaluations[-1].val if progress.evaluations else None
        return None if val is None else (model.network, val)

    def _path(self, number: int) -> Path:
        return self.directory / TEACHER_FILE.format(number)

    def _settings(self, number: int, recipe: Recipe) -> dict[str, Any]:
        return {
            **asdict(recipe),
            **self.plan.sizes(),
            "words": self.fingerprint,
            "seed": self.seed,
            "number": number,
        }
