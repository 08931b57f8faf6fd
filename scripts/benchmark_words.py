"""What an evaluation and a word cost, against the lecture's ways.

    python scripts/benchmark_words.py --data lecture           # all of it, on one thread
    python scripts/benchmark_words.py --only million

See ``in_turns.py`` for how times are taken. The parts, each chosen by ``--only``:

* evaluation: the three splits by the lecture's way, by ``split_loss`` and by the convolution; the memory is
  what a fresh process needs at its peak beyond network and word list.
* sampling: the lecture's loop, one word and symbol at a time, against batches of words.
* million: a million words sampled, sampled with scores, and scored, each in a fresh process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from in_turns import Rows, Run, compare, parser, right, run_parts
from torch import Generator, Tensor

from makemore.backprop import BackpropEngine
from makemore.convolution import Convolution, generate, generate_scored, log_likelihoods, loss
from makemore.evaluation import split_loss
from makemore.layers import Sequential
from makemore.model_file import Model, load_model, save_model
from makemore.networks import NETWORKS
from makemore.recipes import LectureRecipe
from makemore.sampling import sample_word
from makemore.training import Trainer
from makemore.words import Data, load_words

PLAN = NETWORKS["wavenet"]


def trained(args: argparse.Namespace) -> tuple[Data, Sequential]:
    """The word list, and a network after so many steps that its words have the length of words."""
    data, generator = load_words(args.data).data(PLAN.block_size), Generator().manual_seed(2)
    network = PLAN.build(len(data.vocabulary), generator)
    recipe = LectureRecipe(steps=100 if args.quick else 1000)
    for _ in Trainer(network, data, recipe, generator, BackpropEngine).run(recipe.steps):
        pass
    return data, network.eval()


def evaluation(args: argparse.Namespace) -> Rows:
    data, network = trained(args)
    ways = {way: partial(evaluated, way, network, data) for way in WAYS}
    runs: dict[str, tuple[Run, int]] = {way: (ways[way], 1) for way in right(ways, tolerance=1e-5)}
    base = {"speed to lecture": "lecture"}
    rows = compare("the losses of the splits", runs, min(5, args.rounds), **base)
    with tempfile.TemporaryDirectory() as directory:
        model_file = Path(directory, "model")
        save_model(Model(PLAN, data.vocabulary, network), model_file)
        for row in rows:
            row["peak_mb"] = in_fresh_process(evaluation_mb, row["row"], model_file, args.data)
            print(f"  {row['row']:<32} {row['peak_mb']:,.0f} MB beyond network and list", flush=True)
    return rows


def sampling(args: argparse.Namespace) -> Rows:
    data, network = trained(args)
    some, many, generator = (
        10 if args.quick else 300,
        500 if args.quick else 10_000,
        Generator().manual_seed(4),
    )
    convolution, vocabulary = Convolution.from_network(network), data.vocabulary

    def drawn(make: Callable[..., Iterator[Any]], source: Any, number: int) -> list[Any]:
        return list(make(source, vocabulary, Generator().manual_seed(5), number))

    words = drawn(generate, convolution, many)
    loop = "the lecture's loop"
    runs: dict[str, tuple[Run, int]] = {
        loop: (lambda: [sample_word(network, vocabulary, generator) for _ in range(some)], some),
        "generate": (partial(drawn, generate, convolution, many), many),
        "generate_scored": (partial(drawn, generate_scored, convolution, many), many),
        "log_likelihoods": (partial(log_likelihoods, convolution, vocabulary, words), many),
        "20 words, with conversion": (partial(drawn, generate, network, 20), 20),
    }
    rows = compare("a word", runs, min(9, args.rounds), **{"speed to the loop": loop})
    length = sum(map(len, words)) / len(words)
    print(f"  mean length {length:.2f}")
    return [row | {"mean_length": length} for row in rows]


def million(args: argparse.Namespace) -> Rows:
    (data, network), number, rows = trained(args), 5000 if args.quick else 10**6, list[dict[str, Any]]()
    print(f"\n{number:,} words, each way in a fresh process")
    with tempfile.TemporaryDirectory() as directory:
        model_file, words_file = Path(directory, "model"), Path(directory, "words.txt")
        save_model(Model(PLAN, data.vocabulary, network), model_file)
        for task in ("sample", "sample with scores", "score"):
            row = in_fresh_process(many_words, task, model_file, words_file, number)
            print(
                f"  {task:<32} {row['seconds']:.2f} s, {row['peak_mb']:,.0f} MB over the imports", flush=True
            )
            rows.append(row)
    return rows


WAYS = ("lecture", "split_loss", "convolution")


def evaluated(way: str, network: Sequential, data: Data) -> Tensor:
    """The losses of the three splits, (3,); the lecture's way takes a whole split through the layers."""
    if way != "lecture":
        return torch.tensor(
            [(split_loss if way == "split_loss" else loss)(network, split) for split in data[1:4]]
        )
    with network.evaluating():
        return torch.stack([F.cross_entropy(network(X), Y) for X, Y in (split[:] for split in data[1:4])])


def evaluation_mb(way: str, model_file: Path, source: str | None) -> float:
    """By how much an evaluation lifts the peak of this process."""
    torch.set_num_threads(1)
    network, data = load_model(model_file).network, load_words(source).data(PLAN.block_size)
    before = peak_mb()
    evaluated(way, network, data)
    return peak_mb() - before


def many_words(task: str, model_file: Path, words_file: Path, number: int) -> dict[str, Any]:
    """Sample words into the file, or score those in it: seconds, and MB over those of the imports."""
    torch.set_num_threads(1)
    before, start = peak_mb(), time.perf_counter()
    model = load_model(model_file)
    arguments = (model.network, model.vocabulary, Generator().manual_seed(1), number)
    if task == "score":
        words = words_file.read_text(encoding="utf-8").split("\n")[:-1]
        assert len(log_likelihoods(model.network, model.vocabulary, words)) == number
    else:
        with (words_file if task == "sample" else Path(os.devnull)).open("w", encoding="utf-8") as file:
            if task == "sample":
                file.writelines(f"{word}\n" for word in generate(*arguments))
            else:
                file.writelines(f"{s.word}\t{s.log_likelihood:.4f}\n" for s in generate_scored(*arguments))
    return {"row": task, "seconds": time.perf_counter() - start, "peak_mb": peak_mb() - before}


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """What the function returns when a new process calls it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def peak_mb() -> float:
    """The most memory this process ever held, in MB. (``ru_maxrss`` would start from its parent's peak.)"""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM:"))


PARTS: Mapping[str, Callable[[argparse.Namespace], Rows]] = {
    "evaluation": evaluation,
    "sampling": sampling,
    "million": million,
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    return run_parts(parser(__doc__, PARTS).parse_args(argv), PARTS)


if __name__ == "__main__":
    sys.exit(main())
