"""The command ``makemore-page``: a page to explore a model in a browser."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from makemore.core.atomic_write import atomic_write
from makemore.core.errors import DataError, UsageError
from makemore.core.terminal import say
from makemore.page.building import most_frames, page_html
from makemore.run.frames import open_frames
from makemore.run.model_file import BUNDLED_NAME, MODEL_FILE, load_model
from makemore.run.opened_model import DEFAULT_RUN, Opened, known_words, open_model

COMMAND = "makemore-page"


def page(
    target: Path,
    path: Path | None,
    data: Sequence[str] | None,
    without_words: bool,
    word: str | None,
    compare: Path | None,
    frames: Path | None,
) -> None:
    """Write the page of ``open_model``'s model, with the words it was trained on unless ``without_words``.

    The page opens with ``word``, if there is one. It shows the network of ``compare`` beside the first one.
    With ``frames``, the directory of a run, it shows the networks that the run kept, step by step.

    ``data`` has the path of the word list, or of all, if it was moved. Without it, a list that
    is not found is left out, and a line on stderr says so. Raises ModelFileError, UsageError on a network
    that a page cannot show, DataError on a word with a character that the network does not know, and
    WriteError.
    """
    kept = None
    if frames is None:
        opened = open_model(path, COMMAND)
    else:
        kept = open_frames(frames)
        opened, path = Opened(kept.model, is_bundled=False, directory=frames), frames
    words, source = list[str](), ""
    if not without_words:
        try:
            known = known_words(opened, data)
            words, source = known.words, Path(known.source).name
        except (DataError, UsageError) as error:
            if data is not None:
                raise
            say(f"{COMMAND}: the page cannot say which words are new: {error}", sys.stderr)
    other, names = None, ("the first network", "the second network")
    if compare is not None:
        other = load_model(compare)
        names = names_of(BUNDLED_NAME if opened.is_bundled else path or DEFAULT_RUN, compare)
    shown = [] if kept is None else list(kept.frames(most_frames(kept.model.network)))
    html = page_html(opened.model, words, source, word=word, compare=other, names=names, frames=shown)
    content = html.encode(errors="replace")
    with atomic_write(target) as file:
        file.write(content)
    say(f"wrote {target}, {len(content) / 1000:,.0f} KB: open it in a browser")
    if kept is not None:
        say(
            f"it has {len(shown):,} of the {len(kept.paths):,} networks that the run kept; the last one is in"
            " float32, the others are in float16 if no value is too large for it"
        )


def names_of(first: str | Path, second: str | Path) -> tuple[str, str]:
    """Short names of two models: of a run's directory or a file, or the whole paths if those are equal."""

    def short(path: str | Path) -> str:
        path = Path(path).absolute()
        return path.parent.name if path.name == MODEL_FILE else path.name.removesuffix(".safetensors")

    names = short(first), short(second)
    return names if names[0] != names[1] else (str(first), str(second))
