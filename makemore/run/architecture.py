"""Networks as JSON: each layer by its kind and the arguments of its constructor.

``describe`` turns a network into JSON values, and ``build`` turns these into a network whose tensors have the
same names and shapes. The kinds are the layers of the package and those given to ``register_layer``. A
description that names anything else is refused, and nothing in it is executed.

    {"layer": "Sequential", "arguments": {"layers": [
        {"layer": "Embedding", "arguments": {"num_embeddings": 27, "embedding_dim": 24}},
        ...
    ]}, "block_size": 8}
"""

from __future__ import annotations

import inspect
import math
import operator
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from makemore.core.errors import UsageError
from makemore.core.graph import FalseDeclaration, Node, context_length, trace
from makemore.core.layer import Layer, declared, layer_text
from makemore.lecture.layers import (
    BatchNorm1d,
    Embedding,
    FlattenConsecutive,
    HistoricBatchNorm1d,
    Linear,
    Sequential,
    Tanh,
)
from makemore.paper.layers import (
    Dropout,
    FlattenDilated,
    GatedActivation,
    LabelledEmbedding,
    LayerNorm,
    ReLU,
    ResidualBlock,
    RMSNorm,
    SkipConnections,
    TakeLast,
)
from makemore.training.ensemble import Ensemble

MAX_DEPTH = 100
"""How deep layers may be nested in a description."""

MAX_CONTEXT = 2**12
"""The longest context of a network in a file: it takes much memory to use, but little space in the file."""

Arguments = Callable[[Any], Mapping[str, Any]]
"""The arguments of a layer's constructor by name, read from the layer: plain values, layers and lists."""


class Kind(NamedTuple):
    """A class of layers, and how the arguments of its constructor are read from a layer."""

    cls: type[Layer]
    arguments: Arguments


def attributes(*names: str) -> Arguments:
    """Read arguments that a layer keeps as attributes of the same name."""
    return lambda layer: {name: getattr(layer, name) for name in names}


def _norm(*names: str) -> Arguments:
    """The arguments of a normalization: its number of channels, and attributes."""
    return lambda layer: {"dim": layer.gamma.shape[0], **attributes(*names)(layer)}


def _positions(layer: HistoricBatchNorm1d) -> int:
    return layer.running_mean.shape[0] if layer.running_mean.ndim > 1 else 1


PACKAGE = {
    kind.cls.__name__: kind
    for kind in (
        Kind(Embedding, lambda e: {"num_embeddings": e.weight.shape[0], "embedding_dim": e.weight.shape[1]}),
        Kind(
            LabelledEmbedding,
            lambda e: {
                "num_embeddings": e.weight.shape[0],
                "embedding_dim": e.weight.shape[1],
                "label_sizes": list(e.label_sizes),
            },
        ),
        Kind(
            Linear,
            lambda linear: {
                "fan_in": linear.weight.shape[0],
                "fan_out": linear.weight.shape[1],
                "bias": linear.bias is not None,
            },
        ),
        Kind(BatchNorm1d, _norm("eps", "momentum")),
        Kind(
            HistoricBatchNorm1d,
            lambda norm: {**_norm("eps", "momentum")(norm), "positions": _positions(norm)},
        ),
        Kind(RMSNorm, _norm("eps")),
        Kind(LayerNorm, _norm("eps")),
        Kind(Tanh, attributes()),
        Kind(ReLU, attributes()),
        Kind(GatedActivation, attributes()),
        Kind(Dropout, attributes("p")),
        Kind(FlattenConsecutive, attributes("n")),
        Kind(FlattenDilated, attributes("n", "dilation")),
        Kind(TakeLast, attributes("n", "skip")),
        Kind(Sequential, attributes("layers")),
        Kind(
            ResidualBlock,
            lambda block: {
                "gather": block.body.layers[0],
                "layers": block.body.layers[1:],
                "projection": block.projection,
            },
        ),
        Kind(SkipConnections, attributes("blocks", "skips")),
        Kind(Ensemble, attributes("members")),
    )
}
"""The layers of the package by name."""

_registered: dict[str, Kind] = {}
"""The layers of users by name."""


