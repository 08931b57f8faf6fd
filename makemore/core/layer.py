"""The base class of all layers, and the facts about a layer that engines, the convolution and pictures use.

A layer is a plain class on torch tensors, as in the lecture: ``__call__``, ``parameters()`` and ``out``, its
last output. Batches come first and channels last: (B, C) or (B, T, C), for batch size B, sequence length T
and channel count C.
"""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Generator, Tensor


class Window(NamedTuple):
    """Which positions a layer concatenates: output p is made of the inputs at stride * p + offset.

    The offsets are in ascending order, the oldest position first.
    """

    stride: int
    offsets: tuple[int, ...]

    def input_length(self, output_length: int) -> int:
        """The number of input positions that give ``output_length`` output positions.

        >>> Window(2, (0, 1)).input_length(4), Window(1, (0, 4)).input_length(4)
        (8, 8)
        """
        return self.stride * (output_length - 1) + self.offsets[-1] + 1


class LabelColumn(NamedTuple):
    """A kind of label that words have, such as "country", and its labels in sorted order.

    Label i is ``values[i - 1]``; label 0 means that a word has none.
    """

    name: str
    values: tuple[str, ...]

    def text(self, label: int) -> str:
        """The text of a label; "" for none."""
        return self.values[label - 1] if label else ""


class Layer:
    """The base class of all layers. Methods are named as in ``torch.nn.Module``.

    A subclass lists its trained tensors by attribute name in ``PARAMETERS`` (an attribute that is None is
    left out) and the tensors saved beside them in ``BUFFERS``. Layers that it keeps as attributes, or in
    lists that are attributes, belong to it, see ``named_children``.

    A subclass may declare facts about itself. Fast paths rely on what is declared and assume nothing else; a
    layer that declares nothing is still trained, evaluated and sampled from by its ``__call__``.

    * ``concatenates(self) -> Window``: the output at position p is the concatenation of the input's channels
      at the positions stride * p + offset.
    * ``pointwise = True``: each output position depends on the input at the same position alone.
    * ``affine(self) -> (scale, shift)``: in evaluation the layer computes x * scale + shift, with a factor
      for each channel, or x @ scale + shift if the scale is a matrix.
    * ``composite = True``: ``__call__`` does nothing but call layers, which are attributes or in a list or
      tuple that is one, and add their outputs. Whoever knows these layers then knows this one.
    * ``stochastic = True``: in training the layer draws random numbers from ``generator``; in evaluation it
      returns its input.
    * ``output_range = (low, high)``: the outputs saturate near these bounds.
    * ``takes_labels = True``: the layer is the first one; its input begins with labels, as many in each
      column as its attribute ``label_sizes`` says, before the symbols: (B, K + T).

    A declaration holds for the class that makes it and is not inherited, see ``declared``.
    """

    PARAMETERS: ClassVar[tuple[str, ...]] = ()
    BUFFERS: ClassVar[tuple[str, ...]] = ()
    training = True
    out: Tensor

    block_size: int | None = None
    """Of a whole network: the length of its context. None if it follows from what the layers declare."""

    characters: str | None = None
    """Of a whole network: the characters of the vocabulary it was trained with. None if they are not known.

    A trainer and ``load_model`` set them. Data with other characters is refused, see ``core.fit``.
    """

    labels: tuple[LabelColumn, ...] | None = None
    """Of a whole network: the labels it was trained with; () if there are none, None if that is not known."""

    num_symbols: int | None = None
    """Of a whole network: the number of symbols it has logits for. None if it follows from the layers."""

    generator: Generator | None = None
    """Where a stochastic layer draws from; None is torch's own generator."""

    def __call__(self, x: Tensor, /) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no __call__")

    def named_children(self) -> Iterator[tuple[str, Layer]]:
        """The layers that this one contains, with their names.

        By default those among its attributes, such as "gate", and in lists and tuples that are, as in
        "gates.0". Raises TypeError on a ``torch.nn.Module``, whose tensors would not be trained.
        """
        for name, value in vars(self).items():
            if isinstance(value, Layer):
                yield name, value
            elif isinstance(value, list | tuple):
                for i, item in enumerate(value):
                    if isinstance(item, Layer):
                        yield f"{name}.{i}", item
            elif isinstance(value, torch.nn.Module):
                raise TypeError(
                    f"{type(self).__name__}.{name} is a torch.nn.Module, whose tensors a Layer does not see:"
                    " use layers of makemore, or list the tensors in PARAMETERS"
                )

    def modules(self) -> Iterator[Layer]:
        """This layer and all layers that it contains, parents before children."""
        yield self
        for _, child in self.named_children():
            yield from child.modules()

    def parameters(self) -> list[Tensor]:
        """The trained tensors, in the order of the layers."""
        return [p for _, p in self.named_parameters()]

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """The trained tensors with their names, such as "1.weight" in a Sequential's second layer.

        Shared tensors are listed once, by their first name.
        """
        names: dict[Tensor, str] = {}  # tensors hash by identity
        for name, tensor, trained in self._tensors():
            if trained:
                names.setdefault(tensor, name)
        return ((name, tensor) for tensor, name in names.items())

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors that are saved beside the trained ones, with their names."""
        return ((name, tensor) for name, tensor, trained in self._tensors() if not trained)

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors by name, parameters and buffers: detached, sharing memory with the layer's."""
        return {name: tensor.detach() for name, tensor, _ in self._tensors()}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Copy values in by name. Raises ValueError unless names and shapes match the layer's exactly."""
        own = self.state_dict()
        require_like(state_dict, own)
        for name, tensor in own.items():
            tensor.copy_(state_dict[name])

    def _tensors(self) -> Iterator[tuple[str, Tensor, bool]]:
        """Each tensor's name, the tensor, and whether it is trained."""
        for name in (*self.PARAMETERS, *self.BUFFERS):
            if (tensor := getattr(self, name)) is not None:
                yield name, tensor, name in self.PARAMETERS
        for prefix, child in self.named_children():
            for name, tensor, trained in child._tensors():
                yield f"{prefix}.{name}", tensor, trained

    def train(self, mode: bool = True) -> Self:
        """Switch this layer and all within it to training, or with ``mode=False`` to evaluation."""
        for layer in self.modules():
            layer.training = mode
        return self

    def eval(self) -> Self:
        """Switch this layer and all within it to evaluation."""
        return self.train(False)

    @contextmanager
    def evaluating(self) -> Iterator[Self]:
        """Evaluation without gradients for a ``with`` block; afterwards each layer has its mode back."""
        before = [(layer, layer.training) for layer in self.modules()]
        try:
            with torch.no_grad():
                yield self.eval()
        finally:
            for layer, training in before:
                layer.training = training

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move all tensors and gradients in place to a device, a floating dtype or both, as in torch."""
        for _, tensor, _ in self._tensors():
            grad, tensor.grad = tensor.grad, None
            moved = tensor.data.to(*args, **kwargs)
            tensor.data = moved if tensor.is_floating_point() else tensor.data.to(moved.device)
            if grad is not None:
                tensor.grad = grad.to(*args, **kwargs)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: not the last output, which may belong to an autograd graph.

        Nor the generator: copies that drew from one generator would depend on each other.
        """
        return {name: value for name, value in vars(self).items() if name not in ("out", "generator")}

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def declared(layer: Layer | None, name: str) -> Any:
    """What the layer's own class declares under that name, or None.

    Declarations are not inherited: a subclass may compute something else.
    """
    return None if layer is None else vars(type(layer)).get(name)


