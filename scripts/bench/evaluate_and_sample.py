"""The time of an evaluation and of a sampled word, compared with the lecture's way.

    python scripts/bench/evaluate_and_sample.py --data lecture           # all parts, on one thread
    python scripts/bench/evaluate_and_sample.py --only million

See ``in_turns.py`` for how times are taken. The parts, to be chosen by ``--only``:

* evaluation: the losses of the three splits, by the lecture's code, by ``split_loss`` and by the convolution.
  The memory is the peak of a fresh process beyond the network and the word list.
* sampling: the lecture's loop, one word and one symbol at a time, against batches of words.
* million: a million words sampled, sampled with scores, and scored, each in a fresh process.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from fresh_process import in_fresh_process, peak_mb
from in_turns import Contestant, Rows, agreeing, compare, parser, run_parts
from torch import Generator, Tensor

from makemore.backprop.engine import BackpropEngine
from makemore.core.layer import Layer
from makemore.data.word_list import Data, load_words
from makemore.inference.convolution import Convolution
from makemore.inference.generation import generate, generate_scored
from makemore.inference.scoring import log_likelihoods, loss
from makemore.lecture.evaluation import split_loss
from makemore.lecture.layers import Sequential
from makemore.lecture.sampling import sample_word
from makemore.run.catalog import NETWORKS
from makemore.run.model_file import Model, load_model, save_model
from makemore.training.recipe import LectureRecipe
from makemore.training.trainer import Trainer

PLAN = NETWORKS["wavenet"]

EVALUATIONS = ("lecture", "split_loss", "convolution")
"""The ways to evaluate: see ``split_losses``."""


def trained(args: argparse.Namespace) -> tuple[Data, Sequential]:
    """The word list, and a network trained long enough that its words have a usual length."""
    data, generator = load_words(args.data).data(PLAN.block_size), Generator().manual_seed(2)
    network = PLAN.build(len(data.vocabulary), generator)
    recipe = LectureRecipe(steps=100 if args.quick else 1000)
    for _ in Trainer(network, data, recipe, generator, BackpropEngine).run(recipe.steps):
        pass
    return data, network.eval()


def evaluation(args: argparse.Namespace) -> Rows:
    """The losses of the three splits."""
    data, network = trained(args)
    ways = {way: partial(split_losses, way, network, data) for way in EVALUATIONS}
    contestants = {way: Contestant(ways[way], 1) for way in agreeing(ways, tolerance=1e-5)}
    base = {"speed to lecture": "lecture"}
    rows = compare("the losses of the splits", contestants, min(5, args.rounds), args.cpu_time, **base)
    with tempfile.TemporaryDirectory() as directory:
        model_file = Path(directory, "model")
        save_model(Model(network, data.vocabulary, PLAN), model_file)
        for row in rows:
            row["peak_mb"] = in_fresh_process(evaluation_mb, row["row"], model_file, args.data)
            print(f"  {row['row']:<32} {row['peak_mb']:,.0f} MB beyond network and list", flush=True)
    return rows


def sampling(args: argparse.Namespace) -> Rows:
    """A word sampled or scored."""
    data, network = trained(args)
    few, many = (10, 500) if args.quick else (300, 10_000)
    generator = Generator().manual_seed(4)
    convolution, vocabulary = Convolution.from_network(network), data.vocabulary

    def sampled(generate: Callable[..., Iterator[Any]], source: Any, number: int) -> list[Any]:
        return list(generate(source, vocabulary, Generator().manual_seed(5), number))

    def lecture_loop() -> None:
        for _ in range(few):
            sample_word(network, vocabulary, generator)

    words = sampled(generate, convolution, many)
    loop = "the lecture's loop"
    contestants = {
        loop: Contestant(lecture_loop, few),
        "generate": Contestant(partial(sampled, generate, convolution, many), many),
        "generate_scored": Contestant(partial(sampled, generate_scored, convolution, many), many),
        "log_likelihoods": Contestant(partial(log_likelihoods, convolution, vocabulary, words), many),
        "20 words, with conversion": Contestant(partial(sampled, generate, network, 20), 20),
    }
    rows = compare("a word", contestants, min(9, args.rounds), args.cpu_time, **{"speed to the loop": loop})
    length = sum(map(len, words)) / len(words)
    print(f"  mean length {length:.2f}")
    return [row | {"mean_length": length} for row in rows]


def million(args: argparse.Namespace) -> Rows:
    """A million words, in fresh processes."""
    (data, network), number, rows = trained(args), 5000 if args.quick else 10**6, Rows()
    print(f"\n{number:,} words, each task in a fresh process")
    with tempfile.TemporaryDirectory() as directory:
        model_file, words_file = Path(directory, "model"), Path(directory, "words.txt")
        save_model(Model(network, data.vocabulary, PLAN), model_file)
        for task in ("sample", "sample with scores", "score"):
            row = in_fresh_process(many_words, task, model_file, words_file, number)
            print(
                f"  {task:<32} {row['seconds']:.2f} s, {row['peak_mb']:,.0f} MB over the imports", flush=True
            )
            rows.append(row)
    return rows


def split_losses(way: str, network: Layer, data: Data) -> Tensor:
    """The losses of the three splits, (3,); in the lecture a whole split goes through the layers at once."""
    if way == "lecture":
        with network.evaluating():
            return torch.stack([F.cross_entropy(network(X), Y) for X, Y in (split[:] for split in data[1:4])])
    evaluate_loss = split_loss if way == "split_loss" else loss
    return torch.tensor([evaluate_loss(network, split) for split in data[1:4]])


def evaluation_mb(way: str, model_file: Path, source: str | None) -> float:
    """By how many MB an evaluation raises the peak memory of this process."""
    torch.set_num_threads(1)
    network, data = load_model(model_file).network, load_words(source).data(PLAN.block_size)
    before = peak_mb()
    split_losses(way, network, data)
    return peak_mb() - before


def many_words(task: str, model_file: Path, words_file: Path, number: int) -> dict[str, Any]:
    """Sample words into the file, or score those in it: the seconds, and the MB beyond the imports."""
    torch.set_num_threads(1)
    before, start = peak_mb(), time.perf_counter()
    model = load_model(model_file)
    arguments = (model.network, model.vocabulary, Generator().manual_seed(1), number)
    if task == "score":
        words = words_file.read_text(encoding="utf-8").split("\n")[:-1]
        assert len(log_likelihoods(model.network, model.vocabulary, words)) == number
    elif task == "sample":
        with words_file.open("w", encoding="utf-8") as file:
            file.writelines(f"{word}\n" for word in generate(*arguments))
    else:
        with open(os.devnull, "w", encoding="utf-8") as file:
            file.writelines(f"{s.word}\t{s.log_likelihood:.4f}\n" for s in generate_scored(*arguments))
    return {"row": task, "seconds": time.perf_counter() - start, "peak_mb": peak_mb() - before}


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
