"""One self-contained file for a network, trained or in training.

It describes the layers of the network (see ``architecture``) and has their tensors, with the running
statistics, and the vocabulary, so that sampling needs nothing else. It also has what a run needs to be
resumed to the bit: settings, step, losses, the states of the random generators and the fingerprint of the
word list.

The file is a safetensors file: any reader of that format opens it, and no code in it can run. The network's
tensors have the names of ``state_dict()``; those of the run begin with ``RUN_PREFIX``. The metadata
"makemore" is JSON with everything that is not a tensor. The JSON begins with a sha256 of the whole file,
computed with zeros in its own place, so that a file with one flipped bit is refused. Everything is checked
before it is used, and the network takes at most twice the memory of the file. A model passes the same checks
when it is saved, so that what is written can be read.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Generator, Tensor

from makemore.core.atomic_write import atomic_write
from makemore.core.errors import ModelFileError, UsageError
from makemore.core.fit import require_characters
from makemore.core.graph import context_length
from makemore.core.layer import LabelColumn, Layer, label_sizes
from makemore.core.random import default_generator
from makemore.core.shapes import shapes_only
from makemore.data.capitals import Capitals
from makemore.data.file_kinds import OLD_MODEL, SAFETENSORS, START, file_kind, is_text, why_not_opened
from makemore.data.labels import Labels
from makemore.lecture.layers import BatchNorm1d
from makemore.lecture.words import Vocabulary
from makemore.run.architecture import (
    build,
    check_context,
    check_symbols,
    describe,
    places,
    same_layers,
    share,
    shared_tensors,
)
from makemore.run.catalog import NETWORKS, Plan, network_plan
from makemore.training.ensemble import Ensemble
from makemore.training.evaluation import Evaluation

MODEL_FILE = "model.safetensors"
"""The name of a run's model file."""

BUNDLED = Path(__file__).parents[1] / "trained.safetensors"
"""The bundled network, without its run; ``scripts/release/trained_network.py`` writes it."""

BUNDLED_NAME = "bundled"
"""Names the bundled network where a path of a model file is asked for. A file of that name is ./bundled."""

VERSION = 6
"""The version of the format. Earlier ones were written by pre-releases; version 1 was a pickled file."""

FIELDS = (
    "sha256", "version", "network", "shared", "frozen", "plan", "characters", "labels", "capitals",
    "progress",
)  # fmt: skip
"""The fields of the JSON."""

NO_DIGEST = "0" * 64
"""In the place of the sha256 while it is computed."""

FORMAT = {"format": "pt"}
"""Metadata by which other programs know that the tensors are those of PyTorch."""

RUN_PREFIX = "run:"
"""The beginning of the names of a run's tensors. Names of a network's tensors begin otherwise."""

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""The floating dtypes of a network's tensors."""

LARGEST = {"block_size": 2**12, "n_embd": 2**20, "n_hidden": 2**20, "stacks": 2**8}
"""The largest sizes of a plan that are read."""


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
    """A network or ``Ensemble`` with its vocabulary; if known, its plan, or that of a member, and its run.

    ``labels`` are those of the words, if the network takes labels. ``capitals`` is the rule for capitals that
    the network did not learn: its words have small letters, as in ``generate(model.network, ...)``, and
    ``restored`` puts the capitals back.
    """

    network: Layer
    vocabulary: Vocabulary
    plan: Plan | None = None
    progress: Progress | None = None
    labels: Labels | None = None
    capitals: Capitals | None = None

    def lowered(self, word: str) -> str:
        """A word as the network knows it: without capitals if it did not learn them."""
        return word if self.capitals is None else self.capitals.lower(word)

    def restored(self, word: str) -> str:
        """A word of the network with the capitals that it did not learn."""
        return word if self.capitals is None else self.capitals.restore(word)

    @property
    def block_size(self) -> int:
        """The length of the network's context. Raises ValueError if it is not known."""
        return context_length(self.network)

    @property
    def name(self) -> str:
        """The name of the plan; without one, the network's class."""
        return type(self.network).__name__ if self.plan is None else self.plan.name


def save_model(model: Model, path: str | Path) -> None:
    """Write a model file.

    The plan is left out if the network has other layers than it says. Parameters that are frozen stay frozen,
    unless all are: a network built by hand is one to be trained.

    Raises UsageError if the network cannot be saved: a layer of your own that is not registered, values that
    are not finite, another vocabulary, a context whose length is not known. Raises WriteError if the file
    cannot be written; an existing file then stays as it was.
    """
    require_model(model, "save_model")
    with atomic_write(path) as file:
        file.write(model_bytes(model))


