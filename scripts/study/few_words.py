"""Compare Markov models and networks on short lists, of 60 to 5,000 words.

    python scripts/study/few_words.py runs --lists languages/        # files of words, one list each
    python scripts/study/few_words.py runs --lists a.txt b.txt --seeds 1
    python scripts/study/few_words.py runs --lists languages/ --parts 60 120 --only English names

Besides the lists that are given, there are random parts of the bundled names, and the cities and countries
of the system's time zones if /usr/share/zoneinfo has their tables. Words that occur twice are taken once,
without regard to capitals. Each seed shuffles the list, so that it has splits of its own, and trains with
``makemore-train``: with its defaults, and as they were before there were settings of their own for few
words. The Markov model is that with the lowest val loss (``markov.py``). Finished runs are not done again.

The test split of 60 words has six words, so its loss says little. With ``--parts`` the list of each seed is a
random part of a longer list in small letters, and its test words are up to 1,200 others of that list which
have no character that the part lacks. The Markov model is then that with the lowest loss on these very words.

The ways to train are chosen by ``--ways``. The head starts begin with the bundled network: one network;
an ensemble of as many as by default; and one that also trains on as many bundled names as there are words,
or on ``MIXED`` if that is more, which have a label of their own.

Prints a table with the mean test loss over the seeds in nats per character, the mean difference to the
Markov model with its standard error, and the processor seconds of the command.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import markov
from answer import answer
from train_command import train

from makemore.data.word_list import WordList, load_words, read_words
from makemore.inference.scoring import log_likelihoods
from makemore.modern.recipe import ModernRecipe
from makemore.run.model_file import load_model

PARTS = (60, 120, 250, 500, 1000, 2000, 5000)
"""The sizes of the random parts of the bundled names."""

ZONES, COUNTRIES = Path("/usr/share/zoneinfo/tzdata.zi"), Path("/usr/share/zoneinfo/iso3166.tab")
"""The time zones, whose names end in a city, and the countries. Debian's package tzdata has them."""

SIZES = range(60, 5001)
"""The sizes of the lists that are compared, in words."""

WAYS: dict[str, Sequence[object]] = {
    "before": "--ensemble 1 --markov 0 --patience 5 --keep best --n-hidden 128".split(),
    "now": [],
    "start": ["--init-from", "bundled"],
    "start-ensemble": ["--init-from", "bundled"],
    "start-mixed": ["--init-from", "bundled", "--word-column", 1, "--label-column", 2],
}
"""Ways to train, by their flags. There were at least ``LEAST_STEPS`` steps before."""

LEAST_STEPS = 106

MIXED = 1000
"""The least number of bundled names that are mixed in."""

OWN, BUNDLED = "own", "bundled"
"""The labels of mixed words."""

OTHERS = range(200, 1201)
"""How many words a part of a list is tested on."""


def distinct(words: Sequence[str]) -> list[str]:
    """The words without those that differ from an earlier one in capitals alone."""
    found: dict[str, str] = {}
    for word in words:
        found.setdefault(word.lower(), word)
    return list(found.values())


def lists(paths: Sequence[Path], parts: Sequence[int] | None) -> Iterator[tuple[str, list[str]]]:
    """All lists by name. Those to take parts of are in small letters."""
    for name, words in sources(paths):
        yield name, words if parts is None else [word.lower() for word in words]
    names = load_words().words
    if parts is not None:
        yield "names", names
    else:
        for number in PARTS:
            yield f"names-{number}", random.Random(number).sample(names, number)


def sources(paths: Sequence[Path]) -> Iterator[tuple[str, list[str]]]:
    """The lists of the files, the cities and the countries, by name."""
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


class Case(NamedTuple):
    """A list in the order of a seed. ``others`` are words to test on, in place of its test split."""

    words: list[str]
    others: list[str]


def cases(words: list[str], part: int | None, seeds: Sequence[int]) -> list[Case]:
    """The case of each seed: the whole list, or a random part of that many words and others to test on."""
    shuffled = [random.Random(seed).sample(words, len(words)) for seed in seeds]
    if part is None:
        return [Case(all_words, []) for all_words in shuffled]
    found = []
    for all_words in shuffled:
        own, rest = all_words[:part], all_words[part:]
        known = {*"".join(own)}
        found.append(Case(own, [word for word in rest if known.issuperset(word)][: OTHERS[-1]]))
    return found


