"""The exercises: each check accepts the solution, and rejects the empty answer and typical mistakes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from check_hand_ins import EXERCISES, main, read_answers, read_cells, setup, verdicts

from makemore.backprop.derivatives import DERIVATIVES

SOLUTIONS = EXERCISES.with_name("solutions.ipynb")
NUMBERS = [*range(1, 13)]
TRAINED = 11
"""The exercise whose solution trains a network for some seconds."""

MISTAKES: list[tuple[int, str, str, str]] = [
    # The exercise, a part of the solution, what a student may write in its place, and what the check says.
    (1, "(32, 4, 68),  # (32, 4, 20) @ (20,", "(32, 80, 68),  # (", "b is not (32, 80, 68)"),
    (1, '"error",  # (32, 8, 10)', "(32, 4, 68),  # (32, 8, 10)", "c raises an error: 10 meets 20"),
    (
        1,
        '"error",  # (32, 4, 20)',
        "(32, 4, 68),  # (32, 4, 20)",
        "20 meets 20, but the batch dimensions are not equal",
    ),
    (1, "(32, 4, 1, 68)", "32", 'h should be a tuple such as (4, 200), or "error", not 32'),
    (1, "(32, 4, 1, 68)", "(32, 4, 68)", "h has 4 dimensions, not 3"),
    (1, "(5, 4, 3, 7)", '"error"', "e raises no error"),
    (2, "self.out.squeeze(1)", "self.out", "must become (4, 80), not (4, 1, 80)"),
    (2, "self.out.squeeze(1)", "self.out.squeeze()", "must become (1, 24), not (24,)"),
    (
        2,
        "x.reshape(B, T // self.n, C * self.n)",
        "torch.cat(x.chunk(self.n, dim=1), dim=2)",
        "position 1 must come after position 0",
    ),
    (2, "\n        return self.out", "", "the output is None: is a return missing?"),
    (3, "values_now = 32", "values_now = 128", "values_now: the mean is taken over dimension 0"),
    (3, "32 * 4", "32 * 8", "values_wanted: "),
    (3, "0 if x.ndim == 2 else (0, 1)", "0", "running_mean has the shape (1, 4, 6): it must have one"),
    (3, "0 if x.ndim == 2 else (0, 1)", "(0, 1)", "average (B, C) over dimension 0 only, 1 is the channels"),
    (
        3,
        "0 if x.ndim == 2 else (0, 1)",
        "0 if x.ndim == 2 else 1",
        "for (32, 4, 6) running_mean has the shape",
    ),
    (3, "var = x.var(dim, keepdim=True)", "var = x.var(0, keepdim=True)", "running_var has the shape"),
    (4, "with network.evaluating():", "with torch.no_grad():", "ValueError: BatchNorm1d(128) in training"),
    (4, "torch.tensor([context]))[0]", "torch.tensor(context))[0]", "wrong: "),
    (4, "torch.tensor([context]))[0]", "torch.tensor([context]))", "(27,), not (1, 27)"),
    (4, "with network.evaluating():", "if network.eval():", "in training mode was left in another mode"),
    (4, "evaluating():\n", "evaluating():\n        network.train()\n", "wrong: "),
    (
        4,
        "    with network.evaluating():\n        return network(torch.tensor([context]))[0]",
        "    return network(torch.tensor([context] * 32))[0]",
        "the logits of a network in training mode are wrong",
    ),
    (5, "range(4)", "range(3)", "a level is missing"),
    (5, "n_hidden, bias=False)", "n_hidden)", "look at sizes and biases"),
    (5, "    network.layers[-1].weight *= 0.1\n", "", "make the last layer less confident"),
    (5, "= 2 * 128 * 128 + 2 * 128", "= 2 * 128 * 128", "more_parameters is not 32,768"),
    (6, "dbeta = dy.sum(0)", "dbeta = dy.mean(0)", "dbeta differs"),
    (6, "dgamma = (dy * xhat)", "dgamma = (dy * x)", "dgamma differs"),
    (6, "dy - dy.mean(0) - xhat", "dy - xhat", "The part through the mean is missing"),
    (6, "/ (N - 1))", "/ N)", "look at the part through var"),
    (6, " - xhat * (dy * xhat).sum(0) / (N - 1)", "", "look at the part through var"),
    (6, "gamma * r * (", "r * (", "gamma is missing"),
    (7, " / (1 - self.p)", "", "must be divided by 0.8: 1 became 1"),
    (7, ">= self.p", "< self.p", "p is the probability to drop, not to keep"),
    (7, "torch.rand(x.shape)", "torch.rand(x.shape[1:])", "all examples have the same elements dropped"),
    (7, "torch.rand(x.shape)", "torch.rand(len(x), 1)", "whole examples are dropped"),
    (7, "if self.training:", "if True:", "in evaluation the output must be the input"),
    (7, "isinstance(layer, Tanh)", "isinstance(layer, Linear)", "the layers are Embedding"),
    (
        7,
        "    layers = []\n",
        "    layers = network.layers\n    network = Sequential(layers.copy())\n",
        "wrong: ",
    ),
    (8, "dilation *= 2", "dilation += 0", "the result should be (23, 27), not (27, 27)"),
    (8, "[earlier.T, later.T]", "[later.T, earlier.T]", "which half of a weight meets the earlier position?"),
    (8, "x = tanh(norm(x))", "x = tanh(x)", "What follows?"),
    (
        8,
        "    embedding, *levels, last = network.layers\n",
        "    return network(symbols.unfold(0, 8 if len(network.layers) == 14 else 16, 1))\n"
        "    embedding, *levels, last = network.layers\n",
        "the logits are right, but for the tree of 8 symbols F.conv1d should be called 3 times",
    ),
    (9, "[node] * 2**i", "[node]", "after 3 symbols are wrong: 1, 2 and 4 symbols ago"),
    (9, "[node] * 2**i", "[torch.zeros_like(node)] * 2**i", "the first logits are wrong"),
    (9, "[earlier.pop(0), node]", "[node, earlier.pop(0)]", "are wrong"),
    (
        9,
        "        node = self.embedding(torch.tensor([symbol]))\n",
        "        self.context = [*getattr(self, 'context', [0] * 7), symbol][-8:]\n"
        "        whole = [self.embedding, *[x for level in self.levels for x in\n"
        "                 [FlattenConsecutive(2), *level.layers]], self.last]\n"
        "        return Sequential(whole)(torch.tensor([self.context]))[0]\n"
        "        node = self.embedding(torch.tensor([symbol]))\n",
        "right logits, but 7 nodes are computed",
    ),
    (10, "chunk(2, dim=-1)", "chunk(2, dim=1)", "(5, 4, 8) must become (5, 4, 4), not (5, 2, 8)"),
    (10, "torch.tanh(f) * torch.sigmoid(g)", "torch.tanh(g) * torch.sigmoid(f)", "the halves are swapped"),
    (10, "torch.tanh(f) * torch.sigmoid(g)", "torch.sigmoid(f) * torch.sigmoid(g)", "not tanh times sigmoid"),
    (10, "channels = n_hidden", "channels = width", "ValueError: Linear("),
    (10, "width, bias=False)", "width)", "look at sizes and biases"),
    (10, "<= 76_579:", "<= 70_000:", "one more channel still fits"),
    (12, '    PARAMETERS = ("slope",)\n', "", "PARAMETERS must name the slope"),
    (12, "    pointwise = True\n", "", "does not declare yet that each position is computed on its own"),
    (
        12,
        "torch.where(x > 0, x, self.slope * x)",
        "torch.where(x > 0, x, 0.25 * x)",
        "the forward pass is wrong",
    ),
    (
        12,
        "torch.where(positive, dy, self.slope * dy)",
        "torch.where(positive, dy, 0)",
        "dx in PReLUDerivative",
    ),
    (12, ".masked_fill(positive, 0).sum(0)", ".sum(0)", "the derivative of the slope in PReLUDerivative"),
    (
        12,
        "        dx = torch.where(positive, dy, self.slope * dy)\n"
        "        self.slope_buffer.add_((dy * self.x).masked_fill(positive, 0).sum(0))\n",
        "        self.slope_buffer.add_((dy * self.x).masked_fill(positive, 0).sum(0))\n"
        "        dx = torch.where(positive, dy, self.slope * dy)\n",
        "compute dx before you add to slope_buffer",
    ),
    (12, "self.y.copy_(", "self.y = (", "does not fill the tensor self.y"),
    (12, "lambda layer: {", 'lambda layer: {"p": 1, ', "no model file can hold a PReLU"),
    (
        12,
        "register_layer(PReLU, lambda",
        "print(PReLU, lambda",
        "no model file can hold a PReLU yet, register it",
    ),
]


@pytest.fixture(scope="module")
def prepared() -> dict[str, Any]:
    return setup()


@pytest.fixture(autouse=True)
def derivatives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the derivatives of the students' layers after a test."""
    for kind, derivative in DERIVATIVES.copy().items():
        monkeypatch.setitem(DERIVATIVES, kind, derivative)


