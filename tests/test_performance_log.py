"""The performance log's script: its table, and that it goes on where it was."""

from __future__ import annotations

from pathlib import Path

import performance_log
import pytest


def test_table_picture_and_going_on(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--data", str(word_file), "--out-dir", str(tmp_path / "log"), "--seeds", "1", "2"]
    argv += ["--rows", "hierarchical, lecture"]
    argv += ["--flags", "--steps", "20", "--n-hidden", "8", "--samples", "0"]
    assert performance_log.main(argv) == 0
    table = (tmp_path / "log" / "log.md").read_text()
    head, _, *rows = table.splitlines()
    assert [cell.strip() for cell in head.split("|")[1:4]] == ["network, recipe", "parameters", "steps"]
    assert [row.split(" | ")[0] for row in rows] == ["| hierarchical, lecture"]
    assert "1.912 / 2.022" in rows[0]
    assert all("±" in cell for cell in rows[0].split(" | ")[4:9])
    assert (tmp_path / "log" / "log.png").read_bytes().startswith(b"\x89PNG")

    models = sorted((tmp_path / "log").glob("*/model.safetensors"))
    assert len(models) == 2
    before = [path.stat().st_mtime_ns for path in models]
    capsys.readouterr()
    assert performance_log.main(argv) == 0
    assert [path.stat().st_mtime_ns for path in models] == before
    assert capsys.readouterr().out.strip() == table.strip()
