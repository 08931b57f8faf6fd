"""The command ``makemore-draw``: pictures of a network."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Generator

from makemore.core.atomic_write import atomic_write
from makemore.core.errors import UsageError, WriteError
from makemore.core.figure import Figure
from makemore.core.terminal import say
from makemore.pictures.figures import DEFAULT_WORD, missing_glyphs, save_figure
from makemore.pictures.nodes import draw_nodes
from makemore.run.catalog import PICTURES, network_plan
from makemore.run.opened_model import open_model
from makemore.run.pictures import SEED, Subject, draw_picture

COMMAND = "makemore-draw"

WITH_WORD, WITH_SYMBOLS = ("nodes", "tree", "probabilities"), ("tree", "probabilities", "embedding")
"""The pictures of a word, and those with all symbols of the vocabulary."""

MAX_MISSING = 20
"""The largest number of characters without a glyph that are named."""

VOCAB_SIZE = 27
"""The number of symbols of an untrained network, as with the lecture's names."""


def draw(
    what: str,
    picture: Path,
    network: str | None,
    model: Path | None,
    word: str | None,
    labels: Sequence[str],
) -> None:
    """Draw a picture to the file ``picture``, or all to a directory of that name, and print what was written.

    ``network`` names an untrained network, for the picture of the nodes. Otherwise the network is from the
    file ``model``, or from the default of ``open_model``; ``labels`` choose its labels. Raises UsageError on
    an unknown network or label, on a word that is too long, and if the network has nothing to draw there;
    ModelFileError; DataError; and WriteError.
    """
    if network is not None:
        if what != "nodes":
            raise UsageError(f"--network is for nodes only; {what} needs a trained network, by --model")
        untrained = network_plan(network).build(VOCAB_SIZE, Generator().manual_seed(SEED))
        write_picture(draw_nodes(untrained, DEFAULT_WORD if word is None else word), picture)
        return
    opened = open_model(model, COMMAND)
    subject = Subject(opened.model, word, opened.directory, labels)
    for hint in hints(what, subject):
        say(f"{COMMAND}: {hint}", sys.stderr)
    if what != "all":
        write_picture(draw_picture(what, subject), picture)
        return
    try:
        picture.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"cannot create the directory {picture}: {error.strerror}") from error
    for name in PICTURES:
        try:
            figure = draw_picture(name, subject)
        except UsageError as error:
            say(f"left out {name}: {error}")
        else:
            write_picture(figure, picture / f"{name}.png")


def hints(what: str, subject: Subject) -> Iterator[str]:
    """What to know about a picture: that its word is the network's own, and characters without a glyph."""
    text = ""
    if what in (*WITH_WORD, "all"):
        text = subject.word_to_draw
        if subject.word is None and text != DEFAULT_WORD:
            yield (
                f"{DEFAULT_WORD!r} is not in the model's alphabet, so the word is sampled from the network:"
                f" {text!r} (--word draws another)"
            )
    if what in (*WITH_SYMBOLS, "all"):
        text += subject.model.vocabulary.characters
    if missing := missing_glyphs(text):
        number = "a character" if len(missing) == 1 else f"{len(missing):,} characters"
        yield (
            f"the font has no glyph for {number} ({missing[:MAX_MISSING]}): set font.family in a file"
            " matplotlibrc to a font that has"
        )


def write_picture(figure: Figure, path: Path) -> None:
    """Write a figure in the format that the path ends in, by default PNG. Raises WriteError."""
    with atomic_write(path) as file:
        save_figure(figure, file, path.suffix.lstrip(".").lower() or "png")
    say(f"wrote {path}")
