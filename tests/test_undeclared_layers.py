"""Layers that this package has never seen: every part gives the right answer or one clear refusal.

A causal self-attention layer and a GRU, as a user would write them: they declare nothing about themselves.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from makemore import (
    AutogradEngine,
    BackpropEngine,
    BatchNorm1d,
    Convolution,
    Embedding,
    Examples,
    FlattenConsecutive,
    Layer,
    Linear,
    Model,
    ReLU,
    Sequential,
    Tanh,
    Vocabulary,
    WindowsEngine,
    context_length,
    draw_activations,
    draw_nodes,
    draw_probabilities,
    draw_tree,
    from_module,
    generate,
    load_model,
    log_likelihoods,
    loss,
    page_html,
    register_layer,
    sample_word,
    split_loss,
    summary,
    to_module,
)
from makemore.commands.cli import draw_main, page_main, sample_main, train_main
from makemore.core.errors import UsageError
from makemore.core.graph import FalseDeclaration, UndeclaredLayer, geometry, trace
from makemore.core.layer import Window
from makemore.data.encoding import encode_words
from makemore.inference.convolution import NotAConvolution
from makemore.inference.predictor import NetworkPredictor, as_predictor
from makemore.run.catalog import NETWORKS, Plan, network_plan

VOCABULARY = Vocabulary("abcdefgh")
WORDS = ["abba", "cab", "gagaggage", "", "hhhhh", "deadbeef"]


class CausalSelfAttention(Layer):
    """One head in which each position reads itself and those before it: (B, T, C) -> (B, T, C)."""

    def __init__(self, dim: int) -> None:
        self.query, self.key, self.value = (Linear(dim, dim, bias=False) for _ in range(3))

    def __call__(self, x: Tensor) -> Tensor:
        T, dim = x.shape[1:]
        scores = self.query(x) @ self.key(x).transpose(1, 2) / math.sqrt(dim)  # (B, T, T)
        future = torch.ones(T, T, dtype=torch.bool).triu(1)
        self.out = x + scores.masked_fill(future, -math.inf).softmax(-1) @ self.value(x)
        return self.out

    def named_children(self):
        yield from (("query", self.query), ("key", self.key), ("value", self.value))


class GRU(Layer):
    """A gated recurrent unit that returns its last state: (B, T, C) -> (B, H) (Cho et al. 2014)."""

    PARAMETERS = ("start",)

    def __init__(self, fan_in: int, hidden: int) -> None:
        self.start = torch.zeros(hidden)
        self.gates, self.candidate = Linear(fan_in + hidden, 2 * hidden), Linear(fan_in + hidden, hidden)

    def __call__(self, x: Tensor) -> Tensor:
        h = self.start.expand(x.shape[0], -1)
        for t in range(x.shape[1]):
            reset, update = self.gates(torch.cat([x[:, t], h], 1)).sigmoid().chunk(2, dim=1)
            new = self.candidate(torch.cat([x[:, t], reset * h], 1)).tanh()
            h = update * h + (1 - update) * new
        self.out = h
        return self.out

    def named_children(self):
        yield from (("gates", self.gates), ("candidate", self.candidate))


class MeanOverPositions(Layer):
    """(B, T, C) -> (B, C)."""

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x.mean(dim=1)
        return self.out


def gru(vocab_size: int, block_size: int, n_embd: int, n_hidden: int) -> list[Layer]:
    return [Embedding(vocab_size, n_embd), GRU(n_embd, n_hidden), Linear(n_hidden, vocab_size)]


def attention(vocab_size: int, block_size: int, n_embd: int, n_hidden: int) -> list[Layer]:
    return [
        *[Embedding(vocab_size, n_embd), CausalSelfAttention(n_embd), FlattenConsecutive(block_size)],
        *[Linear(n_embd * block_size, n_hidden), BatchNorm1d(n_hidden), Tanh(), Linear(n_hidden, vocab_size)],
    ]


def mean(vocab_size: int, block_size: int, n_embd: int, n_hidden: int) -> list[Layer]:
    return [Embedding(vocab_size, n_embd), MeanOverPositions(), ReLU(), Linear(n_embd, vocab_size)]


register_layer(CausalSelfAttention, lambda attention: {"dim": len(attention.query.weight)})
register_layer(GRU, lambda gru: {"fan_in": len(gru.gates.weight) - len(gru.start), "hidden": len(gru.start)})
register_layer(MeanOverPositions)

LAYERS = {"gru": gru, "attention": attention, "mean": mean}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, layers in LAYERS.items():
        monkeypatch.setitem(NETWORKS, name, Plan(name, 8, 6, 12, layers))


def built(name: str) -> Sequential:
    network = network_plan(name).build(len(VOCABULARY), Generator().manual_seed(1))
    for tensor in network.state_dict().values():
        tensor.add_(0.1)
    return network.to(dtype=torch.float64).eval()


def examples() -> Examples:
    return Examples(encode_words(VOCABULARY, WORDS), 8)


@pytest.mark.parametrize("name", LAYERS)
def test_the_context_is_the_plans_and_is_never_guessed(name: str) -> None:
    network = built(name)
    assert context_length(network) == 8
    assert summary(network).splitlines()[1].split()[:4] == ["Embedding(9,", "6)", "(32,", "8,"]
    with pytest.raises(UndeclaredLayer, match="does not declare what it does with positions"):
        geometry(trace(network))
    network.block_size = None
    with pytest.raises(ValueError, match=r"length of the context is not known.*set network\.block_size"):
        context_length(network)
    with pytest.raises(ValueError, match=r"set network\.block_size"):
        sample_word(network, VOCABULARY, Generator())
    with pytest.raises(ValueError, match=r"set network\.block_size"):
        next(generate(network, VOCABULARY, Generator()))
    with pytest.raises(ValueError, match=r"set network\.block_size"):
        summary(network)
    assert loss(network, examples()) == split_loss(network, examples()), "the examples have their own length"


def test_a_block_size_that_the_layers_contradict_is_refused() -> None:
    network = network_plan("wavenet").build(9)
    network.block_size = 4
    with pytest.raises(ValueError, match="block_size is 4, but its layers need contexts of 8"):
        context_length(network)


@pytest.mark.parametrize("name", LAYERS)
def test_losses_and_words_are_those_of_the_layers(name: str) -> None:
    network = built(name)
    with pytest.raises(NotAConvolution, match="does not declare what it does with positions"):
        Convolution.from_network(network)
    predictor = as_predictor(network)
    assert isinstance(predictor, NetworkPredictor)
    assert "does not declare" in predictor.reason
    X, Y = examples()[:]
    whole = torch.nn.functional.cross_entropy(network(X), Y).item()
    assert loss(network, examples()) == pytest.approx(whole, abs=1e-12)
    assert split_loss(network, examples()) == pytest.approx(whole, abs=1e-12)
    scores = log_likelihoods(network, VOCABULARY, WORDS)
    assert -scores.sum().item() / len(Y) == pytest.approx(whole, abs=1e-12)
    long = [word for word in generate(network, VOCABULARY, Generator().manual_seed(3), 50) if len(word) > 2]
    assert long, "words are longer than a context of one character would often give"


@pytest.mark.parametrize("name", LAYERS)
def test_autograd_trains_it_and_the_other_engines_refuse(name: str) -> None:
    network = built(name).to(dtype=torch.float32)
    X, Y = examples()[:]
    keep_mask = (torch.rand(X.shape, generator=Generator().manual_seed(2)) > 0.3).float()
    engine = AutogradEngine(network)
    first = engine.gradients(X, Y, keep_mask)
    losses = engine.sgd_steps(X.expand(30, *X.shape), Y.expand(30, *Y.shape), [0.1] * 30)
    assert losses[-1] < first
    for kind in (BackpropEngine, WindowsEngine):
        with pytest.raises(
            ValueError, match=r"no hand-derived gradient for .*: train with the autograd engine"
        ):
            kind(network)


@pytest.mark.full
@pytest.mark.parametrize("name", LAYERS)
def test_export_and_pictures(name: str) -> None:
    network = built(name)
    X, _ = examples()[:]
    module = to_module(network)
    assert torch.equal(module(X), network(X))
    assert torch.equal(from_module(module)(X), network(X))
    program = torch.export.export(module, (X[:2],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.testing.assert_close(program.module()(X), network(X))
    with pytest.raises(UsageError, match=r"cannot be drawn: .* does not declare"):
        draw_nodes(network, "abba")
    draw_tree(network, VOCABULARY, "abba")
    draw_probabilities(network, VOCABULARY, "abba")
    draw_activations(network, X)
    model = Model(network, VOCABULARY, network_plan(name))
    with pytest.raises(UsageError, match=r"no page can be made of this network: .* does not declare"):
        page_html(model)


@pytest.mark.full
@pytest.mark.parametrize("recipe", ["lecture", "modern"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_commands(
    name: str, recipe: str, word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        "--data",
        str(word_file),
        "--network",
        name,
        "--recipe",
        recipe,
        "--steps",
        "6",
        "--samples",
        "2",
    ]
    out = tmp_path / "out"
    assert train_main([*flags, "--out-dir", str(out)]) == 2
    assert "train with the autograd engine" in capsys.readouterr().err
    out = tmp_path / "autograd"
    assert train_main([*flags, "--engine", "autograd", "--out-dir", str(out)]) == 0
    model = load_model(out / "model.safetensors")
    assert context_length(model.network) == 8
    capsys.readouterr()
    assert sample_main([str(out), "-n", "3", "--seed", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert draw_main(["nodes", str(tmp_path / "nodes.png"), "--model", str(out)]) == 2
    assert draw_main(["tree", str(tmp_path / "tree.png"), "--model", str(out)]) == 0
    assert page_main([str(tmp_path / "page.html"), "--model", str(out)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert all("does not declare what it does with positions" in error for error in errors)


class SumOfPairs(Layer):
    """Declares that it concatenates pairs, but adds them."""

    def __call__(self, x: Tensor) -> Tensor:
        pairs = x[:, 0::2] + x[:, 1::2]
        self.out = torch.cat([pairs, pairs], dim=2)
        return self.out

    def concatenates(self) -> Window:
        return Window(2, (0, 1))


class MeanDeclaredPointwise(Layer):
    """Declares that it is pointwise, but averages over the positions."""

    pointwise = True

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x - x.mean(dim=1, keepdim=True) if x.ndim == 3 else x
        return self.out


@pytest.mark.parametrize("false", [SumOfPairs(), MeanDeclaredPointwise()])
def test_a_false_declaration_is_refused_by_every_fast_path(
    false: Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    between = [false] if isinstance(false, SumOfPairs) else [false, FlattenConsecutive(2)]
    network = Sequential([
        *[Embedding(9, 24), *between, Linear(48, 400), Tanh()],
        *[FlattenConsecutive(2), Linear(800, 400), Tanh(), FlattenConsecutive(2), Linear(800, 9)],
    ])  # fmt: skip
    assert context_length(network) == 8
    name = type(false).__name__
    with pytest.raises(FalseDeclaration, match=rf"^{name}\(\) declares that it .*, but it "):
        Convolution.from_network(network)
    with pytest.raises(FalseDeclaration):
        loss(network, examples())
    from makemore.backprop.derivatives import DERIVATIVES, TanhDerivative

    monkeypatch.setitem(DERIVATIVES, type(false), TanhDerivative)  # any: the check comes before it is used
    X = torch.randint(0, 9, (512, 8), generator=Generator().manual_seed(1))
    with pytest.raises(FalseDeclaration, match=rf"^{name}\(\) declares that it .*, but it "):
        WindowsEngine(network).gradients(X, X[:, 0])


class Gate(Layer):
    """Contains layers as attributes and in a list, and does not name them."""

    def __init__(self) -> None:
        self.gate, self.others = Linear(4, 4), [Linear(4, 4), BatchNorm1d(4)]

    def __call__(self, x: Tensor) -> Tensor:
        self.out = self.gate(x).sigmoid() * self.others[1](self.others[0](x))
        return self.out


def test_layers_within_a_layer_are_found_without_being_named() -> None:
    layer = Gate()
    names = [name for name, _ in layer.named_parameters()]
    assert names == [
        *("gate.weight", "gate.bias", "others.0.weight", "others.0.bias", "others.1.gamma", "others.1.beta")
    ]
    assert not layer.eval().others[1].training
    assert "others.1.running_mean" in layer.state_dict()
    layer.conv = torch.nn.Conv1d(4, 4, 1)
    with pytest.raises(TypeError, match=r"Gate\.conv is a torch\.nn\.Module"):
        layer.parameters()


def test_a_transposed_value_may_be_concatenated() -> None:
    x = torch.randn(2, 4, 8).transpose(1, 2)  # (2, 8, 4), not contiguous
    assert torch.equal(FlattenConsecutive(2)(x), torch.cat([x[:, 0::2], x[:, 1::2]], dim=2))
