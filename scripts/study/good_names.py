"""Measure how good sampled names are, before and after --good, on word lists of your own.

    python scripts/study/good_names.py runs irish.txt towns.txt
    python scripts/study/good_names.py runs irish.txt --row=--good --row="--good --top-p 0.9"

Half of each list is held out. ``makemore-train`` trains on the other half, and ``makemore-sample`` samples
words with the flags of each row. The words are measured by the held-out half, which the network has not seen:

* held out: the share of the different words that are in the held-out half, so they are real names;
* nats: mean negative log-likelihood a character under a Markov model of the held-out half, of order 3 with
  Witten-Bell smoothing. Good names are as likely as the real ones of the training half, the first row;
* copies, near: the shares of the words that are in the training half, and that are one edit away from it;
* different: the share of different words;
* length: the mean number of characters, and in brackets the share of the words whose lengths are unusual in
  the list: shorter or longer than nearly all listed words.

Finished runs are not done again.
"""

from __future__ import annotations

import argparse
import math
import random
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from answer import answer
from train_command import train

from makemore.data.word_list import WordList, read_words
from makemore.inference.selection import NotNear, usual_lengths

ROWS = ("", "--temperature 0.7 --novel --unique --min-length 4", "--good")
"""Flags of makemore-sample: none, those of a user who knows them, and the one for good names."""

ORDER = 3
"""Characters that the Markov model looks back."""

START, STOP = "\n", "\n"


class Markov:
    """A Markov model of characters with Witten-Bell smoothing, interpolated over all orders.

    A context is expected to have a new character as often as it had different ones.
    """

    def __init__(self, words: Iterable[str], order: int) -> None:
        self.order = order
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        for word in words:
            for context, ch in self._steps(word):
                for start in range(len(context) + 1):
                    self.counts[context[start:]][ch] += 1
        self.size = len(self.counts[""]) + 1  # one more for all others

    def _steps(self, word: str) -> Iterable[tuple[str, str]]:
        """Each character of a word and the stop, with the characters before it."""
        text = START * self.order + word + STOP
        for i in range(self.order, len(text)):
            yield text[i - self.order : i], text[i]

    def probability(self, context: str, ch: str) -> float:
        """The probability of a character, or the stop, after a context of ``order`` characters."""
        p = 1 / self.size
        for start in range(len(context), -1, -1):
            counts = self.counts.get(context[start:])
            if counts is None:
                break
            total, kinds = counts.total(), len(counts)
            p = (counts[ch] + kinds * p) / (total + kinds)
        return p

    def nats(self, words: Sequence[str]) -> float:
        """The mean negative log-likelihood of a character, stops included."""
        logs = [math.log(self.probability(*step)) for word in words for step in self._steps(word)]
        return -math.fsum(logs) / max(1, len(logs))


def halves(path: Path) -> tuple[list[str], list[str]]:
    """The different words of a list in two halves, at random, but the same each time."""
    words = sorted(set(read_words(path).words))
    random.Random(0).shuffle(words)
    return words[::2], words[1::2]


def sampled(run: Path, number: int, flags: str) -> list[str]:
    """Words that makemore-sample prints with these flags."""
    command = [sys.executable, "-m", "makemore", "sample", str(run), "--seed", "1", "-n", str(number)]
    done = subprocess.run([*command, *flags.split()], capture_output=True, text=True, encoding="utf-8")
    if done.stderr:
        print(f"{flags}: {done.stderr.strip()}", file=sys.stderr)
    return done.stdout.splitlines()


def measured(words: list[str], listed: list[str], held_out: list[str]) -> str:
    """The cells of a row of the table."""
    different = set(words)
    known, nearby = set(listed), NotNear(listed, 1)(words)
    copies = sum(word in known for word in words)
    near = nearby.count(False) - copies
    usual = usual_lengths(WordList.of(listed))
    unusual = sum(len(word) not in usual for word in words)
    number = max(1, len(words))
    length = sum(map(len, words)) / number
    real = len(different & set(held_out)) / max(1, len(different))
    nats = Markov(held_out, ORDER).nats(words)
    return (
        f"{real:.1%} | {nats:.3f} | {copies / number:.1%} | {near / number:.1%}"
        f" | {len(different) / number:.1%} | {length:.1f} ({unusual / number:.1%})"
    )


def study(directory: Path, path: Path, rows: Sequence[str], number: int, flags: Sequence[str]) -> None:
    """Print the table of a list, and some words of each row."""
    listed, held_out = halves(path)
    data = directory / f"{path.stem}.txt"
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_text("\n".join(listed) + "\n", encoding="utf-8")
    train(directory / path.stem, ["--data", data, "--samples", 0, *flags])
    print(f"\n{path.stem}: {len(listed)} words, {len(held_out)} held out\n")
    print("| words | held out | nats | copies | near | different | length |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    print(f"| training half | {measured(listed, listed, held_out)} |")
    some = {}
    for row in rows:
        words = sampled(directory / path.stem, number, row)
        print(f"| `{row or 'no flags'}` | {measured(words, listed, held_out)} |")
        some[row] = words[:12]
    for row, words in some.items():
        print(f"\n{row or 'no flags'}: {', '.join(words)}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", type=Path, help="directory to write the runs to")
    parser.add_argument("lists", type=Path, nargs="+", help="word lists, one word a line")
    parser.add_argument(
        "--row", action="append", metavar="FLAGS", help="flags of makemore-sample, once a row"
    )
    parser.add_argument("-n", "--samples", type=int, default=1000, help="words for each row (default: 1000)")
    parser.add_argument(
        "--train", nargs=argparse.REMAINDER, default=[], help="further flags of makemore-train"
    )
    args = parser.parse_args(argv)
    for path in args.lists:
        study(args.directory, path, args.row or ROWS, args.samples, args.train)
    return 0


if __name__ == "__main__":
    answer(main)
