"""The WaveNet-style character model of "Building makemore, part 5", on hand-written layers.

The public names are imported when they are first used, so that the commands answer ``--help`` without torch.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names, for editors and type checkers
    from makemore.backprop.engine import *
    from makemore.backprop.windows import *
    from makemore.core.graph import *
    from makemore.core.layer import *
    from makemore.data.labels import *
    from makemore.data.word_list import *
    from makemore.export.torch_module import *
    from makemore.inference.classification import *
    from makemore.inference.conditioning import *
    from makemore.inference.convolution import *
    from makemore.inference.generation import *
    from makemore.inference.scoring import *
    from makemore.lecture.evaluation import *
    from makemore.lecture.layers import *
    from makemore.lecture.plotting import *
    from makemore.lecture.sampling import *
    from makemore.lecture.training import *
    from makemore.lecture.words import *
    from makemore.modern.recipe import *
    from makemore.modern.trainer import *
    from makemore.page.building import *
    from makemore.paper.layers import *
    from makemore.pictures.activations import *
    from makemore.pictures.batchnorm import *
    from makemore.pictures.embedding import *
    from makemore.pictures.gradients import *
    from makemore.pictures.losses import *
    from makemore.pictures.nodes import *
    from makemore.pictures.probabilities import *
    from makemore.pictures.summary import *
    from makemore.pictures.tree import *
    from makemore.run.architecture import register_layer as register_layer
    from makemore.run.catalog import *
    from makemore.run.model_file import *
    from makemore.training.engine import *
    from makemore.training.ensemble import *
    from makemore.training.recipe import *
    from makemore.training.trainer import *

_NAMES = {
    "backprop.engine": "BackpropEngine",
    "backprop.windows": "WindowsEngine",
    "core.graph": "context_length",
    "core.layer": "Layer Window",
    "data.word_list": "Data WordList load_words read_words",
    "data.labels": "Labels",
    "export.torch_module": "from_module to_module",
    "inference.classification": "label_probs",
    "inference.conditioning": "LabelDistribution conditioned",
    "inference.convolution": "Convolution",
    "inference.generation": "Filters generate generate_scored",
    "inference.scoring": "log_likelihoods loss",
    "lecture.evaluation": "split_loss",
    "lecture.layers": "BatchNorm1d Embedding FlattenConsecutive HistoricBatchNorm1d Linear Sequential Tanh",
    "lecture.plotting": "plot_losses",
    "lecture.sampling": "sample_word",
    "lecture.training": "train",
    "lecture.words": "Examples Vocabulary build_dataset split_words",
    "modern.recipe": "ModernRecipe",
    "modern.trainer": "ModernTrainer",
    "page.building": "page_html",
    "paper.layers": "Dropout FlattenDilated GatedActivation LabelledEmbedding LayerNorm ReLU RMSNorm"
    " ResidualBlock SkipConnections TakeLast",
    "pictures.activations": "draw_activations",
    "pictures.batchnorm": "draw_batchnorm",
    "pictures.embedding": "draw_embedding",
    "pictures.gradients": "draw_gradients",
    "pictures.losses": "draw_losses",
    "pictures.nodes": "draw_nodes",
    "pictures.probabilities": "draw_probabilities",
    "pictures.summary": "summary",
    "pictures.tree": "draw_tree",
    "run.architecture": "register_layer",
    "run.catalog": "NETWORKS Plan network_plan",
    "run.model_file": "Model load_model save_model",
    "training.engine": "AutogradEngine",
    "training.ensemble": "Ensemble EnsembleEngine",
    "training.recipe": "LectureRecipe",
    "training.trainer": "Trainer",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

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