def require_model(model: object, what: str) -> None:
    """Raise TypeError unless it is a Model, such as for a network without its vocabulary."""
    if not isinstance(model, Model):
        raise TypeError(f"{what} needs a Model(network, vocabulary), got a {type(model).__name__}")


def model_bytes(model: Model) -> bytes:
    """The content of a model file, the same bytes for the same model. Settings must be JSON values.

    Raises UsageError if the network cannot be saved.
    """
    if model.network.characters is not None:
        require_characters(model.vocabulary.characters, model.network.characters, None)
    try:
        description = describe(model.network)
        own = model.network.state_dict()
        with shapes_only():
            skeleton = build(description)
        _check_network(skeleton, own, model.vocabulary, model.labels)
        if any(name.startswith((RUN_PREFIX, "__")) for name in own):
            raise ValueError(f"a tensor whose name begins with {RUN_PREFIX} or __")
        if describe(skeleton) != description or not same_layers(skeleton, model.network):
            raise ValueError("a layer that was changed and is no longer what its arguments describe")
    except ValueError as error:
        raise UsageError(f"the network cannot be saved: {_sentence(error)}") from error
    plan = model.plan
    if plan is not None and (
        plan.name not in NETWORKS or not _is_of_plan(description, plan, model.vocabulary, model.labels)
    ):
        plan = None
    tensors = dict(own)
    content: dict[str, Any] = {
        "sha256": NO_DIGEST,
        "version": VERSION,
        "network": description,
        "shared": shared_tensors(model.network),
        "frozen": _frozen_parameters(model.network),
        "plan": None if plan is None else plan.sizes(),
        "characters": model.vocabulary.characters,
        "labels": None if model.labels is None else _labels_to_json(model.labels),
        "capitals": None if model.capitals is None else asdict(model.capitals),
        "progress": None,
    }
    if model.progress is not None:
        progress = model.progress
        of_run = {"losses": progress.losses, "generator": progress.generator}
        of_run |= {f"state.{name}": tensor for name, tensor in progress.state.items()}
        tensors |= {RUN_PREFIX + name: tensor for name, tensor in of_run.items()}
        content["progress"] = {
            "settings": dict(progress.settings),
            "fingerprint": progress.fingerprint,
            "finished": progress.finished,
            "step": progress.step,
            "evaluations": [[_to_json(value) for value in astuple(e)] for e in progress.evaluations],
        }
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    metadata = FORMAT | {"makemore": json.dumps(content, allow_nan=False)}
    whole = _with_metadata(safetensors.torch.save(copies), metadata)
    digest = hashlib.sha256(whole).hexdigest()
    return whole.replace(NO_DIGEST.encode(), digest.encode(), 1)


def _frozen_parameters(network: Layer) -> list[str]:
    """The names of the frozen parameters; none if all are, as in a network built by hand."""
    parameters = {name: p for name, p in network.named_parameters() if p.is_floating_point()}
    frozen = [name for name, p in parameters.items() if not p.requires_grad]
    return frozen if len(frozen) < len(parameters) else []


