"""BatchNorm whose statistics are taken over the parts of a batch that several processes have.

``with_total_statistics`` gives a network on the same tensors in which these layers take the place of the
lecture's. Their derivatives are registered with the hand-derived engines at the end of this file.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from makemore.backprop.derivatives import (
    DERIVATIVES,
    EVALUATION_DERIVATIVES,
    BatchNormFormulas,
    Derivative,
    GradBuffer,
    RunningBatchNormDerivative,
)
from makemore.backprop.windows import WINDOW_DERIVATIVES, WindowBatchNormDerivative
from makemore.core.errors import UsageError
from makemore.core.layer import Layer, layer_text, with_children_replaced
from makemore.lecture.layers import BatchNorm1d, HistoricBatchNorm1d

AllGather = Callable[[Tensor], Tensor]
"""All processes' tensors: (...) -> (world_size, ...)."""


def combine_statistics(
    count: float, mean: Tensor, m2: Tensor, all_gather: AllGather
) -> tuple[Tensor, Tensor, Tensor]:
    """Number, mean and unbiased variance of the values of all processes.

    Each process gives the number of its values, their mean, and ``m2``, the sum of their squared distances
    from it (Chan, Golub and LeVeque 1979).
    """
    own = torch.stack([torch.full_like(mean, count), mean, m2])
    counts, means, m2s = all_gather(own).unbind(1)  # (world_size, 3, ...) -> (world_size, ...)
    N = counts.sum(0)
    total_mean = (counts * means).sum(0) / N
    total_m2 = m2s.sum(0) + (counts * (means - total_mean) ** 2).sum(0)
    return N, total_mean, total_m2 / (N - 1)


class ParallelBatchNorm1d(BatchNorm1d):
    """BatchNorm1d over all processes' parts of a batch: (B, dim) or (B, T, dim) -> the same shape.

    It declares ``collective``: in training all processes have to call it together, so that an engine cannot
    try it on its own.
    """

    collective = True
    all_gather: AllGather

    def __call__(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().__call__(x)
        self.check_shape(x)
        dims = tuple(range(x.ndim - self.running_mean.ndim))
        own_mean = x.mean(dims)
        own_m2 = ((x - own_mean) ** 2).sum(dims)
        _, xmean, xvar = combine_statistics(x.shape[: len(dims)].numel(), own_mean, own_m2, self.all_gather)
        with torch.no_grad():
            self.running_mean.mul_(1 - self.momentum).add_(xmean, alpha=self.momentum)
            self.running_var.mul_(1 - self.momentum).add_(xvar, alpha=self.momentum)
        xhat = (x - xmean) / torch.sqrt(xvar + self.eps)
        self.out = self.gamma * xhat + self.beta
        return self.out

    def check_shape(self, x: Tensor) -> None:
        """Raise ValueError on an input of another shape. One row is enough: other processes have more."""
        dim = len(self.gamma)
        if x.ndim not in (2, 3) or x.shape[-1] != dim:
            raise ValueError(f"{self} needs (B, {dim}) or (B, T, {dim}), got {tuple(x.shape)}")

    affine = BatchNorm1d.affine


class ParallelHistoricBatchNorm1d(ParallelBatchNorm1d, HistoricBatchNorm1d):
    """HistoricBatchNorm1d over all processes' parts of a batch."""

    collective = True

    def check_shape(self, x: Tensor) -> None:
        """Raise ValueError on an input of another shape. One row is enough: other processes have more."""
        if x.shape[1:] != self.running_mean.shape:
            needed = ", ".join(["B", *map(str, self.running_mean.shape)])
            raise ValueError(f"{self} needs ({needed}), got {tuple(x.shape)}")

    affine = HistoricBatchNorm1d.affine


PARALLEL_CLASSES: dict[type[Layer], type[ParallelBatchNorm1d]] = {
    BatchNorm1d: ParallelBatchNorm1d,
    HistoricBatchNorm1d: ParallelHistoricBatchNorm1d,
}
"""The parallel layer for each BatchNorm, by its exact class."""


def with_total_statistics(network: Layer, all_gather: AllGather) -> Layer:
    """The network with a parallel layer in place of each BatchNorm.

    The parallel layers have the tensors of those that they replace. Layers that contain no BatchNorm are the
    network's own; so is the whole network if there is none. Raises UsageError on a BatchNorm that cannot be
    replaced: one of another class, or one that its parent holds neither as an attribute nor in a list or
    tuple.
    """
    twin = _twin_of(network, all_gather)
    for layer in twin.modules():
        if isinstance(layer, BatchNorm1d) and not isinstance(layer, ParallelBatchNorm1d):
            raise UsageError(
                f"{layer_text(layer)} cannot take its statistics over several processes:"
                " train this network with one process"
            )
    return twin


def _twin_of(network: Layer, all_gather: AllGather) -> Layer:
    if not any(isinstance(layer, BatchNorm1d) for layer in network.modules()):
        return network
    if parallel_class := PARALLEL_CLASSES.get(type(network)):
        parallel = parallel_class.__new__(parallel_class)
        vars(parallel).update(network.__getstate__(), all_gather=all_gather)
        return parallel
    return with_children_replaced(network, lambda child: _twin_of(child, all_gather))


class ParallelBatchNormFormulas(BatchNormFormulas):
    """The formulas of BatchNorm with sums over all processes.

    The derivatives of gamma and beta that are added to their buffers are those of this process's rows: they
    are summed over the processes with all other gradients.
    """

    def total_statistics(self, count: int, mean: Tensor, m2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return combine_statistics(count, mean, m2, self.all_gather())

    def total_derivatives(self, dgamma: Tensor, dbeta: Tensor) -> tuple[Tensor, Tensor]:
        dgamma, dbeta = self.all_gather()(torch.stack([dgamma, dbeta])).sum(0)
        return dgamma, dbeta

    def all_gather(self) -> AllGather:
        assert isinstance(self.layer, ParallelBatchNorm1d)
        return self.layer.all_gather


class ParallelBatchNormDerivative(ParallelBatchNormFormulas, Derivative):
    """BatchNorm over the rows of all processes: (rows, dim) -> the same."""

    needs_output = False

    def __init__(
        self, layer: ParallelBatchNorm1d, x: Tensor, grad_buffer: GradBuffer, inplace_ok: bool
    ) -> None:
        super().__init__(layer, grad_buffer)
        rows = x.view(-1, layer.running_mean.numel())
        y, ones = torch.empty_like(rows), rows.new_ones(len(rows))
        self.y, self.shape = y.view(x.shape), rows.shape
        self.ones, self.scratch = ones, torch.empty_like(rows)
        self.forward = [lambda: self.normalize(rows, ones, len(rows), y, inplace_ok=False)]

    def backward(self, dy: Tensor) -> Tensor:
        return self.derivative(dy.view(self.shape), self.ones, self.scratch).view(self.y.shape)


class ParallelWindowBatchNormDerivative(ParallelBatchNormFormulas, WindowBatchNormDerivative):
    """BatchNorm over the windows of all processes."""


DERIVATIVES[ParallelBatchNorm1d] = ParallelBatchNormDerivative
DERIVATIVES[ParallelHistoricBatchNorm1d] = ParallelBatchNormDerivative
EVALUATION_DERIVATIVES[ParallelBatchNorm1d] = RunningBatchNormDerivative
EVALUATION_DERIVATIVES[ParallelHistoricBatchNorm1d] = RunningBatchNormDerivative
WINDOW_DERIVATIVES[ParallelBatchNorm1d] = ParallelWindowBatchNormDerivative
