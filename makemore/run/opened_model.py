"""The model that a command uses, and the words it was trained on."""

import sys
from pathlib import Path
from typing import NamedTuple

from makemore.core.errors import UsageError
from makemore.data.reading import STDIN
from makemore.data.word_list import WordList, load_words
from makemore.run.model_file import MODEL_FILE, Model, load_model

DEFAULT_RUN = Path("out")
"""The default directory of ``makemore-train``."""


class Opened(NamedTuple):
    """A model, whether it is the bundled one, and the directory of its run."""

    model: Model
    is_bundled: bool
    directory: Path


def open_model(path: Path | None, command: str) -> Opened:
    """The model of a file or of a run's directory; by default that of ``out/``, else the bundled one.

    A line on stderr says if it is the bundled one. Raises ModelFileError.
    """
    if path is None and not (DEFAULT_RUN / MODEL_FILE).exists():
        print(
            f"{command}: there is no run in {DEFAULT_RUN}/, so this is the bundled network"
            " (makemore-train trains a new one)",
            file=sys.stderr,
        )
        return Opened(load_model(), is_bundled=True, directory=DEFAULT_RUN)
    path = DEFAULT_RUN if path is None else path
    if path.is_dir():
        path /= MODEL_FILE
    return Opened(load_model(path), is_bundled=False, directory=path.parent)


def known_words(opened: Opened, data: str | None = None) -> WordList:
    """The words the model was trained on; ``data`` is the path of the list if it was moved.

    Raises UsageError if the list is not the one the model was trained on, DataError if there is none.
    """
    if opened.is_bundled:
        fingerprint, path = load_words().fingerprint, None
    elif opened.model.progress is None:
        raise UsageError(
            "the model file does not name a word list: it was saved without the run it comes from"
        )
    else:
        progress = opened.model.progress
        fingerprint, path = progress.fingerprint, progress.settings.get("data")
    if path == STDIN and data is None:
        raise UsageError(
            "the model's word list was read from stdin: give it again with --data PATH or --data -"
        )
    words = load_words(data or path)
    if words.fingerprint != fingerprint:
        raise UsageError(
            f"{words.source} is not the word list that the model was trained on; give that list with --data"
        )
    return words
