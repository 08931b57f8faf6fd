"""Pictures of a model by name, for ``makemore-draw`` and TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pkgutil import resolve_name

from torch import Generator, Tensor

from makemore.core.figure import Figure
from makemore.core.layer import Layer
from makemore.core.text import known_form
from makemore.data.encoding import encode_words
from makemore.inference.generation import Filters, generate
from makemore.lecture.words import Examples
from makemore.pictures.activations import draw_activations
from makemore.pictures.batchnorm import draw_batchnorm
from makemore.pictures.embedding import draw_embedding
from makemore.pictures.figures import DEFAULT_WORD
from makemore.pictures.gradients import draw_gradients
from makemore.pictures.nodes import draw_nodes
from makemore.pictures.probabilities import draw_probabilities
from makemore.pictures.recorder import GRADIENTS_FILE, read_records
from makemore.pictures.tree import draw_tree
from makemore.run.catalog import PICTURES
from makemore.run.label_choice import choose_labels, typical_network
from makemore.run.model_file import Model

SEED = 42
"""The seed of everything random in pictures: sampled words, and the values of an untrained network."""

SAMPLED_WORDS, MAX_CONTEXTS = 500, 4096
"""Words sampled for the pictures of outputs, and the largest number of their contexts that is used."""


@dataclass(frozen=True)
class Subject:
    """What pictures are drawn of: a model, a word if one is given, and the directory of the model's run.

    ``labels`` are texts that choose labels, see ``choose_labels``.
    """

    model: Model
    word: str | None = None
    directory: Path = Path()
    labels: Sequence[str] = ()

    @cached_property
    def network(self) -> Layer:
        """The network, for the chosen labels if it takes any; for the mean of those of its list otherwise."""
        return typical_network(choose_labels(self.model, self.labels))

    @cached_property
    def contexts(self) -> Tensor:
        """Contexts of words sampled from the network, the same each time: (N, block_size)."""
        symbols = encode_words(self.model.vocabulary, self.sample(SAMPLED_WORDS))
        X, _ = Examples(symbols, self.model.block_size)[:MAX_CONTEXTS]
        return X

    @cached_property
    def word_to_draw(self) -> str:
        """The given word, else the default one, else a word sampled in the network's own alphabet."""
        if self.word is not None:
            return known_form(self.model.lowered(self.word), self.model.vocabulary.stoi)
        if self.model.vocabulary.stoi.keys() >= set(DEFAULT_WORD):
            return DEFAULT_WORD
        return self.sample(1)[0]

    def sample(self, number: int) -> list[str]:
        """Words sampled from the network, the same each time."""
        generator, filters = Generator().manual_seed(SEED), Filters(cut=True)
        return list(generate(self.network, self.model.vocabulary, generator, number, filters))


def draw_picture(name: str, subject: Subject) -> Figure:
    """Draw the picture of that name in ``PICTURES``.

    Raises UsageError if the network has nothing to draw there, or if the word is too long.
    """
    figure: Figure = resolve_name(PICTURES[name][1])(subject)
    return figure


# What PICTURES refers to.


def nodes(subject: Subject) -> Figure:
    return draw_nodes(subject.network, subject.word_to_draw)


def tree(subject: Subject) -> Figure:
    return draw_tree(subject.network, subject.model.vocabulary, subject.word_to_draw)


def probabilities(subject: Subject) -> Figure:
    return draw_probabilities(subject.network, subject.model.vocabulary, subject.word_to_draw)


def embedding(subject: Subject) -> Figure:
    return draw_embedding(subject.network, subject.model.vocabulary)


def activations(subject: Subject) -> Figure:
    return draw_activations(subject.network, subject.contexts)


def batchnorm(subject: Subject) -> Figure:
    return draw_batchnorm(subject.network, subject.contexts)


def gradients(subject: Subject) -> Figure:
    return draw_gradients(read_records(subject.directory / GRADIENTS_FILE), subject.model.network)
