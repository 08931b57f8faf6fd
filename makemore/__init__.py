"""The WaveNet-style character model of "Building makemore, part 5", on hand-written layers.

The names below are imported when first used, so that the commands answer ``--help`` without torch.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_HOME = {
    "BatchNorm1d": "layers",
    "Embedding": "layers",
    "FlattenConsecutive": "layers",
    "HistoricBatchNorm1d": "layers",
    "Linear": "layers",
    "Sequential": "layers",
    "Tanh": "layers",
    "NETWORKS": "networks",
    "Network": "networks",
    "network_plan": "networks",
    "summary": "networks",
    "Data": "words",
    "Examples": "words",
    "Vocabulary": "words",
    "WordList": "words",
    "load_words": "words",
    "read_words": "words",
    "split_loss": "evaluation",
    "sample_word": "sampling",
    "Schedule": "training",
    "Trainer": "training",
    "Model": "checkpoint",
    "load_model": "checkpoint",
    "save_model": "checkpoint",
    "plot_losses": "plotting",
}
"""Each public name and the module it lives in."""

__all__ = [*_HOME]

try:
    __version__ = version("makemore-wavenet")
except PackageNotFoundError:
    __version__ = "0"


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'makemore' has no attribute {name!r}")
    return getattr(import_module(f"makemore.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
