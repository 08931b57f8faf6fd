"""Gradients and updates, recorded while a network is trained (lecture 3's update-to-data ratio).

A ``Recorder`` wraps an engine and compares the parameters before and after every n-th step. The run stays the
same to the bit. The records are saved as a CSV file next to the model file, and drawn by ``draw_gradients``.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from makemore.core.atomic_write import atomic_write
from makemore.core.errors import UsageError
from makemore.core.layer import Layer
from makemore.training.engine import Engine

GRADIENTS_FILE = "gradients.csv"
"""The name of the file of records in a run's directory."""


class Record(NamedTuple):
    """Root mean squares for one parameter at one step.

    ``value`` is the parameter before the step, ``gradient`` its gradient, and ``update`` its change.
    """

    step: int
    parameter: str
    value: float
    gradient: float
    update: float


class Recorder(Engine):
    """An engine that calls another engine and records the steps 0, ``every``, 2 * ``every``, ...

    Frozen parameters have no records. ``step`` is the number of steps done before: a resumed run passes it
    with the ``records`` so far, and those of later steps are left out.
    """

    def __init__(
        self, engine: Engine, network: Layer, every: int, step: int = 0, records: Sequence[Record] = ()
    ) -> None:
        self.engine = engine
        self.network = network
        self.every = every
        self.step = step
        self._records = [record for record in records if record.step < step]
        self._pending: tuple[int, dict[str, tuple[Tensor, float | None]]] | None = None

    def sgd_steps(self, X: Tensor, Y: Tensor, lrs: Sequence[float]) -> Tensor:
        """Do the engine's steps. A recorded gradient is the update divided by the learning rate."""
        losses, start = [], 0
        while start < len(lrs):
            past = self.step % self.every  # steps since the last recorded one
            end = min(len(lrs), start + self.every - past) if past else start + 1
            if past == 0:
                self._begin_record(sgd=True)
            losses.append(self.engine.sgd_steps(X[start:end], Y[start:end], lrs[start:end]))
            if past == 0:
                self._finish_record(lrs[start])
            self.step += end - start
            start = end
        return torch.cat(losses) if losses else self.engine.sgd_steps(X, Y, lrs)

    def gradients(self, X: Tensor, Y: Tensor, keep_mask: Tensor | None = None) -> Tensor:
        """Compute the engine's gradients. The update is measured at the next call, when it has been made."""
        self._finish_record()
        loss = self.engine.gradients(X, Y, keep_mask)
        if self.step % self.every == 0:
            self._begin_record(sgd=False)
        self.step += 1
        return loss

    def describe(self, batch_size: int, block_size: int) -> str:
        return self.engine.describe(batch_size, block_size)

    def records(self) -> list[Record]:
        """All records, including that of the last step."""
        self._finish_record()
        return self._records

    def _begin_record(self, sgd: bool) -> None:
        """Copy the trained parameters before a step, with their gradients unless SGD applies these itself."""
        before: dict[str, tuple[Tensor, float | None]] = {}
        for name, p in self.network.named_parameters():
            if sgd and p.requires_grad:
                before[name] = p.detach().clone(), None
            elif not sgd and p.grad is not None:
                before[name] = p.detach().clone(), rms(p.grad)
        self._pending = self.step, before

    def _finish_record(self, lr: float = 1.0) -> None:
        """Record the step that was begun, if any, now that its update has been made."""
        if self._pending is None:
            return
        step, before = self._pending
        self._pending = None
        parameters = dict(self.network.named_parameters())
        for name, (value, gradient) in before.items():
            update = rms(parameters[name].detach() - value)
            if gradient is None:
                gradient = update / lr if lr else math.nan
            self._records.append(Record(step, name, rms(value), gradient, update))


def rms(x: Tensor) -> float:
    """The root mean square of all elements."""
    return float(torch.linalg.vector_norm(x)) / math.sqrt(max(1, x.numel()))


def write_records(records: Sequence[Record], path: Path) -> None:
    """Write records as a CSV file. Raises WriteError."""
    lines = [",".join(Record._fields)]
    lines += [f"{r.step},{r.parameter},{r.value:.6g},{r.gradient:.6g},{r.update:.6g}" for r in records]
    with atomic_write(path) as file:
        file.write("\n".join([*lines, ""]).encode())


def read_records(path: Path) -> list[Record]:
    """Read the records of a CSV file. Raises UsageError if it cannot be read or has no such records."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows: list[Mapping[str, str]] = list(csv.DictReader(file))
        return [
            Record(int(row["step"]), row["parameter"], *(float(row[name]) for name in Record._fields[2:]))
            for row in rows
        ]
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}; makemore-train --record-every 10 records gradients"
        ) from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UsageError(f"{path} is not a file of recorded gradients") from error
