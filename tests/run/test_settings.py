"""Settings are declared once: flags, help, checks and rules of resuming follow for a new recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
from torch import Tensor

from makemore.commands.cli import train_main
from makemore.core.settings import knob
from makemore.run.catalog import ENGINES, RECIPES, network_plan
from makemore.run.model_file import load_model
from makemore.run.settings import RUN, flags, resolved, restored
from makemore.training.evaluation import Evaluation
from makemore.training.recipe import LectureRecipe, Recipe
from makemore.training.trainer import Trainer


@dataclass(frozen=True)
class FadingRecipe(Recipe):
    """SGD with a learning rate that is multiplied by a factor after each step."""

    steps: int = knob(60, "training steps", 1, 1000, may_change=True)
    batch_size: int = knob(16, "examples per batch", 2, 64)
    lr: float = knob(0.1, "learning rate", 0, 10)
    fading: float = knob(0.9, "factor of the learning rate after each step", 0.5, 1, default_text="9/10")

    def lr_at(self, step: int) -> float:
        return self.lr * self.fading**step


@dataclass(frozen=True)
class ManyKindsRecipe(LectureRecipe):
    """The lecture's, with a setting of every other type, and one that the modern recipe has as well."""

    clip: float | None = knob(None, "largest gradient", 0, 10)
    nesterov: bool = knob(True, "look ahead")
    targets: str = knob("plain", "kind of targets", choices=("plain", "smooth"))


@dataclass(frozen=True)
class MomentumRecipe(LectureRecipe):
    """The lecture's, with momentum."""

    momentum: float = knob(0.9, "share of the last update that is repeated", 0, 1)


class MomentumTrainer(Trainer):
    """Saves tensors of its own: the last update of each parameter."""

    recipe: MomentumRecipe

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.last = {name: torch.zeros_like(p) for name, p in self.network.named_parameters()}

    def advance(self, steps: int) -> Tensor:
        losses = torch.empty(steps)
        for i in range(steps):
            lr = self.recipe.lr_at(self.step + i)
            ix = torch.randint(0, len(self.data.train), (self.recipe.batch_size,), generator=self.generator)
            losses[i] = self.engine.gradients(*self.data.train[ix])
            for name, p in self.network.named_parameters():
                assert p.grad is not None
                self.last[name].mul_(self.recipe.momentum).sub_(p.grad, alpha=lr)
                p.data += self.last[name]
        return losses

    def state(self) -> dict[str, Tensor]:
        return {**super().state(), **{f"last.{name}": last for name, last in self.last.items()}}

    def restore(
        self, step: int, losses: Tensor, evaluations: Sequence[Evaluation], state: Mapping[str, Tensor]
    ) -> None:
        super().restore(step, losses, evaluations, state)
        for name, last in self.last.items():
            last.copy_(state[f"last.{name}"])


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "fading", (FadingRecipe, "makemore.training.trainer:Trainer"))
    monkeypatch.setitem(RECIPES, "kinds", (ManyKindsRecipe, "makemore.training.trainer:Trainer"))
    monkeypatch.setitem(RECIPES, "momentum", (MomentumRecipe, f"{__name__}:MomentumTrainer"))


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    try:
        code = train_main([str(arg) for arg in argv])
    except SystemExit as stop:
        code = int(str(stop.code))
    out, err = capsys.readouterr()
    return code, out, err


def test_the_help_has_the_flags_of_a_new_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    text = " ".join(out.split())
    assert code == 0
    assert f"--recipe {{{','.join(RECIPES)}}}" in text
    assert "the fading recipe: --fading X factor of the learning rate after each step (default: 9/10)" in text
    assert "(default: modern: by the number of words, " in text
    assert "lecture: 200,000, fading: 60," in text
    assert "--lr X modern: peak learning rate of Muon; " in text
    assert "lecture: learning rate; fading: learning rate;" in text


