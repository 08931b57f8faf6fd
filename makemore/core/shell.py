"""Paths as a person types them and as a command that can be pasted has them."""

import os
import shlex


def expand_user(path: str) -> str:
    """The path with ``~`` replaced by the home directory: a shell leaves ``--out-dir=~/runs`` as it is."""
    return os.path.expanduser(path)


def quoted(path: object) -> str:
    """A path as a part of a command: in quotation marks if it has blanks or other special characters."""
    text = str(path)
    if os.name == "nt":
        return f'"{text}"' if any(ch in text for ch in " &()^;,=") else text
    return shlex.quote(text)
