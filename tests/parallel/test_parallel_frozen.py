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
from makemore.core.layer import Layer
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
