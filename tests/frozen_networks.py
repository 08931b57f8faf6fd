"""Random networks with frozen parameters and mixed modes, among them a user's own layer, and autograd."""

from __future__ import annotations

import random
from functools import partial

import torch
import torch.nn.functional as F
from random_graphs import random_graph
from torch import Generator, Tensor

from makemore.backprop.derivatives import Derivative, GradBuffer
from makemore.core.layer import Layer
from makemore.lecture.layers import BatchNorm1d, HistoricBatchNorm1d, Sequential
from makemore.paper.layers import Dropout


class Scale(Layer):
    """A user's own layer: x times a factor for each channel, in evaluation times its absolute value."""

    PARAMETERS = ("factor",)
    pointwise = True

    def __init__(self, dim: int) -> None:
        self.factor = torch.ones(dim)

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x * (self.factor if self.training else self.factor.abs())
        return self.out


class ScaleDerivative(Derivative):
    """It reads the layer's mode when it is made."""

    needs_output = False

    def __init__(self, layer: Scale, x: Tensor, grad_buffer: GradBuffer, inplace_ok: bool) -> None:
        self.layer, self.x, self.y = layer, x, torch.empty_like(x)
        self.buffer = grad_buffer(layer.factor)
        self.forward = [self.scale]

    def scale(self) -> None:
        factor = self.layer.factor
        self.sign = torch.ones_like(factor) if self.layer.training else factor.sign()
        torch.mul(self.x, factor * self.sign, out=self.y)

    def backward(self, dy: Tensor) -> Tensor:
        dx = dy * self.layer.factor * self.sign
        self.buffer.add_((dy * self.x).sum(0) * self.sign)
        return dx


def random_network(rng: random.Random) -> tuple[Sequential, int, int]:
    """A random graph with random layers between its own, in float64, all values moved; also T and V."""
    layers, T, V = random_graph(rng)
    C = layers[0].parameters()[0].shape[1]
    for layer in rng.sample([Scale(C), Dropout(0.3), BatchNorm1d(C), HistoricBatchNorm1d(C, T)], 2):
        layers.insert(1, layer)
    network = Sequential(layers).to(dtype=torch.float64)
    generator = Generator().manual_seed(rng.randrange(2**31))
    for name, tensor in network.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        tensor.copy_(noise.abs() + 0.5 if name.endswith("running_var") else tensor + 0.3 * noise)
    return network, T, V


def freeze(network: Layer, rng: random.Random) -> None:
    """Freeze some parameters at random, and put some layers into evaluation. A Dropout always is in it.

    (Engines draw its masks in another order. ``test_dropout.py`` tests it in training.)
    """
    share = rng.choice([0.0, 0.3, 0.7, 0.95])
    for p in network.parameters():
        p.requires_grad = rng.random() >= share
    if not any(p.requires_grad for p in network.parameters()):
        rng.choice(network.parameters()).requires_grad = True
    network.train()
    in_evaluation = rng.choice([0.0, 0.5, 1.0])
    for layer in network.modules():
        if isinstance(layer, Dropout) or (
            isinstance(layer, BatchNorm1d | Scale) and rng.random() < in_evaluation
        ):
            layer.eval()


def modes(network: Layer) -> list[bool]:
    return [layer.training for layer in network.modules()]


def batches(steps: int, B: int, T: int, V: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = Generator().manual_seed(seed)
    X = torch.randint(0, V, (steps, B, T), generator=generator)
    return X, torch.randint(0, V, (steps, B), generator=generator)


def autograd_gradients(network: Layer, X: Tensor, Y: Tensor) -> Tensor:
    """What torch computes for the modes and the frozen parameters that the network has."""
    for p in network.parameters():
        p.grad = None
    loss = F.cross_entropy(network(X), Y)
    torch.autograd.backward(loss)
    return loss.detach()


def assert_same(a: Layer, b: Layer, tolerance: float, gradients: bool = True) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=tolerance, msg=partial("{}: {}".format, name))
    for (name, x), (_, y) in zip(a.named_parameters(), b.named_parameters(), strict=True):
        if gradients:
            assert (x.grad is None) == (y.grad is None), name
            assert (x.grad is None) >= (not x.requires_grad), name
            if x.grad is not None:
                torch.testing.assert_close(
                    x.grad, y.grad, rtol=0, atol=tolerance, msg=partial("{}.grad: {}".format, name)
                )
