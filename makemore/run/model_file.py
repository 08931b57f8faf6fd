"""One self-contained file for a network, trained or in training.

It has the plan of the network, its tensors (with the running statistics) and the vocabulary, so that sampling
needs nothing else; for an ensemble, the plan of its members and their number. It also has what a run needs to
be resumed to the bit: settings, step, losses, the states of the random generators and the fingerprint of the
word list.

The file is a safetensors file: any reader of that format opens it, and no code in it can run. Its metadata
"makemore" is JSON with everything that is not a tensor. The JSON begins with a sha256 of the whole file,
computed with zeros in its own place, so that a file with one flipped bit is refused. Everything is checked
before it is used, and no tensor takes more memory than the file.
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

from makemore.core.atomic_write import atomic_write
from makemore.core.errors import ModelFileError, UsageError
from makemore.core.layer import Layer
from makemore.lecture.words import Vocabulary
from makemore.run.catalog import NETWORKS, Plan, build_network, network_plan
from makemore.training.ensemble import Ensemble
from makemore.training.evaluation import Evaluation

MODEL_FILE = "model.safetensors"
"""The name of a run's model file."""

BUNDLED = Path(__file__).parents[1] / "trained.safetensors"
"""The bundled network, without its run; ``scripts/release/trained_network.py`` writes it."""

VERSION = 4
"""The version of the format. Earlier ones were written by pre-releases; version 1 was a pickled file."""

ZIP = b"PK\3\4"
"""How a file of version 1 begins. (b"PK" alone could also be the length of a safetensors header.)"""


NO_DIGEST = "0" * 64
"""In the place of the sha256 while it is computed."""

LARGEST = {"block_size": 2**12, "n_embd": 2**20, "n_hidden": 2**20, "stacks": 2**8}
"""The largest sizes of a plan that are read: a long context takes much memory, but little space in a file."""

MAX_MEMBERS = 1000
"""The largest ensemble that is read."""


@dataclass(frozen=True)
class Progress:
    """The state of a run, besides its network.

    ``settings`` are plain values by name; ``losses``, (step,), and ``evaluations`` are the history;
    ``generator`` is the state of the random generator, uint8; ``state`` has the trainer's own tensors.
    """

    settings: Mapping[str, Any]
    fingerprint: str
    finished: bool
    step: int
    losses: Tensor
    evaluations: Sequence[Evaluation]
    generator: Tensor
    state: Mapping[str, Tensor]


@dataclass(frozen=True)
class Model:
    """A network or ``Ensemble``, the plan of the network or of a member, the vocabulary, and the run."""

    plan: Plan
    vocabulary: Vocabulary
    network: Layer
    progress: Progress | None = None


def save_model(model: Model, path: str | Path) -> None:
    """Write a model file.

    Raises WriteError if it cannot be written; an existing file then stays as it was.
    """
    with atomic_write(path) as file:
        file.write(model_bytes(model))


