"""A user's own layer: a class, its derivative, a network. No other package is touched.

Gelu and Square declare that they are pointwise, so that a convolution is found. Reverse, which reverses the
channels of every position, declares nothing, so that each part takes the plain path or refuses.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from makemore import generate, load_model, loss, register_layer, split_loss, summary
from makemore.backprop.derivatives import DERIVATIVES, Derivative, GradBuffer
from makemore.backprop.engine import BackpropEngine
from makemore.commands.cli import sample_main, train_main
from makemore.core.layer import Layer
from makemore.data.encoding import encode_words
from makemore.inference.convolution import Convolution
from makemore.lecture.layers import Embedding, FlattenConsecutive, Linear, Sequential, Tanh
from makemore.lecture.words import Examples, Vocabulary
from makemore.run.catalog import NETWORKS, Plan, network_plan
from makemore.training.engine import AutogradEngine


class Gelu(Layer):
    """x Phi(x), element by element."""

    pointwise = True

    def __call__(self, x: Tensor) -> Tensor:
        self.out = F.gelu(x)
        return self.out


class GeluDerivative(Derivative):
    needs_output = False

    def __init__(self, layer: Gelu, x: Tensor, grad_buffer: GradBuffer, inplace_ok: bool) -> None:
        self.x, self.y = x, torch.empty_like(x)
        self.forward = [lambda: self.y.copy_(F.gelu(x))]

    # y = x Phi(x):   dx = (Phi(x) + x phi(x)) dy
    def backward(self, dy: Tensor) -> Tensor:
        Phi = 0.5 * (1 + torch.erf(self.x / math.sqrt(2)))
        phi = torch.exp(-(self.x**2) / 2) / math.sqrt(2 * math.pi)
        return (Phi + self.x * phi) * dy


class Square(Layer):
    """x^2 element by element, with a derivative that goes by its own output."""

    pointwise = True

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x * x
        return self.out


class SquareDerivative(Derivative):
    needs_output = True

    def __init__(self, layer: Square, x: Tensor, grad_buffer: GradBuffer, inplace_ok: bool) -> None:
        self.sign, self.y = torch.empty_like(x), torch.empty_like(x)
        self.forward = [partial(torch.sign, x, out=self.sign), partial(torch.mul, x, x, out=self.y)]

    # y = x^2:   dx = 2 x dy, with x = sign(x) sqrt(y)
    def backward(self, dy: Tensor) -> Tensor:
        return 2 * self.sign * self.y.sqrt() * dy


class Reverse(Layer):
    """The channels in reverse order. It declares nothing."""

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x.flip(-1)
        return self.out


class ReverseDerivative(Derivative):
    needs_output = False

    def __init__(self, layer: Reverse, x: Tensor, grad_buffer: GradBuffer, inplace_ok: bool) -> None:
        self.y = torch.empty_like(x)
        self.forward = [lambda: self.y.copy_(x.flip(-1))]

    def backward(self, dy: Tensor) -> Tensor:
        return dy.flip(-1)


def layers_with(kind: type[Layer], vocab_size: int, block_size: int, E: int, H: int) -> list[Layer]:
    """Pairs of pairs, with a layer of that kind after each Linear; Tanh after the last one."""
    return [
        Embedding(vocab_size, E),
        *[FlattenConsecutive(2), Linear(2 * E, H), kind()],
        *[FlattenConsecutive(block_size // 2), Linear(block_size // 2 * H, H)],
        *[kind(), Tanh(), Linear(H, vocab_size)],
    ]


KINDS: dict[type[Layer], Any] = {Gelu: GeluDerivative, Square: SquareDerivative, Reverse: ReverseDerivative}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, derivative in KINDS.items():
        register_layer(kind)
        monkeypatch.setitem(DERIVATIVES, kind, derivative)
        name = kind.__name__.lower()
        monkeypatch.setitem(NETWORKS, name, Plan(name, 8, 6, 12, partial(layers_with, kind)))


def built(kind: type[Layer], vocab_size: int = 27) -> Sequential:
    return network_plan(kind.__name__.lower()).build(vocab_size, Generator().manual_seed(1))


@pytest.mark.parametrize("dropping", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_both_engines_train_it(kind: type[Layer], dropping: bool) -> None:
    networks = [built(kind).to(dtype=torch.float64) for _ in range(2)]
    X = torch.randint(0, 27, (30, 8), generator=Generator().manual_seed(2))
    Y = torch.randint(0, 27, (30,), generator=Generator().manual_seed(3))
    keep = (torch.rand((30, 8), generator=Generator().manual_seed(4)) < 0.7).double() if dropping else None
    engines = AutogradEngine(networks[0]), BackpropEngine(networks[1])
    losses = [engine.gradients(X, Y, keep) for engine in engines]
    torch.testing.assert_close(*losses, rtol=1e-10, atol=1e-10)
    for a, b in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-10)
    steps = [engine.sgd_steps(X.expand(5, 30, 8), Y.expand(5, 30), [0.1] * 5) for engine in engines]
    torch.testing.assert_close(*steps, rtol=1e-10, atol=1e-10)


def test_summary_lists_it() -> None:
    assert ["Gelu()", "(32,", "4,", "12)", "0"] in [
        line.split() for line in summary(built(Gelu)).splitlines()
    ]


def test_a_convolution_answers_if_it_knows_enough() -> None:
    vocabulary = Vocabulary("abcdefgh")
    examples = Examples(encode_words(vocabulary, ["abacad", "hab", "", "gagagaggage"]), 8)
    for kind in (Gelu, Square):
        network = built(kind, 9).to(dtype=torch.float64)
        fast = loss(Convolution.from_network(network), examples)
        assert fast == pytest.approx(split_loss(network, examples), abs=1e-12)
    network = built(Reverse, 9)
    with pytest.raises(ValueError, match=r"Reverse\(\) does not declare what it does with positions"):
        Convolution.from_network(network)
    assert loss(network, examples) == split_loss(network, examples)
    assert len(list(generate(network, vocabulary, Generator().manual_seed(1), 5))) == 5


@pytest.mark.parametrize("recipe", ["modern", "lecture"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_commands_know_its_network(
    kind: type[Layer], recipe: str, word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = kind.__name__.lower()
    argv = ["--data", str(word_file), "--network", name, "--recipe", recipe, "--steps", "20"]
    argv += ["--ensemble", "1"]
    assert train_main([*argv, "--out-dir", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert f"network   {name}, block size 8, n_embd 6, n_hidden 12" in printed
    assert str(kind()) in printed
    assert str(kind()) in str(load_model(tmp_path / "model.safetensors").network)
    assert sample_main([str(tmp_path / "model.safetensors"), "--samples", "3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_layer_without_derivative_is_left_to_autograd() -> None:
    class Unknown(Tanh):
        pass

    network = Sequential([Embedding(5, 3), FlattenConsecutive(2), Linear(6, 5), Unknown()])
    with pytest.raises(
        ValueError, match=r"no hand-derived gradient for Unknown\(\): train with the autograd engine"
    ):
        BackpropEngine(network)
