"""The command ``makemore-draw``: pictures of a network."""

from __future__ import annotations

from pathlib import Path

from torch import Generator

from makemore.core.atomic_write import atomic_write
from makemore.core.errors import UsageError, WriteError
from makemore.core.figure import Figure
from makemore.pictures.figures import DEFAULT_WORD, save_figure
from makemore.pictures.nodes import draw_nodes
from makemore.run.catalog import PICTURES, network_plan
from makemore.run.opened_model import open_model
from makemore.run.pictures import SEED, Subject, draw_picture

VOCAB_SIZE = 27
"""The number of symbols of an untrained network, as with the lecture's names."""


def draw(what: str, picture: Path, network: str | None, model: Path | None, word: str | None) -> None:
    """Draw a picture to the file ``picture``, or all to a directory of that name, and print what was written.

    ``network`` names an untrained network, for the picture of the nodes. Otherwise the network is from the
    file ``model``, or from the default of ``open_model``. Raises UsageError on an unknown network, on a word
    that is too long, and if the network has nothing to draw there; ModelFileError; DataError; and WriteError.
    """
    if network is not None:
        if what != "nodes":
            raise UsageError(f"--network is for nodes only; {what} needs a trained network, by --model")
        untrained = network_plan(network).build(VOCAB_SIZE, Generator().manual_seed(SEED))
        write_picture(draw_nodes(untrained, DEFAULT_WORD if word is None else word), picture)
        return
    opened = open_model(model, "makemore-draw")
    subject = Subject(opened.model, word, opened.directory)
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
            print(f"left out {name}: {error}")
        else:
            write_picture(figure, picture / f"{name}.png")


def write_picture(figure: Figure, path: Path) -> None:
    """Write a figure in the format that the path ends in, by default PNG. Raises WriteError."""
    with atomic_write(path) as file:
        save_figure(figure, file, path.suffix.lstrip(".").lower() or "png")
    print(f"wrote {path}")