def row(name: str, every_case: Mapping[int, Case], ways: Sequence[str], directory: Path) -> str:
    """The row of a list, after its runs, one for each seed."""
    baseline: list[float] = []
    losses: dict[str, list[float]] = {way: [] for way in ways}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for seed, case in every_case.items():
        folder = directory / f"{name}-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "words.txt"
        path.write_text("\n".join(case.words), encoding="utf-8")
        shuffled = load_words(str(path), case="auto")
        baseline.append(markov.best(shuffled).test if not case.others else markov_loss(shuffled, case.others))
        for way in ways:
            result = train(folder / way, flags_of(way, path, shuffled, seed))
            losses[way].append(test_loss(folder / way, case.others) if case.others else result.losses["test"])
            seconds[way].append(result.seconds)
    cells = [name, f"{len(next(iter(every_case.values())).words):,}", f"{mean(baseline):.3f}"]
    for way in ways:
        less = [loss - other for loss, other in zip(losses[way], baseline, strict=True)]
        error = f" ({stdev(less) / len(less) ** 0.5:.3f})" if len(less) > 1 else ""
        cells += [f"{mean(losses[way]):.3f}", f"{mean(less):+.3f}{error}", f"{mean(seconds[way]):.0f}"]
    return " | ".join(cells)


def flags_of(way: str, path: Path, words: WordList, seed: int) -> list[object]:
    """The flags of a way to train on a list. Writes the table of mixed words beside it."""
    examples = len(words.data(8).train)
    flags: list[object] = ["--seed", seed, "--samples", 0, *WAYS[way]]
    if way == "before":
        flags += ["--steps", max(LEAST_STEPS, ModernRecipe.for_examples(examples).steps)]
    if way == "start-ensemble":
        flags += ["--ensemble", ModernRecipe.default_ensemble(examples)]
    if way == "start-mixed":
        number = max(MIXED, len(words.words))
        names = random.Random(seed).sample(load_words().words, number)
        rows = [(word, OWN) for word in words.words] + [(name, BUNDLED) for name in names]
        path = path.with_name("mixed.tsv")
        path.write_text("".join(f"{word}\t{label}\n" for word, label in rows), encoding="utf-8")
    return ["--data", path, *flags]


def test_loss(run: Path, words: Sequence[str]) -> float:
    """The loss of a run's network on words, with the label of its own words if it has labels."""
    model = load_model(run)
    row = 0
    if model.labels is not None:
        own = 1 + model.labels.columns[0].values.index(OWN)
        row = model.labels.rows[:, 0].tolist().index(own)
    scores = log_likelihoods(model.network, model.vocabulary, words, model.labels, row)
    return -float(scores.sum()) / sum(len(word) + 1 for word in words)


def markov_loss(words: WordList, others: Sequence[str]) -> float:
    """The lowest loss of a Markov model on other words than those it is fitted to."""
    return min(model.loss(others) for model in markov.models(words))


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", type=Path, help="directory of the runs")
    parser.add_argument(
        "--lists", type=Path, nargs="*", default=[], help="files of words, or folders of them"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="default: 1 2 3")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names of the lists to compare")
    parser.add_argument(
        "--parts",
        type=int,
        nargs="+",
        metavar="N",
        help="train on N random words of each list, and test on other words of it",
    )
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, default=["before", "now"], help="default: before now"
    )
    args = parser.parse_args(argv)
    head = ["list", "words", "Markov", *(f"{way} | less Markov | s" for way in args.ways)]
    print(f"| {' | '.join(head)} |")
    print(f"|---|{'--:|' * (2 + 3 * len(args.ways))}")
    for name, words in lists(args.lists, args.parts):
        if (args.only is not None and name not in args.only) or (not args.parts and len(words) not in SIZES):
            continue
        for part in args.parts or [None]:
            by_seed = dict(zip(args.seeds, cases(words, part, args.seeds), strict=True))
            if part is not None and min(len(case.others) for case in by_seed.values()) not in OTHERS:
                continue
            full_name = name if part is None else f"{name}-{part}"
            print(f"| {row(full_name, by_seed, args.ways, args.directory)} |", flush=True)
    return 0


if __name__ == "__main__":
    answer(main)
