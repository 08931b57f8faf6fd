"""What a list costs by its length: seconds to the first step and of evaluations, memory.

    python scripts/benchmark_lists.py       # 10^4 to 10^7 words, drawn from the network that ships
    python scripts/benchmark_lists.py --sizes 1000000 --data words.txt

Each size in a fresh process, on one thread: the first words of one list. Seconds are the processor's, which
other programs do not lengthen, those to the first step with Python's start and the import of torch; memory is
the most that the process ever held. The last lines say what a further word costs.
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
from benchmark_words import in_fresh_process, peak_mb
from in_turns import at_least, machine
from torch import Generator

from makemore.backprop.windows import WindowsEngine
from makemore.commands.report import SPLITS
from makemore.convolution import generate, loss
from makemore.errors import MakemoreError
from makemore.model_file import load_model
from makemore.modern.trainer import ModernTrainer
from makemore.networks import network_plan
from makemore.recipes import ModernRecipe
from makemore.words import load_words

SIZES = [10**4, 10**5, 10**6, 10**7]

COLUMNS = {
    "words": "words",
    "first_step": "s to the first step",
    "val": "s a val loss",
    "all": "s of all losses",
    "mb": "MB",
}


def write_list(path: Path, number: int) -> None:
    """A list of so many words, drawn from the network that ships with the package."""
    model = load_model()
    words = generate(model.network, model.vocabulary, Generator().manual_seed(1), number)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{word or 'a'}\n" for word in words)


def measured(path: Path) -> dict[str, float]:
    """What the list costs this process, a fresh one."""
    torch.set_num_threads(1)
    data, generator = load_words(str(path)).data(8), Generator().manual_seed(42)
    network = network_plan("wavenet").build(len(data.vocabulary), generator)
    recipe = ModernRecipe.for_examples(len(data.train), steps=100)
    trainer = ModernTrainer(network, data, recipe, generator, WindowsEngine, loss)
    trainer.advance(1)
    row = {"first_step": time.process_time()}
    trainer.advance(20)  # so that the losses are of a network as it is in a training
    for name, splits in {"val": ("val",), "all": SPLITS}.items():
        trainer.step = recipe.steps if name == "all" else 1
        start = time.process_time()
        trainer.evaluate(*splits)
        row[name] = time.process_time() - start
    return row | {"mb": peak_mb()}


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", nargs="+", type=at_least(6), default=SIZES, metavar="N", help="words")
    parser.add_argument("--data", type=Path, help="take the words from the beginning of this list")
    args = parser.parse_args(argv)
    sizes = sorted(args.sizes)
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        whole, some = args.data or Path(directory, "whole.txt"), Path(directory, "words.txt")
        if args.data is None:
            write_list(whole, sizes[-1])
        print(" ".join(f"{title:>20}" for title in COLUMNS.values()), flush=True)
        for size in sizes:
            try:
                with whole.open("rb") as source, some.open("wb") as file:
                    file.writelines(islice(source, size))
                row = {"words": size} | in_fresh_process(measured, some)
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
