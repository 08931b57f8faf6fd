"""The lecture's curve, read back from the figure."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from makemore.lecture.plotting import plot_losses


def curve(figure: Figure) -> Tensor:
    """The y of the only line of the only axes."""
    (axes,) = figure.axes
    (line,) = axes.lines
    assert list(line.get_xdata()) == list(range(len(line.get_ydata())))
    return torch.tensor(line.get_ydata(), dtype=torch.float64)


def test_the_curve_is_log10_and_the_mean_of_every_1000_steps() -> None:
    """Cell 11: ``torch.tensor(lossi).view(-1, 1000).mean(1)``, with lossi in log10."""
    losses = torch.rand(200_000, generator=torch.Generator().manual_seed(0)) + 2
    figure = plot_losses(losses)
    assert isinstance(figure, Figure)
    torch.testing.assert_close(curve(figure), losses.double().log10().view(-1, 1000).mean(1))
    assert figure.axes[0].get_xlabel() == "step / 1,000"
    assert "log10" in figure.axes[0].get_ylabel()


def test_the_mean_of_logarithms_is_not_the_logarithm_of_the_mean() -> None:
    assert curve(plot_losses(torch.tensor([1.0, 100.0]), window=2)).tolist() == [1.0]


def test_steps_after_the_last_whole_window_are_left_out() -> None:
    losses = torch.cat([torch.full((2000,), 10.0), torch.full((999,), 1000.0)])
    assert curve(plot_losses(losses)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("steps", [1, 5, 999])
def test_a_run_shorter_than_one_window_has_a_point_for_every_step(steps: int) -> None:
    figure = plot_losses(torch.arange(1, steps + 1))
    assert curve(figure).tolist() == pytest.approx([math.log10(step) for step in range(1, steps + 1)])
    assert figure.axes[0].get_xlabel() == "step"


def test_losses_may_be_a_list_of_floats_or_on_an_autograd_graph() -> None:
    assert curve(plot_losses([1.0, 10.0, 100.0])).tolist() == [0.0, 1.0, 2.0]
    assert curve(plot_losses(torch.ones(3, requires_grad=True))).tolist() == [0.0] * 3
    assert curve(plot_losses([])).tolist() == []
    array: Any = numpy.array([1.0, 10.0])
    assert curve(plot_losses(array)).tolist() == [0.0, 1.0]


def test_losses_may_be_a_list_of_tensors() -> None:
    """As of a loop that appends each loss: without dimensions, and on an autograd graph."""
    losses = [torch.tensor(10.0**i, requires_grad=i % 2 == 0) for i in range(3)]
    assert curve(plot_losses(losses)).tolist() == [0.0, 1.0, 2.0]
    assert curve(plot_losses([losses[1], 100.0, torch.tensor([10.0])])).tolist() == [1.0, 2.0, 1.0]
    third = 1 / 3  # in float64
    assert curve(plot_losses([third])).tolist() == pytest.approx([math.log10(third)], rel=1e-14)
