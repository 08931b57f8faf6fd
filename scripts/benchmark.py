"""What a training step costs, against the ways it could be done otherwise.

    python scripts/benchmark.py --data lecture                 # all of it, on one thread
    python scripts/benchmark.py --only gradients --batch-sizes 32 1024
    python scripts/benchmark.py --quick                        # does it run? seconds

See ``in_turns.py`` for how times are taken. A contestant has to give the right losses or gradients first;
else its row drops out. The parts, each chosen by ``--only``:

* steps: SGD by the engines, by a torch.nn module with torch.optim.SGD (its BatchNorm divides by the biased
  variance, hence slightly other losses), and by that module's whole step under torch.compile.
* gradients: by the engines, with the modern recipe's batches: soft targets, dropped characters.
  In both, "products" are the matrix products of a plain step alone.
* threads: SGD on one thread and on all.

What an evaluation and a word cost: ``benchmark_words.py``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from in_turns import Rows, Run, at_least, compare, parser, right, run_parts
from torch import Generator, Tensor, nn

from makemore.backprop import BackpropEngine
from makemore.backprop.windows import WindowsEngine
from makemore.layers import BatchNorm1d, Embedding, FlattenConsecutive, Layer, Linear, Sequential, Tanh
from makemore.modern.soft_targets import SoftTargets
from makemore.networks import NETWORKS
from makemore.training import AutogradEngine, Engine
from makemore.words import Data, load_words

PLAN = NETWORKS["wavenet"]
LR = 0.05
ENGINES: dict[str, Callable[[Sequential], Engine]] = {
    "autograd": AutogradEngine,
    "backprop": BackpropEngine,
    "windows": WindowsEngine,
}
BASES = {"speed to autograd": "autograd", "speed to backprop": "backprop", "to products": "products"}
JUDGES = {"torch.nn": ("autograd", 0.2), "torch.nn, compiled": ("torch.nn", 1e-3)}
"""Whose losses these rows' are compared with, and how far off they may be; else see ``in_turns.right``."""


# The contestants: functions of batches X (steps, B, T), Y (steps, B) that return losses (steps,)


class Flatten(nn.Module):
    """FlattenConsecutive as a torch.nn module."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1] // self.n, -1).squeeze(1)  # (B, T, C) -> (B, T//n, C*n)


class BatchNorm(nn.BatchNorm1d):
    """torch.nn's BatchNorm over all but the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, -2)).view(x.shape)


def as_module(layer: Layer) -> nn.Module:
    """The torch.nn module of a fresh layer, with the same values."""
    module: nn.Module
    match layer:
        case Embedding():
            module = nn.Embedding(*layer.weight.shape)
            module.weight.data.copy_(layer.weight)
        case Linear():
            fan_in, fan_out = layer.weight.shape
            module = nn.Linear(fan_in, fan_out, bias=layer.bias is not None)
            module.weight.data.copy_(layer.weight.t())
            if layer.bias is not None:
                module.bias.data.copy_(layer.bias)
        case BatchNorm1d():
            module = BatchNorm(len(layer.gamma), eps=layer.eps, momentum=layer.momentum)
        case FlattenConsecutive():
            module = Flatten(layer.n)
        case _:
            assert isinstance(layer, Tanh), layer
            module = nn.Tanh()
    return module