def window_of(layer: Layer | None) -> Window | None:
    """Which positions the layer concatenates, or None if it does not declare that."""
    concatenates = declared(layer, "concatenates")
    return None if concatenates is None else concatenates(layer)


def keeps_positions(layer: Layer) -> bool:
    """Whether the layer declares that each output position depends on the same input position alone.

    In evaluation: BatchNorm, which is affine there, takes its statistics over all positions in training.
    """
    return bool(declared(layer, "pointwise")) or declared(layer, "affine") is not None


def label_sizes(network: Layer) -> tuple[int, ...]:
    """How many labels each column has with which a network's contexts begin; () if they begin with none."""
    for layer in network.modules():
        if declared(layer, "takes_labels"):
            return tuple(layer.label_sizes)  # type: ignore[attr-defined]
    return ()


def stochastic_layers(network: Layer) -> dict[str, Layer]:
    """The layers within a network that draw random numbers in training, by name."""
    found = {"": network} if declared(network, "stochastic") else {}
    for name, child in network.named_children():
        for inner, layer in stochastic_layers(child).items():
            found[f"{name}.{inner}".rstrip(".")] = layer
    return found


@contextmanager
def recorded_outputs(network: Layer) -> Iterator[dict[int, Tensor]]:
    """Record the last output of each layer during a ``with`` block, by the ``id`` of the layer.

    A layer need not store its output as ``out``. Outputs that are not tensors are left out. Within the block
    the layers are of other classes, whose declarations are not known.
    """
    outputs: dict[int, Tensor] = {}
    classes = {id(layer): (layer, type(layer)) for layer in network.modules()}.values()

    def recording(cls: type[Layer]) -> type[Layer]:
        def call(self: Layer, *inputs: Any, **named: Any) -> Any:
            out: Any = cls.__call__(self, *inputs, **named)
            if isinstance(out, Tensor):
                outputs[id(self)] = out
            return out

        return type(cls.__name__, (cls,), {"__call__": call})

    try:
        for layer, cls in classes:
            layer.__class__ = recording(cls)
        yield outputs
    finally:
        for layer, cls in classes:
            layer.__class__ = cls


