"""The networks, recipes, engines and pictures by name. Imports no torch.

To add one, add a line here. A function or class is given as "module:name" and imported when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from makemore.core.errors import UsageError
from makemore.modern.recipe import ModernRecipe
from makemore.training.recipe import LectureRecipe, Recipe

if TYPE_CHECKING:
    from torch import Generator

    from makemore.core.layer import Layer
    from makemore.lecture.layers import Sequential

SIZES = ("block_size", "n_embd", "n_hidden", "stacks")
"""The sizes of a plan."""


@dataclass(frozen=True)
class Plan:
    """A network by name and sizes.

    ``block_size`` characters of context, ``n_embd`` channels for each character, ``n_hidden`` channels for
    each hidden layer, and ``stacks`` of layers whose dilations double from 1 up. With ``dropout`` above 0, a
    Dropout with that probability follows each activation.
    ``layers(vocab_size, block_size, n_embd, n_hidden)`` returns the layers, drawing their initial values in
    order; it also takes ``stacks`` if the plan says that it ``has_stacks``. ``help`` describes the network in
    the help of ``--network``.
    """

    name: str
    block_size: int
    n_embd: int
    n_hidden: int
    layers: str | Callable[..., list[Layer]]
    help: str = ""
    stacks: int = 1
    has_stacks: bool = False
    dropout: float = 0.0

    def build(
        self, vocab_size: int, generator: Generator | None = None, label_sizes: Sequence[int] = ()
    ) -> Sequential:
        """A new network for ``vocab_size`` symbols: indices (B, block_size) -> logits (B, vocab_size).

        With ``label_sizes``, the number of labels of each column, the network begins with a LabelledEmbedding
        in place of its Embedding, and the indices are (B, columns + block_size). The values are drawn from
        the generator, or from torch's own. The parameters require gradients. Raises UsageError, which names
        the network, on sizes that cannot work.
        """
        from makemore.core.graph import context_length
        from makemore.core.random import default_generator
        from makemore.lecture.layers import Sequential
        from makemore.paper.networks import add_dropout, with_labels

        make = resolve_name(self.layers) if isinstance(self.layers, str) else self.layers
        stacks = {"stacks": self.stacks} if self.has_stacks else {}
        try:
            self._check_sizes()
            with default_generator(generator):
                layers = make(vocab_size, self.block_size, self.n_embd, self.n_hidden, **stacks)
            network = Sequential(with_labels(layers, label_sizes) if label_sizes else layers)
            network.block_size = self.block_size
            if self.dropout:
                add_dropout(network, self.dropout)
            context_length(network)  # raises ValueError if the layers need another block size
        except ValueError as error:
            raise UsageError(f"network {self.name}: {error}") from error
        for p in network.parameters():
            p.requires_grad = True
        return network

    def _check_sizes(self) -> None:
        for field in SIZES:
            size = getattr(self, field)
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{field} must be a whole number from 1 up, got {size!r}")
        if self.stacks != 1 and not self.has_stacks:
            raise ValueError(f"it has one stack, got {self.stacks}")

    def check(self) -> None:
        """Raise UsageError, which names the network, on sizes that cannot work."""
        self.num_values(1)

    def num_values(self, vocab_size: int) -> int:
        """The number of values in all tensors of the network, counted without memory for them."""
        from makemore.core.shapes import num_values

        return num_values(lambda: self.build(vocab_size))

    def sizes(self) -> dict[str, Any]:
        """Name and sizes, as arguments of ``network_plan`` for the same plan. A single stack is left out."""
        names = ("name", *SIZES) if self.stacks != 1 else ("name", *SIZES[:-1])
        return {name: getattr(self, name) for name in (*names, "dropout")}


_PAPER = "makemore.paper.networks:"

NETWORKS = {
    plan.name: plan
    for plan in (
        Plan("mlp", 3, 10, 200, _PAPER + "flat", "3 characters, one hidden layer"),
        Plan("mlp-8", 8, 10, 200, _PAPER + "flat", "8 characters, one hidden layer"),
        Plan(
            "hierarchical-bug", 8, 10, 68, _PAPER + "hierarchical_bug", "pairs fused, with the lecture's bug"
        ),
        Plan("hierarchical", 8, 10, 68, _PAPER + "hierarchical", "pairs fused"),
        Plan("wavenet", 8, 24, 128, _PAPER + "hierarchical", "hierarchical, but wider"),
        Plan("gated", 8, 24, 89, _PAPER + "gated", "wavenet with the paper's gates"),
        Plan("dropout", 8, 24, 128, _PAPER + "hierarchical", "wavenet with Dropout", dropout=0.1),
        Plan("layernorm", 8, 24, 128, _PAPER + "layernorm", "wavenet with LayerNorm"),
        Plan(
            "wavenet-paper",
            8,
            48,
            74,
            _PAPER + "wavenet_paper",
            "the paper's network, with gates, residual and skip connections",
            has_stacks=True,
        ),
    )
}
"""The rows of the lecture's performance log in their order, and networks beyond the lecture."""

