"""Several networks as one, by averaging their probabilities.

Networks that start from different values make different errors, so their mean has a lower loss than each of
them. The members are trained side by side on the same batches, each on its own loss:

    network = Ensemble([plan.build(len(data.vocabulary), generator) for _ in range(4)])
    make_engine = partial(EnsembleEngine, make_engine=WindowsEngine)
    trainer = ModernTrainer(network, data, recipe, generator, make_engine)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore.core.fit import require_characters, symbol_count
from makemore.core.graph import context_length
from makemore.core.layer import LabelColumn, Layer, label_sizes, require_network
from makemore.core.text import plural
from makemore.core.trained import enter_training, frozen_as_they_are, require_gradients
from makemore.lecture.layers import Sequential
from makemore.training.engine import MakeEngine


class Ensemble(Layer):
    """The mean of networks: indices (B, T) -> logarithms of the mean probabilities, (B, vocab_size).

    These are logits, whose softmax is the mean. Raises ValueError if there are no members, and if their
    contexts differ in length or labels, or their vocabularies in characters.
    """

    def __init__(self, members: Sequence[Layer]) -> None:
        self.members = list(members)
        sizes = {context_length(member) for member in self.members}
        if len(sizes) != 1:
            raise ValueError(f"an ensemble needs members with one block size, got {sorted(sizes) or 'none'}")
        self.block_size = sizes.pop()
        known = [member.characters for member in self.members if member.characters is not None]
        for characters in known[1:]:
            require_characters(characters, known[0], None)
        takes = {label_sizes(member) for member in self.members}
        if len(takes) > 1:
            raise ValueError(f"an ensemble needs members with the same labels, got {sorted(takes)}")
        counts = {count for member in self.members if (count := symbol_count(member)) is not None}
        if len(counts) > 1:
            raise ValueError(f"an ensemble needs members with one number of symbols, got {sorted(counts)}")
        self.num_symbols = counts.pop() if counts else None

    @property
    def characters(self) -> str | None:
        """The characters of the vocabulary that the members were trained with, see ``Layer``."""
        return next((m.characters for m in self.members if m.characters is not None), None)

    @characters.setter
    def characters(self, characters: str | None) -> None:
        for member in self.members:
            member.characters = characters

    @property
    def labels(self) -> tuple[LabelColumn, ...] | None:
        """The labels that the members were trained with, see ``Layer``."""
        return next((m.labels for m in self.members if m.labels is not None), None)

    @labels.setter
    def labels(self, labels: tuple[LabelColumn, ...] | None) -> None:
        for member in self.members:
            member.labels = labels

    def __call__(self, x: Tensor) -> Tensor:
        self.out = mean_log_probs([member(x) for member in self.members])
        return self.out

    def named_children(self) -> Iterator[tuple[str, Layer]]:
        for i, member in enumerate(self.members):
            yield str(i), member

    def __repr__(self) -> str:
        return f"Ensemble({plural(len(self.members), 'network')})"


def mean_log_probs(logits: Sequence[Tensor]) -> Tensor:
    """The logarithms of the mean of some distributions, given by logits (..., V) each: (..., V)."""
    log_probs = torch.stack([F.log_softmax(each, dim=-1) for each in logits])
    return log_probs.logsumexp(0) - math.log(len(logits))


def members_of(network: Layer) -> list[Layer]:
    """The members of an ensemble; for any other network, the network itself."""
    require_network(network)
    return network.members if isinstance(network, Ensemble) else [network]


class EnsembleEngine:
    """An engine for each member, made by ``make_engine``. All members see the same batches.

    Each member has the gradients of its own loss. The losses returned are the means over the members.
    """

    def __init__(self, network: Layer, make_engine: MakeEngine) -> None:
        require_gradients(network)
        self.network = network
        # The modes are those of the whole ensemble: an engine would switch a member that is in evaluation to
        # training.
        self._wholes = [Sequential([member]) for member in members_of(network)]
        for whole, member in zip(self._wholes, members_of(network), strict=True):
            whole.block_size = member.block_size
        with frozen_as_they_are(network):
            self.engines = [make_engine(whole) for whole in self._wholes]

    def _enter_training(self) -> None:
        enter_training(self.network)
        for whole in self._wholes:
            whole.training = True

    def sgd_steps(self, X: Tensor, Y: Tensor, lrs: Sequence[float]) -> Tensor:
        """One step of SGD on each batch, X (steps, B, T); returns the batch losses, (steps,)."""
        self._enter_training()
        return torch.stack([engine.sgd_steps(X, Y, lrs) for engine in self.engines]).mean(0)

    def gradients(self, X: Tensor, Y: Tensor, keep_mask: Tensor | None = None) -> Tensor:
        """Put the gradients of a batch, X (B, T), into ``p.grad``; returns its loss, ()."""
        self._enter_training()
        return torch.stack([engine.gradients(X, Y, keep_mask) for engine in self.engines]).mean(0)

    def describe(self, batch_size: int, block_size: int) -> str:
        return self.engines[0].describe(batch_size, block_size)
