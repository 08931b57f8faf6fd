"""What ``makemore-sample`` does: words and likelihoods, streamed from a model file (beyond the lecture)."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Generator
from tqdm import tqdm

from makemore.convolution import Filters, Sample, generate, generate_scored, log_likelihoods
from makemore.convolution.forms import form_of
from makemore.errors import MakemoreError, UsageError
from makemore.model_file import Model, load_model
from makemore.words import load_words

CHUNK = 8192
"""Words that are written at a time."""

FRUITLESS = 100_000
"""Words in a row that may be drawn in vain before the search for an allowed one ends."""

BAR_FROM = 20_000
"""Words from which on a progress bar is shown."""

REPORTED = 10
"""Words with unknown characters that are reported one by one."""


@dataclass(frozen=True)
class Wanted:
    """Which words are wanted: how many, how they begin, what they may not be."""

    number: int = 20
    prefix: str = ""
    filters: Filters = field(default_factory=Filters)
    unique: bool = False
    novel: bool = False
    with_score: bool = False


def open_model(path: Path, device: torch.device) -> Model:
    """The model of a file, on the device."""
    model = load_model(path)
    model.network.to(device)
    return model


def write_words(model: Model, wanted: Wanted, generator: Generator, data: str | None = None) -> None:
    """Write the wanted words to stdout, one a line, as they are drawn.

    ``data`` is where the training list lies now, if novel words are wanted and it was moved. Raises
    UsageError if it is not that list, MakemoreError if the words wanted do not come.
    """
    known = known_words(model, data) if wanted.novel else frozenset[str]()
    samples = allowed(draw(model, wanted, generator), wanted, known)
    lines = (f"{s.word}\t{s.log_likelihood:.4f}" if wanted.with_score else s.word for s in samples)
    write_lines(lines, wanted.number)


def draw(model: Model, wanted: Wanted, generator: Generator) -> Iterator[Sample]:
    """Words as they come: as many as wanted, or without end if some of them may not be wanted."""
    number = None if wanted.unique or wanted.novel else wanted.number
    arguments = (model.network, model.vocabulary, generator, number, wanted.filters)
    if wanted.with_score:
        return generate_scored(*arguments, prefix=wanted.prefix)
    return (Sample(word, 0.0) for word in generate(*arguments, prefix=wanted.prefix))


def allowed(samples: Iterator[Sample], wanted: Wanted, known: frozenset[str]) -> Iterator[Sample]:
    """The first ``number`` samples that are new, if they are to be unique or novel.

    Raises MakemoreError once ``FRUITLESS`` in a row were not.
    """
    if not (wanted.unique or wanted.novel):
        yield from samples
        return
    seen: set[str] = set()
    found = fruitless = 0
    while found < wanted.number:
        sample = next(samples)
        if sample.word in known or sample.word in seen:
            fruitless += 1
            if fruitless == FRUITLESS:
                kind = " and ".join(k for k in ("unique", "novel") if getattr(wanted, k))
                raise MakemoreError(
                    f"{found:,} of {wanted.number:,} words: none of the last {FRUITLESS:,} drawn was {kind};"
                    " a higher --temperature or fewer filters may help"
                )
            continue
        if wanted.unique:
            seen.add(sample.word)
        fruitless = 0
        found += 1
        yield sample


def known_words(model: Model, data: str | None) -> frozenset[str]:
    """The words the model was trained on. Raises UsageError if the list at hand is another one."""
    if model.progress is None:
        raise UsageError("the model file names no word list: it was saved without the run it comes from")
    words = load_words(data or model.progress.settings.get("data"))
    if words.fingerprint != model.progress.fingerprint:
        raise UsageError(
            f"the words of {words.source} are not those the model was trained on;"
            " --novel needs that list: give it by --data"
        )
    return frozenset(words.words)


def write_lines(lines: Iterable[str], number: int) -> None:
    """Write lines to stdout, many at a time, with a progress bar on stderr where stdout is not watched."""
    silent = number < BAR_FROM or sys.stdout.isatty()
    lines = iter(lines)
    with tqdm(total=number, unit="word", unit_scale=True, disable=silent or None, leave=False) as bar:
        written = []
        try:
            for line in lines:
                written.append(line)
                if len(written) == CHUNK:
                    sys.stdout.write("\n".join(written) + "\n")
                    bar.update(len(written))
                    written.clear()
        finally:
            if written:
                sys.stdout.write("\n".join(written) + "\n")


def write_scores(model: Model, file: BinaryIO, name: str) -> None:
    """Write the log-likelihood of every word of a file, one word a line, in nats and per character.

    The stop counts as a character, as in the loss. Blank lines are passed over. A word with a character the
    model does not know gets nan, and is reported on stderr.
    """
    form = form_of(model.network)
    known = set(model.vocabulary.characters)
    unknown = 0
    numbered = enumerate(file, start=1)
    while chunk := list(itertools.islice(numbered, CHUNK)):
        lines = []
        for i, line in chunk:
            text = line.decode("utf-8", errors="replace")
            word = (text.removeprefix("\ufeff") if i == 1 else text).strip()
            if word:
                lines.append((i, word))
        fit = [word for _, word in lines if known.issuperset(word)]
        scores = iter(log_likelihoods(form, model.vocabulary, fit).tolist())
        for i, word in lines:
            strange = [ch for ch in word if ch not in known]
            score = float("nan") if strange else next(scores)
            sys.stdout.write(f"{word}\t{score:.4f}\t{score / (len(word) + 1):.4f}\n")
            if strange:
                unknown += 1
                if unknown <= REPORTED:
                    print(f"{name}, line {i}: {strange[0]!r} is not in the vocabulary", file=sys.stderr)
    if unknown > REPORTED:
        print(f"{name}: {unknown:,} words in all have unknown characters", file=sys.stderr)
