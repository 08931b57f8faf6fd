"""The WaveNet-style character model of "Building makemore, part 5", on hand-written layers.

The names below are imported when first used, so that the commands answer ``--help`` without torch.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from makemore.checkpoint import Model as Model
    from makemore.checkpoint import load_model as load_model
    from makemore.checkpoint import save_model as save_model
    from makemore.convolution import Convolution as Convolution
    from makemore.convolution import log_likelihoods as log_likelihoods
    from makemore.drawing import draw_nodes as draw_nodes
    from makemore.evaluation import loss as loss
    from makemore.evaluation import split_loss as split_loss
    from makemore.generation import Filters as Filters
    from makemore.generation import generate as generate
    from makemore.generation import generate_scored as generate_scored
    from makemore.layers import BatchNorm1d as BatchNorm1d
    from makemore.layers import Embedding as Embedding
    from makemore.layers import FlattenConsecutive as FlattenConsecutive
    from makemore.layers import HistoricBatchNorm1d as HistoricBatchNorm1d
    from makemore.layers import Linear as Linear
    from makemore.layers import Sequential as Sequential
    from makemore.layers import Tanh as Tanh
    from makemore.networks import NETWORKS as NETWORKS
    from makemore.networks import Network as Network
    from makemore.networks import network_plan as network_plan
    from makemore.networks import summary as summary
    from makemore.plotting import plot_losses as plot_losses
    from makemore.sampling import sample_word as sample_word
    from makemore.training import LectureRecipe as LectureRecipe
    from makemore.training import ModernRecipe as ModernRecipe
    from makemore.training import ModernTrainer as ModernTrainer
    from makemore.training import Trainer as Trainer
    from makemore.words import Data as Data
    from makemore.words import Examples as Examples
    from makemore.words import Vocabulary as Vocabulary
    from makemore.words import WordList as WordList
    from makemore.words import load_words as load_words
    from makemore.words import read_words as read_words

_MODULES = {
    "checkpoint": ("Model", "load_model", "save_model"),
    "convolution": ("Convolution", "log_likelihoods"),
    "drawing": ("draw_nodes",),
    "evaluation": ("loss", "split_loss"),
    "generation": ("Filters", "generate", "generate_scored"),
    "layers": (
        "BatchNorm1d",
        "Embedding",
        "FlattenConsecutive",
        "HistoricBatchNorm1d",
        "Linear",
        "Sequential",
        "Tanh",
    ),
    "networks": ("NETWORKS", "Network", "network_plan", "summary"),
    "plotting": ("plot_losses",),
    "sampling": ("sample_word",),
    "training": ("LectureRecipe", "ModernRecipe", "ModernTrainer", "Trainer"),
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
