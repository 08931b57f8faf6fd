"""Compare Markov models and networks on short lists, of 60 to 5,000 words.

    python scripts/study/few_words.py runs --lists languages/        # files of words, one list each
    python scripts/study/few_words.py runs --lists a.txt b.txt --seeds 1

Besides the lists that are given, there are random parts of the bundled names, and the cities and countries
of the system's time zones if /usr/share/zoneinfo has their tables. Words that occur twice are taken once,
without regard to capitals. Each seed shuffles the list, so that it has splits of its own, and trains with
``makemore-train``: with its defaults, and as they were before there were settings of their own for few
words. The Markov model is that with the lowest val loss (``markov.py``). Finished runs are not done again.

Prints a table with the mean test loss over the seeds in nats per character, the mean difference to the
Markov model, and the processor seconds of the command.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

import markov
from train_command import Result, train

from makemore.data.word_list import load_words, read_words
from makemore.modern.recipe import ModernRecipe

PARTS = (60, 120, 250, 500, 1000, 2000, 5000)
"""The sizes of the random parts of the bundled names."""

ZONES, COUNTRIES = Path("/usr/share/zoneinfo/tzdata.zi"), Path("/usr/share/zoneinfo/iso3166.tab")
"""The time zones, whose names end in a city, and the countries. Debian's package tzdata has them."""

SIZES = range(60, 5001)
"""The sizes of the lists that are compared, in words."""

ROWS: dict[str, Sequence[object]] = {
    "before": "--ensemble 1 --markov 0 --patience 5 --keep best --n-hidden 128".split(),
    "now": [],
}
"""The flags of the defaults before and now. There were at least ``LEAST_STEPS`` steps before."""

LEAST_STEPS = 106


def distinct(words: Sequence[str]) -> list[str]:
    """The words without those that differ from an earlier one in capitals alone."""
    found: dict[str, str] = {}
    for word in words:
        found.setdefault(word.lower(), word)
    return list(found.values())


def lists(paths: Sequence[Path]) -> Iterator[tuple[str, list[str]]]:
    """All lists by name; files of other sizes are left out."""
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    for file in files:
        yield file.stem, distinct(read_words(file).words)
    if ZONES.exists():
        lines = [line.split() for line in ZONES.read_text(encoding="utf-8").splitlines()]
        names = [line[2] if line[0] == "L" else line[1] for line in lines if line[0] in ("L", "Z")]
        cities = [name.rpartition("/")[2] for name in names if "/" in name and not name.startswith("Etc")]
        yield "cities", distinct([city.replace("_", " ") for city in cities])
    if COUNTRIES.exists():
        lines = [line.split("\t") for line in COUNTRIES.read_text(encoding="utf-8").splitlines()]
        yield "countries", distinct([line[1] for line in lines if len(line) == 2 and "#" not in line[0]])
    names = load_words().words
    for number in PARTS:
        yield f"names-{number}", random.Random(number).sample(names, number)


def row(name: str, words: list[str], seeds: Sequence[int], directory: Path) -> str:
    """The row of a list, after its runs."""
    baseline: list[markov.Row] = []
    results: dict[str, list[Result]] = {label: [] for label in ROWS}
    for seed in seeds:
        folder = directory / f"{name}-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "words.txt"
        path.write_text("\n".join(random.Random(seed).sample(words, len(words))), encoding="utf-8")
        shuffled = load_words(str(path), case="auto")
        baseline.append(markov.best(shuffled))
        steps = ModernRecipe.for_examples(len(shuffled.data(8).train)).steps
        for label, flags in ROWS.items():
            own: list[object] = ["--data", path, "--seed", seed, "--samples", 0]
            if label == "before":
                own += ["--steps", max(LEAST_STEPS, steps)]
            results[label].append(train(folder / label, [*own, *flags]))
    cells = [name, f"{len(words):,}", f"{mean(model.test for model in baseline):.3f}"]
    for found in results.values():
        losses = [result.losses["test"] for result in found]
        less = mean(loss - model.test for loss, model in zip(losses, baseline, strict=True))
        cells += [f"{mean(losses):.3f}", f"{less:+.3f}", f"{mean(result.seconds for result in found):.0f}"]
    return " | ".join(cells)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", type=Path, help="directory of the runs")
    parser.add_argument(
        "--lists", type=Path, nargs="*", default=[], help="files of words, or folders of them"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="default: 1 2 3")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names of the lists to compare")
    args = parser.parse_args(argv)
    head = ["list", "words", "Markov", *(f"{label} | less Markov | s" for label in ROWS)]
    print(f"| {' | '.join(head)} |")
    print(f"|---|{'--:|' * (2 + 3 * len(ROWS))}")
    for name, words in lists(args.lists):
        if len(words) in SIZES and (args.only is None or name in args.only):
            print(f"| {row(name, words, args.seeds, args.directory)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