def verdict(prepared: dict[str, Any], number: int, source: str) -> str:
    (only,) = verdicts({number: source}, prepared)
    assert only[0] == number
    return only[1]


def test_both_notebooks_have_the_same_tasks_and_checks() -> None:
    own = re.compile("intro|answer|why")
    both = [read_cells(path) for path in (EXERCISES, SOLUTIONS)]
    shared = [
        [(c["id"], c["metadata"], c["source"]) for c in cells if not own.match(c["id"])] for cells in both
    ]
    assert shared[0] == shared[1]
    for path, cells in zip((EXERCISES, SOLUTIONS), both, strict=True):
        assert [*read_answers(path)] == NUMBERS
        order = [c["id"] for c in cells if c["id"].startswith(("task", "answer", "check"))]
        assert order == [f"{part}-{n:02}" for n in NUMBERS for part in ("task", "answer", "check")]


def test_every_exercise_has_a_folded_hint() -> None:
    tasks = [cell["source"] for cell in read_cells(EXERCISES) if cell["id"].startswith("task")]
    for number, task in zip(NUMBERS, tasks, strict=True):
        assert task.startswith(f"## {number}. ")
        assert re.search(r"<details><summary>Hint</summary>\n\n.+\n\n</details>$", task, re.DOTALL)


