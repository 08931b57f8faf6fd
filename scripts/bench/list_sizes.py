"""The cost of a word list by its length: seconds to the first step, seconds of evaluations, memory.

    python scripts/bench/list_sizes.py       # 10^4 to 10^7 words, sampled from the bundled network
    python scripts/bench/list_sizes.py --sizes 1000000 --data words.txt

Each size is measured in a fresh process on one thread, on the first words of one list. Seconds are
processor seconds, which do not depend on other programs; those to the first step include the start of
Python and the import of torch. Memory is the peak of the process. The last lines give the cost of one more
word.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice, pairwise
from pathlib import Path

import torch
from fresh_process import in_fresh_process, peak_mb
from in_turns import at_least, machine
from torch import Generator

from makemore.backprop.windows import WindowsEngine
from makemore.core.errors import MakemoreError
from makemore.data.word_list import load_words
from makemore.inference.generation import generate
from makemore.inference.scoring import loss
from makemore.modern.recipe import ModernRecipe
from makemore.modern.trainer import ModernTrainer
from makemore.run.catalog import network_plan
from makemore.run.model_file import load_model
from makemore.run.report import SPLITS

SIZES = [10**4, 10**5, 10**6, 10**7]

COLUMNS = {
    "words": "words",
    "first_step": "s to the first step",
    "val": "s a val loss",
    "all": "s of all losses",
    "mb": "MB",
}


def write_list(path: Path, number: int) -> None:
    """Write a list of ``number`` words sampled from the bundled network."""
    model = load_model()
    words = generate(model.network, model.vocabulary, Generator().manual_seed(1), number)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{word or 'a'}\n" for word in words)


def measured(path: Path) -> dict[str, float]:
    """The costs of a list in this process, which has to be a fresh one."""
    torch.set_num_threads(1)
    data, generator = load_words(str(path)).data(8), Generator().manual_seed(42)
    network = network_plan("wavenet").build(len(data.vocabulary), generator)
    recipe = ModernRecipe.for_examples(len(data.train), steps=100)
    trainer = ModernTrainer(network, data, recipe, generator, WindowsEngine, loss)
    trainer.advance(1)
    row = {"first_step": time.process_time()}
    trainer.advance(20)  # the losses are to be those of a network in the middle of its training
    for name, splits in {"val": ("val",), "all": SPLITS}.items():
        trainer.step = recipe.steps if name == "all" else 1
        start = time.process_time()
        trainer.evaluate(*splits)
        row[name] = time.process_time() - start
    return row | {"mb": peak_mb()}


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=at_least(6),
        default=SIZES,
        metavar="N",
        help="numbers of words (default: 10^4 to 10^7)",
    )
    parser.add_argument("--data", type=Path, help="take the words from the beginning of this list")
    args = parser.parse_args(argv)
    sizes = sorted(args.sizes)
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        whole, part = args.data or Path(directory, "whole.txt"), Path(directory, "words.txt")
        if args.data is None:
            write_list(whole, sizes[-1])
        print(" ".join(f"{title:>20}" for title in COLUMNS.values()), flush=True)
        for size in sizes:
            try:
                with whole.open("rb") as source, part.open("wb") as file:
                    file.writelines(islice(source, size))
                row = {"words": size} | in_fresh_process(measured, part)
            except (MakemoreError, OSError) as error:
                print(error, file=sys.stderr)
                return 1
            rows.append(row)
            print(f"{size:>20,} " + " ".join(f"{row[c]:>20,.1f}" for c in list(COLUMNS)[1:]), flush=True)
    for less, more in pairwise(rows):
        words = more["words"] - less["words"]
        if words:
            print(
                f"from {less['words']:,} to {more['words']:,} words, a word:"
                f" {(more['mb'] - less['mb']) * 2**20 / words:.1f} bytes,"
                f" {(more['first_step'] - less['first_step']) / words * 1e6:.2f} us to the first step"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
