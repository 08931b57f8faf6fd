"""Gradients of a batch that many processes share (beyond the lecture).

Every process draws the same batch and takes its own rows of it. BatchNorm's statistics and the gradients
are added up over all, so that the run is that of one process, to rounding, whatever the engine; and as all
processes get the same sums, their networks stay the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore.backprop.windows import WindowsEngine
from makemore.distinct import distinct
from makemore.errors import UsageError
from makemore.layers import BatchNorm1d, Sequential
from makemore.parallel.processes import Processes
from makemore.training import Engine

FREQUENT = 0.01
"""The share of a batch above which the rows that end alike are shared out."""


class ParallelEngine:
    """An engine of one process, made by ``make_engine``, on its rows of each batch."""

    def __init__(
        self, network: Sequential, make_engine: Callable[[Sequential], Engine], processes: Processes
    ) -> None:
        for layer in network.modules():
            if isinstance(layer, BatchNorm1d):
                layer.gathered = processes.gathered
        self.network, self.processes = network, processes
        self.make_engine = make_engine
        self.engine = make_engine(network)

    def sgd_steps(self, X: Tensor, Y: Tensor, lrs: Sequence[float]) -> Tensor:
        """A step of SGD on each batch, X (steps, B, T), Y (steps, B); returns the batch losses, (steps,)."""
        losses = []
        for x, y, lr in zip(X, Y, lrs, strict=True):
            losses.append(self.gradients(x, y))
            with torch.no_grad():
                for p in self.network.parameters():
                    assert p.grad is not None
                    p.sub_(p.grad, alpha=lr)
        return torch.stack(losses)

    def gradients(self, X: Tensor, Y: Tensor, keep: Tensor | None = None) -> Tensor:
        """Put the gradients of the batch, (B, T) and (B,) or (B, V), into ``p.grad``; returns its loss."""
        check_shareable(len(X), self.processes)
        rows = self._own_rows(X, keep)
        # Each example weighs as much wherever it is, already in the sums that BatchNorm has of all processes.
        own_Y = self._distributions(Y[rows]) * (len(rows) / len(X))
        loss = self.engine.gradients(X[rows], own_Y, None if keep is None else keep[rows])
        parameters = self.network.parameters()
        with torch.no_grad():
            flat = torch.cat([loss.view(1), *(p.grad.flatten() for p in parameters if p.grad is not None)])
            self.processes.add_up(flat)
            total, *grads = torch.split(flat, [1, *(p.numel() for p in parameters)])
            for p, grad in zip(parameters, grads, strict=True):
                p.grad = grad.view_as(p)
        return total.squeeze()

    def _own_rows(self, X: Tensor, keep: Tensor | None) -> Tensor:
        """Which rows of a batch are this process's.

        On distinct windows such that each process has few: rows that end alike fall to one, but for ends so
        frequent that they would fill it.
        """
        number, own = self.processes.number, self.processes.shares(len(X))[self.processes.rank]
        rows = torch.arange(len(X), device=X.device)
        if isinstance(self.engine, WindowsEngine):
            ends, V = X[:, X.shape[1] // 2 :], len(self.network.parameters()[0])
            if keep is not None:
                ends = ends.masked_fill(keep[:, X.shape[1] // 2 :] == 0, V)
            _, kinds, counts = distinct(ends.unbind(1), [V + 1] * ends.shape[1])
            frequent = counts[kinds] > FREQUENT * len(X)
            owner = torch.where(frequent, rows, kinds).remainder(number)
            rows = (owner * len(counts) + kinds).argsort(stable=True)
        return rows[own]

    def _distributions(self, Y: Tensor) -> Tensor:
        """Targets as distributions over the symbols, which the first layer has a row for each of."""
        weight = self.network.parameters()[0]
        return Y if Y.is_floating_point() else F.one_hot(Y, len(weight)).to(weight.dtype)


def check_shareable(examples: int, processes: Processes) -> None:
    """Raise UsageError unless every process gets one of a batch's examples."""
    number = processes.number
    if examples < number:
        raise UsageError(f"{number} processes need batches of {number} examples or more, got {examples}")
