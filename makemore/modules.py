"""A network as a ``torch.nn.Module``, and back (beyond the lecture).

``to_module`` makes a network's twin out of torch's own layers, with the same values, so that torch.export,
ONNX and quantisation are one call away:

    module = to_module(network.eval())
    torch.export.export(module, (X,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.onnx.export(module, (X,), "network.onnx", dynamic_shapes=({0: "batch"},))

To give a layer of your own a twin, write two functions like those below and put them in ``TWINS``.

A module's outputs are those of the network in evaluation, to rounding. In training torch's BatchNorm
normalises by the biased variance, ours, as the lecture's, by the unbiased one.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from makemore.ensemble import Ensemble, mean_log_probs
from makemore.layers import (
    BatchNorm1d,
    Embedding,
    FlattenConsecutive,
    FlattenDilated,
    GatedActivation,
    HistoricBatchNorm1d,
    Layer,
    Linear,
    Newest,
    ReLU,
    ResidualBlock,
    RMSNorm,
    Sequential,
    SkipConnections,
    Tanh,
)


def to_module(layer: Layer) -> nn.Module:
    """The module that does what a layer or network does: with copies of its values, in its mode.

    Raises ValueError on a layer that has no twin.
    """
    if type(layer) not in TWINS:
        raise ValueError(
            f"{type(layer).__name__} has no module as its twin: put one in makemore.modules.TWINS"
        )
    module = TWINS[type(layer)].module_of(layer)
    if next(layer.named_children(), None) is None:
        return module.train(layer.training)
    module.training = layer.training  # those within have modes of their own
    return module


def from_module(module: nn.Module) -> Layer:
    """The layer whose twin a module is: with copies of its values, the same bits, in its mode.

    Its parameters require a gradient. Raises ValueError on a module that is no twin, such as torch's own
    BatchNorm1d, which takes (B, C, T).
    """
    layer = next((t.layer_of(module) for t in TWINS.values() if t.module is type(module)), None)
    if layer is None:
        raise ValueError(f"{type(module).__name__} is the twin of no layer in makemore.modules.TWINS")
    layer.training = module.training
    return layer


class ChannelsLastBatchNorm1d(nn.BatchNorm1d):
    """torch's BatchNorm1d on (B, C) or, with channels last as ours, (B, T, C)."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 2:
            return super().forward(x)
        return super().forward(x.transpose(1, 2)).transpose(1, 2)  # (B, T, C) -> (B, C, T) and back


