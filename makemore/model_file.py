"""One self-contained file for a network, trained or in training (beyond the lecture).

It holds the plan of the network, its tensors (running statistics too) and the vocabulary, so that new
words need nothing else; and what a run needs to go on from where it stood, bit for bit: settings, step,
losses, the state of the random generator and the fingerprint of the word list.

A file from elsewhere can do no harm. It is a zip archive as ``torch.save`` writes it, and before torch
opens it (with ``weights_only=True``) everything that could run code or ask for memory that the file
does not fill is refused; afterwards everything in it has to be of the kind and shape it should.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from makemore.errors import ModelFileError, WriteError
from makemore.files import replacing
from makemore.layers import Sequential
from makemore.networks import Plan, network_plan
from makemore.training import Evaluation, Trainer
from makemore.words import Vocabulary

MODEL_FILE = "model.safetensors"
"""The name of a run's model file."""

FORMAT = "makemore model"
VERSION = 1

LARGEST_PICKLE = 2**24
"""Bytes of the archive's pickled part, which names and describes the tensors: far above any real one."""

PICKLED_GLOBALS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    *(f"torch {kind}Storage" for kind in ("Float", "Double", "Byte", "Long")),
}
"""All that the pickled part of a model file refers to."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands: all that it needs to go on, beside the network.

    ``settings`` are plain values by name; ``losses``, (step,), and ``evaluations`` are the history;
    ``generator`` is the state of the random generator, uint8; ``state`` are the trainer's own tensors.
    """

    settings: Mapping[str, Any]
    fingerprint: str
    finished: bool
    step: int
    losses: Tensor
    evaluations: Sequence[Evaluation]
    generator: Tensor
    state: Mapping[str, Tensor]

    @classmethod
    def of(cls, trainer: Trainer, settings: Mapping[str, Any], fingerprint: str, finished: bool) -> Progress:
        """Where a trainer stands."""
        return cls(
            settings=settings,
            fingerprint=fingerprint,
            finished=finished,
            step=trainer.step,
            losses=trainer.losses,
            evaluations=trainer.evaluations,
            generator=trainer.generator.get_state(),
            state={} if finished else trainer.state(),
        )


@dataclass(frozen=True)
class Model:
    """A network with what is needed to build, feed and read it, and the run it comes from."""

    plan: Plan
    vocabulary: Vocabulary
    network: Sequential
    progress: Progress | None = None


def save_model(model: Model, path: str | Path) -> None:
    """Write a model file.

    Raises WriteError if it cannot be written; a file that was there before stays as it was.
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "plan": model.plan.sizes(),
        "characters": model.vocabulary.characters,
        "tensors": {name: t.detach().cpu().clone() for name, t in model.network.state_dict().items()},
        "progress": None,
    }
    if model.progress is not None:
        progress = {field.name: getattr(model.progress, field.name) for field in fields(Progress)}
        evaluations = [list(astuple(e)) for e in model.progress.evaluations]
        state = {name: tensor.detach().cpu().clone() for name, tensor in model.progress.state.items()}
        content["progress"] = progress | {"evaluations": evaluations, "state": state}
    whole = io.BytesIO()
    torch.save(content, whole)
    try:
        with replacing(path) as file:
            file.write(whole.getbuffer())
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error


def load_model(path: str | Path) -> Model:
    """Read a model file, onto the CPU, the network in evaluation.

    Raises ModelFileError on a file that cannot be read, is none, is damaged, or was written by a newer
    version. Nothing in the file is executed.
    """
    path = Path(path)
    try:
        whole = path.read_bytes()
        _check_archive(whole)
        content = torch.load(io.BytesIO(whole), map_location="cpu", weights_only=True)
        return _model_of(content, len(whole))
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror or error}") from error
    except ModelFileError as error:
        raise ModelFileError(f"{path} {error}") from error
    except Exception as error:  # whatever zipfile, pickletools and torch make of foreign bytes
        raise ModelFileError(f"{path} is not a makemore model file, or damaged") from error


def _check_archive(whole: bytes) -> None:
    """Refuse whatever ``torch.save`` did not write: compression, overlaps, strange globals, bad sums."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        entries = archive.infolist()
        stored = all(
            e.compress_type == zipfile.ZIP_STORED and e.file_size == e.compress_size for e in entries
        )
        if not stored or sum(e.file_size for e in entries) > len(whole):
            raise ModelFileError("is not a makemore model file: its archive is not plain")
        (pickled,) = (e for e in entries if e.filename.endswith("/data.pkl"))
        if pickled.file_size > LARGEST_PICKLE:
            raise ModelFileError("is not a makemore model file: it describes too much")
        for opcode, argument, _ in pickletools.genops(archive.read(pickled)):
            if opcode.name in ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"):
                raise ModelFileError(f"is refused: it holds a pickled object ({opcode.name})")
            if opcode.name == "GLOBAL" and argument not in PICKLED_GLOBALS:
                raise ModelFileError(f"is refused: it asks for {argument!r}, which no model file needs")
        if archive.testzip() is not None:
            raise ModelFileError("is damaged: its check sums do not match")


