"""The lecture's plot of the losses (cell 11)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from makemore.core.figure import Figure


def plot_losses(losses: Tensor | Sequence[float | Tensor], window: int = 1000) -> Figure:
    """Plot log10 of the batch losses, (steps,) in nats, averaged over every ``window`` steps.

    Steps after the last whole window are left out. A run shorter than one window is not averaged. Returns the
    figure without showing it.
    """
    if not isinstance(losses, Tensor):
        losses = [loss.item() if isinstance(loss, Tensor) else loss for loss in losses]
    losses = torch.as_tensor(losses, dtype=torch.float64)
    if len(losses) < window:
        window = 1
    whole = len(losses) // window * window
    means = losses[:whole].log10().view(-1, window).mean(1)  # (steps,) -> (steps // window,)
    figure = Figure(layout="constrained")
    axes = figure.add_subplot()
    axes.plot(means.tolist())
    axes.set(xlabel="step" if window == 1 else f"step / {window:,}", ylabel="log10 of the loss")
    return figure
