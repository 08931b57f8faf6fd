"""Gradients and updates, recorded while a network is trained (lecture 3's update-to-data ratio).

``Recorder`` stands in front of an engine and looks at the parameters at every n-th step. It changes no bit of
the run. What it saw is a CSV file beside the model file, from which ``draw_gradients`` draws.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from makemore.errors import UsageError
from makemore.files import replacing
from makemore.layers import Sequential
from makemore.training import Engine

GRADIENTS_FILE = "gradients.csv"
"""The name of a run's file of records."""


class Record(NamedTuple):
    """Root mean squares of a parameter before a step, of its gradient, and of what the step adds to it."""

    step: int
    parameter: str
    value: float
    gradient: float
    update: float


class Recorder:
    """An engine that does what another does, and records every ``every``-th step, from step 0 on.

    ``step`` counts the steps done: a resumed run begins with some, and with what was recorded before them.
    """

    def __init__(
        self, engine: Engine, network: Sequential, every: int, step: int = 0, records: Sequence[Record] = ()
    ) -> None:
        self.engine = engine
        self.network = network
        self.every = every
        self.step = step
        self._records = [record for record in records if record.step < step]
        self._pending: tuple[int, list[Tensor], list[float] | None] | None = None

    def sgd_steps(self, X: Tensor, Y: Tensor, lrs: Sequence[float]) -> Tensor:
        """As the engine's: a recorded step's update is its learning rate times its gradient."""
        losses, start = [], 0
        while start < len(lrs):
            past = self.step % self.every  # steps since the last one that was recorded
            end = min(len(lrs), start + self.every - past) if past else start + 1
            if past == 0:
                self._look(None)
            losses.append(self.engine.sgd_steps(X[start:end], Y[start:end], lrs[start:end]))
            if past == 0:
                self._look_again(lrs[start])
            self.step += end - start
            start = end
        return torch.cat(losses) if losses else self.engine.sgd_steps(X, Y, lrs)

    def gradients(self, X: Tensor, Y: Tensor, keep: Tensor | None = None) -> Tensor:
        """As the engine's: the update is what has come to the parameters by the next call."""
        self._look_again()
        loss = self.engine.gradients(X, Y, keep)
        if self.step % self.every == 0:
            self._look([rms(p.grad) for p in self.network.parameters() if p.grad is not None])
        self.step += 1
        return loss

    def records(self) -> list[Record]:
        """All that was seen, the step just done included."""
        self._look_again()
        return self._records

    def _look(self, gradients: list[float] | None) -> None:
        self._pending = self.step, [p.detach().clone() for p in self.network.parameters()], gradients

    def _look_again(self, lr: float = 1.0) -> None:
        if self._pending is None:
            return
        step, before, gradients = self._pending
        self._pending = None
        for i, (name, p) in enumerate(self.network.named_parameters()):
            update = rms(p.detach() - before[i])
            gradient = gradients[i] if gradients else update / lr if lr else math.nan
            self._records.append(Record(step, name, rms(before[i]), gradient, update))


def rms(x: Tensor) -> float:
    """The root mean square."""
    return float(torch.linalg.vector_norm(x)) / math.sqrt(max(1, x.numel()))


def write_records(records: Sequence[Record], path: Path) -> None:
    """Write a CSV file of records. Raises OSError."""
    lines = [",".join(Record._fields)]
    lines += [f"{r.step},{r.parameter},{r.value:.6g},{r.gradient:.6g},{r.update:.6g}" for r in records]
    with replacing(path) as file:
        file.write("\n".join([*lines, ""]).encode())


def read_records(path: Path) -> list[Record]:
    """The records of a CSV file. Raises UsageError on a file that cannot be read or is none."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows: list[Mapping[str, str]] = list(csv.DictReader(file))
        return [
            Record(int(row["step"]), row["parameter"], *(float(row[name]) for name in Record._fields[2:]))
            for row in rows
        ]
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}; makemore-train --record-every N records gradients"
        ) from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UsageError(f"{path} is no file of recorded gradients") from error
