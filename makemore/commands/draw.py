"""What ``makemore-draw`` does: pictures of a network (beyond the lecture)."""

from __future__ import annotations

from pathlib import Path

from torch import Generator

from makemore.commands.models import open_model
from makemore.convolution.drawing import draw_nodes
from makemore.errors import WriteError
from makemore.files import replacing
from makemore.networks import network_plan
from makemore.plotting import save_figure

LETTERS = 26
"""Symbols, beside the stop, of a network that is drawn without a model file; they do not show."""


def draw(picture: Path, network: str | None, model: Path | None, word: str) -> None:
    """Draw the nodes of a model file's network, of the one of that name, or of ``open_model``'s default.

    Raises UsageError on an unknown name or a word too long, ModelFileError, and WriteError if the picture
    cannot be written.
    """
    if not picture.name:
        raise WriteError(f"cannot write {picture}: Is a directory")
    if network is not None:
        drawn = network_plan(network).build(LETTERS + 1, Generator().manual_seed(42))
    else:
        drawn = open_model(model, "makemore-draw").model.network
    figure = draw_nodes(drawn, word)
    try:
        with replacing(picture) as file:
            save_figure(figure, file)
    except OSError as error:
        raise WriteError(f"cannot write {picture}: {error.strerror or error}") from error
    print(f"wrote {picture}")
