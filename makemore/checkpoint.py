"""One self-contained file for a trained network (beyond the lecture).

It holds the plan of the network, its tensors (running statistics too), the vocabulary and what the
network was trained on, so that new words need nothing else.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from makemore.files import replacing
from makemore.layers import Sequential
from makemore.networks import Network
from makemore.words import Vocabulary

FORMAT = "makemore model"
VERSION = 1


class CheckpointError(ValueError):
    """A model file that cannot be written or read; the message says why."""


@dataclass
class Model:
    """A network with what is needed to build, feed and read it; ``info`` tells of its training."""

    plan: Network
    vocabulary: Vocabulary
    network: Sequential
    info: dict[str, Any] = field(default_factory=dict)


def save_model(model: Model, path: str | Path) -> None:
    """Write a model file.

    Raises CheckpointError if it cannot be written; a file that was there before stays as it was.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "plan": asdict(model.plan),
        "characters": model.vocabulary.characters,
        "tensors": {k: v.detach().cpu() for k, v in model.network.named_tensors().items()},
        "info": model.info,
    }
    try:
        with replacing(path) as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"cannot write {path}: {error}") from error


def load_model(path: str | Path) -> Model:
    """Read a model file, onto the CPU. Raises CheckpointError on anything else."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:
        raise CheckpointError(f"{path} is not a makemore model file") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a makemore model file")
    plan = Network(**content["plan"])
    vocabulary = Vocabulary(content["characters"])
    network = plan.build(len(vocabulary))
    network.load(content["tensors"])
    return Model(plan, vocabulary, network.eval(), content["info"])
