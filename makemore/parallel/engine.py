"""Gradients of a batch that several processes share.

Every process draws the same batch and takes its own rows of it. BatchNorm's statistics and the gradients are
summed over all processes. So the run is that of one process, to rounding, with every engine. As all processes
get the same sums, their networks stay equal to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore.backprop.windows import WindowsEngine
from makemore.core.errors import UsageError
from makemore.core.fit import symbol_count
from makemore.core.layer import Layer, declared, label_sizes, layer_text, stochastic_layers
from makemore.core.trained import enter_training, frozen_as_they_are, require_gradients
from makemore.core.unique_rows import unique_rows
from makemore.parallel.batchnorm import with_total_statistics
from makemore.training.engine import MakeEngine
from makemore.training.processes import Processes

FREQUENT = 0.01
"""The share of a batch above which rows with the same second half are spread over the processes."""


class ParallelEngine:
    """An engine made by ``make_engine`` that computes this process's rows of each batch.

    It works on a twin of the network with the same tensors, whose BatchNorm layers are parallel ones. Layers
    and tensors of the network may be moved, loaded or replaced between steps.

    Raises UsageError on layers that draw random numbers, as each process would draw its own, unless they are
    in evaluation, and on those that ``with_total_statistics`` refuses.
    """

    def __init__(self, network: Layer, make_engine: MakeEngine, processes: Processes) -> None:
        require_gradients(network)
        self.network, self.make_engine, self.processes = network, make_engine, processes
        self._make_twin()

    def _make_twin(self) -> None:
        """Make a twin of the network and the engine for it."""
        modes = [layer.training for layer in self.network.modules()]
        for layer in stochastic_layers(self.network).values():
            if layer.training or not any(modes):  # a network that is in evaluation is switched to training
                refuse_random(layer)
        self._built_for = self._layers_and_tensors()
        self._num_symbols = symbol_count(self.network)
        self._twin = with_total_statistics(self.network, self.processes.all_gather)
        with frozen_as_they_are(self.network):
            self.engine = self.make_engine(self._twin)

    def _layers_and_tensors(self) -> list[Layer | Tensor]:
        network = self.network
        tensors = (tensor for _, tensor in (*network.named_parameters(), *network.named_buffers()))
        return [*network.modules(), *tensors]

    def sgd_steps(self, X: Tensor, Y: Tensor, lrs: Sequence[float]) -> Tensor:
        """Do one step of SGD on each batch, X (steps, B, T): see ``training.Engine``."""
        losses = []
        for x, y, lr in zip(X, Y, lrs, strict=True):
            losses.append(self.gradients(x, y))
            with torch.no_grad():
                for p in self.network.parameters():
                    if p.grad is not None:
                        p.sub_(p.grad, alpha=lr)
        return torch.stack(losses)

    def gradients(self, X: Tensor, Y: Tensor, keep_mask: Tensor | None = None) -> Tensor:
        """Put the gradients of a batch, X (B, T), into ``p.grad``: see ``training.Engine``."""
        check_shareable(len(X), self.processes)
        enter_training(self.network)
        if list(map(id, self._layers_and_tensors())) != list(map(id, self._built_for)):
            self._make_twin()  # something has been replaced
        for layer, twin in zip(self.network.modules(), self._twin.modules(), strict=True):
            if layer.training and declared(layer, "stochastic"):
                refuse_random(layer)
            twin.training = layer.training
        rows = self._own_rows(X, keep_mask)
        # An example has the same weight in whichever process it is, as in the sums over all processes.
        own_Y = self._distributions(X, Y[rows]) * (len(rows) / len(X))
        loss = self.engine.gradients(X[rows], own_Y, None if keep_mask is None else keep_mask[rows])
        trained = [p for p in self.network.parameters() if p.grad is not None]
        with torch.no_grad():
            total = torch.cat([loss.view(1), *(p.grad.flatten() for p in trained if p.grad is not None)])
            self.processes.all_reduce(total)
            total_loss, *grads = torch.split(total, [1, *(p.numel() for p in trained)])
            for p, grad in zip(trained, grads, strict=True):
                p.grad = grad.view_as(p)
        return total_loss.squeeze()

    def describe(self, batch_size: int, block_size: int) -> str:
        """How this process's rows of a batch of that shape are computed: see ``training.Engine``."""
        return self.engine.describe(batch_size // self.processes.world_size, block_size)

    def _own_rows(self, X: Tensor, keep_mask: Tensor | None) -> Tensor:
        """The indices of the rows of a batch that this process computes.

        For an engine that computes distinct windows they are chosen such that each process has few of these:
        rows with the same labels and second half go to one process, unless these are so frequent that they
        would fill it.
        """
        world_size, own = self.processes.world_size, self.processes.split(len(X))[self.processes.rank]
        rows = torch.arange(len(X), device=X.device)
        if isinstance(self.engine, WindowsEngine):
            sizes, V = label_sizes(self.network), len(self.network.parameters()[0])
            labels, symbols = X.tensor_split([len(sizes)], dim=1)
            half = symbols.shape[1] // 2
            ends = symbols[:, half:]
            if keep_mask is not None:
                ends = ends.masked_fill(keep_mask[:, half:] == 0, V)
            columns = [*labels.unbind(1), *ends.unbind(1)]
            _, inverse, counts = unique_rows(columns, [*sizes, *[V + 1] * ends.shape[1]])
            frequent = counts[inverse] > FREQUENT * len(X)
            owner = torch.where(frequent, rows, inverse).remainder(world_size)
            rows = (owner * len(counts) + inverse).argsort(stable=True)
        return rows[own]

    def _distributions(self, X: Tensor, Y: Tensor) -> Tensor:
        """Targets as distributions over the symbols."""
        if Y.is_floating_point():
            return Y
        if self._num_symbols is None:
            with self.network.evaluating():
                self._num_symbols = self.network(X[:1]).shape[-1]
        return F.one_hot(Y.long(), self._num_symbols).to(self.network.parameters()[0].dtype)


def refuse_random(layer: Layer) -> NoReturn:
    """Raise UsageError for a layer that draws random numbers."""
    raise UsageError(f"{layer_text(layer)} draws random numbers: train this network with one process")


def check_shareable(examples: int, processes: Processes) -> None:
    """Raise UsageError unless a batch has an example for every process."""
    if examples < processes.world_size:
        raise UsageError(
            f"{processes.world_size} processes need batches of at least {processes.world_size} examples,"
            f" got {examples}"
        )
