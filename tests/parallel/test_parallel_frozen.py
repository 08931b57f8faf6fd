"""Frozen parameters and layers in evaluation, with several processes."""

from __future__ import annotations

import copy
import random
from functools import partial

import pytest
import torch
from frozen_networks import assert_same, autograd_gradients, batches, freeze, modes
from thread_processes import ThreadProcesses, in_threads
from torch import Generator

from makemore.backprop.engine import BackpropEngine
from makemore.backprop.windows import WindowsEngine
from makemore.core.errors import UsageError
from makemore.core.layer import Layer
from makemore.lecture.layers import Linear, Sequential
from makemore.paper.layers import Dropout, ReLU
from makemore.parallel.engine import ParallelEngine
from makemore.run.catalog import NETWORKS
from makemore.training.engine import AutogradEngine, MakeEngine
from makemore.training.ensemble import Ensemble, EnsembleEngine
from makemore.training.processes import ONE_PROCESS

ENGINES: list[MakeEngine] = [AutogradEngine, BackpropEngine, WindowsEngine]


@pytest.mark.parametrize("make_engine", ENGINES)
@pytest.mark.parametrize("name", ["hierarchical", "hierarchical-bug", "wavenet-paper"])
@pytest.mark.parametrize("seed", range(3))
def test_two_processes_freeze_what_one_does(make_engine: MakeEngine, name: str, seed: int) -> None:
    rng, plan = random.Random(seed), NETWORKS[name]
    one = plan.build(27, Generator().manual_seed(1)).to(dtype=torch.float64)
    freeze(one, rng)
    networks = [copy.deepcopy(one) for _ in range(2)]
    X, Y = batches(3, 40, plan.block_size, 27, seed)
    for x, y in zip(X, Y, strict=True):
        autograd_gradients(one, x, y)
        for p in one.parameters():
            if p.grad is not None:
                p.data -= 0.1 * p.grad

    def run(processes: ThreadProcesses) -> Layer:
        network = networks[processes.rank]
        before = modes(network)
        ParallelEngine(network, make_engine, processes).sgd_steps(X, Y, [0.1] * 3)
        assert modes(network) == before
        return network

    for network in in_threads(2, run):
        assert_same(one, network, 1e-9)


@pytest.mark.parametrize("make_engine", ENGINES)
def test_parameters_that_are_all_frozen_later_stay_frozen(make_engine: MakeEngine) -> None:
    """Also when the network gets a new layer, for which the engine is made again."""
    network = NETWORKS["hierarchical"].build(27, Generator().manual_seed(1))
    engine = ParallelEngine(network, make_engine, ONE_PROCESS)
    X, Y = batches(2, 32, 8, 27, 1)
    X, Y = X.int(), Y
    for p in network.parameters():
        p.requires_grad = False
    before = copy.deepcopy(network)
    for _ in range(2):
        engine.sgd_steps(X, Y, [0.1] * 2)
        assert not any(p.requires_grad for p in network.parameters())
        for p, q in zip(network.parameters(), before.parameters(), strict=True):
            assert torch.equal(p, q)
            assert p.grad is None
        network.layers[4] = ReLU()


@pytest.mark.parametrize("make_engine", ENGINES)
def test_dropout_in_evaluation_is_shared_by_processes(make_engine: MakeEngine) -> None:
    network = NETWORKS["dropout"].build(27, Generator().manual_seed(1)).to(dtype=torch.float64)
    dropouts = [layer for layer in network.layers if isinstance(layer, Dropout)]
    with pytest.raises(
        UsageError, match=r"^Dropout\(0\.1\) draws random numbers: train this network with one"
    ):
        ParallelEngine(network, make_engine, ONE_PROCESS)
    with pytest.raises(UsageError, match="draws random numbers"):
        ParallelEngine(network.eval(), make_engine, ONE_PROCESS)  # it would be switched to training
    network.train()
    for layer in dropouts:
        layer.eval()
    reference = copy.deepcopy(network)
    engine = ParallelEngine(network, make_engine, ONE_PROCESS)
    X, Y = batches(1, 32, 8, 27, 1)
    engine.gradients(X[0], Y[0])
    autograd_gradients(reference, X[0], Y[0])
    assert_same(reference, network, 1e-10)
    dropouts[0].train()
    with pytest.raises(UsageError, match="draws random numbers"):
        engine.gradients(X[0], Y[0])


class OwnFirst(Layer):
    """A user's own first layer, whose parameter does not have a row for each symbol: (B, T) -> (B, C)."""

    PARAMETERS = ("table",)

    def __init__(self) -> None:
        self.table = torch.randn(2, 40, generator=Generator().manual_seed(3)).t() / 3

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.table[x].sum(1)


class Swish(Layer):
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x * x.sigmoid()


@pytest.mark.parametrize("last", [[], [Swish()]])
def test_targets_have_as_many_symbols_as_the_network_whatever_its_first_layer(last: list[Layer]) -> None:
    network = Sequential([OwnFirst(), Linear(2, 27), *last]).to(dtype=torch.float64)
    network.block_size = 8
    reference = copy.deepcopy(network)
    X, Y = batches(1, 32, 8, 27, 1)
    ParallelEngine(network, AutogradEngine, ONE_PROCESS).gradients(X[0], Y[0])
    AutogradEngine(reference).gradients(X[0], Y[0])
    assert_same(reference, network, 1e-10)


def test_processes_change_modes_and_frozen_parameters_between_steps() -> None:
    network = NETWORKS["hierarchical"].build(27, Generator().manual_seed(1)).to(dtype=torch.float64)
    ensemble = Ensemble([network])
    reference = copy.deepcopy(network)
    engine = ParallelEngine(ensemble, partial(EnsembleEngine, make_engine=BackpropEngine), ONE_PROCESS)
    X, Y = batches(1, 32, 8, 27, 1)
    rng = random.Random(1)
    for _ in range(5):
        state = rng.getstate()
        freeze(network, rng)
        rng.setstate(state)
        freeze(reference, rng)
        engine.gradients(X[0], Y[0])
        autograd_gradients(reference, X[0], Y[0])
        assert_same(reference, network, 1e-10)
