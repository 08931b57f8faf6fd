"""A list of longer lines: the docstrings of Python's own library, paragraphs of 50 to 500 characters.

    python scripts/docstring_lines.py lines.txt

For trying contexts of more than a few characters, as ``docs/LONG.md`` does. The text is Python's, under its
licence; it is read from the Python that runs this, and is not part of the package.
"""

from __future__ import annotations

import argparse
import ast
import sysconfig
import warnings
from collections.abc import Iterator
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
    """All paragraphs of a fitting length, each once, in the order of their files."""
    warnings.simplefilter("ignore")  # invalid escapes in old modules
    found: dict[str, None] = {}
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        if not {"site-packages", "test", "tests", "idlelib"} & set(path.relative_to(library).parts):
            try:
                found |= dict.fromkeys(paragraphs(path.read_text(encoding="utf-8")))
            except (SyntaxError, UnicodeDecodeError, ValueError):
                continue  # there are modules for other versions, and broken ones for tests
    return [line for line in found if SHORTEST <= len(line) <= LONGEST]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a list of the paragraphs in Python's docstrings.")
    parser.add_argument("path", type=Path)
    path = parser.parse_args().path
    written = lines()
    path.write_text("\n".join(written) + "\n", encoding="utf-8")
    print(f"wrote {path}: {len(written):,} lines, {sum(map(len, written)):,} characters")


if __name__ == "__main__":
    main()
