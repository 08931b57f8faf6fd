"""The benchmark script runs and says what it should; its figures are for machines that do nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import benchmark
import benchmark_words
import pytest
import torch
from torch import Generator, Tensor

from makemore.networks import NETWORKS
from makemore.training import AutogradEngine


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


def test_a_contestant_with_wrong_losses_drops_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Wrong(AutogradEngine):
        def sgd_steps(self, X: Tensor, Y: Tensor, lrs: object) -> Tensor:
            return torch.zeros(len(X))

    monkeypatch.setitem(benchmark.ENGINES, "backprop2", Wrong)
    assert benchmark.main(["--quick", "--no-compile", "--only", "steps", "--batch-sizes", "4"]) == 0
    printed = capsys.readouterr().out
    assert "backprop2 drops out: its losses are off by" in printed
    assert "  backprop2  " not in printed


def test_the_module_is_the_network_but_for_its_batchnorm() -> None:
    network = NETWORKS["wavenet"].build(27, Generator().manual_seed(1))
    module = torch.nn.Sequential(*map(benchmark.as_module, network.layers))
    X = torch.randint(0, 27, (4096, 8), generator=Generator().manual_seed(2))
    torch.testing.assert_close(module(X), network(X), rtol=0, atol=2e-3)


def test_the_products_are_those_of_a_step() -> None:
    """Counted by torch: 2 * rows * fan_in * fan_out for each of three products a Linear."""
    from torch.utils.flop_counter import FlopCounterMode

    network = NETWORKS["wavenet"].build(27, Generator().manual_seed(1))
    X = torch.zeros((32, 8), dtype=torch.int64)
    run = benchmark.products(network, X)
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode(False):
        run()
    rows = [32 * 4, 32 * 2, 32, 32]
    sizes = [(48, 128), (256, 128), (256, 128), (128, 27)]
    assert counter.get_total_flops() == sum(6 * n * a * b for n, (a, b) in zip(rows, sizes, strict=True))


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.main(["--only", "speed"])
    assert "invalid choice: 'speed'" in capsys.readouterr().err
