"""Test losses on the split of karpathy/makemore, whose README says "test logprob ~1.92" for a transformer.

    python scripts/study/karpathys_split.py --data lecture --seeds 1 2 3 -- --ensemble 4

The last 1,000 words of ``torch.randperm`` after ``torch.manual_seed(3407)`` are the test there, the others
are for training. Here the 1,000 before those are val, which chooses the network. Flags of makemore-train come
after ``--``. The losses are in nats per character.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from answer import answer
from torch import Generator

from makemore.commands.cli import given, parse_run, split_at_dashes, train_parser
from makemore.data.encoding import encode_words
from makemore.data.word_list import Data, WordList
from makemore.lecture.words import Examples
from makemore.run.settings import flags
from makemore.run.signals import Signals
from makemore.run.training_run import new_run
from makemore.training.processes import ONE_PROCESS

SEED, HELD_OUT = 3407, 1000
"""Of karpathy/makemore: the seed of the split and the number of test words."""


def split_data(words: WordList, block_size: int) -> Data:
    """The examples of that split, for contexts of ``block_size`` symbols."""
    in_file, generator = words.words, Generator().manual_seed(SEED)
    ordered = [in_file[i] for i in torch.randperm(len(in_file), generator=generator).tolist()]
    train, val, test = ordered[: -2 * HELD_OUT], ordered[-2 * HELD_OUT : -HELD_OUT], ordered[-HELD_OUT:]
    known, vocabulary = set(train), words.vocabulary
    unseen_val, unseen_test = ([word for word in part if word not in known] for part in (val, test))

    def examples(part: Sequence[str]) -> Examples:
        return Examples(encode_words(vocabulary, part), block_size, vocabulary.characters)

    unseen = examples(unseen_val), examples(unseen_test)
    return Data(vocabulary, examples(train), examples(val), examples(test), *unseen)


def losses(asked: Mapping[str, Any]) -> tuple[int, float, float, float]:
    """The parameters and the val, test and unseen test losses of a run with these settings."""
    with tempfile.TemporaryDirectory() as directory:  # for the teachers and the model file
        run = new_run(asked, Path(directory), ONE_PROCESS, split_data)
        run.train(Signals())
    trainer = run.trainer
    trainer.finish()
    found = trainer.evaluate("val", "test", "unseen_test")
    assert found.val is not None
    assert found.test is not None
    assert found.unseen_test is not None
    return sum(p.numel() for p in trainer.network.parameters()), found.val, found.test, found.unseen_test


def main(argv: Sequence[str] | None = None) -> int:
    """Train with every seed and print the losses."""
    own, of_runs = split_at_dashes(argv)
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", default="lecture", help="the word list (default: lecture)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], metavar="N", help="default: 1 2 3")
    args, more = parser.parse_args(own), parse_run(train_parser(), of_runs)
    rows = list[tuple[float, float, float]]()
    for seed in args.seeds:
        started = time.process_time()
        parameters, *row = losses({**given(more, flags()), "data": [args.data], "seed": seed})
        rows.append(tuple(row))  # type: ignore[arg-type]
        seconds = time.process_time() - started
        print(
            f"seed {seed}: {parameters:,} parameters, val {row[0]:.4f}, test {row[1]:.4f},"
            f" unseen test {row[2]:.4f}, {seconds:.0f} CPU s",
            flush=True,
        )
    for name, column in zip(("val", "test", "unseen test"), zip(*rows, strict=True), strict=True):
        spread = statistics.stdev(column) if len(column) > 1 else 0.0
        print(f"{name} {statistics.mean(column):.4f} ± {spread:.4f}")
    return 0


if __name__ == "__main__":
    answer(main)
