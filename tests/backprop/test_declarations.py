"""Layers of a user's own: what the engines do with true, false and missing declarations and derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_engine import assert_same, batches, twins
from torch import Generator, Tensor

from makemore.backprop import windows
from makemore.backprop.derivatives import (
    DERIVATIVES,
    Derivative,
    FlattenConsecutiveDerivative,
    GradBuffer,
    LinearDerivative,
    PositionsDerivative,
    ReLUDerivative,
)
from makemore.backprop.engine import BackpropEngine
from makemore.backprop.windows import WindowsEngine
from makemore.core.graph import FalseDeclaration, check_declarations, trace
from makemore.core.layer import Layer, Window
from makemore.data.word_list import Data, bundled_path, read_words
from makemore.lecture.layers import BatchNorm1d, Embedding, FlattenConsecutive, Linear, Sequential, Tanh
from makemore.modern.recipe import ModernRecipe
from makemore.modern.trainer import ModernTrainer
from makemore.training.engine import AutogradEngine
from makemore.training.recipe import LectureRecipe
from makemore.training.trainer import Trainer

HAND_DERIVED = [BackpropEngine, WindowsEngine]


@pytest.fixture(autouse=True)
def no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Distinct windows are used for small networks too."""
    monkeypatch.setattr(windows, "MIN_WORK", 0)
    monkeypatch.setattr(windows, "MIN_SAVING", 0)


class GivenShape(Derivative):
    """A derivative by autograd that records the shapes that it is given."""

    needs_output = False
    shapes: list[tuple[int, ...]]

    def __init__(self, layer: Layer, x: Tensor, grad_buffer: GradBuffer, inplace_ok: bool) -> None:
        type(self).shapes.append(tuple(x.shape))
        self.layer, self.x = layer, x
        with torch.no_grad():
            self.y = torch.empty_like(layer(x))
        self.forward = [lambda: self.y.copy_(layer(x))]

    def backward(self, dy: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            x = self.x.clone().requires_grad_()
            (dx,) = torch.autograd.grad(self.layer(x), x, dy.clone())
        return dx


@pytest.fixture
def given_shape(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[Layer]], list[tuple[int, ...]]]:
    """Gives a class of layers a derivative, and returns the shapes that its derivatives are given."""

    def register(kind: type[Layer]) -> list[tuple[int, ...]]:
        derivative = type("Derivative", (GivenShape,), {"shapes": []})
        monkeypatch.setitem(DERIVATIVES, kind, derivative)
        return derivative.shapes

    return register


# Declarations that are false.


class EveryOther(Layer):
    """Takes every other position, but declares that it concatenates pairs."""

    def __call__(self, x: Tensor) -> Tensor:
        self.out = torch.cat([x[:, ::2], x[:, ::2]], dim=2)
        return self.out

    def concatenates(self) -> Window:
        return Window(2, (0, 1))


class Shift(Layer):
    """Each position has the values of the one before, but declares that it is pointwise."""

    pointwise = True

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x if x.ndim == 2 else torch.cat([x[:, :1], x[:, :-1]], dim=1)
        return self.out


class AddPositions(Layer):
    """Adds a vector for each position, but declares that it is pointwise."""

    PARAMETERS = ("weight",)
    pointwise = True

    def __init__(self, positions: int, channels: int) -> None:
        self.weight = torch.zeros(positions, channels)

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x + self.weight
        return self.out


class AddsOne(Layer):
    """Declares that it only calls layers and adds."""

    composite = True

    def __init__(self) -> None:
        self.inner = Tanh()

    def __call__(self, x: Tensor) -> Tensor:
        self.out = self.inner(x) + 1
        return self.out