def module_steps(network: Sequential, compiled: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """The steps of the network as a torch.nn module, plainly or each as one compiled graph.

    torch.optim.SGD and ``backward`` would break the graph in three. And the update must not be written as
    ``p.add_(grad, alpha=-LR)``: torch 2.13 makes one product of it and drops the alpha, for silently wrong
    weights (https://github.com/pytorch/pytorch/issues/167313 is of that kind).
    """
    module = nn.Sequential(*map(as_module, network.layers))
    parameters = list(module.parameters())
    optimizer = torch.optim.SGD(parameters, lr=LR)

    def plain_step(X: Tensor, Y: Tensor) -> Tensor:
        batch_loss = F.cross_entropy(module(X), Y)
        optimizer.zero_grad()
        batch_loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return batch_loss.detach()

    def whole_step(X: Tensor, Y: Tensor) -> Tensor:
        batch_loss = F.cross_entropy(module(X), Y)
        grads = torch.autograd.grad(batch_loss, parameters)
        with torch.no_grad():
            for p, grad in zip(parameters, grads, strict=True):
                p.sub_(LR * grad)
        return batch_loss.detach()

    step = plain_step
    if compiled:
        torch._dynamo.reset()
        torch._dynamo.config.trace_autograd_ops = True
        step = torch.compile(whole_step, fullgraph=True, dynamic=False)
    return lambda X, Y: torch.stack([step(x, y) for x, y in zip(X, Y, strict=True)])


def engine_steps(name: str, network: Sequential) -> Callable[[Tensor, Tensor], Tensor]:
    """The steps of one of the package's engines."""
    engine = ENGINES[name](network)
    return lambda X, Y: engine.sgd_steps(X, Y, [LR] * len(X))


def products(network: Sequential, X: Tensor, steps: int) -> tuple[Run, int]:
    """The matrix products of plain steps on batches like X (B, T): y = x W, dW = x' dy, dx = dy W'.

    As many steps in a row as the contestants do: one alone would find the caches full of others' numbers.
    """
    network(X)
    factors = []
    for layer in network.layers:
        if isinstance(layer, Linear):
            rows, (fan_in, fan_out) = layer.out.shape[:-1].numel(), layer.weight.shape
            x, W, dy = torch.randn(rows, fan_in), torch.randn(fan_in, fan_out), torch.randn(rows, fan_out)
            factors += [(x, W), (x.t(), dy), (dy, W.t())]
    buffers = [(a, b, torch.empty(a.shape[0], b.shape[1])) for a, b in factors]

    def run() -> None:
        with torch.inference_mode():
            for _ in range(steps):
                for a, b, out in buffers:
                    torch.mm(a, b, out=out)

    return run, steps


def network_for(data: Data) -> Sequential:
    """The untrained network, always the same."""
    return PLAN.build(len(data.vocabulary), Generator().manual_seed(1))


def batches(data: Data, batch_size: int, most: int) -> tuple[Tensor, Tensor]:
    """The batches of a round: (steps, B, T) and (steps, B)."""
    shape = max(2, min(most, 32_768 // batch_size)), batch_size
    return data.train[torch.randint(len(data.train), shape, generator=Generator().manual_seed(3))]


def steps(args: argparse.Namespace) -> Rows:
    data, rows = load_words(args.data).data(PLAN.block_size), list[dict[str, Any]]()
    for batch_size in args.batch_sizes:
        X, Y = batches(data, batch_size, most=3 if args.quick else 500)
        contestants = {name: engine_steps(name, network_for(data)) for name in ENGINES}
        contestants["torch.nn"] = module_steps(network_for(data), compiled=False)
        if not args.no_compile:
            contestants["torch.nn, compiled"] = module_steps(network_for(data), compiled=True)
        names = right(contestants, X[:3], Y[:3], tolerance=1e-3, judges=JUDGES)
        runs: dict[str, tuple[Run, int]] = {n: (partial(contestants[n], X, Y), len(X)) for n in names}
        runs["products"] = products(network_for(data), X[0], len(X))
        rows += compare(f"a step of SGD, batch {batch_size:,}", runs, args.rounds, **BASES)
    return rows


def dropped_batches(targets: SoftTargets, batch_size: int, few: bool) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Batches of the modern recipe: contexts (B, T), soft targets (B, V), 0 for dropped characters (B, T)."""
    drop = 0.2 * ((torch.arange(PLAN.block_size, 0, -1) - 2) / 3).clamp(0, 1)
    generator, drawn = Generator().manual_seed(3), []
    for _ in range(2 if few else max(3, min(64, 16_384 // batch_size))):
        index = torch.randint(len(targets), (batch_size,), generator=generator)
        keep = torch.rand((batch_size, PLAN.block_size), generator=generator) >= drop
        X, Y = targets[index]
        drawn.append((X, Y, keep.float()))
    return drawn


def gradients(args: argparse.Namespace) -> Rows:
    data, rows = load_words(args.data).data(PLAN.block_size), list[dict[str, Any]]()
    targets = SoftTargets(data.train, len(data.vocabulary))
    for batch_size in args.batch_sizes:
        drawn = dropped_batches(targets, batch_size, args.quick)
        networks = {name: network_for(data) for name in ENGINES}
        engines = {name: make(networks[name]) for name, make in ENGINES.items()}
        found = {name: partial(loss_and_gradients, networks[name], e) for name, e in engines.items()}
        names = right(found, *drawn[0], tolerance=2e-4)
        runs: dict[str, tuple[Run, int]] = {
            n: (partial(all_gradients, engines[n], drawn), len(drawn)) for n in names
        }
        runs["products"] = products(network_for(data), drawn[0][0], len(drawn))
        rows += compare(f"gradients, batch {batch_size:,}", runs, args.rounds, **BASES)
    return rows


def loss_and_gradients(network: Sequential, engine: Engine, *batch: Tensor) -> Tensor:
    """The loss of a batch and all its gradients, one after another: (1 + parameters,)."""
    loss = engine.gradients(*batch)
    grads = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    return torch.cat([loss.view(1), *grads])


def all_gradients(engine: Engine, drawn: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
    """The gradients of some batches, one after another."""
    for batch in drawn:
        engine.gradients(*batch)


def threads(args: argparse.Namespace) -> Rows:
    data, rows = load_words(args.data).data(PLAN.block_size), list[dict[str, Any]]()
    for batch_size in (32, 1024):
        # Beside another busy program many threads are slow beyond measure: few steps.
        X, Y = batches(data, batch_size, most=3 if args.quick else 20)
        runs: dict[str, tuple[Run, int]] = {}
        for name in ENGINES:
            for number in dict.fromkeys((1, len(os.sched_getaffinity(0)))):
                run = partial(engine_steps(name, network_for(data)), X, Y)
                runs[f"{name}, threads: {number}"] = partial(on_threads, number, run), len(X)
        one = {f"speed to {name}, 1": f"{name}, threads: 1" for name in ENGINES}
        rows += compare(f"threads, batch {batch_size:,}", runs, min(5, args.rounds), **one)
    return rows


def on_threads(number: int, run: Run) -> None:
    """The run on so many threads."""
    torch.set_num_threads(number)
    run()
    torch.set_num_threads(1)


PARTS: Mapping[str, Callable[[argparse.Namespace], Rows]] = {
    "steps": steps,
    "gradients": gradients,
    "threads": threads,
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    flags = parser(__doc__, PARTS)
    flags.add_argument(
        "--batch-sizes", type=at_least(2), nargs="+", default=[32, 128, 512, 1024, 4096], metavar="N"
    )
    flags.add_argument("--no-compile", action="store_true", help="without torch.compile's row")
    return run_parts(flags.parse_args(argv), PARTS)


if __name__ == "__main__":
    sys.exit(main())
