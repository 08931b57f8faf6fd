"""What ``makemore-page`` does: a model as a page for any browser (beyond the lecture)."""

from __future__ import annotations

import sys
from pathlib import Path

from makemore.commands.models import known_words, open_model
from makemore.errors import DataError, UsageError
from makemore.files import writing_whole
from makemore.page import page_html

COMMAND = "makemore-page"


def page(target: Path, path: Path | None, data: str | None, without_words: bool) -> None:
    """Write the page of ``open_model``'s model, with the words it was trained on unless told otherwise.

    Without ``data``, a list that is not at hand any more is left out, which is told on stderr. Raises
    ModelFileError, UsageError on a network that no page can be made of, and WriteError.
    """
    opened = open_model(path, COMMAND)
    words, source = list[str](), ""
    if not without_words:
        try:
            known = known_words(opened, data)
            words, source = known.words, Path(known.source).name
        except (DataError, UsageError) as error:
            if data is not None:
                raise
            print(f"{COMMAND}: the page cannot tell which words are new: {error}", file=sys.stderr)
    content = page_html(opened.model, words, source).encode(errors="replace")
    with writing_whole(target) as file:
        file.write(content)
    print(f"wrote {target}, {len(content) / 1000:,.0f} KB: open it in a browser")
