"""The time of a training step: the package's engines against other ways to compute it.

    python scripts/bench/engines.py --data lecture                 # all parts, on one thread
    python scripts/bench/engines.py --only gradients --batch-sizes 32 1024
    python scripts/bench/engines.py --quick                        # only tests the script; takes seconds

See ``in_turns.py`` for how times are taken. A contestant with wrong losses or gradients drops out first. The
parts, to be chosen by ``--only``:

* steps: SGD by the engines; by a network of torch.nn layers with torch.optim.SGD; by that network with the
  whole step under torch.compile; and by JAX, if it is installed, with all steps in one compiled loop. torch's
  BatchNorm normalizes by the biased variance, so its losses differ slightly.
* gradients: by the engines, on batches of the modern recipe: soft targets, dropped characters.
* threads: SGD on one thread and on all.

The row "products" in steps and gradients has the matrix products of a plain step and nothing else. For
evaluation and sampling see ``evaluate_and_sample.py``.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from in_turns import Contestant, Rows, agreeing, at_least, compare, parser, run_parts
from jax_steps import jax_steps
from torch import Generator, Tensor, nn

from makemore.backprop.engine import BackpropEngine
from makemore.backprop.windows import WindowsEngine
from makemore.core.system import allowed_cores
from makemore.data.word_list import Data, load_words
from makemore.lecture.layers import Linear, Sequential
from makemore.modern.soft_targets import SoftTargets
from makemore.run.catalog import NETWORKS
from makemore.training.engine import AutogradEngine, Engine, MakeEngine

PLAN = NETWORKS["wavenet"]
LR = 0.05
ENGINES: dict[str, MakeEngine] = {
    "autograd": AutogradEngine,
    "backprop": BackpropEngine,
    "windows": WindowsEngine,
}
BASES = {"speed to autograd": "autograd", "speed to backprop": "backprop", "to products": "products"}
JUDGES = {"torch.nn": ("autograd", 0.2), "torch.nn, compiled": ("torch.nn", 1e-3)}
"""The contestants whose losses these are compared with, and the tolerance: see ``in_turns.agreeing``."""

Steps = Callable[[Tensor, Tensor], Tensor]
"""Does SGD steps on batches X, (steps, B, T), and Y, (steps, B); returns the losses, (steps,)."""


class Flatten(nn.Module):
    """FlattenConsecutive as a torch.nn module."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1] // self.n, -1).squeeze(1)  # (B, T, C) -> (B, T//n, C*n)


class BatchNorm(nn.BatchNorm1d):
    """torch.nn's BatchNorm over all dimensions but the last."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, -2)).view(x.shape)


def torch_network(network: Sequential) -> nn.Sequential:
    """The wavenet network in torch's own layers, with the values of a new ``network``.

    The modules of ``export.to_module`` call the package's layers, so they cannot be their rival. And torch
    has no layer that normalizes by the unbiased variance, so nothing can convert this network exactly.
    """
    vocab_size, n_embd = network.parameters()[0].shape
    n_hidden = PLAN.n_hidden
    module = nn.Sequential(
        nn.Embedding(vocab_size, n_embd),
        Flatten(2), nn.Linear(n_embd * 2, n_hidden, bias=False), BatchNorm(n_hidden), nn.Tanh(),
        Flatten(2), nn.Linear(n_hidden * 2, n_hidden, bias=False), BatchNorm(n_hidden), nn.Tanh(),
        Flatten(2), nn.Linear(n_hidden * 2, n_hidden, bias=False), BatchNorm(n_hidden), nn.Tanh(),
        nn.Linear(n_hidden, vocab_size),
    )  # fmt: skip
    matrices = {id(layer.weight) for layer in module if isinstance(layer, nn.Linear)}
    with torch.no_grad():
        for theirs, ours in zip(module.parameters(), network.parameters(), strict=True):
            theirs.copy_(ours.t() if id(theirs) in matrices else ours)
    return module


def torch_steps(network: Sequential, compiled: bool) -> Steps:
    """SGD of the network in torch's own layers, with each step compiled into one graph if asked for.

    torch.optim.SGD and ``backward`` would break the graph in three, so the compiled step does without them.
    Its update must not be written as ``p.add_(grad, alpha=-LR)``: torch 2.13 turns that into one product and
    drops the alpha, so the weights are silently wrong (https://github.com/pytorch/pytorch/issues/167313 is of
    that kind).
    """
    module = torch_network(network)
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


def engine_steps(name: str, network: Sequential) -> Steps:
    """SGD by one of the package's engines."""
    engine = ENGINES[name](network)
    return lambda X, Y: engine.sgd_steps(X, Y, [LR] * len(X))


def products(network: Sequential, X: Tensor, steps: int) -> Contestant:
    """The matrix products of plain steps on batches like X (B, T): y = x W, dW = x' dy, dx = dy W'.

    As many steps in a row as the contestants do: a single one would find other data in the caches.
    """
    network(X)
    factors = []
    for layer in network.layers:
        if isinstance(layer, Linear):
            rows, (fan_in, fan_out) = layer.out.shape[:-1].numel(), layer.weight.shape
            x, W, dy = torch.randn(rows, fan_in), torch.randn(fan_in, fan_out), torch.randn(rows, fan_out)
            factors += [(x, W), (x.t(), dy), (dy, W.t())]
    buffers = [(a, b, torch.empty(a.shape[0], b.shape[1])) for a, b in factors]

    def multiply() -> None:
        with torch.inference_mode():
            for _ in range(steps):
                for a, b, out in buffers:
                    torch.mm(a, b, out=out)

    return Contestant(multiply, steps)


