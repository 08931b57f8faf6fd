"""TensorBoard's log of a run: what is in it, that it does not change the run, and how it is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from makemore.commands.cli import train_main
from makemore.modern.recipe import ModernRecipe
from makemore.run import callbacks, training_run
from makemore.run.catalog import PICTURES
from makemore.run.model_file import load_model, save_model

FLAGS = ["--network", "mlp", "--n-embd", "3", "--n-hidden", "5", "--steps", "60", "--log-every", "7"]


def argv(word_file: Path, out_dir: Path, *more: str) -> list[str]:
    return [*FLAGS, "--data", str(word_file), "--out-dir", str(out_dir), *more]


def events(out_dir: Path) -> Any:
    """What TensorBoard reads from the log of a run."""
    reason = "TensorBoard is not installed: pip install tensorboard"
    accumulators = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason=reason
    )
    guidance = {"scalars": 0, "images": 0, "tensors": 0}
    return accumulators.EventAccumulator(str(out_dir / "tensorboard"), size_guidance=guidance).Reload()


def scalars(out_dir: Path) -> dict[str, Any]:
    """The points of each curve, (step, value)."""
    log = events(out_dir)
    return {tag: [(e.step, e.value) for e in log.Scalars(tag)] for tag in log.Tags()["scalars"]}


def words(out_dir: Path) -> dict[int, str]:
    return {
        e.step: e.tensor_proto.string_val[0].decode()
        for e in events(out_dir).Tensors("new words/text_summary")
    }


def assert_same_run(a: Path, b: Path) -> None:
    assert (a / "losses.csv").read_bytes() == (b / "losses.csv").read_bytes()
    one, other = (load_model(out / "model.safetensors") for out in (a, b))
    for name, tensor in one.network.state_dict().items():
        assert torch.equal(tensor, other.network.state_dict()[name]), name
    assert torch.equal(one.progress.generator, other.progress.generator)


@pytest.mark.full
def test_the_log_has_the_run_and_does_not_change_it(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    monkeypatch.setattr(callbacks, "MOST_POINTS", 20)
    a, b = tmp_path / "a", tmp_path / "b"
    assert train_main(argv(word_file, a)) == 0
    plain = capsys.readouterr().out.splitlines()
    assert train_main(argv(word_file, b, "--tensorboard")) == 0
    assert_same_run(a, b)
    printed = capsys.readouterr().out.splitlines()
    assert printed[-3] == plain[-3].replace(str(a), str(b)) + f", {b / 'tensorboard'}"
    progress = load_model(b / "model.safetensors").progress
    found = scalars(b)
    means = progress.losses.view(20, 3).mean(1).tolist()
    assert found["loss/batch"] == [(3 * i + 3, pytest.approx(mean)) for i, mean in enumerate(means)]
    recipe = ModernRecipe(**{name: progress.settings[name] for name in ModernRecipe.knobs()})
    for step, lr in found["learning rate/lr_adamw"]:
        assert lr == pytest.approx(recipe.lr_adamw * recipe.share_at(step - 1))
    assert found["loss/val"] == [(e.step, pytest.approx(e.val)) for e in progress.evaluations]
    assert [step for step, _ in found["loss/test"]] == [60]
    assert [*words(b)] == [e.step for e in progress.evaluations]
    assert len(words(b)[60].splitlines()) == 20
    assert events(b).Tags()["images"] == [name for name in PICTURES if name != "gradients"]


@pytest.mark.slow
def test_a_resumed_run_appends_to_its_log(
    word_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by a full disk: steps after the saved one are in the old file too, and in the log once."""
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    monkeypatch.setattr(callbacks, "PICTURES", {})
    a, b = tmp_path / "a", tmp_path / "b"
    assert train_main(argv(word_file, a, "--tensorboard")) == 0
    left = 4

    def fail_later(*args: Any, **kwargs: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(28, "No space left on device")
        save_model(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run, "save_model", fail_later)
        assert train_main(argv(word_file, b, "--tensorboard", "--save-every", "0")) == 1
    saved, logged = load_model(b / "model.safetensors").progress.step, scalars(b)["loss/batch"][-1][0]
    assert 0 < saved <= logged
    assert train_main(["--resume", "--out-dir", str(b)]) == 0
    assert_same_run(a, b)
    assert scalars(b) == scalars(a)
    assert words(b) == words(a)
    assert train_main(argv(word_file, b, "--tensorboard", "--overwrite", "--seed", "7", "--steps", "5")) == 0
    assert [step for step, _ in scalars(b)["loss/batch"]] == [1, 2, 3, 4, 5]


def test_a_missing_package_is_one_clear_line(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "find_spec", lambda name: None)
    assert train_main(argv(word_file, tmp_path / "a", "--tensorboard")) == 2
    assert capsys.readouterr().err == (
        "makemore-train: --tensorboard needs the package tensorboard: pip install tensorboard\n"
    )
    assert not (tmp_path / "a").exists()