def _with_metadata(whole: bytes, metadata: Mapping[str, str]) -> bytes:
    """A safetensors file with metadata in this order: safetensors would write another order each time."""
    end = 8 + int.from_bytes(whole[:8], "little")
    header = {"__metadata__": dict(metadata), **json.loads(whole[8:end])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + whole[end:]


def load_model(path: str | Path = BUNDLED_NAME) -> Model:
    """Read a model file, or that of a run's directory; by default, or as "bundled", the bundled network.

    The network is on the CPU, in evaluation, with the dtypes it was saved with, and its parameters require
    gradients unless they were frozen. The bundled network was trained by the default command on the bundled
    list. Raises ModelFileError if the file cannot be read, is not a model file, is damaged, or was written by
    another version. Nothing in the file is executed.
    """
    path = model_path(path)
    return read_model(read_bytes(path), str(path))


def model_path(path: str | Path) -> Path:
    """The model file of a path, which may be a run's directory, or of the name "bundled"."""
    if str(path) == BUNDLED_NAME:
        return BUNDLED
    path = Path(path)
    return path / MODEL_FILE if path.is_dir() else path


def read_bytes(path: Path) -> bytes:
    """The bytes of a model file. Raises ModelFileError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {why_not_opened(str(path), error)}") from error


def read_model(whole: bytes, name: str) -> Model:
    """The model in the bytes of a file. Raises ModelFileError, whose message begins with the file's name."""
    try:
        _check_kind(whole)
        content = _content_of(whole)
        # Tensors made in inference mode could not be trained.
        with torch.inference_mode(False), torch.device("cpu"):
            tensors = dict(sorted(safetensors.torch.load(whole).items()))  # in a fixed order
            return _model_of(content, tensors)
    except ModelFileError as error:
        raise ModelFileError(f"{name} {error}") from error
    except Exception as error:  # json, safetensors and torch raise all kinds on foreign bytes
        raise ModelFileError(f"{name} is not a makemore model file, or it is damaged") from error


def _check_kind(whole: bytes) -> None:
    """Raise ModelFileError, which says what the file is, if it is of another kind than model files are."""
    kind = file_kind(whole[:START])
    if kind == OLD_MODEL:
        raise ModelFileError("was written by a pre-release of makemore; train it again")
    if kind == SAFETENSORS:
        return
    if kind is not None:
        what = f"{kind.what}; {kind.model_advice}" if kind.model_advice else kind.what
    elif not whole:
        what = "empty"
    elif is_text(whole[:START]):
        what = "a text file"
    else:
        return
    raise ModelFileError(f"is not a makemore model file: it is {what}")


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
    _require(metadata.keys() == {*FORMAT, "makemore"}, "unknown metadata")
    _require_keys(content, *FIELDS)
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


def _model_of(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Model:
    """The model in a file, after checking each part of it."""
    characters, progress = content["characters"], content["progress"]
    _require(isinstance(characters, str), "an invalid vocabulary")
    vocabulary = Vocabulary(characters)
    _require(vocabulary.characters == characters, "an invalid vocabulary")
    characters.encode()  # raises on half a surrogate pair
    labels = None if content["labels"] is None else _labels_of(content["labels"])
    capitals = None if content["capitals"] is None else _capitals_of(content["capitals"])
    plan = None if content["plan"] is None else _plan_of(content["plan"])

    of_run = {n.removeprefix(RUN_PREFIX): t for n, t in tensors.items() if n.startswith(RUN_PREFIX)}
    values = {name: tensor for name, tensor in tensors.items() if not name.startswith(RUN_PREFIX)}
    state = {n.removeprefix("state."): t for n, t in of_run.items() if n.startswith("state.")}
    others = {"losses", "generator"} | {f"state.{name}" for name in state} if progress is not None else set()
    _require(of_run.keys() == others, "missing or unexpected tensors")
    network = _network_of(content["network"], content["shared"], values, vocabulary, labels)
    _freeze(network, content["frozen"])
    if plan is not None:
        fits = _is_of_plan(content["network"], plan, vocabulary, labels)
        _require(fits, "an invalid plan: it is not that of its network")
    read = None if progress is None else _progress_of(progress, of_run["losses"], of_run["generator"], state)
    network.characters = vocabulary.characters
    network.labels = () if labels is None else labels.columns
    return Model(network, vocabulary, plan, read, labels, capitals)


def _network_of(
    description: Any,
    shared: Any,
    values: Mapping[str, Tensor],
    vocabulary: Vocabulary,
    labels: Labels | None,
) -> Layer:
    """The network of that description with those values. It is built only if all of them fit."""
    try:
        with shapes_only():
            skeleton = build(description)
        _check_network(skeleton, values, vocabulary, labels)
        with default_generator(Generator()):
            network = build(description)
    except ValueError as error:
        raise ModelFileError(f"has an invalid network: {_sentence(error)}") from error
    _require(isinstance(shared, dict), "invalid shared tensors")
    for name, owner, attribute in places(network):
        tensor: Tensor = getattr(owner, attribute)
        tensor.data = values[name].clone()  # in memory that is aligned as torch's own
        if attribute in owner.PARAMETERS and tensor.is_floating_point():
            tensor.requires_grad_()
    try:
        share(network, shared)
    except ValueError as error:
        raise ModelFileError(f"has {error}") from error
    for name, tensor in network.state_dict().items():
        same = tensor.dtype == values[name].dtype and torch.equal(tensor, values[name])
        _require(same or bool(tensor.isnan().any()), f"different values in the shared tensor {name}")
    return network.eval()


def _freeze(network: Layer, frozen: Any) -> None:
    """Freeze the parameters of these names."""
    parameters = dict(network.named_parameters())
    _require(
        isinstance(frozen, list) and all(isinstance(n, str) for n in frozen), "invalid frozen parameters"
    )
    for name in frozen:
        _require(name in parameters, "frozen parameters that it does not have")
        parameters[name].requires_grad = False


def _check_network(
    skeleton: Layer, values: Mapping[str, Tensor], vocabulary: Vocabulary, labels: Labels | None
) -> None:
    """Raise ValueError unless a network without values fits the tensors for it, vocabulary and labels."""
    own = skeleton.state_dict()
    if own.keys() != values.keys():
        raise ValueError("missing or unexpected tensors")
    for name, owner, attribute in places(skeleton):
        tensor = values[name]
        expected = own[name].dtype
        dtypes = DTYPES if expected.is_floating_point else (expected,)
        if tensor.shape != own[name].shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, not {tuple(own[name].shape)}")
        if tensor.dtype not in dtypes:
            raise ValueError(f"{name} has dtype {tensor.dtype}")
        # A mask among a layer's buffers may be infinite; a norm's statistics may not.
        norm = isinstance(owner, BatchNorm1d)
        if (attribute in owner.PARAMETERS or norm) and not tensor.isfinite().all():
            raise ValueError(f"{name} has values that are not finite: the training diverged")
        if norm and attribute == "running_var" and not (tensor >= 0).all():
            raise ValueError(f"{name} has negative values")
    check_context(skeleton)
    check_symbols(skeleton, len(vocabulary))
    sizes = () if labels is None else labels.sizes
    if label_sizes(skeleton) != sizes:
        needed = list(label_sizes(skeleton)) or "none"
        raise ValueError(f"the network takes labels, as many in each column: {needed}; got {list(sizes)}")


def _is_of_plan(
    description: Mapping[str, Any], plan: Plan, vocabulary: Vocabulary, labels: Labels | None
) -> bool:
    """Whether a network, or every member of an ensemble, has the layers of the plan."""
    with shapes_only():
        sizes = () if labels is None else labels.sizes
        expected = describe(plan.build(len(vocabulary), label_sizes=sizes))
    ensemble = description["layer"] == Ensemble.__name__
    members = description["arguments"]["members"] if ensemble else [description]
    return all(member == expected for member in members)


def _sentence(error: Exception) -> str:
    """The message of an error in one line of a readable length."""
    text = " ".join(str(error).split())
    return text if len(text) <= 400 else f"{text[:400]}…"


def _labels_to_json(labels: Labels) -> dict[str, Any]:
    return {
        "columns": [{"name": column.name, "values": list(column.values)} for column in labels.columns],
        "rows": labels.rows.tolist(),
        "counts": labels.counts.tolist(),
    }


def _labels_of(content: Any) -> Labels:
    """The labels in a file, after checking them."""
    _require_keys(content, "columns", "rows", "counts")
    columns = []
    for given in content["columns"]:
        _require_keys(given, "name", "values")
        name, values = given["name"], given["values"]
        _require(isinstance(values, list), "invalid labels")
        _require(all(isinstance(text, str) for text in (name, *values)), "invalid labels")
        _require(values == sorted({*values} - {""}), "invalid labels: they are not in sorted order")
        "".join([name, *values]).encode()  # raises on half a surrogate pair
        columns.append(LabelColumn(name, tuple(values)))
    rows, counts = (torch.tensor(content[key], dtype=torch.int64) for key in ("rows", "counts"))
    _require(bool(columns) and len({column.name for column in columns}) == len(columns), "invalid labels")
    labels = Labels(tuple(columns), rows, counts)
    shapes = rows.shape == (len(counts), len(columns)) and len(counts) > 0 and counts.ndim == 1
    _require(shapes and bool((counts > 0).all()), "invalid combinations of labels")
    inside = (rows >= 0) & (rows < torch.tensor(labels.sizes))
    distinct = len(torch.unique(rows, dim=0)) == len(rows)
    _require(bool(inside.all()) and distinct, "invalid combinations of labels")
    return labels


def _plan_of(sizes: Mapping[str, Any]) -> Plan:
    """The plan of that name and those sizes."""
    sizes = {"stacks": 1, "dropout": None, **sizes} if isinstance(sizes, dict) else {}
    _require_keys(sizes, "name", *LARGEST, "dropout")
    for name, largest in LARGEST.items():
        size = sizes[name]
        _require(type(size) is int and size <= largest, f"an invalid plan: its {name} is out of range")
    if sizes["name"] not in NETWORKS:
        raise ModelFileError(f"has the network {sizes['name']!r}, which this makemore does not know")
    try:
        return network_plan(**sizes)
    except UsageError as error:
        raise ModelFileError(f"has an invalid plan: {error}") from error


def _capitals_of(content: Any) -> Capitals:
    """The rule for capitals in a file."""
    _require_keys(content, "everywhere", "after", "small")
    everywhere, after, small = content["everywhere"], content["after"], content["small"]
    texts = small if isinstance(small, list) else [None]
    valid = type(everywhere) is bool and all(isinstance(text, str) for text in [after, *texts])
    _require(valid, "an invalid rule for capitals")
    return Capitals(everywhere, after, tuple(small))


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
