"""Recorded gradients and updates: equal to autograd's, without effect on the run, continued when resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator

from makemore.backprop.engine import BackpropEngine
from makemore.commands.cli import train_main
from makemore.core.errors import UsageError, WriteError
from makemore.data.word_list import Data, read_words
from makemore.modern.recipe import ModernRecipe
from makemore.modern.trainer import ModernTrainer
from makemore.pictures.recorder import Recorder, read_records, write_records
from makemore.run import training_run
from makemore.run.catalog import network_plan
from makemore.training.engine import AutogradEngine
from makemore.training.recipe import LectureRecipe
from makemore.training.trainer import Trainer


def trained(
    data: Data, modern: bool, engine: Callable[..., Any], every: int
) -> tuple[Trainer, Recorder | None]:
    """A trainer after 25 steps, and its recorder if ``every`` is not 0."""
    network = network_plan("hierarchical", 8, 4, 6).build(len(data.vocabulary), Generator().manual_seed(1))
    generator = Generator().manual_seed(2)
    if modern:
        recipe = ModernRecipe(steps=25, batch_size=64)
        trainer: Trainer = ModernTrainer(network, data, recipe, generator, engine)
    else:
        trainer = Trainer(network, data, LectureRecipe(steps=25, lr_drop=15), generator, engine)
    recorder = Recorder(trainer.engine, network, every) if every else None
    if recorder is not None:
        trainer.engine = recorder
    for _ in trainer.run(yield_every=10):
        if recorder is not None:
            recorder.records()
    return trainer, recorder


@pytest.mark.parametrize("engine", [AutogradEngine, BackpropEngine])
@pytest.mark.parametrize("modern", [False, True])
def test_recording_does_not_change_the_run(word_file: Path, modern: bool, engine: Callable[..., Any]) -> None:
    data = read_words(word_file).data(8)
    plain, _ = trained(data, modern, engine, 0)
    recorded, recorder = trained(data, modern, engine, 4)
    assert torch.equal(plain.losses, recorded.losses)
    for name, tensor in plain.network.state_dict().items():
        assert torch.equal(tensor, recorded.network.state_dict()[name]), name
    names = [name for name, _ in plain.network.named_parameters()]
    assert [(r.step, r.parameter) for r in recorder.records()] == [
        (step, name) for step in range(0, 25, 4) for name in names
    ]


@pytest.mark.parametrize("modern", [False, True])
def test_records_equal_those_of_each_step_by_autograd(word_file: Path, modern: bool) -> None:
    data = read_words(word_file).data(8)
    _, recorder = trained(data, modern, BackpropEngine, 5)
    states: dict[int, dict[str, torch.Tensor]] = {}
    gradients: dict[int, list[torch.Tensor]] = {}

    class Observer(AutogradEngine):
        def sgd_steps(self, X, Y, lrs):
            return torch.stack([self.one(x, y, lr) for x, y, lr in zip(X, Y, lrs, strict=True)])

        def one(self, x, y, lr):
            loss = self.gradients(x, y)
            for p in self.network.parameters():
                p.data -= lr * p.grad
            return loss

        def gradients(self, X, Y, keep_mask=None):
            step = len(states)
            states[step] = {n: p.detach().clone() for n, p in self.network.named_parameters()}
            loss = super().gradients(X, Y, keep_mask)
            gradients[step] = [p.grad.clone() for p in self.network.parameters()]
            return loss

    trainer, _ = trained(data, modern, Observer, 0)
    states[25] = dict(trainer.network.named_parameters())
    for i, record in enumerate(recorder.records()):
        before, after = states[record.step][record.parameter], states[record.step + 1][record.parameter]
        gradient = gradients[record.step][i % len(gradients[0])]
        for found, tensor in (
            (record.value, before),
            (record.gradient, gradient),
            (record.update, after - before),
        ):
            assert found == pytest.approx(tensor.square().mean().sqrt().item(), rel=0.02, abs=1e-7)


def test_records_are_read_back_and_other_files_are_refused(word_file: Path, tmp_path: Path) -> None:
    _, recorder = trained(read_words(word_file).data(8), False, BackpropEngine, 9)
    path = tmp_path / "gradients.csv"
    write_records(recorder.records(), path)
    for record, back in zip(recorder.records(), read_records(path), strict=True):
        assert record[:2] == back[:2]
        assert record[2:] == pytest.approx(back[2:], rel=1e-5)
    for content in (b"step,loss\n0,1\n", b"\xff\xfe", path.read_bytes() + b"x,2\n"):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"gradients\.csv is not a file of recorded gradients"):
            read_records(path)


@pytest.mark.full
@pytest.mark.parametrize("recipe", ["modern", "lecture"])
def test_a_resumed_run_records_as_if_never_stopped(word_file: Path, tmp_path: Path, recipe: str) -> None:
    """Stopped by a full disk; rows after the last saved step are recorded again."""
    flags = ["--network", "mlp", "--n-embd", "3", "--n-hidden", "5", "--recipe", recipe, "--samples", "0"]
    flags += ["--data", str(word_file), "--steps", "60", "--log-every", "7", "--record-every", "3"]
    assert train_main([*flags, "--out-dir", str(tmp_path / "a")]) == 0
    saved = 0

    def fail_later(*args: Any, **kwargs: Any) -> None:
        nonlocal saved
        saved += 1
        if saved == 4:
            raise WriteError("cannot write the model file: No space left on device")
        save(*args, **kwargs)

    save = training_run.save_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run, "save_model", fail_later)
        assert train_main([*flags, "--save-every", "0", "--out-dir", str(tmp_path / "b")]) == 1
    stopped = (tmp_path / "b" / "gradients.csv").read_text().splitlines()
    assert train_main(["--resume", "--out-dir", str(tmp_path / "b")]) == 0
    whole = (tmp_path / "a" / "gradients.csv").read_text()
    assert (tmp_path / "b" / "gradients.csv").read_text() == whole
    assert 1 < len(stopped) < len(whole.splitlines())
    assert (tmp_path / "a" / "losses.csv").read_bytes() == (tmp_path / "b" / "losses.csv").read_bytes()
