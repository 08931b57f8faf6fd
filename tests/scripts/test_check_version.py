"""The versions in the files of a release."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from check_version import differences, main

CLONE = Path(__file__).parents[2]

FILES = {
    "pyproject.toml": '[project]\nversion = "1.2.0"\n',
    "CITATION.cff": "cff-version: 1.2.0\nversion: 1.2.0\n",
    "CHANGELOG.md": "# Changelog\n\n## 1.2.0, 2030-01-31\n\n- Something.\n",
}


@pytest.mark.parametrize(
    ("tag", "file", "text", "message"),
    [
        ("v1.2.0", "", "", ""),
        ("1.2.0", "", "", "the tag must be v1.2.0"),
        ("v1.2.1", "", "", "pyproject.toml has version 1.2.0"),
        ("v1.2.0", "CITATION.cff", "version: 1.1.0\n", "CITATION.cff has another version"),
        ("v1.2.0", "CHANGELOG.md", "## Unreleased\n\n## 1.1.0, 2029-01-31\n", "has no heading '## 1.2.0, "),
    ],
)
def test_all_files_must_name_the_version(
    tag: str, file: str, text: str, message: str, tmp_path: Path
) -> None:
    for name, content in (FILES | {file: text} if file else FILES).items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    found = [*differences(tag, tmp_path)]
    assert len(found) == (message != "")
    assert message in "".join(found)


def test_a_wrong_tag_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["v999"]) == 1
    assert "the tag is v999" in capsys.readouterr().err


def test_citation_and_changelog_are_of_this_version() -> None:
    version = tomllib.loads((CLONE / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    found = [*differences(f"v{version}", CLONE)]
    assert not found or "## Unreleased" in (CLONE / "CHANGELOG.md").read_text(encoding="utf-8")
    assert [line for line in found if "CHANGELOG" not in line] == []
