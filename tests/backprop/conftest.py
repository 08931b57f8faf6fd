"""Fixtures for steps on distinct windows."""

from __future__ import annotations

import pytest
from torch import Tensor

from makemore.backprop import windows
from makemore.backprop.windows import WindowsStep


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[WindowsStep]:
    """The steps that are computed on distinct windows, which small networks use too."""
    monkeypatch.setattr(windows, "MIN_WORK", 0)
    monkeypatch.setattr(windows, "MIN_SAVING", 0)
    found: list[WindowsStep] = []
    find_windows = WindowsStep.find_windows

    def noted(step: WindowsStep, X: Tensor) -> bool:
        found.append(step)
        assert find_windows(step, X)
        return True

    monkeypatch.setattr(WindowsStep, "find_windows", noted)
    return found
