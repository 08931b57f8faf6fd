"""What is printed: on a terminal, control characters are shown and not sent.

A word of a stranger's list or model may contain the escape sequence that recolors a terminal or rewrites its
title. In a file or a pipe every character is kept.
"""

from __future__ import annotations

import sys
from typing import TextIO

from makemore.core.text import show_controls


def printable(text: str, stream: TextIO) -> str:
    """The text as it is written to a stream: with escapes for control characters if that is a terminal."""
    return show_controls(text) if stream.isatty() else text


def say(text: str = "", stream: TextIO | None = None, end: str = "\n") -> None:
    """Print a text, by default on stdout, and flush it. All of makemore's printing goes through here."""
    stream = sys.stdout if stream is None else stream
    print(printable(text, stream), end=end, file=stream, flush=True)