def with_children_replaced(layer: Layer, replacement: Callable[[Layer], Any]) -> Layer:
    """A shallow copy of a layer with a replacement for each of its children.

    Those are the layers among its attributes, and in lists and tuples that are.
    """
    result = copy.copy(layer)
    for name, value in vars(layer).items():
        if isinstance(value, Layer):
            setattr(result, name, replacement(value))
        elif isinstance(value, list | tuple):
            items = [replacement(item) if isinstance(item, Layer) else item for item in value]
            make = getattr(value, "_make", list if isinstance(value, list) else tuple)  # of a named tuple
            setattr(result, name, make(items))
    return result


def require_network(network: object) -> None:
    """Raise TypeError unless it is a network, not a model that contains one, nor a torch module."""
    if isinstance(network, Layer):
        return
    advice = ""
    if isinstance(getattr(network, "network", None), Layer):
        advice = ": pass its .network"
    elif isinstance(network, torch.nn.Module):
        advice = ": from_module gives the network that to_module made one from"
    raise TypeError(
        f"a network is needed, a Layer such as Sequential, not a {type(network).__name__}{advice}"
    )


def layer_text(layer: Layer) -> str:
    """The text of a layer on one line, for messages.

    It has the name of the layer's own class: a ``repr`` that is inherited may name the parent.
    """
    text, name = " ".join(repr(layer).split()), type(layer).__name__
    is_own = "__repr__" in vars(type(layer)) or text.startswith(f"{name}(")
    return text if is_own else f"{name}()"


def nested_repr(name: str, layers: Sequence[object]) -> str:
    """The text of a layer that contains others, each on its own indented lines."""
    return f"{name}([\n" + "".join(textwrap.indent(f"{layer},\n", "    ") for layer in layers) + "])"


def require_indices(layer: Layer, IX: object) -> None:
    """Raise TypeError unless the input is a tensor of indices, int32 or int64."""
    if not isinstance(IX, Tensor):
        kind = type(IX)
        name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
        raise TypeError(
            f"{layer_text(layer)} needs a tensor of indices, got a {name}: pass torch.tensor(...) of it"
        )
    if IX.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{layer_text(layer)} needs int64 indices, got {IX.dtype}")


def require_positions(layer: Layer, x: Tensor) -> None:
    """Raise ValueError unless the input has a dimension of positions, (B, T, C)."""
    if x.ndim == 2:  # which dimension is missing, that of the batch or of the positions, is not known here
        raise ValueError(
            f"{layer_text(layer)} needs (B, T, C), got {tuple(x.shape)}: the network's input needs a batch"
            " dimension, (B, T), as x.unsqueeze(0) has; if it has one, only one position is left and there is"
            " nothing to concatenate"
        )
    if x.ndim != 3:
        raise ValueError(f"{layer_text(layer)} needs (B, T, C), got {tuple(x.shape)}")


def drop_single_position(x: Tensor) -> Tensor:
    """(B, 1, C) -> (B, C); other lengths stay as they are."""
    return x.squeeze(1) if x.shape[1] == 1 else x  # ONNX has no squeeze without effect


def index_outside(IX: Tensor, size: int) -> int | None:
    """The lowest index if it is negative, else the highest if it is not below ``size``, else None."""
    if IX.numel() == 0:
        return None
    low, high = (int(bound) for bound in IX.aminmax())
    return low if low < 0 else high if high >= size else None


def require_like(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless both have the same names and shapes."""
    if tensors.keys() != own.keys():
        raise ValueError(f"tensors differ by name: {sorted(tensors.keys() ^ own.keys())}")
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, got {tuple(tensors[name].shape)}")
