"""Markov models of words with proper smoothing: the baseline that a network has to beat.

    python scripts/study/markov.py --data words.txt

A model of order k gives the distribution of the next character from the last k characters, mixed with those
of all lower orders down to the uniform one:

* Witten-Bell: a context that was followed by d different characters in n places gives its lower orders the
  weight d / (n + d).
* Kneser-Ney: each count is reduced by a discount, which depends on how many n-grams occur once and twice,
  and what is taken away goes to the lower orders. These count in how many different contexts a character
  follows, not how often (Kneser and Ney 1995; Chen and Goodman 1999, interpolated).

A word begins with k stops and ends with one, as in the lecture, and its stop counts as a character. The
splits and the alphabet are those of ``WordList``.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from answer import answer

from makemore.data.word_list import WordList, load_words

ORDERS = range(1, 9)
"""The orders that are tried."""

SMOOTHINGS = ("Witten-Bell", "Kneser-Ney")
"""The ways of smoothing that are tried."""

STOP = "\n"
"""Begins and ends every word; no word has it."""


class Row(NamedTuple):
    """A model and its losses in nats per character."""

    smoothing: str
    order: int
    val: float
    test: float


class MarkovModel:
    """The distributions of a smoothed Markov model; ``num_symbols`` is that of the alphabet with the stop."""

    def __init__(self, words: Sequence[str], order: int, smoothing: str, num_symbols: int) -> None:
        self.order, self.smoothing, self.num_symbols = order, smoothing, num_symbols
        counts = [defaultdict[str, Counter[str]](Counter) for _ in range(order + 1)]
        for word in words:
            text = STOP * order + word + STOP
            for end in range(order, len(text)):
                for length in range(order + 1):
                    counts[length][text[end - length : end]][text[end]] += 1
        self.counts: list[Mapping[str, Counter[str]]] = [*counts]
        self.discounts = [0.0] * (order + 1)
        if smoothing == "Kneser-Ney":
            for length in range(order):
                self.counts[length] = continuations(counts[length], counts[length + 1])
            self.discounts = [discount(table) for table in self.counts]

    def probability(self, context: str, ch: str) -> float:
        """The probability of a character after the last ``order`` characters."""
        p = 1 / self.num_symbols
        for length in range(self.order + 1):
            followers = self.counts[length].get(context[len(context) - length :])
            if followers is None:
                break  # longer contexts have not occurred either
            total, different = followers.total(), len(followers)
            if self.smoothing == "Kneser-Ney":
                cut = self.discounts[length]
                p = (max(0.0, followers[ch] - cut) + cut * different * p) / total
            else:
                p = (followers[ch] + different * p) / (total + different)
        return p

    def loss(self, words: Sequence[str]) -> float:
        """The mean negative log-probability of a character of words, in nats."""
        nats, number = 0.0, 0
        for word in words:
            text = STOP * self.order + word + STOP
            for end in range(self.order, len(text)):
                nats -= math.log(self.probability(text[end - self.order : end], text[end]))
            number += len(word) + 1
        return nats / number


def continuations(
    own: Mapping[str, Counter[str]], longer: Mapping[str, Counter[str]]
) -> Mapping[str, Counter[str]]:
    """After each context, in how many longer contexts each character follows.

    A context that begins a word has no longer ones, so its characters are counted as they are.
    """
    found = defaultdict[str, Counter[str]](Counter)
    for context, followers in longer.items():
        for ch in followers:
            found[context[1:]][ch] += 1
    for context, followers in own.items():
        if context.startswith(STOP):
            found[context] = followers
    return found


def discount(table: Mapping[str, Counter[str]]) -> float:
    """How much is taken from each count: by how many n-grams occur once and twice."""
    frequencies = Counter(count for followers in table.values() for count in followers.values())
    once, twice = frequencies[1], frequencies[2]
    return once / (once + 2 * twice) if once and twice else 0.75


def models(words: WordList, orders: Sequence[int] = ORDERS) -> Iterator[MarkovModel]:
    """All models of the training split of a list."""
    train, _, _ = words.split()
    for smoothing in SMOOTHINGS:
        for order in orders:
            yield MarkovModel(train, order, smoothing, len(words.vocabulary))


def rows(words: WordList, orders: Sequence[int] = ORDERS) -> list[Row]:
    """The losses of all models on the val and the test split of a list."""
    _, val, test = words.split()
    return [
        Row(model.smoothing, model.order, model.loss(val), model.loss(test))
        for model in models(words, orders)
    ]


def best(words: WordList, orders: Sequence[int] = ORDERS) -> Row:
    """The model with the lowest loss on the val split."""
    return min(rows(words, orders), key=lambda row: row.val)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", metavar="PATH", help="word list (default: the bundled names)")
    args = parser.parse_args(argv)
    words = load_words(args.data, case="auto")
    print(f"{'smoothing':<12} {'order':>5} {'val':>7} {'test':>7}")
    found = rows(words)
    lowest = min(found, key=lambda row: row.val)
    for row in found:
        mark = "  lowest val" if row == lowest else ""
        print(f"{row.smoothing:<12} {row.order:>5} {row.val:7.4f} {row.test:7.4f}{mark}")
    return 0


if __name__ == "__main__":
    answer(main)