@pytest.mark.parametrize("make_engine", HAND_DERIVED)
def test_a_false_concatenation_is_refused(
    make_engine: type[BackpropEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DERIVATIVES, EveryOther, FlattenConsecutiveDerivative)
    layers = [Embedding(9, 3), EveryOther(), Linear(6, 4), FlattenConsecutive(2), Linear(8, 9)]
    X, Y = batches(1, 50, 4, 9)
    engine = make_engine(Sequential(layers))
    for _ in range(2):
        with pytest.raises(FalseDeclaration, match=r"EveryOther\(\) declares that it concatenates Window"):
            engine.gradients(X[0], Y[0])


@pytest.mark.parametrize("symbols", ["equal", "random"])
@pytest.mark.parametrize("make_engine", HAND_DERIVED)
def test_a_false_pointwise_is_refused(
    make_engine: type[BackpropEngine], symbols: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for a batch whose contexts consist of equal symbols, for which it would not show."""
    monkeypatch.setitem(DERIVATIVES, Shift, ReLUDerivative)
    layers = [Embedding(9, 3), Shift(), FlattenConsecutive(2), Linear(6, 4), FlattenConsecutive(2)]
    X, Y = batches(1, 50, 4, 9)
    if symbols == "equal":
        X.zero_()
    with pytest.raises(FalseDeclaration, match=r"Shift\(\) declares that it is pointwise, but it is not"):
        make_engine(Sequential([*layers, Linear(8, 9)])).gradients(X[0], Y[0])


@pytest.mark.parametrize("make_engine", HAND_DERIVED)
def test_a_pointwise_layer_that_needs_all_positions_is_refused(
    make_engine: type[BackpropEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DERIVATIVES, AddPositions, ReLUDerivative)
    layers = [Embedding(9, 3), AddPositions(4, 3), FlattenConsecutive(4), Linear(12, 9)]
    X, Y = batches(1, 50, 4, 9)
    with pytest.raises(
        FalseDeclaration, match=r"AddPositions\(\) declares that it is pointwise, but fails on"
    ):
        make_engine(Sequential(layers)).gradients(X[0], Y[0])


@pytest.mark.parametrize("make_engine", HAND_DERIVED)
def test_a_false_composite_is_refused(make_engine: type[BackpropEngine]) -> None:
    with pytest.raises(FalseDeclaration, match="AddsOne declares composite = True, but does more"):
        make_engine(Sequential([Embedding(9, 3), FlattenConsecutive(2), AddsOne(), Linear(6, 9)]))


class OwnLinear(Linear):
    """Declares another shift than it has. Its ``repr`` is inherited."""

    def affine(self) -> tuple[Tensor, Tensor]:
        return self.weight, torch.zeros_like(self.weight[0])


@pytest.mark.parametrize("make_engine", HAND_DERIVED)
def test_a_false_affine_is_refused(
    make_engine: type[BackpropEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its derivative is given rows (B*T, C), as it declares that each position is computed alone."""
    monkeypatch.setitem(DERIVATIVES, OwnLinear, LinearDerivative)
    own = OwnLinear(3, 5)
    layers = [Embedding(9, 3), own, FlattenConsecutive(4), Linear(20, 9)]
    X, Y = batches(1, 50, 4, 9)
    engine = make_engine(Sequential(layers))
    engine.gradients(X[0], Y[0])  # the bias is zero
    own.bias = torch.ones(5)
    with pytest.raises(
        FalseDeclaration, match=r"^OwnLinear\(3, 5\) declares that it is affine, but it is not"
    ):
        engine.gradients(X[0], Y[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("var", [0.0, 1.0, 1e6])
def test_a_batchnorm_is_affine_in_every_dtype(dtype: torch.dtype, var: float) -> None:
    """Also where its scale and shift are large and cancel each other, and where it has overflowed."""
    norm = BatchNorm1d(3)
    norm.running_mean.fill_(300)
    norm.running_var.fill_(var)
    network = Sequential([Embedding(9, 3), norm]).to(dtype)
    network.layers[0].weight += 300
    X = torch.arange(9).view(-1, 1)
    check_declarations(network, trace(network), X)
    network.layers[0].weight.fill_(torch.inf)
    check_declarations(network, trace(network), X)


# Declarations that are true.


class Pairs(Layer):
    """Concatenates positions 1 and 3 of every four."""

    def __call__(self, x: Tensor) -> Tensor:
        self.out = torch.cat([x[:, 1::4], x[:, 3::4]], dim=2).squeeze(1)
        return self.out

    def concatenates(self) -> Window:
        return Window(4, (1, 3))


class Scale(Layer):
    """Multiplies every channel by a factor."""

    PARAMETERS = ("factor",)
    pointwise = True

    def __init__(self, channels: int) -> None:
        self.factor = torch.ones(channels)

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x * self.factor
        return self.out


class ScaleDerivative(Derivative):
    """(rows, C) -> the same."""

    needs_output = False

    def __init__(self, layer: Scale, x: Tensor, grad_buffer: GradBuffer, inplace_ok: bool) -> None:
        self.x, self.factor, self.buffer = x, layer.factor, grad_buffer(layer.factor)
        self.y = torch.empty_like(x)
        self.forward = [lambda: torch.mul(x, layer.factor, out=self.y)]

    # y = factor x:   dfactor = sum of the rows of dy x   dx = factor dy
    def backward(self, dy: Tensor) -> Tensor:
        dx = dy * self.factor
        self.buffer.add_((dy * self.x).sum(0))
        return dx


@pytest.mark.parametrize("make_engine", HAND_DERIVED)
def test_layers_of_a_users_own_run_on_windows_by_their_declarations(
    make_engine: type[BackpropEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DERIVATIVES, Pairs, PositionsDerivative)
    monkeypatch.setitem(DERIVATIVES, Scale, ScaleDerivative)
    a, b = twins(
        [
            *[Embedding(9, 3), Scale(3), Pairs(), Scale(6), Linear(6, 5), BatchNorm1d(5), Scale(5), Tanh()],
            *[FlattenConsecutive(2), Linear(10, 9)],
        ]
    )
    X, Y = batches(3, 50, 8, 9)
    plain, engine = AutogradEngine(a), make_engine(b)
    losses = plain.gradients(X[0], Y[0]), engine.gradients(X[0], Y[0])
    torch.testing.assert_close(*losses, rtol=0, atol=1e-12)
    assert_same(a, b, 1e-11, gradients=True)
    losses = plain.sgd_steps(X, Y, [0.1] * 3), engine.sgd_steps(X, Y, [0.1] * 3)
    torch.testing.assert_close(*losses, rtol=0, atol=1e-10)
    assert_same(a, b, 1e-10)
    if make_engine is WindowsEngine:
        assert engine.describe(50, 8) == "repeated windows computed once"


# Layers that declare nothing, with a derivative.


class MeanOverPositions(Layer):
    """(B, T, C) -> (B, C)."""

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x.mean(1)
        return self.out


class MinusMean(Layer):
    """Subtracts the mean over all positions: (B, T, C) -> the same shape."""

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x - x.mean(1, keepdim=True)
        return self.out


class OwnFlatten(FlattenConsecutive):
    """Declarations are not inherited, so this one declares nothing."""


@pytest.mark.parametrize("make_engine", HAND_DERIVED)
@pytest.mark.parametrize(
    ("kind", "layers", "shape"),
    [
        (
            MeanOverPositions,
            lambda: [
                Embedding(9, 3),
                Linear(3, 6),
                BatchNorm1d(6),
                MeanOverPositions(),
                Tanh(),
                Linear(6, 9),
            ],
            (50, 4, 6),
        ),
        (
            MeanOverPositions,
            lambda: [Embedding(9, 3), FlattenConsecutive(2), MeanOverPositions(), Linear(6, 9)],
            (50, 2, 6),
        ),
        (
            MinusMean,
            lambda: [
                *[Embedding(9, 3), FlattenConsecutive(2), Linear(6, 5), Tanh(), MinusMean()],
                *[FlattenConsecutive(2), Linear(10, 9)],
            ],
            (50, 2, 5),
        ),
        (
            OwnFlatten,
            lambda: [Embedding(9, 3), OwnFlatten(2), Linear(6, 5), FlattenConsecutive(2), Linear(10, 9)],
            (50, 4, 3),
        ),
    ],
)
def test_an_undeclared_layer_is_given_the_shape_of_its_input(
    make_engine: type[BackpropEngine],
    kind: type[Layer],
    layers: Callable[[], list[Layer]],
    shape: tuple[int, ...],
    given_shape: Callable[[type[Layer]], list[tuple[int, ...]]],
) -> None:
    """And has autograd's gradients. The windows engine takes plain steps, and says so."""
    shapes = given_shape(kind)
    a, b = twins(layers())
    X, Y = batches(3, 50, 4, 9)
    keep_mask = (torch.rand(50, 4) < 0.7).double()
    plain, engine = AutogradEngine(a), make_engine(b)
    for kept in (None, keep_mask):
        losses = plain.gradients(X[0], Y[0], kept), engine.gradients(X[0], Y[0], kept)
        torch.testing.assert_close(*losses, rtol=0, atol=1e-12)
        assert_same(a, b, 1e-11, gradients=True)
    losses = plain.sgd_steps(X, Y, [0.1] * 3), engine.sgd_steps(X, Y, [0.1] * 3)
    torch.testing.assert_close(*losses, rtol=0, atol=1e-10)
    assert_same(a, b, 1e-10)
    assert {*shapes} == {shape}
    if make_engine is WindowsEngine:
        why = engine.describe(50, 4)
        assert why.startswith(f"plain steps, as {kind.__name__}(")
        assert why.endswith(") does not declare that equal windows give equal outputs")


# Layers that declare nothing, without a derivative.


class CausalSelfAttention(Layer):
    """Single-head attention to the positions up to each one: (B, T, C) -> the same shape."""

    def __init__(self, channels: int) -> None:
        self.qkv, self.out_proj = Linear(channels, 3 * channels), Linear(channels, channels)

    def __call__(self, x: Tensor) -> Tensor:
        T, C = x.shape[1:]
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        scores = (q @ k.transpose(1, 2)) / math.sqrt(C)  # (B, T, C) -> (B, T, T)
        later = torch.ones(T, T, dtype=torch.bool).triu(1)
        self.out = x + self.out_proj(scores.masked_fill(later, -torch.inf).softmax(-1) @ v)
        return self.out

    def named_children(self) -> Iterator[tuple[str, Layer]]:
        yield "qkv", self.qkv
        yield "out_proj", self.out_proj

    def __repr__(self) -> str:
        return f"CausalSelfAttention([\n    {self.qkv},\n    {self.out_proj},\n])"


class GRU(Layer):
    """The last state of a gated recurrent unit: (B, T, C) -> (B, H)."""

    def __init__(self, channels: int, hidden: int) -> None:
        self.gates, self.candidate = Linear(channels + hidden, 2 * hidden), Linear(channels + hidden, hidden)
        self.hidden = hidden

    def __call__(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), self.hidden)
        for x_t in x.unbind(1):
            reset, update = torch.sigmoid(self.gates(torch.cat([x_t, h], 1))).chunk(2, dim=1)
            new = torch.tanh(self.candidate(torch.cat([x_t, reset * h], 1)))
            h = update * h + (1 - update) * new
        self.out = h
        return self.out

    def named_children(self) -> Iterator[tuple[str, Layer]]:
        yield "gates", self.gates
        yield "candidate", self.candidate


class LastPosition(Layer):
    """(B, T, C) -> (B, C)."""

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x[:, -1]
        return self.out


def attention_layers() -> list[Layer]:
    return [Embedding(27, 8), CausalSelfAttention(8), Tanh(), LastPosition(), Linear(8, 27)]


def gru_layers() -> list[Layer]:
    return [Embedding(27, 6), GRU(6, 12), Linear(12, 27)]


def own_network(layers: Callable[[], list[Layer]]) -> Sequential:
    network = Sequential(layers())
    network.block_size = 8  # it cannot be inferred
    for p in network.parameters():
        p.requires_grad = True
    return network


OWN = [(attention_layers, "CausalSelfAttention"), (gru_layers, "GRU")]


@pytest.mark.parametrize("make_engine", HAND_DERIVED)
@pytest.mark.parametrize(("layers", "name"), OWN)
def test_a_layer_without_derivative_is_refused_in_one_line(
    make_engine: type[BackpropEngine], layers: Callable[[], list[Layer]], name: str
) -> None:
    with pytest.raises(ValueError, match=f"no hand-derived gradient for {name}") as caught:
        make_engine(own_network(layers))
    assert "train with the autograd engine, or add a class to " in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("layers", "name"), OWN)
def test_keep_mask_works_with_layers_that_declare_nothing(
    layers: Callable[[], list[Layer]], name: str
) -> None:
    """The autograd engine multiplies the embeddings by it, so the other layers need not know of it."""
    network = own_network(layers).to(dtype=torch.float64)
    embedding, *rest = network.layers
    X, Y = (batch[0] for batch in batches(1, 20, 8))
    keep_mask = (torch.rand(20, 8) < 0.7).double()
    loss = AutogradEngine(network).gradients(X, Y, keep_mask)
    grads = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    x: Any = embedding(X) * keep_mask.unsqueeze(-1)
    for layer in rest:
        x = layer(x)
    expected = F.cross_entropy(x, Y)
    torch.testing.assert_close(loss, expected.detach(), rtol=0, atol=1e-12)
    for grad, value in zip(grads, torch.autograd.grad(expected, network.parameters()), strict=True):
        torch.testing.assert_close(grad, value, rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def data() -> Data:
    return read_words(bundled_path()).data(8)


@pytest.mark.full
@pytest.mark.parametrize("recipe", [LectureRecipe(steps=150, lr_drop=120), ModernRecipe(steps=60)])
@pytest.mark.parametrize(("layers", "name"), OWN)
def test_the_autograd_engine_trains_them(
    layers: Callable[[], list[Layer]], name: str, recipe: LectureRecipe | ModernRecipe, data: Data
) -> None:
    """With both recipes; the modern one drops characters of the context."""
    network = own_network(layers)
    make = ModernTrainer if isinstance(recipe, ModernRecipe) else Trainer
    trainer: Trainer = make(network, data, recipe, Generator().manual_seed(1), AutogradEngine)  # type: ignore[arg-type]
    for _ in trainer.run(50):
        trainer.evaluate("val")
    trainer.finish()
    assert trainer.losses[-20:].mean() < trainer.losses[:5].mean() - 0.2
    val = trainer.evaluate("val").val
    assert val is not None
    assert val < 3.1
