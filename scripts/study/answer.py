"""Ends a script as the package's commands end: an error is one line on stderr and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from makemore.commands.cli import code_and_message
from makemore.core.errors import MakemoreError


def answer(main: Callable[[], int]) -> NoReturn:
    """Call the ``main`` of a script and exit."""
    try:
        sys.exit(main())
    except (MakemoreError, OSError) as error:
        code, message = code_and_message(error)
        print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
        sys.exit(code)
