"""The model that a command uses, and the words it was trained on."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from makemore.core.errors import UsageError
from makemore.core.terminal import say
from makemore.data.reading import STDIN
from makemore.data.word_list import WordList, load_words
from makemore.run.model_file import BUNDLED_NAME, MODEL_FILE, Model, load_model, model_path
from makemore.run.settings import LIST_SETTINGS, RUN

DEFAULT_RUN = Path("out")
"""The default directory of ``makemore-train``."""

LECTURE = "lecture"
"""The name of the lecture's word list."""


class Opened(NamedTuple):
    """A model, whether it is the bundled one, and the directory of its run."""

    model: Model
    is_bundled: bool
    directory: Path


def open_model(path: Path | None, command: str) -> Opened:
    """The model of a file or of a run's directory; by default that of ``out/``, else the bundled one.

    ``bundled`` names the bundled one. A line on stderr says if it is taken by default. Raises ModelFileError.
    """
    if path is None and not (DEFAULT_RUN / MODEL_FILE).exists():
        say(
            f"{command}: there is no run in {DEFAULT_RUN}/, so this is the bundled network"
            " (makemore-train trains a new one)",
            sys.stderr,
        )
        return Opened(load_model(), is_bundled=True, directory=DEFAULT_RUN)
    if path is not None and str(path) == BUNDLED_NAME:
        return Opened(load_model(), is_bundled=True, directory=DEFAULT_RUN)
    path = model_path(DEFAULT_RUN if path is None else path)
    return Opened(load_model(path), is_bundled=False, directory=path.parent)


def known_words(opened: Opened, data: Sequence[str] | None = None) -> WordList:
    """The words the model was trained on; ``data`` has the path of the list, or of all, if it was moved.

    They have no capitals if the model did not learn them. Raises UsageError if the list is not the one the
    model was trained on, DataError if there is none.
    """
    columns: list[Any] = []
    if opened.is_bundled:
        fingerprint, paths = load_words().fingerprint, None
    elif opened.model.progress is None:
        raise UsageError(
            "the model file does not name a word list: it was saved without the run it comes from"
        )
    else:
        fingerprint, settings = opened.model.progress.fingerprint, opened.model.progress.settings
        saved = {name: RUN[name].normalized(settings.get(name, RUN[name].default)) for name in LIST_SETTINGS}
        for name, value in saved.items():
            RUN[name].check(value)
        paths, *columns = saved.values()
    if paths is not None and data is None:
        check_list_is_there(paths)
    words = load_words(data or paths, *columns)
    if words.fingerprint != fingerprint:
        raise UsageError(
            f"{words.source} is not the word list that the model was trained on; give that list with --data"
            " PATH"
        )
    return words


def check_list_is_there(paths: Sequence[str]) -> None:
    """Raise UsageError, which asks for --data, if a run's word lists cannot be read again."""
    more = "" if len(paths) == 1 else f", with all {len(paths)} lists of the run"
    for path in paths:
        if path == STDIN:
            raise UsageError(
                f"the run's word list was read from stdin: give it again with --data PATH or --data -{more}"
            )
        if path != LECTURE and not os.path.isfile(path) and not os.path.isdir(path):
            found = (
                "is not a file that can be read again" if os.path.exists(path) else "is not there any more"
            )
            raise UsageError(f"the run's word list {path} {found}: give it with --data PATH{more}")
