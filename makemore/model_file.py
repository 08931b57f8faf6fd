"""One self-contained file for a network, trained or in training (beyond the lecture).

It holds the plan of the network, its tensors (running statistics too) and the vocabulary, so that new
words need nothing else; of an ensemble, the plan of its members and their number. And it holds what a run
needs to go on from where it stood, bit for bit: settings, step, losses, the state of the random generator
and the fingerprint of the word list.

The file is a safetensors file, which any reader of that format opens and in which nothing can run. The
metadata "makemore" is JSON: all that is no tensor, and first of all a sha256 of the whole file (taken with
zeros in its own place), so that a file with one flipped bit is refused. Whatever it says is checked before
it is believed: no tensor takes more memory than the file fills.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Generator, Tensor

from makemore.ensemble import Ensemble, build
from makemore.errors import ModelFileError, UsageError
from makemore.files import writing_whole
from makemore.layers import Sequential
from makemore.networks import NETWORKS, Plan, network_plan
from makemore.training import Evaluation, Trainer
from makemore.words import Vocabulary

MODEL_FILE = "model.safetensors"
"""The name of a run's model file."""

TRAINED = Path(__file__).with_name("trained.safetensors")
"""The network that ships with the package, without its run; ``scripts/trained_network.py`` writes it."""

VERSION = 2
"""Of the format. Version 1 was a pickled file, model.pt."""

ENSEMBLE_VERSION = 3
"""The same with the number of members: earlier versions of makemore could not read an ensemble."""

ZIP = b"PK\3\4"
"""How a file of version 1 begins; b"PK" alone is the length of a header too, 19,280."""

NO_DIGEST = "0" * 64

LARGEST = {"block_size": 2**12, "n_embd": 2**20, "n_hidden": 2**20, "stacks": 2**8}
"""Sizes that a plan may have. A long context takes hardly any room in the file, but much in use."""

MOST_MEMBERS = 1000
"""Members that an ensemble in a file may have."""


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
        history = trainer.step, trainer.losses, trainer.evaluations, trainer.generator.get_state()
        goes_on = not finished or trainer.recipe.can_go_on
        return cls(settings, fingerprint, finished, *history, trainer.state() if goes_on else {})


@dataclass(frozen=True)
class Model:
    """A network with what is needed to build, feed and read it, and the run it comes from.

    The network is one of the plan, or an ``Ensemble`` of such.
    """

    plan: Plan
    vocabulary: Vocabulary
    network: Sequential
    progress: Progress | None = None


def save_model(model: Model, path: str | Path) -> None:
    """Write a model file.

    Raises WriteError if the file cannot be written; one that was there before stays as it was.
    """
    with writing_whole(path) as file:
        file.write(model_bytes(model))


def model_bytes(model: Model) -> bytes:
    """What a model file has in it, the same for the same model. Settings are to be plain JSON values."""
    tensors = {f"network.{name}": tensor for name, tensor in model.network.state_dict().items()}
    content: dict[str, Any] = {
        "sha256": NO_DIGEST,
        "version": VERSION,
        "plan": model.plan.sizes(),
        "characters": model.vocabulary.characters,
        "progress": None,
    }
    if model.progress is not None:
        progress = model.progress
        tensors |= {"losses": progress.losses, "generator": progress.generator}
        tensors |= {f"state.{name}": tensor for name, tensor in progress.state.items()}
        content["progress"] = {
            "settings": dict(progress.settings),
            "fingerprint": progress.fingerprint,
            "finished": progress.finished,
            "step": progress.step,
            "evaluations": [[_to_json(value) for value in astuple(e)] for e in progress.evaluations],
        }
    if isinstance(model.network, Ensemble):
        content |= {"version": ENSEMBLE_VERSION, "members": len(model.network.layers)}
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    whole = safetensors.torch.save(copies, {"makemore": json.dumps(content, allow_nan=False)})
    digest = hashlib.sha256(whole).hexdigest()
    return whole.replace(NO_DIGEST.encode(), digest.encode(), 1)


def load_model(path: str | Path = TRAINED) -> Model:
    """Read a model file, onto the CPU, the network in evaluation; without a path, the one that ships.

    That one is the default network, trained by the default command on the bundled list. Raises
    ModelFileError on a file that cannot be read, is none, is damaged, or was written by another version.
    Nothing in the file is executed.
    """
    return read_model(read_bytes(Path(path)), str(path))


def read_bytes(path: Path) -> bytes:
    """The bytes of a model file. Raises ModelFileError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror or error}") from error


def read_model(whole: bytes, name: str) -> Model:
    """The model in a file's bytes; raises what ``load_model`` does, with that name."""
    try:
        if whole.startswith(ZIP):
            raise ModelFileError(
                "is no safetensors file: makemore 0.1 wrote such files, and reads them; train it anew"
            )
        content = _content_of(whole)
        tensors = dict(sorted(safetensors.torch.load(whole).items()))  # it has them in any order
        return _model_of(content, tensors, len(whole))
    except ModelFileError as error:
        raise ModelFileError(f"{name} {error}") from error
    except Exception as error:  # whatever json, safetensors and torch make of foreign bytes
        raise ModelFileError(f"{name} is not a makemore model file, or damaged") from error


