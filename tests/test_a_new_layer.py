"""A kind of layer of one's own: a class, its derivative, a network. No other room is touched.

Two of them: Gelu declares that it acts on each position alone, so that a convolution answers; Reverse, which
swaps the channels of every position, declares nothing, so that whoever cannot know it refuses or goes the
plain way.
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

from makemore import generate, load_model, loss, split_loss, summary
from makemore.backprop import BackpropEngine
from makemore.backprop.derivatives import DERIVATIVES, Derivative, Into
from makemore.commands.cli import sample_main, train_main
from makemore.convolution import Convolution
from makemore.layers import Embedding, FlattenConsecutive, Layer, Linear, Sequential, Tanh
from makemore.networks import NETWORKS, Plan, network_plan
from makemore.training import AutogradEngine
from makemore.words import Examples, Vocabulary


class Gelu(Layer):
    """x Phi(x), element by element."""

    acts_per_position = True

    def __call__(self, x: Tensor) -> Tensor:
        self.out = F.gelu(x)
        return self.out


class GeluDerivative(Derivative):
    needs_output = False

    def __init__(self, layer: Gelu, x: Tensor, into: Into, may_overwrite: bool) -> None:
        self.x, self.y = x, torch.empty_like(x)
        self.forward = [lambda: self.y.copy_(F.gelu(x))]

    # y = x Phi(x):   dx = (Phi(x) + x phi(x)) dy
    def backward(self, dy: Tensor) -> Tensor:
        Phi = 0.5 * (1 + torch.erf(self.x / math.sqrt(2)))
        phi = torch.exp(-(self.x**2) / 2) / math.sqrt(2 * math.pi)
        return (Phi + self.x * phi) * dy


class Square(Layer):
    """x^2 element by element, with a derivative that goes by its own output."""

    acts_per_position = True

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x * x
        return self.out


class SquareDerivative(Derivative):
    needs_output = True

    def __init__(self, layer: Square, x: Tensor, into: Into, may_overwrite: bool) -> None:
        self.sign, self.y = torch.empty_like(x), torch.empty_like(x)
        self.forward = [partial(torch.sign, x, out=self.sign), partial(torch.mul, x, x, out=self.y)]

    # y = x^2:   dx = 2 x dy, with x = sign(x) sqrt(y)
    def backward(self, dy: Tensor) -> Tensor:
        return 2 * self.sign * self.y.sqrt() * dy


class Reverse(Layer):
    """The channels the other way round. What it is to others, it does not say."""

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x.flip(-1)
        return self.out


class ReverseDerivative(Derivative):
    needs_output = False

    def __init__(self, layer: Reverse, x: Tensor, into: Into, may_overwrite: bool) -> None:
        self.y = torch.empty_like(x)
        self.forward = [lambda: self.y.copy_(x.flip(-1))]

    def backward(self, dy: Tensor) -> Tensor:
        return dy.flip(-1)


def layers_with(kind: type[Layer], plan: Plan, vocab_size: int, generator: Generator | None) -> list[Layer]:
    """Pairs of pairs, with one of that kind behind each Linear; Tanh behind the last one."""
    E, H = plan.n_embd, plan.n_hidden
    return [
        Embedding(vocab_size, E, generator=generator),
        *[FlattenConsecutive(2), Linear(2 * E, H, generator=generator), kind()],
        *[FlattenConsecutive(plan.block_size // 2), Linear(plan.block_size // 2 * H, H, generator=generator)],
        *[kind(), Tanh(), Linear(H, vocab_size, generator=generator)],
    ]


KINDS: dict[type[Layer], Any] = {Gelu: GeluDerivative, Square: SquareDerivative, Reverse: ReverseDerivative}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, derivative in KINDS.items():
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
    examples = Examples(vocabulary.encode_all(["abacad", "hab", "", "gagagaggage"]), 8)
    for kind in (Gelu, Square):
        network = built(kind, 9).to(dtype=torch.float64)
        fast = loss(Convolution.from_network(network), examples)
        assert fast == pytest.approx(split_loss(network, examples), abs=1e-12)
    network = built(Reverse, 9)
    with pytest.raises(ValueError, match=r"cannot make a convolution of the layer Reverse\(\)"):
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
    assert train_main([*argv, "--out-dir", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert f"network   {name}, block size 8, n_embd 6, n_hidden 12" in printed
    assert str(kind()) in printed
    assert str(kind()) in str(load_model(tmp_path / "model.safetensors").network)
    assert sample_main([str(tmp_path / "model.safetensors"), "--number", "3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_layer_without_derivative_is_left_to_autograd() -> None:
    class Unknown(Tanh):
        pass

    network = Sequential([Embedding(5, 3), FlattenConsecutive(2), Linear(6, 5), Unknown()])
    with pytest.raises(ValueError, match=r"knows no derivative of Unknown\(\): train it by autograd"):
        BackpropEngine(network)
