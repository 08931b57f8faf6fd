"""The picture of the losses, read back from the figure; what figures share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from makemore.modern.recipe import ModernRecipe
from makemore.pictures.figures import drawable, save_figure
from makemore.pictures.losses import draw_losses, window_size
from makemore.training.evaluation import Evaluation
from makemore.training.recipe import LectureRecipe


def test_curve_is_log10_and_mean_of_1000() -> None:
    """Lecture cell 11: ``torch.tensor(lossi).view(-1, 1000).mean(1)`` with lossi in log10.

    The axis is logarithmic and says nats."""
    losses = torch.rand(200_000, generator=torch.Generator().manual_seed(0)) + 2
    (curve,) = draw_losses(losses).axes[0].lines
    expected = losses.double().log10().view(-1, 1000).mean(1)
    torch.testing.assert_close(torch.tensor(curve.get_ydata(), dtype=torch.float64).log10(), expected)
    assert curve.get_xdata()[0] == 500
    assert curve.get_label() == "batch loss, mean of 1,000 steps"


@pytest.mark.parametrize(
    ("steps", "window"), [(200_000, 1000), (50_000, 1000), (49_999, 100), (400, 1), (1, 1)]
)
def test_the_window_of_a_short_run_is_shorter_and_the_label_says_so(steps: int, window: int) -> None:
    assert window_size(steps) == window
    (curve,) = draw_losses(torch.full((steps,), 2.5)).axes[0].lines
    assert len(curve.get_xdata()) == steps // window
    assert ("(lecture: mean of 1,000)" in curve.get_label()) == (window != 1000)


@pytest.mark.parametrize("steps", [5, 20, 3000])
def test_ticks_are_whole_steps(steps: int) -> None:
    (axes,) = draw_losses(torch.full((steps,), 2.5)).axes
    labels = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    assert all(x < 0 or label.get_text() == f"{x:,.15g}" for x, label in labels)


def test_val_points_learning_rate_and_labels() -> None:
    evaluations = [Evaluation(400, val=2.2), Evaluation(800, val=2.1), Evaluation(900, train=1.0)]
    figure = draw_losses(
        torch.full((1000,), 2.5), evaluations, LectureRecipe(steps=1000, lr_drop=750), "title"
    )
    (axes,) = figure.axes
    _, val, drop = axes.lines
    assert list(val.get_xdata()) == [400, 800]
    assert list(val.get_ydata()) == [2.2, 2.1]
    assert val.get_label() == "val loss, 2.1000 at the end"
    assert set(drop.get_xdata()) == {750}
    assert [text.get_text() for text in axes.texts] == ["  lr 0.1 to 0.01"]
    assert (axes.get_xlabel(), axes.get_title()) == ("step", "title")
    assert (axes.get_ylabel(), axes.get_yscale()) == ("loss (nats per symbol)", "log")


@pytest.mark.parametrize(("low", "high"), [(1.9, 3.3), (2.0, 2.001), (2.5, 2.5), (0.01, 5), (2, 9000)])
def test_losses_are_labeled_in_nats(low: float, high: float) -> None:
    """The axis and the legend speak of the same numbers."""
    figure = draw_losses(torch.linspace(high, low, 40))
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    bottom, top = axes.get_ylim()
    shown = [
        (float(label.get_text()), y)
        for label, y in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)
        if bottom <= y <= top
    ]
    assert len(shown) >= 2
    assert all(number == pytest.approx(y, rel=1e-4) for number, y in shown)


def test_the_peak_of_the_modern_learning_rate_is_marked() -> None:
    (axes,) = draw_losses(torch.full((1000,), 2.5), (), ModernRecipe(steps=1000)).axes
    assert set(axes.lines[1].get_xdata()) == {50}
    assert [text.get_text() for text in axes.texts] == ["  lr up to 0.02, then a cosine to 0"]


@pytest.mark.full
def test_the_picture_needs_no_display(tmp_path: Path) -> None:
    path = tmp_path / "loss.png"
    code = (
        "import sys, torch; from makemore.pictures.figures import save_figure;"
        "from makemore import draw_losses;"
        "save_figure(draw_losses(torch.full((100,), 2.5)), sys.argv[1])"
    )
    hidden = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND")}
    subprocess.run([sys.executable, "-c", code, path], check=True, env=hidden)
    assert path.read_bytes().startswith(b"\x89PNG")
    with path.open("wb") as file:
        save_figure(draw_losses(torch.full((100,), 2.5)), file)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_character_is_drawable_if_any_font_of_the_setting_has_it() -> None:
    assert drawable("aᴥ") == "a\N{REPLACEMENT CHARACTER}"
    with matplotlib.rc_context({"font.family": ["DejaVu Sans", "DejaVu Serif"]}):
        assert drawable("aᴥ") == "aᴥ"