def _content_of(whole: bytes) -> dict[str, Any]:
    """What a file says beside its tensors, once its digest is found right."""
    length = int.from_bytes(whole[:8], "little")  # of the header, as safetensors has it
    metadata = _strict_json(whole[8 : 8 + length]).get("__metadata__", {})
    if "makemore" not in metadata:
        raise ModelFileError("is not a makemore model file")
    content = _strict_json(metadata["makemore"])
    version, digest = content["version"], content["sha256"]
    _require(type(version) is int, "an invalid format version")
    if version not in (VERSION, ENSEMBLE_VERSION):
        raise ModelFileError(
            f"has format version {version}; this makemore reads {VERSION} and {ENSEMBLE_VERSION}: update it"
        )
    unsigned = whole.replace(digest.encode(), NO_DIGEST.encode(), 1)
    if hashlib.sha256(unsigned).hexdigest() != digest:
        raise ModelFileError("is damaged: its sha256 does not match")
    _require(len(metadata) == 1, "unknown metadata")
    more = ["members"] if version == ENSEMBLE_VERSION else []
    _require_keys(content, "sha256", "version", "plan", "characters", "progress", *more)
    return content


def _strict_json(text: str | bytes) -> dict[str, Any]:
    """A JSON object in which no name stands twice, and no number that JSON does not know."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _require(len(dict(pairs)) == len(pairs), "a name twice in its JSON")
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise ModelFileError(f"has {constant} in its JSON")

    content = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    _require(isinstance(content, dict), "invalid JSON")
    return dict(content)


def _model_of(content: Mapping[str, Any], tensors: Mapping[str, Tensor], size: int) -> Model:
    """The model that a file of ``size`` bytes holds, after checking each part of it."""
    plan, characters, progress = _plan_of(content["plan"]), content["characters"], content["progress"]
    _require(isinstance(characters, str), "an invalid vocabulary")
    vocabulary = Vocabulary(characters)
    _require(vocabulary.characters == characters, "an invalid vocabulary")
    characters.encode()  # raises on half a surrogate pair

    members = content.get("members")
    number = content.get("members", 1)
    _require(type(number) is int and 1 <= number <= MOST_MEMBERS, "an invalid number of members")

    # Only a network that the file is large enough to hold is built.
    _require(4 * number * plan.value_count(len(vocabulary)) <= size, "an invalid plan: it does not fit")
    network = build(plan, members, len(vocabulary), Generator())
    own, values, state = network.state_dict(), _group(tensors, "network"), _group(tensors, "state")
    others = {"losses", "generator"} | {f"state.{name}" for name in state} if progress is not None else set()
    _require(tensors.keys() == {f"network.{name}" for name in own} | others, "other tensors than it should")
    dtype = next((tensor.dtype for tensor in values.values() if tensor.is_floating_point()), None)
    _require(dtype in (torch.float32, torch.float64), "invalid weights")
    for name, tensor in values.items():
        expected = dtype if own[name].is_floating_point() else own[name].dtype
        alike = tensor.shape == own[name].shape and tensor.dtype == expected
        _require(alike and bool(tensor.isfinite().all()), f"an invalid {name}")
        _require("running_var" not in name or bool((tensor >= 0).all()), f"an invalid {name}")
    network.to(dtype=dtype).load_state_dict(values)
    return Model(
        plan,
        vocabulary,
        network.eval(),
        None if progress is None else _progress_of(progress, tensors["losses"], tensors["generator"], state),
    )


def _plan_of(sizes: Mapping[str, Any]) -> Plan:
    """The plan of that name and those sizes."""
    sizes = {"stacks": 1, **sizes} if isinstance(sizes, dict) else {}
    _require_keys(sizes, "name", *LARGEST)
    for name, largest in LARGEST.items():
        size = sizes[name]
        _require(type(size) is int and size <= largest, f"an invalid plan: its {name} cannot be used")
    if sizes["name"] not in NETWORKS:
        raise ModelFileError(
            f"was trained with the network {sizes['name']!r}, which this makemore does not know"
        )
    try:
        return network_plan(**sizes)
    except UsageError as error:
        raise ModelFileError(f"has an invalid plan: {error}") from error


def _progress_of(
    content: Mapping[str, Any], losses: Tensor, generator: Tensor, state: Mapping[str, Tensor]
) -> Progress:
    _require_keys(content, "settings", "fingerprint", "finished", "step", "evaluations")
    step = content["step"]
    _require(type(step) is int and losses.shape == (step,), "an invalid step")
    _require(losses.dtype == torch.float32, "invalid losses")
    _require(generator.shape == Generator().get_state().shape, "an invalid generator state")
    Generator().set_state(generator)
    _require(isinstance(content["settings"], dict), "invalid settings")
    _require(isinstance(content["fingerprint"], str), "an invalid fingerprint")
    _require(type(content["finished"]) is bool, "invalid progress")
    evaluations = []
    for row in content["evaluations"]:
        at, *values = map(_from_json, row)
        _require(type(at) is int and 0 <= at <= step, "invalid evaluations")
        _require(len(row) == len(fields(Evaluation)), "invalid evaluations")
        numbers = [value for value in values if value is not None]
        _require(all(isinstance(n, float) and not n < 0 for n in numbers), "invalid evaluations")
        evaluations.append(Evaluation(at, *values))
    known = {**content, "evaluations": evaluations}
    return Progress(**known, losses=losses, generator=generator, state=state)


def _group(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(f"{prefix}."): t for n, t in tensors.items() if n.startswith(f"{prefix}.")}


def _to_json(value: float | None) -> float | str | None:
    """JSON has no nan and no infinity: they are written as text."""
    return value if value is None or math.isfinite(value) else str(value)


def _from_json(value: Any) -> Any:
    return float(value) if value in ("nan", "inf") else value


def _require_keys(content: Any, *names: str) -> None:
    known = isinstance(content, dict) and content.keys() == set(names)
    _require(known, f"other fields than {', '.join(names)}")


def _require(condition: bool, what_else: str) -> None:
    """Raise ModelFileError, with what the file has, unless the condition holds."""
    if not condition:
        raise ModelFileError(f"has {what_else}")
