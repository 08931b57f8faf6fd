"""The benchmark script runs and says what it should; its figures are for machines that do nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark import main


def numbers(value: Any) -> list[float]:
    """All numbers in some JSON."""
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers(item)]
    return [value] if isinstance(value, int | float) else []


def test_a_quick_run_prints_and_writes_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, threads = tmp_path / "benchmark.json", torch.get_num_threads()
    argv = ["--quick", "--no-compile", "--only", "steps,sampling", "--batch-sizes", "4", "32"]
    assert main([*argv, "--json", str(path)]) == 0
    assert torch.get_num_threads() == threads
    printed = capsys.readouterr().out
    assert printed.startswith(f"torch {torch.__version__}")
    assert "parameters" in printed
    assert "--no-compile" in printed
    assert max(map(len, printed.splitlines())) <= 100

    results = json.loads(path.read_text())
    assert set(results) == {"machine", "settings", "steps", "sampling"}
    assert results["machine"]["threads"] == 1
    figures = {"us_per_step", "steps_per_s", "speed_to_autograd", "time_to_floor"}
    for batch_size in (4, 32):
        rows = {row["row"]: row for row in results["steps"] if row["batch_size"] == batch_size}
        assert rows.pop("compiled")["skipped"] == "--no-compile"
        assert set(rows) == {"autograd", "module", "backprop", "floor"}
        assert rows["backprop"]["losses_differ_by"] < 1e-4
        for row in rows.values():
            assert figures <= set(row)
            for name in figures:
                assert 0 < row[name]["q25"] <= row[name]["median"] <= row[name]["q75"]

    rows = {row["row"]: row for row in results["sampling"]}
    assert {"lecture's loop", "generate", "generate_scored", "log_likelihoods"} < set(rows)
    for row in rows.values():
        assert {"seconds", "words_per_s", "speed_to_loop"} <= set(row)
        assert min(numbers(row)) > 0
    assert rows["generate"]["mean_length"] > 1


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "steps,speed"])
    assert "unknown part 'speed'" in capsys.readouterr().err
