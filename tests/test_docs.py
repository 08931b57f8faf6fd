"""README and docs/: links lead somewhere, flags exist, and the Python code runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "scripts" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

COMMANDS = ("train", "sample", "draw", "page", "export", "search")
TORCHRUN = "nproc-per-node nnodes node-rank master-addr local-addr max-restarts"
RENDEZVOUS = "rdzv-backend rdzv-conf rdzv-endpoint"
OTHER_FLAGS = {*(f"--{name}" for name in f"{TORCHRUN} {RENDEZVOUS} logdir".split())}
"""Flags of torchrun and tensorboard."""


def flags_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text))


@pytest.fixture(scope="module")
def known_flags() -> set[str]:
    """The flags of all commands and scripts."""
    known = set(OTHER_FLAGS)
    for command in COMMANDS:
        argv = [sys.executable, "-m", "makemore", command, "--help"]
        known |= flags_in(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    for script in (ROOT / "scripts").rglob("*.py"):
        known |= set(re.findall(r'"(--[a-z0-9-]+)"', script.read_text(encoding="utf-8")))
    return known


@PAGE
def test_flags_exist(page: Path, known_flags: set[str]) -> None:
    assert flags_in(page.read_text(encoding="utf-8")) - known_flags == set()


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@PAGE
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            name, _, anchor = target.partition("#")
            other = page.parent / name if name else page
            assert other.is_file(), target
            assert not anchor or anchor in anchors(other), target


@PAGE
def test_scripts_exist(page: Path) -> None:
    for name in re.findall(r"scripts/[\w/]+\.py", page.read_text(encoding="utf-8")):
        assert (ROOT / name).is_file(), name


@pytest.mark.full
@pytest.mark.parametrize("name", ["README.md", "docs/EXPORT.md", "docs/PICTURES.md"])
def test_python_code_runs(name: str, tmp_path: Path) -> None:
    """All Python blocks of a page, one after another, in a new directory."""
    text = (ROOT / name).read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    assert code
    for package in ("onnx", "onnxscript", "onnxruntime", "accelerate"):
        if package in code or (package == "onnxscript" and "onnx" in code):
            pytest.importorskip(package)
    if name == "README.md":
        code = code.replace("10_000", "200").replace("7_500", "150")
        names = (ROOT / "names.txt").read_text(encoding="utf-8").split("\n")[:2000]
        (tmp_path / "words.txt").write_text("\n".join(names), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
