"""What ``makemore-sample`` does: words and likelihoods, streamed from a model file (beyond the lecture)."""

from __future__ import annotations

import ctypes
import io
import itertools
import sys
from collections.abc import Container, Iterator
from pathlib import Path

import torch
from torch import Generator

from makemore.commands.guards import resolve_device
from makemore.commands.lines import CHUNK, number_of_lines, part_of, reading, skip_lines, write_lines, writing
from makemore.commands.models import Opened, known_words, open_model
from makemore.commands.settings import SampleSettings
from makemore.convolution import Filters, Sample, generate_scored, log_likelihoods
from makemore.convolution.forms import form_of
from makemore.errors import MakemoreError, UsageError
from makemore.model_file import Model
from makemore.reading import LONGEST_LINE, named, too_long

FRUITLESS = 100_000
"""Words in a row that may be drawn in vain before the search for an allowed one ends."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""The parameters of glibc's mallopt: bytes on top, or in one piece, from which memory is given back."""

REPORTED = 10
"""Words with unknown characters that are reported one by one."""


def sample(path: Path | None, wanted: SampleSettings) -> None:
    """Write words drawn from ``open_model``'s model, or the scores of given ones.

    Raises ModelFileError and UsageError.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
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
    if wanted.score is not None:
        write_scores(model, wanted, wanted.score)
    elif len(wanted.prefix) > wanted.max_length:
        raise UsageError(f"--prefix {wanted.prefix!r} is longer than --max-length {wanted.max_length}")
    else:
        write_words(opened, wanted, filters)


def keep_freed_memory() -> None:
    """Let glibc, where it is that, keep what is freed for the next tensors, in place of giving it back.

    Else the system clears new pages for each large tensor, for a tenth of the time of sampling.
    """
    mallopt = getattr(ctypes.CDLL(None) if sys.platform == "linux" else None, "mallopt", None)
    # An older one refuses more than 32 MB; the second parameter alone would then hold the first at 128 KB.
    if mallopt is not None and (mallopt(M_MMAP_THRESHOLD, 2**30) or mallopt(M_MMAP_THRESHOLD, 2**25)):
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def words_drawn(wanted: SampleSettings) -> tuple[int | None, range]:
    """How many words are drawn, None if that depends on which come, and which of them are asked for.

    Raises UsageError on a part that nobody can know without the parts before it.
    """
    number = wanted.draws
    if number is None and not (wanted.unique or wanted.novel):
        number = wanted.number
    if wanted.shard is None:
        return number, range(sys.maxsize if number is None else number)
    part = part_of(number or 0, wanted.shard)
    if wanted.seed is None:
        raise UsageError("--shard needs --seed: without one, each part would be of other words")
    if wanted.unique:
        raise UsageError(
            "--unique looks at all words, --shard draws a part: leave it to what joins the parts, say"
            " awk '!seen[$0]++'"
        )
    if number is None:
        raise UsageError(
            "--shard with --novel needs --draws in place of --number: no part knows how many words the"
            " parts before it pass over"
        )
    return number, part


def write_words(opened: Opened, wanted: SampleSettings, filters: Filters) -> None:
    """Write the wanted words, one a line, to stdout as they are drawn, or to a file.

    Raises UsageError on another list than the training's, MakemoreError if the words wanted do not come,
    WriteError.
    """
    model = opened.model
    number, part = words_drawn(wanted)
    known: Container[str] = known_words(opened, wanted.data).known() if wanted.novel else ()
    generator = Generator()
    generator.manual_seed(generator.seed() if wanted.seed is None else wanted.seed)
    samples = generate_scored(
        model.network, model.vocabulary, generator, number, filters, prefix=wanted.prefix, part=part
    )
    most = wanted.number if number is None else len(part)
    if wanted.unique or wanted.novel:
        samples = allowed(samples, wanted, known, most)
    lines = (f"{word}\t{score:.4f}" if wanted.with_score else word for word, score in samples)
    with writing(wanted.output) as file:
        write_lines(lines, most, file)


def allowed(
    samples: Iterator[Sample], wanted: SampleSettings, known: Container[str], most: int
) -> Iterator[Sample]:
    """The samples that are unique, or novel, or both; the first so many, if they are without end.

    Raises MakemoreError once ``FRUITLESS`` in a row of them were not.
    """
    seen: set[str] = set()
    found = fruitless = 0
    while found < most and (sample := next(samples, None)):
        if sample.word in known or sample.word in seen:
            fruitless += 1
            if wanted.draws is None and fruitless == FRUITLESS:
                kind = " and ".join(k for k in ("unique", "novel") if getattr(wanted, k))
                raise MakemoreError(
                    f"{found:,} of {most:,} words: none of the last {FRUITLESS:,} drawn was {kind};"
                    " a higher --temperature or fewer filters may help"
                )
            continue
        if wanted.unique:
            seen.add(sample.word)
        fruitless = 0
        found += 1
        yield sample


def write_scores(model: Model, wanted: SampleSettings, source: str) -> None:
    """Write the log-likelihood of every word of a file, one word a line, in nats and per character.

    The stop counts as a character, as in the loss. Blank lines are passed over. A word with a character the
    model does not know gets nan, and is reported on stderr. Raises UsageError, DataError and WriteError.
    """
    with writing(wanted.output) as target, reading(source) as file:
        total = number_of_lines(file) if file.seekable() else None
        part = range(sys.maxsize if total is None else total)
        if wanted.shard is not None:
            part = part_of(total or 0, wanted.shard)
            if total is None:
                raise UsageError("--shard counts the lines first: give --score a file, not a pipe")
        lines = scores(model, file, part, source)
        write_lines(lines, None if total is None else len(part), target)


def scores(model: Model, file: io.BufferedReader, part: range, source: str) -> Iterator[str]:
    """The lines to write for those lines of a file that are in the part.

    Words are scored ``CHUNK`` lines at a time, counted from the top of the file, whatever the part: their
    scores are then the same bits, however a BLAS adds. Raises DataError at a line that is too long.
    """
    name, form = named(source), form_of(model.network)
    known = set(model.vocabulary.characters)
    unknown = 0
    start = part.start // CHUNK * CHUNK
    skip_lines(file, start)
    numbered = enumerate(file, start)
    while start < part.stop and (chunk := list(itertools.islice(numbered, CHUNK))):
        lines = []
        for i, line in chunk:
            if len(line) > LONGEST_LINE and max(map(len, line.strip().split(b"\r"))) > LONGEST_LINE:
                raise too_long(i + 1, source)
            text = line.decode("utf-8", errors="replace")
            text = text.removeprefix("\ufeff") if i == 0 else text
            lines += [(i, word) for piece in text.split("\r") if (word := piece.strip())]
        fit = [word for _, word in lines if known.issuperset(word)]
        found = iter(log_likelihoods(form, model.vocabulary, fit).tolist())
        for i, word in lines:
            strange = [ch for ch in word if ch not in known]
            score = float("nan") if strange else next(found)
            if i not in part:
                continue
            yield f"{word}\t{score:.4f}\t{score / (len(word) + 1):.4f}"
            if strange:
                unknown += 1
                if unknown <= REPORTED:
                    print(f"{name}, line {i + 1}: {strange[0]!r} is not in the vocabulary", file=sys.stderr)
        start += CHUNK
    if unknown > REPORTED:
        print(f"{name}: {unknown:,} words in all have unknown characters", file=sys.stderr)
