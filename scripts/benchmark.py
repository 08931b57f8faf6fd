"""What a training step, an evaluation and a word cost, each against the ways it could be done otherwise.

    python scripts/benchmark.py                                 # all of it, on one thread: some 8 minutes
    python scripts/benchmark.py --only steps --batch-sizes 32 1024
    python scripts/benchmark.py --data lecture --million --json benchmark.json
    python scripts/benchmark.py --quick --no-compile            # does it run? seconds

What is compared runs in turns in one process, so that whatever else the machine does meets all of it alike.
A figure is the median over the rounds, with the quartiles behind it. A ratio is the median of the rounds'
ratios, and thus not exactly that of the medians. The parts, each chosen by ``--only``:

* steps: the autograd engine; the same network as a torch.nn module with torch.optim.SGD; that module's whole
  step, forward, backward and update, under torch.compile as one graph; the backprop engine; and the floor,
  the matrix products of a step alone. The losses of the first steps are compared, and a row drops out if
  they are wrong. (torch.nn's BatchNorm divides by the biased variance: the module has slightly other losses.)
* threads: both engines on one thread and on all.
* evaluation: the three splits by the lecture's way, every example of a split through the layers at once, from
  contexts stored beforehand; by ``split_loss``; and by the convolution, its conversion included. The memory
  is what a fresh process needs at its peak beyond network and word list.
* sampling: the lecture's loop, one word and symbol at a time, against batches of words.
* million (``--million``): a million words sampled and scored, each in a fresh process.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from makemore.generation import generate, generate_scored
from torch import Generator, Tensor, nn

from makemore.convolution import Convolution, convolution_loss, log_likelihoods
from makemore.errors import MakemoreError
from makemore.evaluation import split_loss
from makemore.layers import BatchNorm1d, Embedding, FlattenConsecutive, Layer, Linear, Sequential, Tanh
from makemore.model_file import Model, load_model, save_model
from makemore.networks import NETWORKS
from makemore.sampling import sample_word
from makemore.training import ENGINES, LectureRecipe, Trainer
from makemore.words import Data, Examples, WordList, load_words

PARTS = ("steps", "threads", "evaluation", "sampling")
PLAN = NETWORKS["wavenet"]
LR = 0.05
CHECKED_STEPS = 5
REFERENCES = {"module": ("autograd", math.inf), "compiled": ("module", 1e-3), "backprop": ("autograd", 1e-3)}
"""What the losses of the first steps are compared with, and by how much they may differ."""

Step = Callable[[Tensor, Tensor], Tensor]
"""A step of SGD on the batch X (B, T), Y (B,); returns its loss, ()."""

Steps = Callable[[Tensor, Tensor], Tensor]
"""A step of SGD on each batch: (steps, B, T) and (steps, B) -> losses (steps,)."""

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Settings:
    """How much is measured, and of what."""

    parts: Sequence[str]
    threads: int
    batch_sizes: Sequence[int]
    rounds: int
    data: str | None
    compiled: bool
    million: bool
    most_words: int | None = None
    most_steps: int = 500
    examples_a_round: int = 32_768
    training_steps: int = 1000
    loop_words: int = 300
    batch_words: int = 10_000
    million_words: int = 1_000_000

    def quick(self) -> Settings:
        """The same within seconds, for figures that say nothing."""
        sizes = self.batch_sizes[:2]
        quick = replace(self, batch_sizes=sizes, rounds=2, most_words=1000, most_steps=6, training_steps=100)
        return replace(quick, loop_words=10, batch_words=500, million_words=5000)

    def steps(self, batch_size: int) -> int:
        """Steps of a round: as many as the training draws at a time, fewer for large batches."""
        return max(2, min(self.most_steps, self.examples_a_round // batch_size))


class Spread(NamedTuple):
    """The quartiles of some rounds' figures."""

    q25: float
    median: float
    q75: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        quartiles = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
        return cls(*torch.tensor(values, dtype=torch.float64).quantile(quartiles).tolist())

    def __str__(self) -> str:
        return f"{figure(self.median)} ({figure(self.q25)}-{figure(self.q75)})"


