"""Write a list of longer lines: the paragraphs of Python's docstrings, of 50 to 500 characters.

    python scripts/study/docstring_lines.py lines.txt

For contexts of more than a few characters, as in docs/LONG.md. The text belongs to Python and has its
license. It is read from the Python that runs this script; it is not part of the package.
"""

from __future__ import annotations

import argparse
import ast
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

SHORTEST, LONGEST = 50, 500


def paragraphs(source: str) -> Iterator[str]:
    """The paragraphs of all docstrings of a module, each as one line of printable ASCII."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
                line = " ".join(paragraph.split())
                if line.isascii() and line.isprintable() and not line.startswith(">>>"):
                    yield line


def lines() -> list[str]:
    """All paragraphs of 50 to 500 characters, without duplicates, in the order of their files."""
    found: dict[str, None] = {}
    library = Path(sysconfig.get_path("stdlib"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in old modules
        for path in sorted(library.rglob("*.py")):
            if not {"site-packages", "test", "tests", "idlelib"} & set(path.relative_to(library).parts):
                try:
                    found |= dict.fromkeys(paragraphs(path.read_text(encoding="utf-8")))
                except (SyntaxError, ValueError):
                    continue  # modules for other versions, and broken ones for tests
    return [line for line in found if SHORTEST <= len(line) <= LONGEST]


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("path", type=Path, help="file to write")
    path = parser.parse_args(argv).path
    written = lines()
    path.write_text("\n".join(written) + "\n", encoding="utf-8")
    print(f"wrote {path}: {len(written):,} lines, {sum(map(len, written)):,} characters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