class PositionsBatchNorm1d(nn.Module):
    """The lecture's BatchNorm before its bug was found: statistics by position, gain and bias by channel."""

    def __init__(self, dim: int, positions: int, eps: float, momentum: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(positions * dim, eps, momentum, affine=False, device="meta")
        self.weight, self.bias = nn.Parameter(torch.empty(dim)), nn.Parameter(torch.empty(dim))

    def forward(self, x: Tensor) -> Tensor:
        xhat: Tensor = self.norm(x.flatten(1)).view_as(x)  # (B, T, C) -> (B, T*C) and back
        return xhat * self.weight + self.bias


class PositionsModule(nn.Module):
    """The channels of the positions that a layer looks at, side by side: (B, T, C) -> (B, T', C*n)."""

    def __init__(self, layer: FlattenConsecutive | FlattenDilated | Newest) -> None:
        super().__init__()
        self.layer = copy.copy(layer)
        self.looks = layer.looks_at()

    def forward(self, x: Tensor) -> Tensor:
        stride, offsets = self.looks
        if offsets == tuple(range(stride)):  # side by side in memory already
            x = x.reshape(x.shape[0], x.shape[1] // stride, stride * x.shape[2])
        else:
            end = x.shape[1] - offsets[-1]
            parts = [x[:, offset : end + offset : stride] for offset in offsets]
            x = torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]
        return x.squeeze(1) if x.shape[1] == 1 else x  # ONNX has no squeeze that does nothing

    def __repr__(self) -> str:
        return repr(self.layer).replace("(", "Module(", 1)


class GatedActivationModule(nn.Module):
    """tanh of the one half of the channels times sigmoid of the other: (..., 2*C) -> (..., C)."""

    def forward(self, x: Tensor) -> Tensor:
        f, g = x.chunk(2, dim=-1)
        return torch.tanh(f) * torch.sigmoid(g)


class ResidualBlockModule(nn.Module):
    """What the layers ``gated`` find, added by ``residual`` to the newest position; see the layer."""

    def __init__(self, gated: nn.Module, newest: nn.Module, residual: nn.Module | None) -> None:
        super().__init__()
        self.gated, self.newest, self.residual = gated, newest, residual

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the gated layers give, and the output."""
        z = self.gated(x)
        return z, z if self.residual is None else self.newest(x) + self.residual(z)

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x)[1]


class SkipConnectionsModule(nn.Module):
    """Blocks one after another, and the sum of what each has to say at once."""

    def __init__(self, blocks: list[nn.Module], skips: list[nn.Module]) -> None:
        super().__init__()
        self.blocks: Any = nn.ModuleList(blocks)
        self.skips: Any = nn.ModuleList(skips)

    def forward(self, x: Tensor) -> Tensor:
        found: list[Tensor] = []
        for block, skip in zip(self.blocks, self.skips, strict=True):
            z, x = block.parts(x)
            found.append(skip(z))
        return functools.reduce(torch.add, found)


class EnsembleModule(nn.Module):
    """Networks side by side: the logarithms of their mean probabilities."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members: Any = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        return mean_log_probs([member(x) for member in self.members])


def _filled(module: nn.Module, **tensors: Tensor | None) -> nn.Module:
    """The module, made without values, with copies of those tensors as its own."""
    state = {
        name.replace("__", "."): tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
        if tensor is not None
    }
    counts = {name: torch.tensor(0) for name in module.state_dict() if name.endswith("num_batches_tracked")}
    module.load_state_dict(state | counts, assign=True)
    return module


def _made(kind: type[Layer], **values: Any) -> Any:
    """A layer of that kind with those attributes, tensors as copies."""
    layer = kind.__new__(kind)
    for name, value in values.items():
        if isinstance(value, Tensor):
            value = value.detach().clone(memory_format=torch.contiguous_format)
            value.requires_grad_(name in kind.PARAMETERS)
        setattr(layer, name, value)
    return layer


def _embedding_module(layer: Embedding) -> nn.Module:
    rows, channels = layer.weight.shape
    return _filled(nn.Embedding(rows, channels, device="meta"), weight=layer.weight)


def _embedding(module: nn.Embedding) -> Any:
    if module.max_norm is not None or module.padding_idx is not None:
        raise ValueError("an Embedding of ours has no max_norm and no padding_idx")
    return _made(Embedding, weight=module.weight)


def _linear_module(layer: Linear) -> nn.Module:
    fan_in, fan_out = layer.weight.shape
    module = nn.Linear(fan_in, fan_out, bias=layer.bias is not None, device="meta")
    return _filled(module, weight=layer.weight.T, bias=layer.bias)


def _linear(module: nn.Linear) -> Any:
    return _made(Linear, weight=module.weight.T, bias=module.bias)


def _batchnorm_module(layer: BatchNorm1d) -> nn.Module:
    module = ChannelsLastBatchNorm1d(len(layer.gamma), layer.eps, layer.momentum, device="meta")
    running = {"running_mean": layer.running_mean, "running_var": layer.running_var}
    return _filled(module, weight=layer.gamma, bias=layer.beta, **running)


def _batchnorm(module: ChannelsLastBatchNorm1d) -> Any:
    if not module.affine or module.running_mean is None or module.momentum is None:
        raise ValueError("a BatchNorm1d of ours has gamma, beta, running statistics and a momentum")
    running = {"running_mean": module.running_mean, "running_var": module.running_var}
    settings = {"eps": module.eps, "momentum": module.momentum}
    return _made(BatchNorm1d, gamma=module.weight, beta=module.bias, **running, **settings)


def _positions_module(layer: HistoricBatchNorm1d) -> nn.Module:
    positions = layer.running_mean.numel() // len(layer.gamma)
    module = PositionsBatchNorm1d(len(layer.gamma), positions, layer.eps, layer.momentum)
    running = {"norm__running_mean": layer.running_mean, "norm__running_var": layer.running_var}
    flat = {name: tensor.flatten() for name, tensor in running.items()}
    return _filled(module, weight=layer.gamma, bias=layer.beta, **flat)


def _positions(module: PositionsBatchNorm1d) -> Any:
    norm, dim = module.norm, len(module.weight)
    shape = (dim,) if norm.num_features == dim else (norm.num_features // dim, dim)
    buffers = {name: buffer.view(shape) for name, buffer in norm.named_buffers() if buffer.ndim}
    settings = {"eps": norm.eps, "momentum": norm.momentum}
    return _made(HistoricBatchNorm1d, gamma=module.weight, beta=module.bias, **buffers, **settings)


def _rmsnorm_module(layer: RMSNorm) -> nn.Module:
    return _filled(nn.RMSNorm(len(layer.gamma), layer.eps, device="meta"), weight=layer.gamma)


def _rmsnorm(module: nn.RMSNorm) -> Any:
    if module.eps is None or len(module.normalized_shape) != 1 or not module.elementwise_affine:
        raise ValueError("an RMSNorm of ours has an eps, one dimension and gamma")
    return _made(RMSNorm, gamma=module.weight, eps=module.eps)


def _residual_module(layer: ResidualBlock) -> nn.Module:
    residual = None if layer.residual is None else to_module(layer.residual)
    return ResidualBlockModule(to_module(layer.gated), to_module(layer.newest), residual)


def _residual(module: ResidualBlockModule) -> Layer:
    gated: Any = from_module(module.gated)
    residual = None if module.residual is None else from_module(module.residual)
    block = ResidualBlock(gated.layers[0], gated.layers[1:], residual)
    block.gated.training = gated.training
    block.newest.training = module.newest.training
    return block


def _skips_module(layer: SkipConnections) -> nn.Module:
    return SkipConnectionsModule([*map(to_module, layer.blocks)], [*map(to_module, layer.skips)])


def _skips(module: SkipConnectionsModule) -> Layer:
    blocks: list[Any] = [*map(from_module, module.blocks)]
    return SkipConnections(blocks, [*map(from_module, module.skips)])


def _ensemble_module(layer: Ensemble) -> nn.Module:
    return EnsembleModule([*map(to_module, layer.layers)])


def _ensemble(module: EnsembleModule) -> Layer:
    members: list[Any] = [*map(from_module, module.members)]
    return Ensemble(members)


class Twin(NamedTuple):
    """A kind of module, how to make one of a layer, and a layer of one."""

    module: type[nn.Module]
    module_of: Callable[[Any], nn.Module]
    layer_of: Callable[[Any], Layer]


TWINS: dict[type[Layer], Twin] = {
    Embedding: Twin(nn.Embedding, _embedding_module, _embedding),
    Linear: Twin(nn.Linear, _linear_module, _linear),
    BatchNorm1d: Twin(ChannelsLastBatchNorm1d, _batchnorm_module, _batchnorm),
    HistoricBatchNorm1d: Twin(PositionsBatchNorm1d, _positions_module, _positions),
    RMSNorm: Twin(nn.RMSNorm, _rmsnorm_module, _rmsnorm),
    Tanh: Twin(nn.Tanh, lambda _: nn.Tanh(), lambda _: Tanh()),
    ReLU: Twin(nn.ReLU, lambda _: nn.ReLU(), lambda _: ReLU()),
    GatedActivation: Twin(
        GatedActivationModule, lambda _: GatedActivationModule(), lambda _: GatedActivation()
    ),
    **dict.fromkeys(
        (FlattenConsecutive, FlattenDilated, Newest),
        Twin(PositionsModule, PositionsModule, lambda module: copy.copy(module.layer)),
    ),
    Sequential: Twin(
        nn.Sequential,
        lambda layer: nn.Sequential(*map(to_module, layer.layers)),
        lambda module: Sequential([*map(from_module, module)]),
    ),
    ResidualBlock: Twin(ResidualBlockModule, _residual_module, _residual),
    SkipConnections: Twin(SkipConnectionsModule, _skips_module, _skips),
    Ensemble: Twin(EnsembleModule, _ensemble_module, _ensemble),
}
"""The twin of each kind of layer, by its exact type."""