def network_for(data: Data) -> Sequential:
    """The untrained network, always the same."""
    return PLAN.build(len(data.vocabulary), Generator().manual_seed(1))


def batches(data: Data, batch_size: int, most: int) -> tuple[Tensor, Tensor]:
    """The batches of a round, at most ``most``: (steps, B, T) and (steps, B)."""
    shape = max(2, min(most, 32_768 // batch_size)), batch_size
    return data.train[torch.randint(len(data.train), shape, generator=Generator().manual_seed(3))]


def steps(args: argparse.Namespace) -> Rows:
    """A step of SGD."""
    data, rows = load_words(args.data).data(PLAN.block_size), Rows()
    with_jax = not args.no_compile and importlib.util.find_spec("jax") is not None
    if not with_jax and not args.no_compile:
        print('  JAX is left out, as it is not installed: pip install ".[bench]"')
    for batch_size in args.batch_sizes:
        X, Y = batches(data, batch_size, most=3 if args.quick else 500)
        ways = {name: engine_steps(name, network_for(data)) for name in ENGINES}
        ways["torch.nn"] = torch_steps(network_for(data), compiled=False)
        if not args.no_compile:
            ways["torch.nn, compiled"] = torch_steps(network_for(data), compiled=True)
        if with_jax:
            ways["JAX, compiled"] = jax_steps(network_for(data), LR)
        names = agreeing(ways, X[:3], Y[:3], tolerance=1e-3, judges=JUDGES)
        contestants = {name: Contestant(partial(ways[name], X, Y), len(X)) for name in names}
        contestants["products"] = products(network_for(data), X[0], len(X))
        rows += compare(
            f"a step of SGD, batch {batch_size:,}", contestants, args.rounds, args.cpu_time, **BASES
        )
    return rows


def modern_batches(targets: SoftTargets, batch_size: int, few: bool) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Batches of the modern recipe: contexts (B, T), soft targets (B, V), 0 for dropped characters (B, T)."""
    drop = 0.2 * ((torch.arange(PLAN.block_size, 0, -1) - 2) / 3).clamp(0, 1)
    generator, drawn = Generator().manual_seed(3), []
    for _ in range(2 if few else max(3, min(64, 16_384 // batch_size))):
        index = torch.randint(len(targets), (batch_size,), generator=generator)
        keep_mask = torch.rand((batch_size, PLAN.block_size), generator=generator) >= drop
        X, Y = targets[index]
        drawn.append((X, Y, keep_mask.float()))
    return drawn


def gradients(args: argparse.Namespace) -> Rows:
    """The gradients of a batch of the modern recipe."""
    data, rows = load_words(args.data).data(PLAN.block_size), Rows()
    targets = SoftTargets(data.train, len(data.vocabulary))
    for batch_size in args.batch_sizes:
        drawn = modern_batches(targets, batch_size, args.quick)
        networks = {name: network_for(data) for name in ENGINES}
        engines = {name: make_engine(networks[name]) for name, make_engine in ENGINES.items()}
        ways = {name: partial(loss_and_gradients, networks[name], e) for name, e in engines.items()}
        names = agreeing(ways, *drawn[0], tolerance=2e-4)
        contestants = {n: Contestant(partial(all_gradients, engines[n], drawn), len(drawn)) for n in names}
        contestants["products"] = products(network_for(data), drawn[0][0], len(drawn))
        rows += compare(f"gradients, batch {batch_size:,}", contestants, args.rounds, args.cpu_time, **BASES)
    return rows


def loss_and_gradients(network: Sequential, engine: Engine, *batch: Tensor) -> Tensor:
    """The loss of a batch, followed by all its gradients: (1 + parameters,)."""
    loss = engine.gradients(*batch)
    grads = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    return torch.cat([loss.view(1), *grads])


def all_gradients(engine: Engine, drawn: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
    """Compute the gradients of one batch after another."""
    for batch in drawn:
        engine.gradients(*batch)


def threads(args: argparse.Namespace) -> Rows:
    """A step of SGD on one thread and on all."""
    data, rows = load_words(args.data).data(PLAN.block_size), Rows()
    for batch_size in (32, 1024):
        # Next to another busy program, steps on many threads take extremely long: do few.
        X, Y = batches(data, batch_size, most=3 if args.quick else 20)
        contestants: dict[str, Contestant] = {}
        for name in ENGINES:
            for number in dict.fromkeys((1, len(allowed_cores()))):
                way = partial(engine_steps(name, network_for(data)), X, Y)
                contestants[f"{name}, threads: {number}"] = Contestant(
                    partial(on_threads, number, way), len(X)
                )
        bases = {f"speed to {name}, 1": f"{name}, threads: 1" for name in ENGINES}
        rows += compare(
            f"threads, batch {batch_size:,}", contestants, min(5, args.rounds), args.cpu_time, **bases
        )
    return rows


def on_threads(number: int, call: Callable[[], object]) -> None:
    """Make a call on that many threads."""
    torch.set_num_threads(number)
    call()
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
        "--batch-sizes",
        type=at_least(2),
        nargs="+",
        default=[32, 128, 512, 1024, 4096],
        metavar="N",
        help="default: 32 128 512 1024 4096",
    )
    flags.add_argument("--no-compile", action="store_true", help="leave out torch.compile and JAX")
    return run_parts(flags.parse_args(argv), PARTS)


if __name__ == "__main__":
    sys.exit(main())