def test_a_new_recipe_runs_and_resumes_by_its_rules(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ("--data", word_file, "--n-hidden", 8, "--recipe", "fading", "--out-dir", tmp_path, "--fading")
    code, out, err = run(capsys, *argv, "0.8", "--steps", 20)
    assert (code, err) == (0, "")
    assert "training  fading recipe, 20 steps of 16 examples\n          lr 0.1, fading 0.8\n" in out
    code, _, err = run(capsys, "--resume", "--out-dir", tmp_path, "--fading", 0.7)
    assert code == 2
    assert err.startswith(
        "makemore-train: --fading is 0.8 in the run to resume and cannot be changed to 0.7;"
    )
    assert "what may change: --data, --samples, --device" in err
    assert err.rstrip().endswith("--steps")
    code, _, err = run(capsys, "--resume", "--out-dir", tmp_path)
    assert (code, err) == (
        2,
        f"makemore-train: the run in {tmp_path} is finished, and the fading recipe cannot be extended: "
        "for a longer run choose another --out-dir, or --overwrite it\n",
    )


@pytest.mark.full
def test_a_finished_run_is_extended_with_the_tensors_of_its_trainer(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ("--data", word_file, "--n-hidden", 8, "--recipe", "momentum", "--lr-drop", 25, "--out-dir")
    for more in (
        [*argv, tmp_path / "once", "--steps", 30],
        [*argv, tmp_path / "twice", "--steps", 20],
        ["--resume", "--out-dir", tmp_path / "twice", "--steps", 30],
    ):
        code, _, err = run(capsys, *more)
        assert (code, err) == (0, "")
    once, twice = (load_model(tmp_path / name / "model.safetensors").network for name in ("once", "twice"))
    for a, b in zip(once.parameters(), twice.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.full
@pytest.mark.parametrize(
    ("flags", "header"),
    [
        ([], "nesterov True, targets plain"),
        (["--clip", "2", "--no-nesterov", "--targets", "smooth"], "clip 2.0, nesterov False, targets smooth"),
    ],
)
def test_settings_of_every_type(
    flags: list[str], header: str, word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ("--data", word_file, "--n-hidden", 8, "--recipe", "kinds", "--steps", 20, "--out-dir", tmp_path)
    for more in ([*argv, *flags], ["--resume", "--out-dir", tmp_path, "--steps", 30]):
        code, out, err = run(capsys, *more)
        assert (code, err) == (0, "")
        assert f"lr drop 15, {header}" in " ".join(out.split())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--fading", "2"], "argument --fading: must be a number from 0.5 to 1, got '2'"),
        (["--fading", "x"], "argument --fading: must be a number from 0.5 to 1, got 'x'"),
        (
            ["--recipe", "fading", "--batch-size", "100"],
            "--batch-size must be a whole number from 2 to 64, got 100",
        ),
        (["--recipe", "fading", "--context-dropout", "0.1"], "the fading recipe has no --context-dropout"),
        (["--fading", "0.6"], "the modern recipe has no --fading"),
        (["--targets", "smooth"], "--targets must be one of soft, hard, got 'smooth'"),
    ],
)
def test_values_out_of_range_and_flags_of_other_recipes_are_refused(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, *flags, "--out-dir", tmp_path / "out")
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_setting_that_the_file_does_not_have_gets_its_default() -> None:
    settings = resolved({"seed": 3}, network_plan().sizes(), 10_000)
    saved = asdict(settings.run) | asdict(settings.recipe)
    later = {"consecutive", "effort", "stacks"}
    assert later <= saved.keys()
    assert restored({name: value for name, value in saved.items() if name not in later}, {}) == settings
    with pytest.raises(ValueError, match="no --unheard-of"):
        restored(saved | {"unheard_of": 1}, {})


def test_every_flag_has_a_group_and_a_help() -> None:
    known = {knob.name: knob for knob in flags()}
    assert set(known) >= {*RUN, *(name for recipe, _ in RECIPES.values() for name in recipe.knobs())}
    assert all(knob.group and knob.help for knob in known.values())


def test_the_engines_and_trainers_of_the_catalog_exist() -> None:
    for name in [*ENGINES.values(), *(trainer for _, trainer in RECIPES.values())]:
        assert callable(resolve_name(name))