def model_bytes(model: Model) -> bytes:
    """The content of a model file, the same bytes for the same model. Settings must be JSON values."""
    tensors = {f"network.{name}": tensor for name, tensor in model.network.state_dict().items()}
    content: dict[str, Any] = {
        "sha256": NO_DIGEST,
        "version": VERSION,
        "plan": model.plan.sizes(),
        "members": len(model.network.members) if isinstance(model.network, Ensemble) else None,
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
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    whole = safetensors.torch.save(copies, {"makemore": json.dumps(content, allow_nan=False)})
    digest = hashlib.sha256(whole).hexdigest()
    return whole.replace(NO_DIGEST.encode(), digest.encode(), 1)


def load_model(path: str | Path = BUNDLED) -> Model:
    """Read a model file; by default that of the bundled network. The network is on the CPU, in evaluation.

    The bundled network was trained by the default command on the bundled list. Raises ModelFileError if the
    file cannot be read, is not a model file, is damaged, or was written by another version. Nothing in the
    file is executed.
    """
    return read_model(read_bytes(Path(path)), str(path))


def read_bytes(path: Path) -> bytes:
    """The bytes of a model file. Raises ModelFileError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror or error}") from error


def read_model(whole: bytes, name: str) -> Model:
    """The model in the bytes of a file. Raises ModelFileError, whose message begins with the file's name."""
    try:
        if whole.startswith(ZIP):
            raise ModelFileError("was written by a pre-release of makemore; train it again")
        content = _content_of(whole)
        tensors = dict(sorted(safetensors.torch.load(whole).items()))  # in a fixed order
        return _model_of(content, tensors, len(whole))
    except ModelFileError as error:
        raise ModelFileError(f"{name} {error}") from error
    except Exception as error:  # json, safetensors and torch raise all kinds on foreign bytes
        raise ModelFileError(f"{name} is not a makemore model file, or it is damaged") from error


def _content_of(whole: bytes) -> dict[str, Any]:
    """The JSON of a file, after its sha256 has been checked."""
    length = int.from_bytes(whole[:8], "little")  # of the safetensors header
    metadata = _strict_json(whole[8 : 8 + length]).get("__metadata__", {})
    if "makemore" not in metadata:
        raise ModelFileError("is not a makemore model file")
    content = _strict_json(metadata["makemore"])
    version, digest = content["version"], content["sha256"]
    _require(type(version) is int, "an invalid format version")
    if version < VERSION:
        raise ModelFileError("was written by a pre-release of makemore; train it again")
    if version > VERSION:
        raise ModelFileError(
            f"has format version {version}, but this makemore reads {VERSION}: update makemore"
        )
    unsigned = whole.replace(digest.encode(), NO_DIGEST.encode(), 1)
    if hashlib.sha256(unsigned).hexdigest() != digest:
        raise ModelFileError("is damaged: its sha256 does not match")
    _require(len(metadata) == 1, "unknown metadata")
    _require_keys(content, "sha256", "version", "plan", "members", "characters", "progress")
    return content


def _strict_json(text: str | bytes) -> dict[str, Any]:
    """A JSON object without duplicate keys and without NaN or Infinity."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _require(len(dict(pairs)) == len(pairs), "a duplicate JSON key")
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise ModelFileError(f"has {constant} in its JSON")

    content = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    _require(isinstance(content, dict), "invalid JSON")
    return dict(content)


def _model_of(content: Mapping[str, Any], tensors: Mapping[str, Tensor], size: int) -> Model:
    """The model in a file of ``size`` bytes, after checking each part of it."""
    plan, characters, progress = _plan_of(content["plan"]), content["characters"], content["progress"]
    _require(isinstance(characters, str), "an invalid vocabulary")
    vocabulary = Vocabulary(characters)
    _require(vocabulary.characters == characters, "an invalid vocabulary")
    characters.encode()  # raises on half a surrogate pair

    members = content["members"]
    number = 1 if members is None else members
    _require(type(number) is int and 1 <= number <= MAX_MEMBERS, "an invalid number of members")

    # A network larger than the file is not built.
    _require(4 * number * plan.num_values(len(vocabulary)) <= size, "an invalid plan: it does not fit")
    network = build_network(plan, members, len(vocabulary), Generator())
    own, values, state = network.state_dict(), _group(tensors, "network"), _group(tensors, "state")
    others = {"losses", "generator"} | {f"state.{name}" for name in state} if progress is not None else set()
    _require(tensors.keys() == {f"network.{name}" for name in own} | others, "missing or unexpected tensors")
    dtype = next((tensor.dtype for tensor in values.values() if tensor.is_floating_point()), None)
    _require(dtype in (torch.float32, torch.float64), "invalid weights")
    for name, tensor in values.items():
        expected = dtype if own[name].is_floating_point() else own[name].dtype
        fits = tensor.shape == own[name].shape and tensor.dtype == expected
        _require(fits and bool(tensor.isfinite().all()), f"an invalid {name}")
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
        _require(type(size) is int and size <= largest, f"an invalid plan: its {name} is out of range")
    if sizes["name"] not in NETWORKS:
        raise ModelFileError(f"has the network {sizes['name']!r}, which this makemore does not know")
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
    """JSON has neither nan nor infinity: they are written as text."""
    return value if value is None or math.isfinite(value) else str(value)


def _from_json(value: Any) -> Any:
    return float(value) if value in ("nan", "inf") else value


def _require_keys(content: Any, *names: str) -> None:
    known = isinstance(content, dict) and content.keys() == set(names)
    _require(known, f"missing or unexpected fields: it needs {', '.join(names)}")


def _require(condition: bool, fault: str) -> None:
    """Raise ModelFileError unless the condition holds: the file has the fault."""
    if not condition:
        raise ModelFileError(f"has {fault}")
