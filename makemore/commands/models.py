"""Which model file a command works on, and the words it was trained on (beyond the lecture)."""

import sys
from pathlib import Path
from typing import NamedTuple

from makemore.errors import UsageError
from makemore.model_file import MODEL_FILE, Model, load_model
from makemore.reading import STDIN
from makemore.words import WordList, load_words

DEFAULT_RUN = Path("out")
"""Where ``makemore-train`` puts its run unless told otherwise."""


class Opened(NamedTuple):
    """A model, whether it is the one that ships with the package, and the directory of its run."""

    model: Model
    ships: bool
    directory: Path


def open_model(path: Path | None, command: str) -> Opened:
    """The model of a file or of a run's directory; by default of ``out/``, or else the one that ships.

    The last is told in a line on stderr. Raises ModelFileError.
    """
    if path is None and not (DEFAULT_RUN / MODEL_FILE).exists():
        print(
            f"{command}: no run in {DEFAULT_RUN}/, so this is the network that ships with makemore"
            " (makemore-train trains one of your own)",
            file=sys.stderr,
        )
        return Opened(load_model(), ships=True, directory=DEFAULT_RUN)
    path = DEFAULT_RUN if path is None else path
    if path.is_dir():
        path /= MODEL_FILE
    return Opened(load_model(path), ships=False, directory=path.parent)


def known_words(opened: Opened, data: str | None = None) -> WordList:
    """The words the model was trained on; ``data`` is where they lie now, if they were moved.

    Raises UsageError if the list at hand is another one, DataError if there is none.
    """
    if opened.ships:
        fingerprint, place = load_words().fingerprint, None
    elif opened.model.progress is None:
        raise UsageError("the model file names no word list: it was saved without the run it comes from")
    else:
        progress = opened.model.progress
        fingerprint, place = progress.fingerprint, progress.settings.get("data")
    if place == STDIN and data is None:
        raise UsageError("the model's words came on stdin: give them again, by --data PATH or --data -")
    words = load_words(data or place)
    if words.fingerprint != fingerprint:
        raise UsageError(
            f"the words of {words.source} are not those the model was trained on; give that list by --data"
        )
    return words
