"""Check notebooks of solved exercises: python scripts/teaching/check_hand_ins.py HAND_IN.ipynb ...

Of each notebook only the answers are taken: the cells that begin with "# Exercise 1: your answer" and so on.
They are checked by docs/exercises/exercises.ipynb as it is here: a check that a student changed is not used.
Prints how many answers are right, and what the check says of each other one.

Each notebook is run in a process of its own, which is ended after ``--timeout`` seconds. That protects from
endless loops and from nothing else: the answers are programs. Run those that you do not trust in a container.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import linecache
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

EXERCISES = Path(__file__).resolve().parents[2] / "docs" / "exercises" / "exercises.ipynb"

FIRST_LINE = re.compile(r"# Exercise (\d+): your answer")

SETUP = "install", "setup", "machinery"
"""The cells that every exercise needs, by their ids."""


def read_cells(path: Path) -> list[dict[str, Any]]:
    """The cells of a notebook, each with its source as one text."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in cells]


def read_answers(path: Path) -> dict[int, str]:
    """The answers in a notebook by the number of the exercise; of several, the last."""
    found: dict[int, str] = {}
    for cell in read_cells(path):
        match = FIRST_LINE.match(cell["source"].lstrip())
        if cell["cell_type"] == "code" and match:
            found[int(match[1])] = cell["source"]
    return found


def run_cell(source: str, name: str, namespace: dict[str, Any]) -> None:
    """Run a cell. Its lines can be found by ``traceback``, as in a notebook."""
    linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
    exec(compile(source, name, "exec"), namespace)


def setup() -> dict[str, Any]:
    """The names that the exercises begin with."""
    cells = {cell["id"]: cell["source"] for cell in read_cells(EXERCISES) if "id" in cell}
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for name in SETUP:
        run_cell(cells[name], f"<{name}>", namespace)
    return namespace


def verdicts(answers: Mapping[int, str], prepared: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """The number of each exercise that has an answer, and what its check says.

    ``prepared`` is what ``setup`` returns. An answer has a copy of it, and cannot change what the checks or
    other answers use.
    """
    cells = {cell.get("id"): cell["source"] for cell in read_cells(EXERCISES)}
    for number, source in sorted(answers.items()):
        if f"check-{number:02}" not in cells:
            continue
        namespace = dict(prepared)
        try:
            run_cell(source, f"<answer {number}>", namespace)
        except Exception as error:
            yield number, f"wrong: the cell raises {type(error).__name__}: {error}"
            continue
        namespace.update(prepared)
        run_cell(cells[f"check-{number:02}"], f"<check {number}>", namespace)
        yield number, prepared["verdicts"][number]


def report(path: Path) -> dict[int, str]:
    """The verdict on each answer in a notebook. What the answers print is not shown."""
    with contextlib.redirect_stdout(io.StringIO()):
        return dict(verdicts(read_answers(path), setup()))


def in_a_process(path: Path, timeout: float) -> dict[int, str] | str:
    """``report`` in a new process, or why there is none."""
    command = [sys.executable, __file__, "--json", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=timeout)
    except subprocess.TimeoutExpired:
        return f"not finished after {timeout:g} seconds"
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or ["no message"])[-1]
    return {int(number): verdict for number, verdict in json.loads(done.stdout).items()}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("hand_ins", nargs="+", type=Path, metavar="HAND_IN.ipynb")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for a notebook; default 300")
    parser.add_argument("--json", action="store_true", help="run one notebook here, and print JSON")
    arguments = parser.parse_args(argv)
    if arguments.json:
        print(json.dumps(report(arguments.hand_ins[0])))
        return 0
    numbers = [int(match[1]) for cell in read_cells(EXERCISES) if (match := FIRST_LINE.match(cell["source"]))]
    for path in arguments.hand_ins:
        said = in_a_process(path, arguments.timeout)
        if isinstance(said, str):
            print(f"{path}: could not be checked: {said}")
            continue
        right = sum(verdict == "right" for verdict in said.values())
        print(f"{path}: {right} of {len(numbers)} right")
        for number in numbers:
            verdict = said.get(number, "no cell with an answer")
            if verdict != "right":
                print(f"  {number:2} {verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
