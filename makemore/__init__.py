"""The WaveNet-style character model of "Building makemore, part 5", on hand-written layers.

The names below are imported when first used, so that the commands answer ``--help`` without torch.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from makemore.backprop import BackpropEngine as BackpropEngine
    from makemore.convolution import Convolution as Convolution
    from makemore.convolution import Filters as Filters
    from makemore.convolution import generate as generate
    from makemore.convolution import generate_scored as generate_scored
    from makemore.convolution import log_likelihoods as log_likelihoods
    from makemore.convolution import loss as loss
    from makemore.convolution.drawing import draw_nodes as draw_nodes
    from makemore.evaluation import split_loss as split_loss
    from makemore.layers import BatchNorm1d as BatchNorm1d
    from makemore.layers import Embedding as Embedding
    from makemore.layers import FlattenConsecutive as FlattenConsecutive
    from makemore.layers import HistoricBatchNorm1d as HistoricBatchNorm1d
    from makemore.layers import Layer as Layer
    from makemore.layers import Linear as Linear
    from makemore.layers import Sequential as Sequential
    from makemore.layers import Tanh as Tanh
    from makemore.model_file import Model as Model
    from makemore.model_file import load_model as load_model
    from makemore.model_file import save_model as save_model
    from makemore.modern.trainer import ModernTrainer as ModernTrainer
    from makemore.networks import NETWORKS as NETWORKS
    from makemore.networks import Plan as Plan
    from makemore.networks import network_plan as network_plan
    from makemore.networks import summary as summary
    from makemore.plotting import plot_losses as plot_losses
    from makemore.recipes import LectureRecipe as LectureRecipe
    from makemore.recipes import ModernRecipe as ModernRecipe
    from makemore.sampling import sample_word as sample_word
    from makemore.training import AutogradEngine as AutogradEngine
    from makemore.training import Trainer as Trainer
    from makemore.words import Data as Data
    from makemore.words import Examples as Examples
    from makemore.words import Vocabulary as Vocabulary
    from makemore.words import WordList as WordList
    from makemore.words import load_words as load_words
    from makemore.words import read_words as read_words

_MODULES = {
    "backprop": ("BackpropEngine",),
    "convolution": ("Convolution", "Filters", "generate", "generate_scored", "log_likelihoods", "loss"),
    "convolution.drawing": ("draw_nodes",),
    "evaluation": ("split_loss",),
    "layers": (
        "BatchNorm1d",
        "Embedding",
        "FlattenConsecutive",
        "HistoricBatchNorm1d",
        "Layer",
        "Linear",
        "Sequential",
        "Tanh",
    ),
    "model_file": ("Model", "load_model", "save_model"),
    "modern.trainer": ("ModernTrainer",),
    "networks": ("NETWORKS", "Plan", "network_plan", "summary"),
    "plotting": ("plot_losses",),
    "recipes": ("LectureRecipe", "ModernRecipe"),
    "sampling": ("sample_word",),
    "training": ("AutogradEngine", "Trainer"),
    "words": ("Data", "Examples", "Vocabulary", "WordList", "load_words", "read_words"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

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
    return sorted({*globals(), *__all__})
