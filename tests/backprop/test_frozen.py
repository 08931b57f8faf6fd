"""Frozen parameters, layers in evaluation and networks built by hand, with every engine, against autograd.

Comparisons are in float64. A layer of a user's own, with its own derivative, is part of the networks.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from frozen_networks import (
    Scale,
    ScaleDerivative,
    assert_same,
    autograd_gradients,
    batches,
    freeze,
    modes,
    random_network,
)
from random_graphs import Twice
from torch import Generator, Tensor

from makemore.backprop.derivatives import DERIVATIVES
from makemore.backprop.engine import BackpropEngine
from makemore.backprop.windows import WindowsEngine, WindowsStep
from makemore.lecture.layers import (
    BatchNorm1d,
    Embedding,
    FlattenConsecutive,
    Linear,
    Sequential,
    Tanh,
)
from makemore.lecture.training import train
from makemore.paper.layers import Dropout, TakeLast
from makemore.run.catalog import NETWORKS
from makemore.training.engine import AutogradEngine, MakeEngine
from makemore.training.ensemble import Ensemble, EnsembleEngine

ENGINES: list[MakeEngine] = [AutogradEngine, BackpropEngine, WindowsEngine]


@pytest.fixture(autouse=True)
def own_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DERIVATIVES, Scale, ScaleDerivative)


@pytest.mark.full
@pytest.mark.parametrize("make_engine", ENGINES)
@pytest.mark.parametrize("seed", range(40))
def test_random_freezing_and_modes_in_random_networks(
    seed: int, make_engine: MakeEngine, steps: list[WindowsStep]
) -> None:
    """Another part is frozen in each round, with the same engine."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    a, T, V = random_network(rng)
    freeze(a, rng)
    b = copy.deepcopy(a)
    engine = make_engine(b)
    X, Y = batches(3, rng.choice([5, 32, 64]), T, V, seed)
    for x, y in zip(X, Y, strict=True):
        before = modes(a)
        losses = autograd_gradients(a, x, y), engine.gradients(x, y)
        torch.testing.assert_close(*losses, rtol=1e-9, atol=1e-9)
        scale = max(1.0, *(p.grad.abs().max().item() for p in a.parameters() if p.grad is not None))
        assert_same(a, b, 1e-9 * scale)
        lr = 0.1 / scale
        engine.sgd_steps(x.unsqueeze(0), y.unsqueeze(0), [lr])
        autograd_gradients(a, x, y)
        for p in a.parameters():
            if p.grad is not None:
                p.data -= lr * p.grad
        assert_same(a, b, 1e-8, gradients=False)
        assert modes(b) == before
        a.load_state_dict(b.state_dict())  # rounding is not to grow
        state = rng.getstate()
        freeze(a, rng)
        rng.setstate(state)
        freeze(b, rng)


@pytest.mark.parametrize("make_engine", ENGINES)
@pytest.mark.parametrize("name", NETWORKS)
def test_each_networks_frozen_embedding_stays_to_the_bit(name: str, make_engine: MakeEngine) -> None:
    plan = NETWORKS[name]
    network = plan.build(27, Generator().manual_seed(1)).eval()  # as load_model returns it
    network.layers[0].weight.requires_grad = False  # type: ignore[attr-defined]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    engine = make_engine(network)
    X, Y = batches(3, 64, plan.block_size, 27, 1)
    engine.sgd_steps(X, Y, [0.1] * 3)
    engine.gradients(X[0], Y[0])
    assert all(modes(network))
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == before.keys() - {"0.weight"}
    assert [name for name, p in network.named_parameters() if p.grad is None] == ["0.weight"]


@pytest.mark.parametrize("make_engine", ENGINES)
def test_a_network_built_by_hand_is_trained_as_a_whole(make_engine: MakeEngine) -> None:
    torch.manual_seed(1)
    layers = [Embedding(5, 4), FlattenConsecutive(2), Linear(8, 6), BatchNorm1d(6), Tanh(), Linear(6, 5)]
    network = Sequential(layers).to(dtype=torch.float64)
    assert not any(p.requires_grad for p in network.parameters())
    reference = copy.deepcopy(network)
    for p in reference.parameters():
        p.requires_grad = True
    X, Y = batches(1, 32, 2, 5, 1)
    make_engine(network).gradients(X[0], Y[0])
    assert all(p.requires_grad for p in network.parameters())
    autograd_gradients(reference, X[0], Y[0])
    assert_same(reference, network, 1e-10)


@pytest.mark.parametrize("make_engine", ENGINES)
def test_all_parameters_may_be_frozen_between_steps(make_engine: MakeEngine) -> None:
    network = NETWORKS["hierarchical"].build(27, Generator().manual_seed(1))
    engine = make_engine(network)
    X, Y = batches(2, 32, 8, 27, 1)
    engine.sgd_steps(X, Y, [0.1] * 2)
    for p in network.parameters():
        p.requires_grad = False
    before = [p.clone() for p in network.parameters()]
    assert engine.sgd_steps(X, Y, [0.1] * 2).isfinite().all()
    assert engine.gradients(X[0], Y[0]).isfinite()
    assert all(torch.equal(p, value) for p, value in zip(network.parameters(), before, strict=True))
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("make_engine", ENGINES)
def test_a_parameter_that_the_logits_do_not_depend_on_has_no_gradient(make_engine: MakeEngine) -> None:
    class Unread(Sequential):
        composite = True

        def __call__(self, x: Tensor) -> Tensor:
            self.layers[1](x)
            self.out = self.layers[0](x)
            return self.out

    network = Sequential([Embedding(5, 4), FlattenConsecutive(1), Unread([Linear(4, 5), Linear(4, 3)])])
    X, Y = batches(2, 8, 1, 5, 1)
    engine = make_engine(network)
    engine.gradients(X[0], Y[0])
    engine.sgd_steps(X, Y, [0.1] * 2)
    assert [name for name, p in network.named_parameters() if p.grad is None] == [
        "2.1.weight",
        "2.1.bias",
    ]