def _model_of(content: Any, size: int) -> Model:
    """The model that a file of ``size`` bytes holds, after checking each part of it."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ModelFileError("is not a makemore model file")
    version = content.get("version")
    if version != VERSION:
        raise ModelFileError(f"has format version {version}; this makemore reads {VERSION}: update it")

    plan_fields = content["plan"]
    _require(isinstance(plan_fields, dict), "plan")
    for name in ("block_size", "n_embd", "n_hidden"):
        _require(type(plan_fields[name]) is int and plan_fields[name] < 2**31, name)
    _require(isinstance(plan_fields["name"], str), "name")
    plan = network_plan(**plan_fields)
    characters = content["characters"]
    _require(isinstance(characters, str), "characters")
    vocabulary = Vocabulary(characters)
    _require(vocabulary.characters == characters and "\n" not in characters, "characters")
    characters.encode()  # raises on half a surrogate pair

    # Only a network that the file is large enough to hold is built.
    _require(4 * plan.parameter_count(len(vocabulary)) <= size, "plan")
    network = plan.build(len(vocabulary), Generator())
    tensors = content["tensors"]
    dtype = tensors["0.weight"].dtype
    own = network.state_dict()
    for name, tensor in tensors.items():
        _require(name in own and tensor.shape == own[name].shape, name)
        _require(tensor.dtype == dtype and dtype in (torch.float32, torch.float64), name)
        _require(bool(tensor.isfinite().all()), name)
        _require("running_var" not in name or bool((tensor >= 0).all()), name)
    network.to(dtype=dtype).load_state_dict(tensors)
    progress = content["progress"]
    return Model(
        plan,
        vocabulary,
        network.eval(),
        None if progress is None else _progress_of(progress, size),
    )


def _progress_of(content: Mapping[str, Any], size: int) -> Progress:
    _require(isinstance(content, dict), "progress")
    step, losses = content["step"], content["losses"]
    _require(type(step) is int and 4 * step <= size, "step")
    _require(losses.dtype == torch.float32 and losses.shape == (step,), "losses")
    _require(content["generator"].shape == Generator().get_state().shape, "generator")
    Generator().set_state(content["generator"])
    _require(isinstance(content["settings"], dict), "settings")
    _require(isinstance(content["fingerprint"], str), "fingerprint")
    evaluations = [Evaluation(*row) for row in content["evaluations"]]
    for e in evaluations:
        _require(type(e.step) is int and 0 <= e.step <= step, "evaluations")
        for loss in astuple(e)[1:]:
            _require(loss is None or isinstance(loss, float), "evaluations")
            _require(loss is None or math.isnan(loss) or 0 < loss < 1e30, "evaluations")
    for name, tensor in content["state"].items():
        # Its storage is all that the file holds of a tensor, however large it says it is.
        _require(isinstance(name, str) and tensor.numel() <= size, "state")
    return Progress(
        **{
            **content,
            "losses": losses.clone(),
            "generator": content["generator"].clone(),
            "evaluations": evaluations,
            "finished": bool(content["finished"]),
        }
    )


def _require(condition: bool, part: str) -> None:
    if not condition:
        raise ModelFileError(f"is damaged: its {part} cannot be")
