"""``makemore-sample --interactive``: what may follow the beginning of a word, asked for line by line."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import suppress

from torch import Generator

from makemore.core.errors import MakemoreError
from makemore.core.terminal import say
from makemore.core.text import normalize, quote
from makemore.inference.generation import Accept, Filters, NothingFits, generate, next_probs
from makemore.inference.predictor import Predictor, as_predictor
from makemore.lecture.words import STOP
from makemore.run.label_choice import ChosenLabels, typical_network
from makemore.run.model_file import Model

PROMPT = "> "

WORDS = 5
"""Words that are printed for a beginning."""

MAX_SAMPLED = 50
"""Words that are sampled to find different ones."""

CHARACTERS = 8
"""The largest number of next characters that are printed."""


def answer_beginnings(
    model: Model, chosen: ChosenLabels, generator: Generator, filters: Filters, accept: Accept | None
) -> None:
    """Print the likeliest next characters and five words for each line of stdin, until it ends.

    Both are those of the chosen labels; of columns that are not chosen, those of the mean of their labels. A
    line that cannot begin a word is answered by the reason. Ctrl-C ends it, too.
    """
    predictor = as_predictor(typical_network(chosen))
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    if sys.stdin.isatty():
        say("Type the beginning of a word, or nothing; Ctrl-D ends.")
    try:
        for line in lines():
            for text in answers(model, chosen, predictor, generator, filters, accept, line):
                say(text)
    except KeyboardInterrupt:
        pass
    if sys.stdin.isatty():
        say()  # the shell goes on in a line of its own


def lines() -> Iterator[str]:
    """The lines of stdin, each after a prompt if it is a terminal. Bytes that are not utf-8 become U+FFFD."""
    while True:
        if sys.stdin.isatty():
            say(PROMPT, end="")
        line = sys.stdin.readline()
        if not line:
            return
        yield line.removesuffix("\n").removesuffix("\r")


def answers(
    model: Model,
    chosen: ChosenLabels,
    predictor: Predictor,
    generator: Generator,
    filters: Filters,
    accept: Accept | None,
    prefix: str,
) -> Iterator[str]:
    """The lines that answer a beginning."""
    vocabulary, prefix = model.vocabulary, model.lowered(prefix)
    try:
        probs = next_probs(predictor, vocabulary, filters, prefix=prefix)
    except (MakemoreError, ValueError) as error:
        yield " ".join(str(error).split())
        return
    likeliest = probs.sort(descending=True, stable=True).indices[:CHARACTERS].tolist()
    shares = {s: 100 * probs[s].item() for s in likeliest}
    names = {s: "the end" if s == STOP else quote(vocabulary.itos[s]) for s in likeliest}
    yield "next   " + "  ".join(f"{names[s]} {share:.1f} %" for s, share in shares.items() if share >= 0.05)
    words = generate(
        chosen.network,
        vocabulary,
        generator,
        MAX_SAMPLED,
        filters,
        prefix=prefix,
        accept=accept,
        labels=chosen.labels,
    )
    found: dict[str, None] = {}
    with suppress(NothingFits):
        for word in words:
            found[normalize(model.restored(word))] = None
            if len(found) == WORDS:
                break
    yield "words  " + (", ".join(found) or "none is found that the flags accept")
