"""The networks that a run keeps while it trains."""

from __future__ import annotations

from pathlib import Path

import pytest

from makemore.commands.cli import train_main
from makemore.core.errors import UsageError
from makemore.run.frames import evenly_chosen, frame_files, open_frames
from makemore.run.model_file import load_model

FLAGS = ["--network", "mlp", "--n-embd", "3", "--n-hidden", "5", "--log-every", "7", "--samples", "0"]


def train(word_file: Path, out: Path, *more: str) -> int:
    return train_main([*FLAGS, "--data", str(word_file), "--out-dir", str(out), "--recipe", "lecture", *more])


def test_kept_networks_change_no_bit_of_the_run(word_file: Path, tmp_path: Path) -> None:
    plain, kept, resumed = (tmp_path / name for name in ("plain", "kept", "resumed"))
    assert train(word_file, plain, "--steps", "23") == 0
    assert train(word_file, kept, "--steps", "23", "--keep-every", "5") == 0
    assert (plain / "losses.csv").read_bytes() == (kept / "losses.csv").read_bytes()
    assert [*frame_files(kept)] == [0, 5, 10, 15, 20, 23]

    assert train(word_file, resumed, "--steps", "12", "--keep-every", "5") == 0
    (resumed / "frames" / "step-12.safetensors").unlink()  # the last of the shorter run
    assert train_main(["--resume", "--out-dir", str(resumed), "--steps", "23"]) == 0
    assert [*frame_files(resumed)] == [*frame_files(kept)]
    last, end = frame_files(kept)[23], load_model(kept)
    assert all(
        a.equal(b)
        for a, b in zip(load_model(last).network.parameters(), end.network.parameters(), strict=True)
    )

    progress = end.progress
    assert progress is not None
    frames = list(open_frames(kept).frames(3))
    assert [frame.step for frame in frames] == [0, 10, 23]
    assert frames[1].loss == pytest.approx(progress.losses[:10].mean().item())
    assert train(word_file, kept, "--steps", "2", "--overwrite") == 0
    assert not frame_files(kept)
    with pytest.raises(UsageError, match="kept no networks of several steps"):
        open_frames(kept)


def test_too_many_networks_are_refused(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(word_file, tmp_path / "out", "--steps", "5000", "--keep-every", "1") == 2
    assert "at most 1,000; give it --keep-every 6 or more" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_frames_are_chosen_evenly() -> None:
    assert evenly_chosen([0, 5, 10], 3) == [0, 5, 10]
    assert evenly_chosen([*range(0, 101)], 5) == [0, 25, 50, 75, 100]