DEFAULT_NETWORK = "wavenet"


def network_plan(
    name: str = DEFAULT_NETWORK,
    block_size: int | None = None,
    n_embd: int | None = None,
    n_hidden: int | None = None,
    stacks: int | None = None,
    dropout: float | None = None,
) -> Plan:
    """The plan of that name, with the sizes that are given in place of its own.

    If stacks are given and no block size, each stack reads as far back as a stack of the plan. Raises
    UsageError on an unknown name and on sizes that cannot work.
    """
    if name not in NETWORKS:
        raise UsageError(f"unknown network {name!r}: choose from {', '.join(NETWORKS)}")
    if stacks is not None and block_size is None:
        block_size = 1 + stacks * (NETWORKS[name].block_size - 1)
    sizes: dict[str, Any] = dict(zip(SIZES, (block_size, n_embd, n_hidden, stacks), strict=True))
    sizes["dropout"] = dropout
    plan = replace(NETWORKS[name], **{field: size for field, size in sizes.items() if size is not None})
    plan.check()
    return plan


def build_network(
    plan: Plan,
    members: int | None,
    vocab_size: int,
    generator: Generator,
    label_sizes: Sequence[int] = (),
) -> Layer:
    """A network of the plan, or an ensemble of more ``members`` than one, drawn one after another."""
    if members is None or members == 1:
        return plan.build(vocab_size, generator, label_sizes)
    from makemore.training.ensemble import Ensemble

    return Ensemble([plan.build(vocab_size, generator, label_sizes) for _ in range(members)])


RECIPES: dict[str, tuple[type[Recipe], str]] = {
    "modern": (ModernRecipe, "makemore.modern.trainer:ModernTrainer"),
    "lecture": (LectureRecipe, "makemore.training.trainer:Trainer"),
}
"""The settings of each recipe, and the class that trains by it."""

ENGINES = {
    "windows": "makemore.backprop.windows:WindowsEngine",
    "backprop": "makemore.backprop.engine:BackpropEngine",
    "autograd": "makemore.training.engine:AutogradEngine",
}

PICTURES = {
    "nodes": ("which characters each node depends on", "makemore.run.pictures:nodes"),
    "tree": ("the values of every node for one context", "makemore.run.pictures:tree"),
    "probabilities": (
        "the probabilities of the next character along a word",
        "makemore.run.pictures:probabilities",
    ),
    "embedding": ("the characters as points", "makemore.run.pictures:embedding"),
    "activations": (
        "histograms of each layer's output, with saturated tanh",
        "makemore.run.pictures:activations",
    ),
    "batchnorm": ("running statistics by channel and position", "makemore.run.pictures:batchnorm"),
    "gradients": ("gradients and updates, of a run with --record-every", "makemore.run.pictures:gradients"),
}  # fmt: skip
"""The pictures of ``makemore-draw``: what each shows, and the function that draws it for a ``Subject``."""
