"""Paths as a person types them and as a command that can be pasted has them."""

import os
import re
import shlex

from makemore.core.system import on_windows


def expand_user(path: str) -> str:
    """The path with ``~`` replaced by the home directory: a shell leaves ``--out-dir=~/runs`` as it is."""
    return os.path.expanduser(path)


def quoted(path: object) -> str:
    """A path as a part of a command: in quotation marks if it has blanks or other special characters."""
    text = str(path)
    if on_windows():
        return text if re.fullmatch(r"[\w\\/:.~-]+", text) else f'"{text}"'
    return shlex.quote(text)
