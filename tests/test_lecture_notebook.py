"""docs/lecture.ipynb, apart from running it, which CI does by nbval."""

from __future__ import annotations

import ast
import builtins
import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "lecture.ipynb"
CELLS: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = {cell["id"]: "".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"}
TEXT = "\n\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")


def bound_names(code: str) -> set[str]:
    """The names that a cell leaves behind: assigned, imported or defined outside its functions."""
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                names.add(node.name)
                return
            case ast.Lambda() | ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                return
            case ast.Import() | ast.ImportFrom():
                names.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
            case ast.Name(ctx=ast.Store()):
                names.add(node.id)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(code))
    return names


def test_no_name_means_two_things() -> None:
    """A name is bound in one cell only, and hides no built-in."""
    cells = defaultdict(list)
    for cell, code in CODE.items():
        for name in bound_names(code) - {"_"}:
            cells[name].append(cell)
    assert {name: where for name, where in cells.items() if len(where) > 1} == {}
    assert cells.keys() & {"*", *dir(builtins)} == set()


def test_what_the_text_names_exists() -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXT):
        assert "://" in target or (NOTEBOOK.parent / target.partition("#")[0]).is_file(), target
    for name in re.findall(r"\b(?:docs|makemore)/[\w/]+\.\w+", TEXT):
        assert (ROOT / name).is_file(), name


def test_the_log_has_the_figures_of_the_results() -> None:
    results = {}
    for line in (NOTEBOOK.parent / "RESULTS.md").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\| ([\w-]+), lecture \|", line):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            train, val = (cells[i].partition(" ")[0] for i in (4, 5))
            results[match[1].replace("-", "_")] = [cells[1], cells[-1], f"{train} / {val}"]
    log = {}
    for line in TEXT.splitlines():
        if match := re.match(r"\|[^|]+\| `(\w+)` \|", line):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            log[match[1]] = cells[3:]
    assert log == results
    assert len(log) == 5


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python in an environment without the package, and without pip, so that nothing can be installed."""
    place = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    return place / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


@pytest.mark.parametrize("where", ["elsewhere", "in a clone", "beside a clone"])
def test_the_first_cell_says_why_it_cannot_install(where: str, bare_python: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    if where != "elsewhere":
        (clone / "makemore" / "lecture").mkdir(parents=True)
        (clone / "docs").mkdir()
    cwd = clone / "docs" if where == "in a clone" else tmp_path
    argv = [str(bare_python), "-I", "-c", CODE["install"]]
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    wanted = "makemore-wavenet" if where == "elsewhere" else str(clone)
    assert f"pip could not install {wanted}:\n" in done.stderr
    assert "No module named pip" in done.stderr
    assert ("Put a clone of the repository" in done.stderr) == (where == "elsewhere")
