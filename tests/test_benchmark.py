"""The benchmark script runs and says what it should; its figures are for machines that do nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import benchmark
import benchmark_lists
import benchmark_long
import benchmark_processes
import benchmark_to_val
import benchmark_versions
import benchmark_words
import long_contexts
import pytest
import torch
from in_turns import right
from torch import Generator, Tensor

from makemore.backprop import BackpropEngine
from makemore.networks import NETWORKS
from makemore.training import AutogradEngine, Engine


def test_a_quick_run_prints_and_writes_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, threads = tmp_path / "benchmark.json", torch.get_num_threads()
    argv = ["--quick", "--no-compile", "--only", "steps", "gradients", "--batch-sizes", "4", "32"]
    assert benchmark.main([*argv, "--json", str(path)]) == 0
    assert torch.get_num_threads() == threads
    printed = capsys.readouterr().out
    assert printed.startswith("processor ")
    assert f"torch {torch.__version__}" in printed

    results = json.loads(path.read_text())
    assert set(results) == {"machine", "steps", "gradients"}
    for part, others in (("steps", {"torch.nn"}), ("gradients", set())):
        for batch_size in (4, 32):
            rows = {r["row"]: r for r in results[part] if r["title"].endswith(f"batch {batch_size}")}
            assert set(rows) == {*benchmark.ENGINES, "products", *others}
            for row in rows.values():
                assert 0 < row["q25"] <= row["us"] <= row["q75"]
            assert rows["autograd"]["speed to autograd"] == rows["products"]["to products"] == 1


@pytest.mark.usefixtures("peak_memory")
def test_lists_of_two_lengths(word_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark_lists.main(["--sizes", "300", "20", "--data", str(word_file)]) == 0
    machine, titles, less, more, further = capsys.readouterr().out.splitlines()
    assert machine.startswith("processor ")
    assert titles.split() == "words s to the first step s a val loss s of all losses MB".split()
    assert [row.split()[0] for row in (less, more)] == ["20", "300"]
    assert 100 < float(more.split()[-1].replace(",", "")) < 1000
    assert further.startswith("from 20 to 300 words, a word: ")
    assert benchmark_lists.main(["--sizes", "6", "--data", str(word_file.parent)]) == 1


@pytest.mark.usefixtures("peak_memory")
def test_a_quick_run_of_the_words(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--quick", "--data", str(word_file), "--json", str(tmp_path / "benchmark.json")]
    assert benchmark_words.main(argv) == 0
    results = json.loads((tmp_path / "benchmark.json").read_text())
    assert {row["row"] for row in results["evaluation"]} == set(benchmark_words.WAYS)
    assert all(row["peak_mb"] >= 0 for row in results["evaluation"])
    words = {row["row"]: row for row in results["sampling"]}
    assert {"the lecture's loop", "generate", "generate_scored", "log_likelihoods"} < set(words)
    assert words["generate"]["mean_length"] > 1
    assert [row["row"] for row in results["million"]] == ["sample", "sample with scores", "score"]
    assert "5,000 words, each way in a fresh process" in capsys.readouterr().out


@pytest.mark.usefixtures("peak_memory")
def test_a_quick_run_of_long_contexts(word_file: Path, tmp_path: Path) -> None:
    argv = [
        "--quick",
        "--data",
        str(word_file),
        "--contexts",
        "16",
        "--json",
        str(tmp_path / "benchmark.json"),
    ]
    assert benchmark_long.main(argv) == 0
    tree, windows = json.loads((tmp_path / "benchmark.json").read_text())["passes"]
    assert (tree["row"], windows["row"]) == ("tree", "windows")
    assert min(tree["seconds"], windows["seconds"]) > 0
    assert tree["peak_mb"] > windows["peak_mb"]


def test_a_quick_run_to_the_val_loss(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ours as a command trains what it trains here."""
    argv = ["--quick", "--only", "training", "--data", str(word_file)]
    assert benchmark_to_val.main([*argv, "--json", str(tmp_path / "benchmark.json")]) == 0
    rows = json.loads((tmp_path / "benchmark.json").read_text())["training"]
    assert [row["seed"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert row["faster"] == pytest.approx(row["notebook"] / row["seconds"])
        assert row["notebook"] > 20, "200,000 steps of 100 us or more"
    assert capsys.readouterr().out.count("val is not 1.9937 yet") == 3
    hurry = benchmark_to_val.HURRY | {"steps": 3}
    _, val = benchmark_to_val.our_command(str(word_file), hurry, 1)
    assert val == pytest.approx(rows[0]["val"], abs=6e-5)


@pytest.mark.slow
def test_a_quick_run_on_two_processes(word_file: Path, tmp_path: Path) -> None:
    path, script = tmp_path / "benchmark.json", benchmark_processes.__file__
    argv = ["--quick", "--data", word_file, "--batch-size", 64, "--n-hidden", 16, "--json", path]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    done = subprocess.run([*start, *map(str, argv)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("1 process") == done.stdout.count("2 processes") == 3
    results = json.loads(path.read_text())
    for name in benchmark_processes.ENGINES:
        one, many = results[name]
        assert one["speed to one"] == 1
        assert min(one["us"], many["us"]) > 0


def test_many_processes_need_torchrun(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        benchmark_processes.main([])
    assert "start it by torchrun" in capsys.readouterr().err


def test_long_contexts_are_trained_once_and_drawn(
    word_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(long_contexts, "RUNS", [("wavenet", 16), ("wavenet-paper", 8)])
    monkeypatch.setattr(long_contexts, "lines", word_file.read_text(encoding="utf-8").split)
    long_contexts.main([str(tmp_path), "--steps", "3"])
    table = capfd.readouterr().out[-500:].splitlines()[-4:]
    assert [row.split(" | ")[:2] for row in table[2:]] == [["| wavenet", "16"], ["| wavenet-paper", "8"]]
    assert (tmp_path / "long.png").read_bytes().startswith(b"\x89PNG")
    long_contexts.main([str(tmp_path), "--steps", "3"])
    assert capfd.readouterr().out.splitlines() == table, "nothing is trained again"


class WrongLosses(AutogradEngine):
    def sgd_steps(self, X: Tensor, Y: Tensor, lrs: Sequence[float]) -> Tensor:
        return super().sgd_steps(X, Y, [2 * lr for lr in lrs])


class WrongGradients(BackpropEngine):
    def gradients(self, X: Tensor, Y: Tensor, keep: Tensor | None = None) -> Tensor:
        """Right but for one number of one bias."""
        loss = super().gradients(X, Y, keep)
        grad = self.network.parameters()[-1].grad
        assert grad is not None
        grad[0] *= 1.1
        return loss


class NoGradients(AutogradEngine):
    def gradients(self, X: Tensor, Y: Tensor, keep: Tensor | None = None) -> Tensor:
        raise ValueError("cannot\nat all")


@pytest.mark.parametrize(
    ("part", "engine", "why"),
    [
        ("steps", WrongLosses, "it is off by "),
        ("gradients", WrongGradients, "it is off by "),
        ("gradients", NoGradients, "ValueError: cannot\n"),
    ],
)
@pytest.mark.parametrize("name", ["backprop", "one of your own"])
def test_a_wrong_contestant_drops_out(
    part: str,
    engine: type[Engine],
    why: str,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(benchmark.ENGINES, name, engine)
    assert benchmark.main(["--quick", "--no-compile", "--only", part, "--batch-sizes", "32"]) == 0
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
    assert right(contestants, tolerance=1e-3, judges=judges) == ["judge", "near", "nearer", "same"]
    assert capsys.readouterr().out.splitlines() == [
        "  far drops out: it is off by 5.0e-01",
        "  lost drops out: KeyError: 'far'",
        "  nan drops out: it is off by nan",
    ]


def test_the_module_is_the_network_but_for_its_batchnorm() -> None:
    network = NETWORKS["wavenet"].build(27, Generator().manual_seed(1))
    module = torch.nn.Sequential(*map(benchmark.as_module, network.layers))
    X = torch.randint(0, 27, (4096, 8), generator=Generator().manual_seed(2))
    torch.testing.assert_close(module(X), network(X), rtol=0, atol=2e-3)


def test_the_products_are_those_of_a_step() -> None:
    """Counted by torch: 2 * rows * fan_in * fan_out for each of three products a Linear, each step."""
    from torch.utils.flop_counter import FlopCounterMode

    network = NETWORKS["wavenet"].build(27, Generator().manual_seed(1))
    X = torch.zeros((32, 8), dtype=torch.int64)
    run, steps = benchmark.products(network, X, 5)
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode(False):
        run()
    rows = [32 * 4, 32 * 2, 32, 32]
    sizes = [(48, 128), (256, 128), (256, 128), (128, 27)]
    assert counter.get_total_flops() == steps * sum(
        6 * n * a * b for n, (a, b) in zip(rows, sizes, strict=True)
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--only speed", "invalid choice: 'speed'"),
        ("--rounds 0", "'0' is not an integer of 1 or more"),
        ("--batch-sizes 32 1", "'1' is not an integer of 2 or more"),
        ("--batch-sizes many", "'many' is not an integer of 2 or more"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    flags: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        benchmark.main(flags.split())
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_this_version_against_the_last_commit(word_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git = ["git", "-C", benchmark_versions.ROOT, "archive", "HEAD", "README.md"]
    if shutil.which("git") is None or subprocess.run(git, capture_output=True).returncode:
        pytest.skip("this is no repository of git's")
    argv = ["HEAD", "--quick", "--data", str(word_file), "--batch-sizes", "8", "--seeds", "1"]
    assert benchmark_versions.main(argv) == 0
    out = capsys.readouterr().out
    assert re.search(r"gradients, batch 8 .*\n  HEAD .*1\.00x\n  this version ", out)
    before, now = map(float, re.findall(r"val of .+? ([0-9.]+)", out))
    assert now == pytest.approx(before, rel=0.01)
    with pytest.raises(SystemExit, match="no-such-commit: "):
        benchmark_versions.main(["no-such-commit"])
