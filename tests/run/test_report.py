"""The header of a run: what it says about the engine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from makemore.backprop.derivatives import DERIVATIVES, TanhDerivative
from makemore.commands.cli import train_main
from makemore.core.layer import Layer
from makemore.lecture.layers import Tanh
from makemore.paper.networks import hierarchical
from makemore.run.architecture import register_layer
from makemore.run.catalog import NETWORKS, Plan


class SilentTanh(Tanh):
    """A layer with a derivative that declares nothing: declarations are not inherited."""


def with_silent_layers(vocab_size: int, block_size: int, n_embd: int, n_hidden: int) -> list[Layer]:
    layers = hierarchical(vocab_size, block_size, n_embd, n_hidden)
    return [SilentTanh() if isinstance(layer, Tanh) else layer for layer in layers]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS, "silent", Plan("silent", 8, 24, 128, with_silent_layers))
    register_layer(SilentTanh)
    monkeypatch.setitem(DERIVATIVES, SilentTanh, TanhDerivative)


def engine_lines(capsys: pytest.CaptureFixture[str], word_file: Path, out_dir: Path, *flags: str) -> str:
    """The "engine" entry of the header of a run of one step."""
    common = ["--recipe", "lecture", "--steps", "1", "--samples", "0", "--device", "cpu"]
    argv = [*common, "--data", str(word_file), "--out-dir", str(out_dir), *flags]
    assert train_main(argv) == 0
    found = re.search(r"^engine    (.*\n(?: {10}.*\n)*)seed ", capsys.readouterr().out, re.MULTILINE)
    assert found is not None
    return re.sub(r"\n {10}", "\n", found[1])


@pytest.mark.full
@pytest.mark.parametrize("more", [[], ["--ensemble", "2"], ["--record-every", "1"]])
@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--batch-size", "1024"], "repeated windows computed once"),
        (
            ["--batch-size", "1024", "--network", "dropout"],
            "repeated windows computed once; random layers draw once for each",
        ),
        (
            ["--batch-size", "1024", "--network", "silent"],
            "plain steps, as SilentTanh() does not declare that equal windows give equal outputs",
        ),
        (
            ["--batch-size", "1024", "--network", "hierarchical-bug"],
            "plain steps, as HistoricBatchNorm1d(68) does not declare that equal windows give equal outputs",
        ),
        ([], "plain steps, as batch and network are too small to gain from distinct windows"),
    ],
)
def test_the_header_says_how_the_windows_engine_computes(
    flags: list[str],
    line: str,
    more: list[str],
    word_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = engine_lines(capsys, word_file, tmp_path, *flags, *more)
    assert found == f"windows on cpu, CPU threads 1\n{line}\n"


@pytest.mark.parametrize("engine", ["backprop", "autograd"])
def test_the_other_engines_always_compute_in_the_same_way(
    engine: str, word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = engine_lines(capsys, word_file, tmp_path, "--engine", engine)
    assert found == f"{engine} on cpu, CPU threads 1\n"
