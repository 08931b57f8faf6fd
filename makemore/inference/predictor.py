"""Predictors: a trained network in the form that computes losses and new words fastest.

All predictors give the same results to rounding. ``as_predictor`` chooses.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from makemore.core.fit import Columns, check_data, require_characters, require_labels, require_length
from makemore.core.graph import context_length
from makemore.core.layer import Layer, require_network
from makemore.inference.convolution import Convolution, NotAConvolution
from makemore.inference.decoder import CachedDecoder, Decoder, EnsembleDecoder, FullContextDecoder
from makemore.lecture.evaluation import log_probs
from makemore.lecture.words import Examples
from makemore.training.ensemble import Ensemble


class Predictor(ABC):
    """The probabilities of the next symbol, for examples and for words that are being sampled.

    ``block_size`` is the length of the context, ``width`` the largest number of channels of a layer.
    """

    block_size: int
    device: torch.device
    width: int

    @abstractmethod
    def log_probs(self, examples: Examples) -> Iterator[Tensor]:
        """Log-probabilities of the targets, in the order of the examples, in pieces: (N,) altogether."""

    @abstractmethod
    def check_data(
        self, characters: str | None, block_size: int | None = None, labels: Columns | None = ()
    ) -> None:
        """Raise UsageError unless data belongs to the network: see ``core.fit.check_data``."""

    @abstractmethod
    def decoder(self) -> Decoder:
        """A decoder for new words."""


class ConvolutionPredictor(Predictor):
    """Computes each distinct window of symbols once, and for a new character only the new nodes."""

    def __init__(self, convolution: Convolution) -> None:
        self.convolution = convolution
        self.block_size, self.device = convolution.block_size, convolution.device
        self.width = max(stage.weight.shape[2] for stage in convolution.stages)

    def log_probs(self, examples: Examples) -> Iterator[Tensor]:
        return self.convolution.log_probs(examples)

    def check_data(
        self, characters: str | None, block_size: int | None = None, labels: Columns | None = ()
    ) -> None:
        known = self.convolution
        if characters is not None:
            require_characters(characters, known.characters, known.num_symbols)
        if labels is not None:
            sizes = () if known.labelled is None else known.labelled.label_sizes
            require_labels(labels, known.labels, sizes)
        if block_size is not None:
            require_length(block_size, known.network_block_size or self.block_size)

    def decoder(self) -> Decoder:
        return CachedDecoder(self.convolution)


class NetworkPredictor(Predictor):
    """Sends every context through all the layers, as in the lecture. ``reason`` says why that is needed."""

    def __init__(self, network: Layer, reason: str = "") -> None:
        self.network, self.reason = network, reason
        self.device = network.parameters()[0].device
        self.width = max(p.shape[-1:].numel() for p in network.parameters())

    @property
    def block_size(self) -> int:  # type: ignore[override]
        """The length of the context. Raises ValueError if it is not known."""
        return context_length(self.network)

    def log_probs(self, examples: Examples) -> Iterator[Tensor]:
        return log_probs(self.network, examples)

    def check_data(
        self, characters: str | None, block_size: int | None = None, labels: Columns | None = ()
    ) -> None:
        check_data(self.network, characters, block_size, labels)

    def decoder(self) -> Decoder:
        return FullContextDecoder(self.network)


class EnsemblePredictor(Predictor):
    """The mean of the members' probabilities."""

    def __init__(self, members: Sequence[Predictor]) -> None:
        self.members = members
        self.block_size, self.device = members[0].block_size, members[0].device
        self.width = sum(member.width for member in members)

    def log_probs(self, examples: Examples) -> Iterator[Tensor]:
        # In one piece, since the members' pieces may differ in size.
        total = torch.full((len(examples),), -torch.inf, device=examples.symbols.device)
        for member in self.members:
            total = torch.logaddexp(total, torch.cat(list(member.log_probs(examples))))
        yield total - math.log(len(self.members))

    def check_data(
        self, characters: str | None, block_size: int | None = None, labels: Columns | None = ()
    ) -> None:
        for member in self.members:
            member.check_data(characters, block_size, labels)

    def decoder(self) -> Decoder:
        return EnsembleDecoder([member.decoder() for member in self.members])


Predictable = Layer | Convolution | Predictor
"""A network, or a convolution or predictor made from one."""


def as_predictor(network: Predictable) -> Predictor:
    """The fastest predictor: by the convolution that equals the network, or if none is known by its layers.

    Raises FalseDeclaration if a layer computes something else than it declares.
    """
    if isinstance(network, Predictor):
        return network
    if isinstance(network, Convolution):
        return ConvolutionPredictor(network)
    require_network(network)
    if isinstance(network, Ensemble):
        return EnsemblePredictor([as_predictor(member) for member in network.members])
    try:
        return ConvolutionPredictor(Convolution.from_network(network))
    except NotAConvolution as error:
        return NetworkPredictor(network, str(error))
