"""Dropout by hand-derived gradients against autograd, in float64, plain and on distinct windows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from random_graphs import Twice
from test_engine import assert_same, batches, twins
from torch import Generator, Tensor

from makemore.backprop.derivatives import DropoutDerivative
from makemore.backprop.engine import BackpropEngine, Step
from makemore.backprop.windows import WindowsEngine, WindowsStep
from makemore.core.layer import Layer, stochastic_layers
from makemore.lecture.layers import Embedding, FlattenConsecutive, Linear, Sequential, Tanh
from makemore.paper.layers import Dropout, FlattenDilated
from makemore.run.catalog import network_plan
from makemore.training.engine import AutogradEngine


def seeded(network: Sequential) -> Sequential:
    """The network, with the same generator states for its random layers in each call."""
    for i, layer in enumerate(stochastic_layers(network).values()):
        layer.generator = Generator().manual_seed(i)
    return network


def dropout_layers() -> list[Layer]:
    """Dropout on all positions, after a concatenation, next to a sum, twice in a row, and on one position."""
    return [
        *[Embedding(9, 4), Dropout(0.1), FlattenConsecutive(2), Dropout(0.2), Linear(8, 6), Tanh()],
        *[
            Dropout(0.5),
            Twice(Dropout(0.3)),
            FlattenConsecutive(2),
            Linear(12, 5),
            Dropout(0.2),
            Dropout(0.1),
        ],
        *[Tanh(), Dropout(0.0), Linear(5, 9)],
    ]


@pytest.mark.parametrize("dropping", [False, True])
def test_both_engines_draw_the_same_masks(dropping: bool) -> None:
    """From generators with the same state: losses, gradients, trained values and states stay equal."""
    a, b = (seeded(network) for network in twins(dropout_layers()))
    X, Y = batches(5, 30, 4, 9)
    keep_mask = (torch.rand(30, 4) < 0.8).double() if dropping else None
    plain, engine = AutogradEngine(a), BackpropEngine(b)
    for x, y in zip(X, Y, strict=True):
        losses = plain.gradients(x, y, keep_mask), engine.gradients(x, y, keep_mask)
        torch.testing.assert_close(*losses, rtol=0, atol=1e-12)
        assert_same(a, b, 1e-11, gradients=True)
    losses = plain.sgd_steps(X, Y, [0.1] * 5), engine.sgd_steps(X, Y, [0.1] * 5)
    torch.testing.assert_close(*losses, rtol=0, atol=1e-10)
    assert_same(a, b, 1e-10)
    for one, other in zip(stochastic_layers(a).values(), stochastic_layers(b).values(), strict=True):
        assert one.generator is not None
        assert other.generator is not None
        assert torch.equal(one.generator.get_state(), other.generator.get_state())


@pytest.mark.parametrize("make_engine", [AutogradEngine, BackpropEngine])
def test_each_step_draws_a_new_mask(make_engine: Callable[[Layer], AutogradEngine | BackpropEngine]) -> None:
    network = seeded(twins(dropout_layers())[0])
    X, Y = batches(1, 30, 4, 9)
    engine = make_engine(network)
    assert engine.gradients(X[0], Y[0]) != engine.gradients(X[0], Y[0])


class Masked(Layer):
    """Multiplies by a given mask, (B, T, C) or (B, C)."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask.clone()  # not an inference tensor

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x * self.mask.view_as(x)
        return self.out


def with_masks(network: Sequential, masks: Sequence[Tensor]) -> Sequential:
    """A copy of the network that has given masks in place of Dropout."""
    remaining = list(masks)
    layers = copy.deepcopy(network).layers
    return Sequential([Masked(remaining.pop(0)) if isinstance(layer, Dropout) else layer for layer in layers])


