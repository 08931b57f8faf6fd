"""What ``makemore-draw`` does: pictures of a network (beyond the lecture)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from matplotlib.figure import Figure
from torch import Generator, Tensor

from makemore.commands.models import open_model
from makemore.convolution import generate
from makemore.convolution.drawing import draw_nodes
from makemore.errors import UsageError, WriteError
from makemore.files import writing_whole
from makemore.model_file import Model
from makemore.networks import network_plan
from makemore.pictures.activations import draw_activations
from makemore.pictures.batchnorm import draw_batchnorm
from makemore.pictures.embedding import draw_embedding
from makemore.pictures.gradients import draw_gradients
from makemore.pictures.probabilities import draw_probabilities
from makemore.pictures.recorder import GRADIENTS_FILE, read_records
from makemore.pictures.tree import draw_tree
from makemore.plotting import save_figure
from makemore.words import Examples

DEFAULT_WORD = "diondre"

LETTERS = 26
"""Symbols, beside the stop, of a network that is drawn without a model file; they do not show."""

WORDS, CONTEXTS = 500, 4096
"""Words that a network draws for pictures of it at work, and contexts of them that are looked at."""


@dataclass(frozen=True)
class Subject:
    """What is drawn: a model, a word or none in particular, and the folder with the records of its run."""

    model: Model
    word: str | None = None
    directory: Path = Path()

    @cached_property
    def contexts(self) -> Tensor:
        """Contexts of words that the network itself draws, the same each time: (N, block_size)."""
        network, vocabulary = self.model.network, self.model.vocabulary
        words = list(generate(network, vocabulary, Generator().manual_seed(42), WORDS))
        X, _ = Examples(vocabulary.encode_all(words), self.model.plan.block_size)[:CONTEXTS]
        return X

    @cached_property
    def a_word(self) -> str:
        """The word asked for, else the usual one, else one in the network's own alphabet."""
        network, vocabulary = self.model.network, self.model.vocabulary
        if self.word is not None:
            return self.word
        if vocabulary.stoi.keys() >= set(DEFAULT_WORD):
            return DEFAULT_WORD
        return next(iter(generate(network, vocabulary, Generator().manual_seed(42), 1)))


MAKERS: dict[str, Callable[[Subject], Figure]] = {
    "nodes": lambda s: draw_nodes(s.model.network, s.a_word),
    "tree": lambda s: draw_tree(s.model.network, s.model.vocabulary, s.a_word),
    "probabilities": lambda s: draw_probabilities(s.model.network, s.model.vocabulary, s.a_word),
    "embedding": lambda s: draw_embedding(s.model.network, s.model.vocabulary),
    "activations": lambda s: draw_activations(s.model.network, s.contexts),
    "batchnorm": lambda s: draw_batchnorm(s.model.network, s.contexts),
    "gradients": lambda s: draw_gradients(read_records(s.directory / GRADIENTS_FILE), s.model.network),
}
"""What draws each picture of ``settings.PICTURES``."""


def draw(what: str, picture: Path, network: str | None, model: Path | None, word: str | None) -> None:
    """Draw one picture, or all of them into a folder ``picture``, and print what was written.

    Of a model file's network, or of ``open_model``'s default; the nodes also of the network of that name.
    Raises UsageError on an unknown name, a word too long and on a network that has nothing of the kind to
    draw, ModelFileError, DataError, and WriteError if a picture cannot be written.
    """
    if network is not None:
        if what != "nodes":
            raise UsageError(f"--network is for nodes; {what} is of a trained network, by --model")
        untrained = network_plan(network).build(LETTERS + 1, Generator().manual_seed(42))
        write_picture(draw_nodes(untrained, DEFAULT_WORD if word is None else word), picture)
        return
    opened = open_model(model, "makemore-draw")
    subject = Subject(opened.model, word, opened.directory)
    if what != "all":
        write_picture(MAKERS[what](subject), picture)
        return
    try:
        picture.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"cannot make the directory {picture}: {error.strerror}") from error
    for name, make in MAKERS.items():
        try:
            figure = make(subject)
        except UsageError as error:
            print(f"no {name}: {error}")
        else:
            write_picture(figure, picture / f"{name}.png")


def write_picture(figure: Figure, path: Path) -> None:
    """Write a figure in the format its name ends in, without one as PNG, and say so. Raises WriteError."""
    with writing_whole(path) as file:
        save_figure(figure, file, path.suffix.lstrip(".").lower() or "png")
    print(f"wrote {path}")