def stand_in(run: Callable[[], object], tensors: Sequence[Tensor]) -> Callable[[], object]:
    """A step that is recorded once and repeated, as a CUDA graph is."""
    before = [tensor.clone() for tensor in tensors]
    run()
    for tensor, value in zip(tensors, before, strict=True):
        tensor.copy_(value)
    return run


def test_steps_are_recorded_again_when_modes_or_frozen_parameters_change() -> None:
    network = NETWORKS["hierarchical"].build(27, Generator().manual_seed(1)).to(dtype=torch.float64)
    recorded = []

    def capture(run: Callable[[], object], tensors: Sequence[Tensor]) -> Callable[[], object]:
        recorded.append(run)
        return stand_in(run, tensors)

    engine = BackpropEngine(network, capture)
    reference = copy.deepcopy(network)
    X, Y = batches(1, 32, 8, 27, 1)

    def freeze_weight(network: Any) -> None:
        network.layers[2].weight.requires_grad = False

    def evaluate_batchnorm(network: Any) -> None:
        network.layers[3].eval()

    def thaw(network: Any) -> None:
        network.layers[2].weight.requires_grad = True

    for number, change in enumerate([lambda _: None, freeze_weight, evaluate_batchnorm, thaw], start=1):
        for each in (network, reference):
            change(each)
        for _ in range(2):
            engine.gradients(X[0], Y[0])
            autograd_gradients(reference, X[0], Y[0])
            assert_same(reference, network, 1e-10)
            assert len(recorded) == number


def test_random_layers_in_evaluation_do_not_prevent_recording() -> None:
    network = NETWORKS["dropout"].build(27, Generator().manual_seed(1))
    engine = BackpropEngine(network, stand_in)
    X, Y = batches(1, 32, 8, 27, 1)
    engine.gradients(X[0], Y[0])
    assert engine.note == "no CUDA graph: the steps draw random numbers on the CPU"
    for layer in network.modules():
        if isinstance(layer, Dropout):
            layer.eval()
    engine.gradients(X[0], Y[0])
    assert engine.note is None


@pytest.mark.parametrize("make_engine", ENGINES)
def test_an_ensemble_leaves_a_member_alone_that_is_frozen_and_in_evaluation(make_engine: MakeEngine) -> None:
    generator = Generator().manual_seed(1)
    network = Ensemble([NETWORKS["hierarchical"].build(27, generator).to(dtype=torch.float64) for _ in "ab"])
    frozen, trained = network.members
    frozen.eval()
    for p in frozen.parameters():
        p.requires_grad = False
    reference = copy.deepcopy(trained)
    before = {name: tensor.clone() for name, tensor in frozen.state_dict().items()}
    engine = EnsembleEngine(network, make_engine)
    X, Y = batches(2, 32, 8, 27, 1)
    for _ in range(2):
        engine.gradients(X[0], Y[0])
        autograd_gradients(reference, X[0], Y[0])
        assert_same(reference, trained, 1e-10)
        engine.sgd_steps(X, Y, [0.1] * 2)
        trained.load_state_dict(reference.state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in frozen.state_dict().items())
    assert not any(modes(frozen))
    assert not any(p.requires_grad or p.grad is not None for p in frozen.parameters())
    network.eval()
    engine.gradients(X[0], Y[0])
    assert all(modes(network))


def test_the_lectures_loop_trains_what_is_not_frozen() -> None:
    torch.manual_seed(1)
    layers = [Embedding(5, 4), FlattenConsecutive(2), Linear(8, 6), BatchNorm1d(6), Tanh(), Linear(6, 5)]
    network = Sequential(layers)
    X, Y = batches(1, 64, 2, 5, 1)
    data: Any = torch.utils.data.TensorDataset(X[0], Y[0])
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    train(network, data, max_steps=2)  # built by hand: all are trained
    assert not any(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    network.layers[0].weight.requires_grad = False  # type: ignore[attr-defined]
    network.layers[3].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    train(network, data, max_steps=2)
    kept = [name for name, tensor in network.state_dict().items() if torch.equal(tensor, before[name])]
    assert kept == ["0.weight", "3.running_mean", "3.running_var"]
    assert not network.layers[3].training


def test_a_layer_in_evaluation_may_be_read_twice() -> None:
    """A Dropout in evaluation returns its input, which the next layer may not overwrite."""
    torch.manual_seed(1)
    layers = [Embedding(5, 4), Tanh(), Twice(Sequential([Dropout(0.5), Tanh(), Dropout(0.5)])), TakeLast(2)]
    network = Sequential([*layers, Dropout(0.5), Linear(4, 5)]).to(dtype=torch.float64)
    for p in network.parameters():
        p.requires_grad = True
    for layer in network.modules():
        if isinstance(layer, Dropout):
            layer.eval()
    reference = copy.deepcopy(network)
    X, Y = batches(1, 16, 2, 5, 1)
    BackpropEngine(network).gradients(X[0], Y[0])
    autograd_gradients(reference, X[0], Y[0])
    assert_same(reference, network, 1e-12)
