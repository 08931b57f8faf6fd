"""What ``makemore-sample`` does: words and likelihoods, streamed from a model file (beyond the lecture)."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Generator
from tqdm import tqdm

from makemore.commands.guards import resolve_device
from makemore.commands.models import Opened, known_words, open_model
from makemore.commands.settings import SampleSettings
from makemore.convolution import Filters, Sample, generate, generate_scored, log_likelihoods
from makemore.convolution.forms import form_of
from makemore.errors import MakemoreError, UsageError
from makemore.model_file import Model

CHUNK = 8192
"""Words that are scored at a time."""

FRUITLESS = 100_000
"""Words in a row that may be drawn in vain before the search for an allowed one ends."""

BAR_FROM = 20_000
"""Words from which on a progress bar is shown."""

REPORTED = 10
"""Words with unknown characters that are reported one by one."""


def sample(path: Path | None, wanted: SampleSettings) -> None:
    """Write words drawn from ``open_model``'s model, or the scores of given ones.

    Raises ModelFileError and UsageError.
    """
    torch.set_num_threads(1)
    try:
        filters = Filters(
            wanted.temperature, wanted.min_length, wanted.top_k, wanted.top_p, wanted.max_length
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    device = resolve_device(wanted.device)
    opened = open_model(path, "makemore-sample")
    model = opened.model
    model.network.to(device)
    if wanted.score == "-":
        write_scores(model, sys.stdin.buffer, "stdin")
    elif wanted.score is not None:
        try:
            file = open(wanted.score, "rb")  # noqa: SIM115
        except OSError as error:
            raise UsageError(f"cannot read {wanted.score}: {error.strerror}") from error
        with file:
            write_scores(model, file, wanted.score)
    elif len(wanted.prefix) > wanted.max_length:
        raise UsageError(f"--prefix {wanted.prefix!r} is longer than --max-length {wanted.max_length}")
    else:
        write_words(opened, wanted, filters)


def write_words(opened: Opened, wanted: SampleSettings, filters: Filters) -> None:
    """Write the wanted words to stdout, one a line, as they are drawn; a progress bar if they go elsewhere.

    Raises UsageError on another list than the training's, MakemoreError if the words wanted do not come.
    """
    model = opened.model
    known = frozenset(known_words(opened, wanted.data).words if wanted.novel else ())
    number = None if wanted.unique or wanted.novel else wanted.number
    generator = Generator()
    generator.manual_seed(generator.seed() if wanted.seed is None else wanted.seed)
    arguments = (model.network, model.vocabulary, generator, number, filters)
    if wanted.with_score:
        samples = generate_scored(*arguments, prefix=wanted.prefix)
    else:
        samples = (Sample(word, 0.0) for word in generate(*arguments, prefix=wanted.prefix))
    if number is None:
        samples = allowed(samples, wanted, known)
    silent = wanted.number < BAR_FROM or sys.stdout.isatty() or None
    for word, score in tqdm(
        samples, total=wanted.number, unit="word", unit_scale=True, disable=silent, leave=False
    ):
        sys.stdout.write(f"{word}\t{score:.4f}\n" if wanted.with_score else f"{word}\n")


def allowed(samples: Iterator[Sample], wanted: SampleSettings, known: frozenset[str]) -> Iterator[Sample]:
    """The first ``number`` samples that are unique, or novel, or both.

    Raises MakemoreError once ``FRUITLESS`` in a row were not.
    """
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
