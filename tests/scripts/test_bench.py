"""The benchmarks run and print what they should. Their times are only meaningful on an idle machine."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import context_lengths
import engines
import evaluate_and_sample
import list_sizes
import processes
import pytest
import time_to_loss
import torch
import versions
from in_turns import Contestant, agreeing, compare
from torch import Generator, Tensor

from makemore.backprop.engine import BackpropEngine
from makemore.run.catalog import NETWORKS
from makemore.training.engine import AutogradEngine, Engine

BEFORE_THE_NEW_NAMES = "db5e197"
"""The last commit with the old layout of the package and its old names."""


def test_a_quick_comparison_of_the_engines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, threads = tmp_path / "benchmark.json", torch.get_num_threads()
    argv = ["--quick", "--no-compile", "--only", "steps", "gradients", "--batch-sizes", "4", "32"]
    assert engines.main([*argv, "--json", str(path)]) == 0
    assert torch.get_num_threads() == threads
    printed = capsys.readouterr().out
    assert printed.startswith("processor ")
    assert f"torch {torch.__version__}" in printed

    results = json.loads(path.read_text())
    assert set(results) == {"machine", "steps", "gradients"}
    for part, others in (("steps", {"torch.nn"}), ("gradients", set())):
        for batch_size in (4, 32):
            rows = {r["row"]: r for r in results[part] if r["title"].endswith(f"batch {batch_size}")}
            assert set(rows) == {*engines.ENGINES, "products", *others}
            for row in rows.values():
                assert 0 < row["q25"] <= row["us"] <= row["q75"]
            assert rows["autograd"]["speed to autograd"] == rows["products"]["to products"] == 1


@pytest.mark.full
def test_jax_takes_the_lectures_steps(capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise it drops out."""
    pytest.importorskip("jax")
    assert engines.main(["--quick", "--only", "steps", "--batch-sizes", "4"]) == 0
    assert "\n  JAX, compiled   " in capsys.readouterr().out