@pytest.mark.parametrize("dropping", [False, True])
@pytest.mark.parametrize("dilated", [False, True])
def test_equal_windows_have_the_same_mask(
    dilated: bool, dropping: bool, steps: list[WindowsStep], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mask is drawn for each distinct window. With that mask applied to all windows, autograd agrees."""
    gather = FlattenDilated(2, 1) if dilated else FlattenConsecutive(2)
    positions = 3 if dilated else 2
    top = [FlattenConsecutive(positions), Linear(6 * positions, 5), Dropout(0.2), Tanh(), Linear(5, 9)]
    layers = [Embedding(9, 4), Dropout(0.3), gather, Linear(8, 6), Dropout(0.4), Tanh(), *top]
    network = seeded(twins(layers)[0])
    assert isinstance(network, Sequential)
    drawn: list[Tensor] = []
    mask_of = Dropout.mask

    def noted(layer: Dropout, like: Tensor) -> Tensor:
        drawn.append(mask_of(layer, like))
        return drawn[-1].clone()

    monkeypatch.setattr(Dropout, "mask", noted)
    B, T = 200, 4
    X, Y = (batch[0] for batch in batches(1, B, T, 9))
    keep_mask = (torch.rand(B, T, dtype=torch.float64) < 0.8).double() if dropping else None
    loss = WindowsEngine(network).gradients(X, Y, keep_mask)
    (step,) = steps
    symbols, pairs, _ = step.levels
    drawn = drawn[-3:]  # those before were drawn while the step was built, from states that were restored
    assert [len(mask) for mask in drawn] == [len(symbols), len(pairs), B]
    assert len(symbols) <= 2 * 10
    assert len(pairs) < B * positions
    # A symbol is one row if it is the first part of pairs, and another one if it is the second. Where pairs
    # overlap it is one row for both.
    if dilated:
        symbol_masks = drawn[0][symbols.ids].view(B, T, -1)
    else:
        symbol_masks = drawn[0][pairs.below[pairs.ids]].view(B, T, -1)
    masks = symbol_masks, drawn[1][pairs.ids].view(B, positions, -1), drawn[2]
    plain = with_masks(network, masks)
    expected = AutogradEngine(plain).gradients(X, Y, keep_mask)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
    assert_same(plain, network, 1e-11, gradients=True)
    seen: dict[tuple[int, ...], Tensor] = {}
    kept_X = X if keep_mask is None else X.masked_fill(keep_mask == 0, 9)
    for b in range(B):
        for p in range(positions):
            start = p if dilated else 2 * p
            window = (p, *kept_X[b, start : start + 2].tolist())  # p says which part of the context
            assert torch.equal(seen.setdefault(window, masks[1][b, p]), masks[1][b, p])


@pytest.mark.parametrize("kind", [Step, WindowsStep])
def test_building_a_step_draws_no_random_numbers(kind: type[Step], steps: list[WindowsStep]) -> None:
    """Neither from the layers' generators nor from torch's own."""
    X, Y = (batch[0] for batch in batches(1, 30, 4, 9))
    for network in (seeded(twins(dropout_layers())[0]), twins(dropout_layers())[0]):
        generators = [
            layer.generator or torch.default_generator for layer in stochastic_layers(network).values()
        ]
        before = [generator.get_state() for generator in generators]
        with torch.no_grad():
            kind(network, X, Y, False, lambda p: p)
        for generator, state in zip(generators, before, strict=True):
            assert torch.equal(generator.get_state(), state)


def test_the_first_step_draws_one_mask_only() -> None:
    """Whether it was built for this batch or not."""
    layers = [Embedding(9, 4), FlattenConsecutive(2), Linear(8, 6), Dropout(0.4), Linear(6, 9)]
    network = twins(layers)[0]
    generator = stochastic_layers(network)["3"].generator = Generator().manual_seed(5)
    expected = Generator().manual_seed(5)
    X, Y = batches(3, 30, 2, 9)
    engine = BackpropEngine(network)
    for x, y in zip(X, Y, strict=True):
        engine.gradients(x, y)
        torch.rand((30, 6), generator=expected)
        assert torch.equal(generator.get_state(), expected.get_state())


def test_dropout_is_the_identity_in_evaluation() -> None:
    layer = Dropout(0.5)
    layer.generator = Generator().manual_seed(1)
    state = layer.generator.get_state()
    x = torch.randn(50, 8, 40)
    assert torch.equal(layer.eval()(x), x)
    assert torch.equal(layer.generator.get_state(), state)
    y = layer.train()(x)
    dropped = y == 0
    assert 0.45 < dropped.float().mean() < 0.55
    assert torch.equal(y[~dropped], 2 * x[~dropped])


@pytest.mark.parametrize("inplace_ok", [False, True])
def test_the_derivative_of_dropout_is_its_mask(inplace_ok: bool) -> None:
    layer = Dropout(0.25)
    x, dy = torch.randn(2, 20, 6).unbind()
    before = x.clone()
    derivative = DropoutDerivative(layer, x, lambda p: p, inplace_ok)
    for run in derivative.forward:
        run()
    mask = derivative.y / before
    assert ((mask == 0) | mask.isclose(torch.tensor(4 / 3))).all()
    torch.testing.assert_close(derivative.backward(dy.clone()), mask * dy)
    assert inplace_ok or torch.equal(x, before)


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_a_probability_out_of_range_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="Dropout needs p of at least 0 and below 1, got"):
        Dropout(p)


def test_the_engine_says_how_it_draws_masks() -> None:
    network = network_plan("dropout").build(27, Generator().manual_seed(1))
    assert WindowsEngine(network).describe(1024, 8) == (
        "repeated windows computed once; random layers draw once for each"
    )
    assert (
        WindowsEngine(network).describe(32, 8).startswith("plain steps, as batch and network are too small")
    )
    assert BackpropEngine(network).describe(1024, 8) == ""
