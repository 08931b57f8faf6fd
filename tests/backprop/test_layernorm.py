"""LayerNorm by hand-derived gradients against autograd and torch.nn.LayerNorm, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from random_graphs import Twice
from test_engine import assert_same, batches, twins
from torch import Generator

from makemore.backprop.derivatives import LayerNormDerivative
from makemore.backprop.engine import BackpropEngine
from makemore.backprop.windows import WindowsEngine, WindowsStep
from makemore.core.layer import Layer
from makemore.lecture.layers import Embedding, FlattenConsecutive, Linear, Tanh
from makemore.paper.layers import LayerNorm, ReLU
from makemore.run.catalog import network_plan
from makemore.training.engine import AutogradEngine


@pytest.mark.parametrize("shape", [(5, 6), (5, 4, 6)])
def test_layernorm_equals_torchs(shape: tuple[int, ...]) -> None:
    x, dy = torch.randn((2, *shape), dtype=torch.float64).unbind()
    ours, theirs = LayerNorm(6, eps=1e-3).to(dtype=torch.float64), torch.nn.LayerNorm(6, 1e-3).double()
    theirs.load_state_dict({"weight": torch.randn(6).double(), "bias": torch.randn(6).double()})
    ours.load_state_dict({"gamma": theirs.weight.detach(), "beta": theirs.bias.detach()})
    torch.testing.assert_close(ours(x), theirs(x).detach(), rtol=0, atol=1e-12)
    x.requires_grad = True
    theirs(x).backward(dy)
    rows, dgamma, dbeta = x.detach().view(-1, 6), torch.zeros(6).double(), torch.zeros(6).double()
    buffers = {ours.gamma: dgamma, ours.beta: dbeta}
    derivative = LayerNormDerivative(ours, rows, buffers.__getitem__, inplace_ok=False)
    for run in derivative.forward:
        run()
    dx = derivative.backward(dy.view(-1, 6))
    for ours_grad, grad in (
        (dx.view(shape), x.grad),
        (dgamma, theirs.weight.grad),
        (dbeta, theirs.bias.grad),
    ):
        torch.testing.assert_close(ours_grad, grad, rtol=0, atol=1e-12)


def test_layernorm_may_add_its_derivatives_to_its_parameters() -> None:
    """In a step of SGD the parameter is its own buffer, and the derivative has the factor -lr."""
    layer = LayerNorm(6).to(dtype=torch.float64)
    layer.gamma += torch.randn(6)
    layer.beta += torch.randn(6)
    plain = copy.deepcopy(layer)
    for p in plain.parameters():
        p.requires_grad = True
    x, dy = torch.randn((2, 9, 6), dtype=torch.float64).unbind()
    x_plain = x.clone().requires_grad_()
    plain(x_plain).backward(dy)
    derivative = LayerNormDerivative(layer, x, lambda p: p, inplace_ok=True)
    for run in derivative.forward:
        run()
    torch.testing.assert_close(derivative.y, plain.out.detach(), rtol=0, atol=1e-12)
    dx = derivative.backward(-0.1 * dy)
    assert x_plain.grad is not None
    torch.testing.assert_close(dx, -0.1 * x_plain.grad, rtol=0, atol=1e-12)
    for p, q in zip(layer.parameters(), plain.parameters(), strict=True):
        assert q.grad is not None
        torch.testing.assert_close(p, q.detach() - 0.1 * q.grad, rtol=0, atol=1e-12)


def layernorm_layers() -> list[Layer]:
    """LayerNorm on all positions, after a concatenation, next to a sum, and on one position."""
    return [
        *[Embedding(9, 4), LayerNorm(4), FlattenConsecutive(2), LayerNorm(8), Linear(8, 6), LayerNorm(6)],
        *[Tanh(), Twice(LayerNorm(6)), FlattenConsecutive(2), Linear(12, 5, bias=False), LayerNorm(5)],
        *[ReLU(), Linear(5, 9)],
    ]


@pytest.mark.parametrize("make_engine", [BackpropEngine, WindowsEngine])
def test_gradients_and_steps_of_a_network_with_layernorm(
    make_engine: Callable[[Layer], BackpropEngine], steps: list[WindowsStep]
) -> None:
    a, b = twins(layernorm_layers())
    X, Y = batches(4, 60, 4, 9)
    plain, engine = AutogradEngine(a), make_engine(b)
    keep_mask = (torch.rand(60, 4) < 0.8).double()
    for x, y, kept in ((X[0], Y[0], None), (X[1], Y[1], keep_mask)):
        losses = plain.gradients(x, y, kept), engine.gradients(x, y, kept)
        torch.testing.assert_close(*losses, rtol=0, atol=1e-12)
        assert_same(a, b, 1e-11, gradients=True)
    losses = plain.sgd_steps(X, Y, [0.1] * 4), engine.sgd_steps(X, Y, [0.1] * 4)
    torch.testing.assert_close(*losses, rtol=0, atol=1e-10)
    assert_same(a, b, 1e-10)
    assert len(steps) == (6 if make_engine is WindowsEngine else 0)


def test_layernorm_runs_on_windows_at_the_catalogs_size() -> None:
    network = network_plan("layernorm").build(27, Generator().manual_seed(1))
    assert WindowsEngine(network).describe(1024, 8) == "repeated windows computed once"