def register_layer(cls: type[Layer], arguments: Sequence[str] | Arguments = ()) -> type[Layer]:
    """Let model files hold layers of a class of your own; returns the class.

    ``arguments`` says how the class is called to create such a layer again: the names of constructor
    arguments that are also attributes, or a function that gives all arguments by name. They may be numbers,
    texts, bools, None, layers, and lists of these. A program that loads the file registers the class first.

        register_layer(MeanOverPositions)
        register_layer(Shift, ["n"])
        register_layer(Table, lambda table: {"rows": len(table.weight)})

    Raises ValueError if the package or another class has the name.
    """
    name = cls.__name__
    known = _registered.get(name)
    # A notebook's cell that is run again defines the class again.
    again = known is None or _home(known.cls) == _home(cls)
    if name in PACKAGE or not again:
        raise ValueError(f"another class is registered as {name!r}: rename one of them")
    if not issubclass(cls, Layer):
        raise ValueError(f"{name} is not derived from Layer")
    _registered[name] = Kind(cls, arguments if callable(arguments) else attributes(*arguments))
    return cls


def _home(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


def describe(network: Layer) -> dict[str, Any]:
    """The layers of a network as JSON values.

    Raises UsageError that names the layer if its class is not registered, or if its arguments do not describe
    it.
    """
    return _describe(network, "", MAX_DEPTH)


def _describe(layer: Layer, name: str, depth: int) -> dict[str, Any]:
    cls = type(layer)
    at = f"{f'layer {name}' if name else 'it'} is a {cls.__name__}"
    kind = PACKAGE.get(cls.__name__) or _registered.get(cls.__name__)
    if kind is None or kind.cls is not cls:
        raise UsageError(
            f"{at}, a class that model files do not know: call makemore.register_layer({cls.__name__}, [names"
            " of its constructor's arguments])"
        )
    if depth == 0:
        raise UsageError(f"{at}, in more than {MAX_DEPTH} layers within each other")
    try:
        arguments = dict(kind.arguments(layer))
    except Exception as error:  # a user's function
        raise UsageError(f"{at}, whose arguments cannot be read: {error or type(error).__name__}") from error
    children = {id(child): child_name for child_name, child in layer.named_children()}

    def plain(value: Any, argument: str) -> Any:
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, Layer):
            inner = children.get(id(value), argument)
            return _describe(value, f"{name}.{inner}".lstrip("."), depth - 1)
        if isinstance(value, list | tuple):
            return [plain(item, f"{argument}.{i}") for i, item in enumerate(value)]
        if isinstance(value, float) and math.isfinite(value):
            return float(value)
        try:
            return operator.index(value)  # also of numpy
        except TypeError:
            raise UsageError(
                f"{at}, whose argument {argument} cannot be saved: it is {str(value)[:80]!r}, not a finite"
                " number, a text, a layer or a list of these"
            ) from None

    description: dict[str, Any] = {
        "layer": cls.__name__,
        "arguments": {argument: plain(value, argument) for argument, value in arguments.items()},
    }
    if layer.block_size is not None:
        description["block_size"] = layer.block_size
    return description


def build(description: Any) -> Layer:
    """A new network of that description, with new values. Raises ValueError that names the fault."""
    return _build(description, MAX_DEPTH)


def _build(description: Any, depth: int) -> Layer:
    if not isinstance(description, dict) or not {"layer", "arguments"} <= description.keys() <= {
        "layer",
        "arguments",
        "block_size",
    }:
        raise ValueError("a layer needs the fields layer, arguments and perhaps block_size")
    name, given, block_size = (description.get(key) for key in ("layer", "arguments", "block_size"))
    kind = (PACKAGE.get(name) or _registered.get(name)) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(
            f"the layer {str(name)[:80]!r} is not known: update makemore, or call makemore.register_layer if"
            " it is your own"
        )
    if depth == 0:
        raise ValueError(f"more than {MAX_DEPTH} layers are within each other")
    if not isinstance(given, dict):
        raise ValueError(f"{name} needs arguments by name")

    def made(value: Any) -> Any:
        if isinstance(value, dict):
            return _build(value, depth - 1)
        return [made(item) for item in value] if isinstance(value, list) else value

    arguments = {argument: made(value) for argument, value in given.items()}
    try:
        inspect.signature(kind.cls).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error
    for argument, hint in _hints(kind.cls).items():
        if argument in arguments and not _fits(arguments[argument], hint):
            raise ValueError(f"{name} cannot have {argument} = {str(given[argument])[:80]!r}")
    too_long = (n for n in ("n", "skip", "dilation") if name in PACKAGE and arguments.get(n, 0) > MAX_CONTEXT)
    if (long := next(too_long, None)) is not None:
        raise ValueError(f"{name} cannot have {long} above {MAX_CONTEXT:,}")
    try:
        layer = kind.cls(**arguments)
    except Exception as error:  # sizes that cannot be, or whatever a user's class raises
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{name} cannot be created: {reason}") from error
    if "block_size" in description:
        if type(block_size) is not int or not 1 <= block_size <= MAX_CONTEXT:
            raise ValueError(
                f"a context of {str(block_size)[:80]} characters: it must be 1 to {MAX_CONTEXT:,}"
            )
        layer.block_size = block_size
    return layer


