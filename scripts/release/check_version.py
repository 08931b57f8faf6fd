"""Check that a tag, pyproject.toml, CITATION.cff and CHANGELOG.md speak of the same version.

    python scripts/release/check_version.py v0.1.0

The release workflow runs it before it builds anything. Exits with 1 and one line a difference.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path


def differences(tag: str, clone: Path) -> Iterator[str]:
    """What has to be mended before the tag can be released."""
    version = tomllib.loads((clone / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    if tag != f"v{version}":
        yield f"the tag is {tag}, but pyproject.toml has version {version}: the tag must be v{version}"
    citation = (clone / "CITATION.cff").read_text(encoding="utf-8")
    if not re.search(rf"^version: {re.escape(version)}$", citation, re.MULTILINE):
        yield f"CITATION.cff has another version: it must be {version}"
    changelog = (clone / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## {re.escape(version)}, \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE):
        yield f"CHANGELOG.md has no heading '## {version}, YYYY-MM-DD': rename 'Unreleased'"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Check that a tag and the files name the same version.")
    parser.add_argument("tag", help="the tag to release, such as v0.1.0")
    args = parser.parse_args(argv)
    found = [*differences(args.tag, Path(__file__).resolve().parents[2])]
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