def test_jax_is_left_out_if_it_is_not_installed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    way = partial(engines.engine_steps, "autograd")
    monkeypatch.setattr(
        engines, "torch_steps", lambda network, compiled: way(network)
    )  # compiling takes long
    assert engines.main(["--quick", "--only", "steps", "--batch-sizes", "4"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("JAX is left out, as it is not installed: pip install") == 1
    assert "\n  JAX, compiled   " not in printed


@pytest.mark.full
@pytest.mark.usefixtures("peak_memory")
def test_lists_of_two_sizes(word_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list_sizes.main(["--sizes", "300", "20", "--data", str(word_file)]) == 0
    machine, titles, less, more, further = capsys.readouterr().out.splitlines()
    assert machine.startswith("processor ")
    assert titles.split() == "words s to the first step s a val loss s of all losses MB".split()
    assert [row.split()[0] for row in (less, more)] == ["20", "300"]
    assert 100 < float(more.split()[-1].replace(",", "")) < 1000
    assert further.startswith("from 20 to 300 words, a word: ")
    assert list_sizes.main(["--sizes", "6", "--data", str(word_file.parent)]) == 1


@pytest.mark.full
@pytest.mark.usefixtures("peak_memory")
def test_a_quick_evaluation_and_sampling(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--quick", "--data", str(word_file), "--json", str(tmp_path / "benchmark.json")]
    assert evaluate_and_sample.main(argv) == 0
    results = json.loads((tmp_path / "benchmark.json").read_text())
    assert {row["row"] for row in results["evaluation"]} == set(evaluate_and_sample.EVALUATIONS)
    assert all(row["peak_mb"] >= 0 for row in results["evaluation"])
    words = {row["row"]: row for row in results["sampling"]}
    assert {"the lecture's loop", "generate", "generate_scored", "log_likelihoods"} < set(words)
    assert words["generate"]["mean_length"] > 1
    assert [row["row"] for row in results["million"]] == ["sample", "sample with scores", "score"]
    assert "5,000 words, each task in a fresh process" in capsys.readouterr().out


@pytest.mark.full
@pytest.mark.usefixtures("peak_memory")
def test_a_quick_comparison_of_contexts(word_file: Path, tmp_path: Path) -> None:
    argv = [
        "--quick",
        "--data",
        str(word_file),
        "--contexts",
        "16",
        "--json",
        str(tmp_path / "benchmark.json"),
    ]
    assert context_lengths.main(argv) == 0
    tree, windows = json.loads((tmp_path / "benchmark.json").read_text())["passes"]
    assert (tree["row"], windows["row"]) == ("tree", "windows")
    assert min(tree["seconds"], windows["seconds"]) > 0
    assert tree["peak_mb"] > windows["peak_mb"]


@pytest.mark.full
def test_a_quick_training_to_the_val_loss(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command and the training in this process give the same val loss."""
    argv = ["--quick", "--only", "training", "--data", str(word_file)]
    assert time_to_loss.main([*argv, "--json", str(tmp_path / "benchmark.json")]) == 0
    rows = json.loads((tmp_path / "benchmark.json").read_text())["training"]
    assert [row["seed"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert row["faster"] == pytest.approx(row["notebook"] / row["seconds"])
        assert row["notebook"] > 20, "200,000 steps of 100 us or more"
    assert capsys.readouterr().out.count("val is not 1.9937 yet") == 3
    hurry = time_to_loss.HURRY | {"steps": 3}
    _, val = time_to_loss.our_command(str(word_file), hurry, seed=1)
    assert val == pytest.approx(rows[0]["val"], abs=6e-5)


@pytest.mark.full
def test_a_quick_comparison_of_two_processes(word_file: Path, tmp_path: Path) -> None:
    path, script = tmp_path / "benchmark.json", processes.__file__
    argv = ["--quick", "--data", word_file, "--batch-size", 64, "--n-hidden", 16, "--json", path]
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        script,
    ]
    done = subprocess.run([*torchrun, *map(str, argv)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("1 process") == done.stdout.count("2 processes") == 3
    results = json.loads(path.read_text())
    for name in processes.ENGINES:
        one, many = results[name]
        assert one["speed to one"] == 1
        assert min(one["us"], many["us"]) > 0


def test_several_processes_need_torchrun(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        processes.main([])
    assert "start it with torchrun" in capsys.readouterr().err


class WrongLosses(AutogradEngine):
    def sgd_steps(self, X: Tensor, Y: Tensor, lrs: Sequence[float]) -> Tensor:
        return super().sgd_steps(X, Y, [2 * lr for lr in lrs])


class WrongGradients(BackpropEngine):
    def gradients(self, X: Tensor, Y: Tensor, keep_mask: Tensor | None = None) -> Tensor:
        """Correct except for one number of one bias."""
        loss = super().gradients(X, Y, keep_mask)
        grad = self.network.parameters()[-1].grad
        assert grad is not None
        grad[0] *= 1.1
        return loss


class NoGradients(AutogradEngine):
    def gradients(self, X: Tensor, Y: Tensor, keep_mask: Tensor | None = None) -> Tensor:
        raise ValueError("cannot\nat all")


@pytest.mark.parametrize(
    ("part", "engine", "why"),
    [
        ("steps", WrongLosses, "it is off by "),
        ("gradients", WrongGradients, "it is off by "),
        ("gradients", NoGradients, "ValueError: cannot\n"),
    ],
)
@pytest.mark.parametrize("name", ["backprop", "another one"])
def test_a_wrong_contestant_drops_out(
    part: str,
    engine: type[Engine],
    why: str,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(engines.ENGINES, name, engine)
    assert engines.main(["--quick", "--no-compile", "--only", part, "--batch-sizes", "32"]) == 0
    printed = capsys.readouterr().out
    assert f"\n  {name} drops out: {why}" in printed
    assert f"\n  {name}   " not in printed
    assert ("speed to backprop" in printed) == (name != "backprop")
    assert "\n  autograd   " in printed


def test_each_contestant_has_its_judge(capsys: pytest.CaptureFixture[str]) -> None:
    judges = {"near": ("judge", 1.0), "nearer": ("near", 0.1), "far": ("near", 0.1), "lost": ("far", 9.0)}
    values = {
        "judge": 0.0,
        "near": 0.5,
        "nearer": 0.55,
        "far": 0.0,
        "lost": 0.0,
        "nan": float("nan"),
        "same": 0.0,
    }
    contestants = {name: partial(torch.full, (2,), value) for name, value in values.items()}
    assert agreeing(contestants, tolerance=1e-3, judges=judges) == ["judge", "near", "nearer", "same"]
    assert capsys.readouterr().out.splitlines() == [
        "  far drops out: it is off by 5.0e-01",
        "  lost drops out: KeyError: 'far'",
        "  nan drops out: it is off by nan",
    ]


def test_torchs_layers_are_the_network_except_for_batchnorms_variance() -> None:
    network = NETWORKS["wavenet"].build(27, Generator().manual_seed(1))
    module = engines.torch_network(network)
    X = torch.randint(0, 27, (4096, 8), generator=Generator().manual_seed(2))
    torch.testing.assert_close(module(X), network(X), rtol=0, atol=2e-3)


def test_the_products_are_those_of_a_training_step() -> None:
    """torch counts 2 * rows * fan_in * fan_out for each of the three products of a Linear in a step."""
    from torch.utils.flop_counter import FlopCounterMode

    network = NETWORKS["wavenet"].build(27, Generator().manual_seed(1))
    X = torch.zeros((32, 8), dtype=torch.int64)
    multiply, steps, _ = engines.products(network, X, 5)
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode(False):
        multiply()
    rows = [32 * 4, 32 * 2, 32, 32]
    sizes = [(48, 128), (256, 128), (256, 128), (128, 27)]
    assert counter.get_total_flops() == steps * sum(
        6 * n * a * b for n, (a, b) in zip(rows, sizes, strict=True)
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--only speed", "invalid choice: 'speed'"),
        ("--rounds 0", "'0' is not an integer of 1 or more"),
        ("--batch-sizes 32 1", "'1' is not an integer of 2 or more"),
        ("--batch-sizes many", "'many' is not an integer of 2 or more"),
    ],
)
def test_impossible_flags_are_refused(flags: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        engines.main(flags.split())
    assert message in capsys.readouterr().err


def git_has(commit: str) -> bool:
    git = ["git", "-C", str(versions.ROOT), "archive", commit, "README.md"]
    return shutil.which("git") is not None and subprocess.run(git, capture_output=True).returncode == 0


@pytest.mark.full
@pytest.mark.parametrize(
    ("commit", "parts"), [("HEAD", ["gradients"]), (BEFORE_THE_NEW_NAMES, ["gradients", "command"])]
)
def test_this_version_against_earlier_ones(
    commit: str, parts: list[str], word_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not git_has(commit):
        pytest.skip(f"there is no git repository with {commit}")
    argv = [commit, "--quick", "--data", str(word_file), "--batch-sizes", "8", "--seeds", "1"]
    assert versions.main([*argv, "--only", *parts, "--cpu-time"]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"gradients, batch 8 .*\n  {commit} .*1\.00x\n  this version ", out)
    if "command" in parts:
        before, now = map(float, re.findall(r"val of .+? ([0-9.]+)", out))
        # Few words have had other settings since: several networks, and smoothed targets.
        assert now == pytest.approx(before, rel=0.1)


def test_cpu_time_leaves_out_waiting_and_counts_other_processes(capsys: pytest.CaptureFixture[str]) -> None:
    compute = "sum(range(4_000_000))"
    contestants = {
        "waits": Contestant(partial(time.sleep, 0.2), 1),
        "computes": Contestant(partial(eval, compute), 1),
        "a child computes": Contestant(partial(subprocess.run, [sys.executable, "-c", compute]), 1),
        "its own clock": Contestant(partial(time.sleep, 0.01), 1, cpu_clock=iter(range(100)).__next__),
    }
    cpu = {row["row"]: row["us"] for row in compare("title", contestants, 2, cpu_time=True)}
    wall = {row["row"]: row["us"] for row in compare("title", contestants, 2)}
    out = capsys.readouterr().out
    assert ["CPU us each" in line for line in out.splitlines() if "title" in line] == [True, False]
    assert cpu["waits"] < 5e4 < 2e5 <= wall["waits"]
    assert min(cpu["computes"], cpu["a child computes"]) > 1e4
    assert cpu["its own clock"] == 1e6
    assert wall["its own clock"] < 1e6


def test_an_unknown_commit_is_refused() -> None:
    if not git_has("HEAD"):
        pytest.skip("there is no git repository")
    with pytest.raises(SystemExit, match="no-such-commit: "):
        versions.main(["no-such-commit"])