def _hints(cls: type) -> dict[str, Any]:
    """The annotations of a constructor, where they can be resolved."""
    try:
        return get_type_hints(cls.__init__)  # type: ignore[misc]
    except Exception:  # such as a name that is imported for type checkers alone
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether an argument is of the annotated type. Annotations that JSON has no values for fit all."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if origin in (Sequence, list, tuple):
        item = next(iter(get_args(hint)), Any)
        return isinstance(value, list) and all(_fits(one, item) for one in value)
    if hint is None or hint is type(None):
        return value is None
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    if hint in (int, bool, str):
        return type(value) is hint
    return isinstance(value, hint) if isinstance(hint, type) and issubclass(hint, Layer) else True


def same_layers(network: Layer, other: Layer) -> bool:
    """Whether two networks have the same layers of the same kinds everywhere, whatever their values."""
    children, others = dict(network.named_children()), dict(other.named_children())
    if type(network) is not type(other) or list(children) != list(others):
        return False
    if not children:
        return describe(network) == describe(other)
    return all(same_layers(child, others[name]) for name, child in children.items())


def check_context(network: Layer) -> None:
    """Raise ValueError unless the length of the network's context is known and at most ``MAX_CONTEXT``."""
    length = context_length(network)
    if length > MAX_CONTEXT:
        raise ValueError(f"a context of {length:,} characters: {MAX_CONTEXT:,} is the most")


def check_symbols(network: Layer, vocab_size: int) -> None:
    """Raise ValueError if the network is for another number of symbols, as far as its layers show."""
    if isinstance(network, Ensemble):
        for member in network.members:
            check_symbols(member, vocab_size)
        return
    try:
        nodes = trace(network)
    except FalseDeclaration:
        return
    for layer, inputs in nodes:
        if isinstance(layer, Embedding) and -1 in inputs and layer.weight.shape[0] != vocab_size:
            raise ValueError(f"{layer_text(layer)} for a vocabulary of {vocab_size:,} symbols")
    last = last_linear(nodes)
    if last is not None and last.weight.shape[1] != vocab_size:
        raise ValueError(f"{layer_text(last)} gives the logits of a vocabulary of {vocab_size:,} symbols")


def last_linear(nodes: Sequence[Node]) -> Linear | None:
    """The Linear whose outputs are the logits, up to layers that keep the number of channels."""
    i = len(nodes) - 1
    while i >= 0:
        layer, inputs = nodes[i]
        if isinstance(layer, Linear):
            return layer
        keeps = layer is None or (declared(layer, "pointwise") and type(layer).__name__ in PACKAGE)
        if not keeps or isinstance(layer, GatedActivation | Embedding):
            return None
        i = inputs[0]
    return None


class Place(NamedTuple):
    """Where a tensor is: its name in the network, the layer that has it, and the attribute there."""

    name: str
    owner: Layer
    attribute: str


def places(network: Layer, prefix: str = "") -> Iterator[Place]:
    """The places of all tensors, in the order of ``state_dict()``."""
    for attribute in (*network.PARAMETERS, *network.BUFFERS):
        if getattr(network, attribute) is not None:
            yield Place(prefix + attribute, network, attribute)
    for name, child in network.named_children():
        yield from places(child, f"{prefix}{name}.")


def shared_tensors(network: Layer) -> dict[str, str]:
    """The names of tensors that are the same object as an earlier one, with the name of that one."""
    first: dict[int, str] = {}
    shared = {}
    for name, owner, attribute in places(network):
        earlier = first.setdefault(id(getattr(owner, attribute)), name)
        if earlier != name:
            shared[name] = earlier
    return shared


def share(network: Layer, shared: Mapping[str, str]) -> None:
    """Make tensors the same objects again. Raises ValueError on names that the network does not have."""
    known = {place.name: place for place in places(network)}
    for name, earlier in shared.items():
        if not isinstance(earlier, str) or not {name, earlier} <= known.keys():
            raise ValueError("shared tensors that it does not have")
        source, target = known[earlier], known[name]
        setattr(target.owner, target.attribute, getattr(source.owner, source.attribute))