@pytest.mark.full
@pytest.mark.parametrize("number", NUMBERS)
def test_an_empty_answer_is_not_done_yet(number: int, prepared: dict[str, Any]) -> None:
    assert verdict(prepared, number, read_answers(EXERCISES)[number]).startswith("not done yet: ")


@pytest.mark.full
@pytest.mark.parametrize("number", [n for n in NUMBERS if n != TRAINED])
def test_a_solution_is_right(number: int, prepared: dict[str, Any]) -> None:
    assert verdict(prepared, number, read_answers(SOLUTIONS)[number]) == "right"


@pytest.mark.full
@pytest.mark.parametrize(("number", "part", "mistake", "message"), MISTAKES)
def test_a_mistake_is_named(
    number: int, part: str, mistake: str, message: str, prepared: dict[str, Any]
) -> None:
    solution = read_answers(SOLUTIONS)[number]
    assert part in solution
    said = verdict(prepared, number, solution.replace(part, mistake))
    assert said.startswith("wrong: ")
    assert message in said


@pytest.mark.full
@pytest.mark.parametrize(
    ("steps", "split", "message"),
    [(None, "train", "right"), (50, "train", "not below 2.295"), (None, "val", "too near train")],
)
def test_a_recipe(steps: int | None, split: str, message: str, prepared: dict[str, Any]) -> None:
    """The solution beats the bound; too few steps do not, and examples of the val split are noticed."""
    source = read_answers(SOLUTIONS)[TRAINED]
    if steps is not None:
        source = source.replace("steps=1000", f"steps={steps}")
    if split == "val":
        source = "data = data._replace(train=data.val)\n" + source
    assert re.search(message, verdict(prepared, TRAINED, source))


def test_an_answer_cannot_change_the_checks(prepared: dict[str, Any]) -> None:
    cheat = "check = lambda number: lambda test: verdicts.update({1: 'right'})\nshapes = {}\n"
    assert verdict(prepared, 1, cheat) == "wrong: KeyError: 'a', in the line\n    given(shapes[name], " + (
        """f'shapes["{name}"]')"""
    )
    assert "NameError" in verdict(prepared, 2, "MyFlattenConsecutive = unknown")


def test_an_error_names_the_line_of_the_answer(prepared: dict[str, Any]) -> None:
    source = read_answers(SOLUTIONS)[2].replace("B, T, C = x.shape", "B, T, C, n = x.shape")
    said = verdict(prepared, 2, source)
    assert said.startswith("wrong: ValueError: not enough values to unpack")
    assert said.endswith("in the line\n    B, T, C, n = x.shape")


@pytest.mark.full
def test_hand_ins_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = read_answers(SOLUTIONS)
    cells = [answers[1], "print('not an answer')", answers[3], read_answers(EXERCISES)[4]]
    good, endless, broken = (tmp_path / name for name in ("good.ipynb", "endless.ipynb", "broken.ipynb"))
    write(good, cells)
    write(endless, ["# Exercise 1: your answer\nwhile True:\n    pass"])
    broken.write_text("no notebook", encoding="utf-8")
    assert main([str(good)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{good}: 2 of 12 right"
    assert lines[1:3] == ["   2 no cell with an answer", "   4 not done yet: the result is still ..."]
    assert len(lines) == 11
    assert main(["--timeout", "10", str(endless), str(broken)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{endless}: could not be checked: not finished after 10 seconds"
    assert second.startswith(f"{broken}: could not be checked: json.decoder.JSONDecodeError")


def write(path: Path, sources: list[str]) -> None:
    cells = [
        {"cell_type": "code", "source": source, "metadata": {}, "outputs": [], "execution_count": None}
        for source in sources
    ]
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4}), encoding="utf-8")
