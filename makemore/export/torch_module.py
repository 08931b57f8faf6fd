"""A network as a ``torch.nn.Module`` and back, for torch.export, ONNX and torch's optimizers.

    module = to_module(network.eval())
    torch.export.export(module, (X,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.onnx.export(module, (X,), "network.onnx", dynamic_shapes=({0: "batch"},))

One class of module serves all layers: it registers a layer's tensors and calls the layer. Any layer can be
converted, including your own, and its outputs are the same bits, in training and in evaluation.

Limits: the submodules are not torch's own classes, so a tool that looks for ``nn.Linear`` finds none. Of what
a layer stores during a call, only the tensors in its ``BUFFERS`` are kept. A stochastic layer draws from
torch's own generator.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from torch import Tensor, nn

from makemore.core.layer import Layer, require_network


class TorchModule(nn.Module):
    """A layer as a module: the layer's tensors are its parameters and buffers, its children submodules.

    The names in ``state_dict()`` are those of the layer. Values and modes are copied. A tensor or layer that
    occurs twice in a network is one parameter or submodule with two names. Raises ValueError on a layer that
    keeps a child elsewhere than in its attributes, or in lists, tuples and dicts among them.
    """

    def __init__(self, layer: Layer, made: dict[int, Any] | None = None) -> None:
        super().__init__()
        made = {} if made is None else made  # by id: the tensors and modules of this network so far
        places: dict[int, _Place] = {}
        for name in (*layer.PARAMETERS, *layer.BUFFERS):
            if (tensor := getattr(layer, name)) is not None:
                trained = name in layer.PARAMETERS
                if id(tensor) not in made:
                    made[id(tensor)] = nn.Parameter(_copied(tensor)) if trained else _copied(tensor)
                (self.register_parameter if trained else self.register_buffer)(name, made[id(tensor)])
                places[id(tensor)] = _Place(name)
        for name, child in layer.named_children():
            if id(child) not in made:
                made[id(child)] = TorchModule(child, made)
            _add_submodule(self, name, made[id(child)])
            places[id(child)] = _Place(name)
        self.training = layer.training
        self._text = repr(layer) if next(layer.named_children(), None) is None else ""
        missing = dict(places)

        def place(value: Any) -> Any:
            missing.pop(id(value), None)
            return places.get(id(value), value)

        self._layer = _replaced_in(layer, place)
        if missing:
            names = ", ".join(each.name for each in missing.values())
            raise ValueError(
                f"{type(layer).__name__} cannot be converted: keep {names} in an attribute, or in a list,"
                " tuple or dict that is one"
            )

    def forward(self, x: Tensor, *, layer: Layer | None = None) -> Tensor:
        """The output of ``layer``, by default of a new ``bound_layer()``."""
        layer = self.bound_layer() if layer is None else layer
        out: Tensor = layer(x)
        for name in layer.BUFFERS:
            if name in self._buffers and getattr(layer, name) is not self._buffers[name]:
                setattr(self, name, getattr(layer, name))  # the layer has replaced the tensor
        return out

    def bound_layer(self) -> Layer:
        """The layer with this module's tensors, not copied, and with its submodules in place of children."""
        children: dict[str, _Child] = {}

        def part(value: Any) -> Any:
            if not isinstance(value, _Place):
                return value
            own = attrgetter(value.name)(self)
            if not isinstance(own, TorchModule):
                return own
            if value.name not in children:
                children[value.name] = _Child(own)
            return children[value.name]

        layer = _replaced_in(self._layer, part)
        layer.training = self.training
        return layer

    def extra_repr(self) -> str:
        return self._text


def to_module(layer: Layer) -> TorchModule:
    """The module that computes what a layer or network computes, with copies of its values, in its mode.

    Frozen parameters stay frozen, unless all are: a network built by hand is one to be trained.
    """
    require_network(layer)
    module = TorchModule(layer)
    if any(p.requires_grad for p in layer.parameters()):
        for name, p in layer.named_parameters():
            module.get_parameter(name).requires_grad = p.requires_grad
    return module


def from_module(module: nn.Module) -> Layer:
    """The layer that ``to_module`` made a module from, with copies of the module's values, in its mode.

    Its parameters require gradients if the module's do. Raises ValueError on a module that ``to_module`` did
    not make.
    """
    return _layer_of(module, {})


def _layer_of(module: nn.Module, made: dict[Any, Any]) -> Layer:
    """``from_module``; ``made`` has the tensors and layers made so far, by their tensors and modules."""
    if not isinstance(module, TorchModule):
        raise ValueError(f"from_module needs a module made by to_module, got {type(module).__name__}")

    def part(value: Any) -> Any:
        if not isinstance(value, _Place):
            return value
        own = attrgetter(value.name)(module)
        if own not in made:
            if isinstance(own, nn.Module):
                made[own] = _layer_of(own, made)
            else:
                made[own] = _copied(own).requires_grad_(own.requires_grad)
        return made[own]

    layer = module._layer
    result = _replaced_in(layer, part)
    result.training = module.training
    return result


@dataclass(frozen=True)
class _Place:
    """Where a module's layer had a tensor or child: its name in the module."""

    name: str


class _Child:
    """Takes the place of a child while a layer is called: calls the submodule.

    It has the attributes of the layer that the submodule calls, such as the ``z`` of a ResidualBlock.
    """

    def __init__(self, module: TorchModule) -> None:
        self._module, self._layer = module, module.bound_layer()

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = self._module(x, layer=self._layer)
        return out

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


def _replaced_in(layer: Layer, replacement: Callable[[Any], Any]) -> Layer:
    """A copy of a layer, with replacements for its attributes and what their lists, tuples and dicts hold."""

    def replaced(value: Any) -> Any:
        if type(value) in (list, tuple):
            return type(value)(map(replaced, value))
        if type(value) is dict:
            return {key: replaced(item) for key, item in value.items()}
        return replacement(value)

    result = copy.copy(layer)
    for name, value in vars(result).items():
        setattr(result, name, replaced(value))
    return result


def _add_submodule(module: nn.Module, name: str, child: nn.Module) -> None:
    """Add a child by a name such as "blocks.0"."""
    *groups, last = name.split(".")
    for group in groups:
        if group not in module._modules:
            module.add_module(group, nn.Module())
        module = module.get_submodule(group)
    module.add_module(last, child)


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()