def figure(value: float) -> str:
    """A number with three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def ratios(values: Sequence[float], others: Sequence[float]) -> Spread:
    """Value by value, round by round."""
    return Spread.of([a / b for a, b in zip(values, others, strict=True)])


class Table:
    """Rows with aligned cells, printed as they come; names stand to the left."""

    def __init__(self, title: str, **columns: int) -> None:
        print(f"\n{title}", flush=True)
        self.widths = list(columns.values())
        self.sides = ["<" if name in ("batch", "row") else ">" for name in columns]
        self.row(*(name.replace("_", " ") for name in columns))

    def row(self, *cells: object) -> None:
        aligned = zip(cells, self.widths, self.sides, strict=True)
        print("  ".join(f"{cell!s:{side}{width}}" for cell, width, side in aligned).rstrip(), flush=True)


def in_turns(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each run in each round; every round begins with another one."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for i in range(rounds):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


# --- the contestants


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
    if isinstance(layer, Embedding):
        embedding = nn.Embedding(*layer.weight.shape)
        with torch.no_grad():
            embedding.weight.copy_(layer.weight)
        return embedding
    if isinstance(layer, Linear):
        fan_in, fan_out = layer.weight.shape
        module = nn.Linear(fan_in, fan_out, bias=layer.bias is not None)
        with torch.no_grad():
            module.weight.copy_(layer.weight.t())
            if layer.bias is not None:
                module.bias.copy_(layer.bias)
        return module
    if isinstance(layer, BatchNorm1d):
        return BatchNorm(len(layer.gamma), eps=layer.eps, momentum=layer.momentum)
    if isinstance(layer, FlattenConsecutive):
        return Flatten(layer.n)
    assert isinstance(layer, Tanh), layer
    return nn.Tanh()


def one_by_one(step: Step) -> Steps:
    """The steps of many batches."""

    def steps(X: Tensor, Y: Tensor) -> Tensor:
        losses = torch.empty(len(X))
        for i in range(len(X)):
            losses[i] = step(X[i], Y[i])
        return losses

    return steps


def module_step(network: Sequential) -> Step:
    """The step of the network as a torch.nn module with torch.optim.SGD."""
    module = nn.Sequential(*map(as_module, network.layers))
    optimizer = torch.optim.SGD(module.parameters(), lr=LR)

    def step(X: Tensor, Y: Tensor) -> Tensor:
        loss = F.cross_entropy(module(X), Y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    return step


def compiled_step(network: Sequential) -> Step:
    """The same under torch.compile as one graph. Compiled with its first batch; raises whatever torch raises.

    torch.optim.SGD and ``backward`` break the graph in three, which takes as long as no compiling at all.
    So here the gradients come from ``autograd.grad`` and the update is written out. Not as
    ``p.add_(grad, alpha=-LR)``: torch 2.13 makes one product of it and drops the alpha, for silently wrong
    weights (https://github.com/pytorch/pytorch/issues/167313 is of that kind).
    """
    from torch import _dynamo

    _dynamo.reset()
    _dynamo.config.trace_autograd_ops = True
    module = nn.Sequential(*map(as_module, network.layers))
    parameters = list(module.parameters())

    def step(X: Tensor, Y: Tensor) -> Tensor:
        loss = F.cross_entropy(module(X), Y)
        grads = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for p, grad in zip(parameters, grads, strict=True):
                p.sub_(LR * grad)
        return loss.detach()

    return torch.compile(step, fullgraph=True, dynamic=False)


def engine_steps(engine: str, network: Sequential) -> Steps:
    """The steps of one of the package's engines."""
    made = ENGINES[engine](network)
    return lambda X, Y: made.sgd_steps(X, Y, [LR] * len(X))


def floor_steps(network: Sequential, X: Tensor) -> Steps:
    """The matrix products of a step like that on X (B, T), and nothing else; the losses are nothing."""
    network(X)
    products = []
    for layer in network.layers:
        if isinstance(layer, Linear):
            rows = layer.out.shape[:-1].numel()
            fan_in, fan_out = layer.weight.shape
            x, W, dy = torch.randn(rows, fan_in), torch.randn(fan_in, fan_out), torch.randn(rows, fan_out)
            products += [(x, W), (x.t(), dy), (dy, W.t())]  # y, dW, dx
    buffers = [(a, b, torch.empty(a.shape[0], b.shape[1])) for a, b in products]

    def steps(X: Tensor, Y: Tensor) -> Tensor:
        mm = torch.mm
        with torch.inference_mode():
            for _ in range(len(X)):
                for a, b, out in buffers:
                    mm(a, b, out=out)
        return torch.zeros(len(X))

    return steps


# --- other processes


def peak_mb() -> float:
    """The most memory this process ever held, in MB.

    Linux tells a new process's ``ru_maxrss`` from that of its parent on, so its own peak is taken from /proc.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def in_fresh_process(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What the function returns when a new process calls it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


def read_list(source: str | None, most_words: int | None) -> WordList:
    """The word list, or its beginning."""
    words = load_words(source)
    return replace(words, words=words.words[:most_words])


def evaluation_mb(way: str, model_file: Path, settings: Settings) -> float:
    """By how much an evaluation lifts the peak of this process."""
    torch.set_num_threads(settings.threads)
    network = load_model(model_file).network
    data = read_list(settings.data, settings.most_words).data(PLAN.block_size)
    before = peak_mb()
    EVALUATIONS[way](network, [data.train, data.val, data.test])()
    return peak_mb() - before


def million(task: str, model_file: Path, words_file: Path, settings: Settings) -> dict[str, float]:
    """Sample words into the file, or score those in it: seconds, and MB over those of the imports.

    ``list_mb`` is the part of it that the words themselves take, which scoring has as a list.
    """
    torch.set_num_threads(settings.threads)
    before = peak_mb()
    model = load_model(model_file)
    convolution = Convolution.from_network(model.network)
    words, list_mb = list[str](), 0.0
    if task == "score":
        without = peak_mb()
        words = words_file.read_text(encoding="utf-8").split("\n")[:-1]
        list_mb = peak_mb() - without
    start = time.perf_counter()
    if task == "score":
        count = len(log_likelihoods(convolution, model.vocabulary, words))
    else:
        make = generate if task == "sample" else generate_scored
        samples = make(convolution, model.vocabulary, Generator().manual_seed(1), settings.million_words)
        count = write_all(samples, words_file if task == "sample" else Path(os.devnull))
    seconds = time.perf_counter() - start
    return {"words": count, "seconds": seconds, "peak_mb": peak_mb() - before, "list_mb": list_mb}


def write_all(samples: Iterator[Any], path: Path) -> int:
    """Write words, or words with scores, a line each; returns how many there were."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        while part := list(itertools.islice(samples, 10_000)):
            file.writelines(
                f"{s}\n" if isinstance(s, str) else f"{s.word}\t{s.log_likelihood:.4f}\n" for s in part
            )
            count += len(part)
    return count


# --- evaluation, three ways

Evaluate = Callable[[], list[float]]


def lecture_evaluation(network: Sequential, splits: Sequence[Examples]) -> Evaluate:
    """The lecture's cells 6 and 12: contexts stored beforehand, a whole split through the layers."""
    stored = [split[:] for split in splits]

    def evaluate() -> list[float]:
        with network.evaluating():
            return [F.cross_entropy(network(X), Y).item() for X, Y in stored]

    return evaluate


def piecewise_evaluation(network: Sequential, splits: Sequence[Examples]) -> Evaluate:
    """The package's plain way."""
    return lambda: [split_loss(network, split) for split in splits]


def convolution_evaluation(network: Sequential, splits: Sequence[Examples]) -> Evaluate:
    """The package's fast way."""

    def evaluate() -> list[float]:
        convolution = Convolution.from_network(network)
        return [convolution_loss(convolution, split) for split in splits]

    return evaluate


EVALUATIONS: dict[str, Callable[[Sequential, Sequence[Examples]], Evaluate]] = {
    "lecture's way": lecture_evaluation,
    "split_loss": piecewise_evaluation,
    "convolution": convolution_evaluation,
}


# --- the parts


class Benchmark:
    """The parts, on one word list. Each prints its table and returns its rows for the JSON file."""

    def __init__(self, settings: Settings, directory: Path, all_threads: int) -> None:
        self.settings = settings
        self.directory = directory
        self.all_threads = all_threads
        self.words = read_list(settings.data, settings.most_words)
        self.data: Data = self.words.data(PLAN.block_size)

    def fresh(self) -> Sequential:
        """The untrained network, always the same."""
        return PLAN.build(len(self.data.vocabulary), Generator().manual_seed(1))

    @cached_property
    def trained(self) -> Sequential:
        """The network after so much training that its words have the length of words."""
        network, generator = self.fresh(), Generator().manual_seed(2)
        recipe = LectureRecipe(steps=self.settings.training_steps)
        for _ in Trainer(network, self.data, recipe, generator, "backprop").run(recipe.steps):
            pass
        return network.eval()

    @cached_property
    def model_file(self) -> Path:
        """The trained network as a file, for other processes."""
        path = self.directory / "model.safetensors"
        save_model(Model(PLAN, self.data.vocabulary, self.trained), path)
        return path

    def batches(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """The batches of a round: (steps, B, T) and (steps, B)."""
        shape = (self.settings.steps(batch_size), batch_size)
        X, Y = self.data.train[
            torch.randint(len(self.data.train), shape, generator=Generator().manual_seed(3))
        ]
        return X, Y

    def machine(self) -> dict[str, Any]:
        """What the figures depend on; printed first."""
        parameters = sum(p.numel() for p in self.fresh().parameters())
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        print(f"torch {torch.__version__}, Python {platform.python_version()}")
        print(f"processor: {cpu_model()}; usable cores: {cores}")
        print(f"threads: {self.settings.threads}; load of the machine before: {load}")
        print(f"network: {PLAN.name}, {parameters:,} parameters; {len(self.data.train):,} training examples")
        print(f"word list: {self.words.source}, {len(self.words.words):,} words")
        machine = {"torch": torch.__version__, "python": platform.python_version(), "cpu": cpu_model()}
        counts = {"cores": cores, "threads": self.settings.threads, "load": load, "parameters": parameters}
        sizes = {"words": len(self.words.words), "train_examples": len(self.data.train)}
        return {**machine, **counts, "network": PLAN.name, "list": self.words.source, **sizes}

    # steps

    def steps(self) -> list[dict[str, Any]]:
        title = "steps: batches drawn beforehand; quartiles of the rounds in brackets"
        table = Table(
            title, batch=5, row=8, us_a_step=25, steps_a_second=22, speed_to_autograd=17, time_to_floor=13
        )
        rows = []
        for batch_size in self.settings.batch_sizes:
            rows += self.steps_at(batch_size, table)
        return rows

    def steps_at(self, batch_size: int, table: Table) -> list[dict[str, Any]]:
        X, Y = self.batches(batch_size)
        contestants, notes = self.contestants(X, Y)
        for steps in contestants.values():
            steps(X, Y)  # warm-up
        seconds = in_turns({n: partial(s, X, Y) for n, s in contestants.items()}, self.settings.rounds)
        rows = []
        for name in contestants:
            us = Spread.of([s / len(X) * 1e6 for s in seconds[name]])
            rate = Spread.of([len(X) / s for s in seconds[name]])
            speed = ratios(seconds["autograd"], seconds[name])
            floor = ratios(seconds[name], seconds["floor"])
            table.row(batch_size, name, us, rate, f"{speed.median:.2f}x", f"{floor.median:.2f}x")
            row = {"batch_size": batch_size, "row": name, "steps_a_round": len(X), **notes.get(name, {})}
            figures = {"us_per_step": us, "steps_per_s": rate}
            figures |= {"speed_to_autograd": speed, "time_to_floor": floor}
            rows.append(row | as_dicts(figures))
        skipped = [name for name in notes if name not in contestants]
        rows += [{"batch_size": batch_size, "row": name, **notes[name]} for name in skipped]
        print(*(f"      {name}: {text(note)}" for name, note in notes.items()), sep="\n", flush=True)
        return rows

    def contestants(self, X: Tensor, Y: Tensor) -> tuple[dict[str, Steps], dict[str, dict[str, Any]]]:
        """The rows at one batch size, each after the first steps; and what there is to say about them."""
        makers: dict[str, Callable[[], Steps]] = {
            "autograd": lambda: engine_steps("autograd", self.fresh()),
            "module": lambda: one_by_one(module_step(self.fresh())),
            "compiled": lambda: one_by_one(compiled_step(self.fresh())),
            "backprop": lambda: engine_steps("backprop", self.fresh()),
        }
        contestants: dict[str, Steps] = {}
        notes: dict[str, dict[str, Any]] = {}
        losses: dict[str, Tensor] = {}
        X, Y = X[:CHECKED_STEPS], Y[:CHECKED_STEPS]
        for name, make in makers.items():
            if name == "compiled" and not self.settings.compiled:
                notes[name] = {"skipped": "--no-compile"}
                continue
            start = time.perf_counter()
            try:
                steps = make()
                losses[name] = steps(X, Y)
            except Exception as error:  # torch.compile fails in many ways
                if name != "compiled":
                    raise
                notes[name] = {"skipped": first_line(error)}
                continue
            seconds = time.perf_counter() - start
            if name in REFERENCES:
                other, tolerance = REFERENCES[name]
                off = (losses[name] - losses[other]).abs().max().item()
                notes[name] = {"reference": other, "losses_differ_by": off}
                if name == "compiled":
                    notes[name]["compile_seconds"] = seconds
                if not off <= tolerance:
                    notes[name]["skipped"] = "its losses are wrong"
                    continue
            contestants[name] = steps
        contestants["floor"] = floor_steps(self.fresh(), X[0])
        return contestants, notes

    # threads

    def threads(self) -> list[dict[str, Any]]:
        table = Table(
            "threads: the engines on one thread and on all",
            batch=5,
            row=8,
            threads=7,
            us_a_step=25,
            steps_a_second=22,
            speed_to_1_thread=17,
        )
        if self.all_threads == 1:
            print("      skipped: torch would take one thread here anyway")
            return [{"skipped": "torch would take one thread here anyway"}]
        return [row for batch_size in (32, 1024) for row in self.threads_at(batch_size, table)]

    def threads_at(self, batch_size: int, table: Table) -> list[dict[str, Any]]:
        # On a machine that does something else, too many threads are slow beyond measure: fewer steps.
        X, Y = (batches[:50] for batches in self.batches(batch_size))
        engines = {engine: engine_steps(engine, self.fresh()) for engine in ("autograd", "backprop")}
        seconds: dict[tuple[str, int], list[float]] = {}
        for i in range(min(5, self.settings.rounds)):
            for threads in [1, self.all_threads] if i % 2 else [self.all_threads, 1]:
                with on_threads(threads):
                    for engine, steps in engines.items():
                        steps(X[:5], Y[:5])  # warm-up: threads that were set a moment ago
                        start = time.perf_counter()
                        steps(X, Y)
                        seconds.setdefault((engine, threads), []).append(time.perf_counter() - start)
        rows = []
        for (engine, threads), times in sorted(seconds.items()):
            us, rate = Spread.of([s / len(X) * 1e6 for s in times]), Spread.of([len(X) / s for s in times])
            speed = ratios(seconds[engine, 1], times)
            table.row(batch_size, engine, threads, us, rate, f"{speed.median:.2f}x")
            row = {"batch_size": batch_size, "row": engine, "threads": threads}
            rows.append(row | as_dicts({"us_per_step": us, "steps_per_s": rate, "speed_to_1_thread": speed}))
        return rows

    # evaluation

    def evaluation(self) -> list[dict[str, Any]]:
        splits = [self.data.train, self.data.val, self.data.test]
        examples = sum(map(len, splits))
        table = Table(
            f"evaluation of the three splits, {examples:,} examples; MB beyond network and list",
            row=14,
            seconds=25,
            speed_to_lecture=16,
            peak_MB=8,
            losses_differ_by=16,
        )
        memory = {
            way: in_fresh_process(evaluation_mb, way, self.model_file, self.settings) for way in EVALUATIONS
        }
        ways = {way: make(self.trained, splits) for way, make in EVALUATIONS.items()}
        losses = {way: evaluate() for way, evaluate in ways.items()}  # and warm-up
        seconds = in_turns(ways, min(5, self.settings.rounds))
        rows = []
        for way in ways:
            time_taken, speed = Spread.of(seconds[way]), ratios(seconds["lecture's way"], seconds[way])
            off = max(abs(a - b) for a, b in zip(losses[way], losses["lecture's way"], strict=True))
            table.row(way, time_taken, f"{speed.median:.2f}x", figure(memory[way]), f"{off:.1e}")
            row = {"row": way, "examples": examples, "losses": losses[way], "peak_mb": memory[way]}
            rows.append(row | as_dicts({"seconds": time_taken, "speed_to_lecture": speed}))
        return rows

    # sampling

    def sampling(self) -> list[dict[str, Any]]:
        tasks = Sampling(self.trained, self.data, self.settings)
        runs = {name: run for name, (_, run) in tasks.runs().items()}
        table = Table(
            f"sampling, after {self.settings.training_steps:,} steps of training",
            row=25,
            words=6,
            ms_a_round=22,
            words_a_second=24,
            speed_to_loop=13,
        )
        for run in runs.values():
            run()
        seconds = in_turns(runs, min(9, self.settings.rounds))
        loop = [s / tasks.runs()["lecture's loop"][0] for s in seconds["lecture's loop"]]
        rows = []
        for name, (count, _) in tasks.runs().items():
            time_taken, rate = Spread.of(seconds[name]), Spread.of([count / s for s in seconds[name]])
            speed = ratios(loop, [s / count for s in seconds[name]])
            ms = Spread.of([s * 1000 for s in seconds[name]])
            table.row(name, f"{count:,}", ms, rate, f"{speed.median:.1f}x")
            figures = {"seconds": time_taken, "words_per_s": rate, "speed_to_loop": speed}
            rows.append({"row": name, "words": count} | as_dicts(figures))
        lengths = {name: sum(map(len, words)) / len(words) for name, words in tasks.last.items()}
        print("mean length of the words: " + ", ".join(f"{n} {length:.2f}" for n, length in lengths.items()))
        return [row | {"mean_length": lengths.get(str(row["row"]))} for row in rows]

    # a million

    def million(self) -> list[dict[str, Any]]:
        count = self.settings.million_words
        table = Table(
            f"{count:,} words, streamed into a file, and from a list; MB over the imports",
            row=18,
            words=9,
            seconds=7,
            words_a_second=14,
            peak_MB=7,
            of_that_list=12,
        )
        rows = []
        words_file = self.directory / "words.txt"
        for task in ("sample", "sample with scores", "score"):
            row = in_fresh_process(million, task, self.model_file, words_file, self.settings)
            rate = row["words"] / row["seconds"]
            peaks = figure(row["peak_mb"]), figure(row["list_mb"]) if row["list_mb"] else ""
            table.row(task, f"{row['words']:,}", figure(row["seconds"]), figure(rate), *peaks)
            rows.append({"row": task, "words_per_s": rate, **row})
        return rows


class Sampling:
    """The ways to words and scores. ``last`` are the words that the latest round of the sampling ones had."""

    def __init__(self, network: Sequential, data: Data, settings: Settings) -> None:
        self.network, self.vocabulary, self.settings = network, data.vocabulary, settings
        self.convolution = Convolution.from_network(network)
        self.generator = Generator().manual_seed(4)  # of the loop, which goes on from round to round
        self.last: dict[str, list[str]] = {}
        self.scored = self.generated(settings.batch_words)

    def runs(self) -> dict[str, tuple[int, Callable[[], object]]]:
        """How many words each way makes or scores in a round, and how."""
        count = self.settings.batch_words
        return {
            "lecture's loop": (self.settings.loop_words, self.loop),
            "generate": (count, self.generate),
            "generate_scored": (count, self.generate_scored),
            "log_likelihoods": (count, self.log_likelihoods),
            "generate, with conversion": (20, self.twenty),
        }

    def generated(self, count: int) -> list[str]:
        return list(generate(self.convolution, self.vocabulary, Generator().manual_seed(5), count))

    def loop(self) -> None:
        words = range(self.settings.loop_words)
        made = [sample_word(self.network, self.vocabulary, self.generator) for _ in words]
        self.last["lecture's loop"] = made

    def generate(self) -> None:
        self.last["generate"] = self.generated(self.settings.batch_words)

    def generate_scored(self) -> None:
        generator, count = Generator().manual_seed(5), self.settings.batch_words
        samples = list(generate_scored(self.convolution, self.vocabulary, generator, count))
        self.last["generate_scored"] = [sample.word for sample in samples]

    def log_likelihoods(self) -> None:
        log_likelihoods(self.convolution, self.vocabulary, self.scored)

    def twenty(self) -> None:
        convolution = Convolution.from_network(self.network)
        list(generate(convolution, self.vocabulary, Generator().manual_seed(5), 20))


# --- the command


def as_dicts(figures: Mapping[str, Spread]) -> dict[str, dict[str, float]]:
    """Spreads by name, for the JSON file."""
    return {name: spread._asdict() for name, spread in figures.items()}


def text(note: Mapping[str, Any]) -> str:
    """What there is to say about a contestant."""
    said = []
    if "compile_seconds" in note:
        said.append(f"compiled in {note['compile_seconds']:.1f} s")
    if "losses_differ_by" in note:
        said.append(f"its first losses differ from {note['reference']}'s by {note['losses_differ_by']:.1e}")
    if "skipped" in note:
        said.append(f"skipped: {note['skipped']}")
    return "; ".join(said)


def first_line(error: BaseException) -> str:
    """What an error says, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:100]


def cpu_model() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@contextmanager
def on_threads(threads: int) -> Iterator[None]:
    """So many threads in a ``with`` block; as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def fresh_directory() -> Iterator[Path]:
    """A directory for the files of a run, and for what torch.compile keeps: it starts from nothing."""
    variable = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(variable)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        os.environ[variable] = str(Path(directory) / "inductor")
        try:
            yield Path(directory)
        finally:
            os.environ.pop(variable)
            if before is not None:
                os.environ[variable] = before


def run(settings: Settings) -> dict[str, Any]:
    """All parts asked for: by name, what goes into the JSON file."""
    all_threads = torch.get_num_threads()
    with fresh_directory() as directory, on_threads(settings.threads):
        benchmark = Benchmark(settings, directory, all_threads)
        results: dict[str, Any] = {"machine": benchmark.machine(), "settings": vars(settings)}
        for part in (*settings.parts, *(["million"] if settings.million else [])):
            results[part] = getattr(benchmark, part)()
    return results


def parse(argv: Sequence[str] | None) -> tuple[Settings, Path | None]:
    """The settings that the command line asks for, and where the JSON file is to go."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, of {','.join(PARTS)}")
    parser.add_argument("--threads", type=int, default=1, help="default %(default)s")
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[32, 128, 512, 1024, 4096], metavar="SIZE"
    )
    parser.add_argument(
        "--rounds", type=int, default=11, help="at most 5 of threads and evaluation, 9 of sampling"
    )
    parser.add_argument("--data", help="a word list, or 'lecture' (default: the bundled one)")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile's row")
    parser.add_argument("--million", action="store_true", help="sample and score a million words as well")
    parser.add_argument("--quick", action="store_true", help="a test of the script, within seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    args = parser.parse_args(argv)
    parts = [part for part in args.only.split(",") if part]
    if unknown := sorted(set(parts) - set(PARTS)):
        parser.error(f"unknown part {unknown[0]!r}: choose from {', '.join(PARTS)}")
    if min(args.threads, args.rounds, *args.batch_sizes) < 1 or min(args.batch_sizes) < 2:
        parser.error("threads and rounds must be 1 or more, batch sizes 2 or more")
    settings = Settings(
        parts, args.threads, args.batch_sizes, args.rounds, args.data, not args.no_compile, args.million
    )
    return settings.quick() if args.quick else settings, args.json


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    settings, path = parse(argv)
    try:
        results = run(settings)
    except MakemoreError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if path is not None:
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
