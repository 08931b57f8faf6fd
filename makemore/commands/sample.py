"""The command ``makemore-sample``: sample new words from a model, or score given words."""

from __future__ import annotations

import ctypes
import itertools
import re
import sys
from collections.abc import Container, Iterator
from dataclasses import fields
from pathlib import Path

import torch
from torch import Generator

from makemore.commands.text_output import open_output, write_lines
from makemore.core.device import resolve_device
from makemore.core.errors import MakemoreError, UsageError
from makemore.core.terminal import say
from makemore.core.text import known_form, normalize, plural, quote
from makemore.data.reading import WordFile
from makemore.inference.generation import Filters, Sample, generate_scored
from makemore.inference.predictor import as_predictor
from makemore.inference.scoring import log_likelihoods
from makemore.run.model_file import Model
from makemore.run.opened_model import Opened, known_words, open_model
from makemore.run.settings import SampleSettings, flag

SCORED_LINES = 8192
"""Lines of a file whose words are scored at a time."""

MAX_REJECTED = 100_000
"""The number of rejected words in a row after which --novel and --unique give up."""

UNDECODABLE = "\N{REPLACEMENT CHARACTER}"
"""Takes the place of bytes that are not utf-8, see ``WordFile.lines``."""

MAX_REPORTED = 10
"""The number of words with unknown characters that are reported one by one."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt: the sizes from which freed memory is given back to the system."""


def sample(path: Path | None, wanted: SampleSettings) -> None:
    """Write words sampled from the model that ``open_model`` finds, or the scores of given words.

    Raises ModelFileError and UsageError.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        filters = Filters(
            wanted.temperature, wanted.min_length, wanted.top_k, wanted.top_p, wanted.max_length
        )
    except ValueError as error:
        raise UsageError(with_flags(str(error))) from error
    device = resolve_device(wanted.device)
    opened = open_model(path, "makemore-sample")
    model = opened.model
    model.network.to(device)
    if wanted.score is not None:
        write_scores(model, wanted, wanted.score)
    elif len(known_form(wanted.prefix, model.vocabulary.stoi)) > wanted.max_length:
        raise UsageError(f"--prefix {wanted.prefix!r} is longer than --max-length {wanted.max_length}")
    else:
        write_words(opened, wanted, filters)


def keep_freed_memory() -> None:
    """Let glibc, if that is the C library, keep freed memory for the next tensors.

    Otherwise the system clears new pages for each large tensor, which takes a tenth of the time of sampling.
    """
    mallopt = getattr(ctypes.CDLL(None) if sys.platform == "linux" else None, "mallopt", None)
    # Older versions refuse more than 32 MB; the second parameter alone would then keep the first at 128 KB.
    if mallopt is not None and (mallopt(M_MMAP_THRESHOLD, 2**30) or mallopt(M_MMAP_THRESHOLD, 2**25)):
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def shard_of(total: int, shard: str) -> range:
    """The part I/N of ``total`` items: N parts in order, whose sizes differ by one at most.

    Raises UsageError if the text is not of this form.

    >>> [shard_of(7, f"{i}/3") for i in (1, 2, 3)]
    [range(0, 2), range(2, 4), range(4, 7)]
    """
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", shard)
    i, n = map(int, match.groups()) if match else (0, 0)
    if not 1 <= i <= n:
        raise UsageError(f"--shard must be I/N, I from 1 to N, got {shard[:80]!r}")
    return range(total * (i - 1) // n, total * i // n)


def words_to_sample(wanted: SampleSettings) -> tuple[int | None, range]:
    """The number of words to sample, and which of them to write.

    The number is None if it depends on which words --novel and --unique reject. Raises UsageError on a shard
    that depends on the shards before it.
    """
    number = wanted.sampled
    if number is None and not (wanted.unique or wanted.novel):
        number = wanted.samples
    if wanted.shard is None:
        return number, range(sys.maxsize if number is None else number)
    part = shard_of(number or 0, wanted.shard)
    if wanted.seed is None:
        raise UsageError("--shard needs --seed: without a seed each shard would sample different words")
    if wanted.unique:
        raise UsageError(
            "--unique compares all words, --shard samples a part of them: remove repeated words after joining"
            " the parts, for example with awk '!seen[$0]++'"
        )
    if number is None:
        raise UsageError(
            "--shard with --novel needs --sampled in place of --samples: a shard does not know how many words"
            " the shards before it leave out"
        )
    return number, part


def with_flags(message: str) -> str:
    """A message of ``Filters`` with the flags in place of the names of its fields.

    >>> with_flags("min_length must be from 0 to max_length 4")
    '--min-length must be from 0 to --max-length 4'
    """
    for field in fields(Filters):
        message = message.replace(field.name, flag(field.name))
    return message


def write_words(opened: Opened, wanted: SampleSettings, filters: Filters) -> None:
    """Write new words, one a line, to stdout as they are sampled, or to a file.

    Raises UsageError if the training list is not found, MakemoreError if too few words are allowed, and
    WriteError.
    """
    model = opened.model
    number, part = words_to_sample(wanted)
    training_words: Container[str] = known_words(opened, wanted.data).word_set() if wanted.novel else ()
    generator = Generator()
    generator.manual_seed(generator.seed() if wanted.seed is None else wanted.seed)
    samples = generate_scored(
        model.network, model.vocabulary, generator, number, filters, prefix=wanted.prefix, part=part
    )
    most = wanted.samples if number is None else len(part)
    if wanted.unique or wanted.novel:
        samples = allowed(samples, wanted, training_words, most)
    lines = (f"{word}\t{score:.4f}" if wanted.with_score else word for word, score in samples)
    with open_output(wanted.output) as file:
        write_lines(lines, most, file)


def allowed(
    samples: Iterator[Sample], wanted: SampleSettings, training_words: Container[str], most: int
) -> Iterator[Sample]:
    """The first ``most`` samples that are unique, or novel, or both.

    Raises MakemoreError after ``MAX_REJECTED`` samples in a row that are not.
    """
    earlier: set[str] = set()
    found = rejected = 0
    while found < most and (sample := next(samples, None)):
        word = normalize(sample.word)
        if word in training_words or word in earlier:
            rejected += 1
            if wanted.sampled is None and rejected == MAX_REJECTED:
                kind = " and ".join(k for k in ("unique", "novel") if getattr(wanted, k))
                raise MakemoreError(
                    f"{found:,} of {plural(most, 'word')}: none of the last {MAX_REJECTED:,} sampled was"
                    f" {kind}; a higher --temperature or fewer filters may help"
                )
            continue
        if wanted.unique:
            earlier.add(word)
        rejected = 0
        found += 1
        yield sample


def write_scores(model: Model, wanted: SampleSettings, source: str) -> None:
    """Write the log-likelihood of every word of a file, one word a line, in nats and per character.

    The stop counts as a character, as in the loss. Blank lines are skipped. A word is scored in the form that
    the vocabulary knows and written as it is in the file. One with a character that is not in the vocabulary
    gets nan and is reported on stderr. Raises UsageError, DataError and WriteError.
    """
    with open_output(wanted.output) as target, WordFile(source) as file:
        total = file.num_lines()
        part = range(sys.maxsize if total is None else total)
        if wanted.shard is not None:
            part = shard_of(total or 0, wanted.shard)
            if total is None:
                raise UsageError("--shard counts the lines first: give --score a file, not a pipe")
        write_lines(scores(model, file, part), None if total is None else len(part), target)


def scores(model: Model, file: WordFile, part: range) -> Iterator[str]:
    """The lines to write for those lines of a file whose numbers are in ``part``.

    Words are scored in chunks of ``SCORED_LINES`` lines, counted from the start of the file for every part.
    So a word's score has the same bits whatever the part, although a BLAS may add in an order that depends on
    the number of words.
    """
    predictor = as_predictor(model.network)
    known = set(model.vocabulary.characters)
    num_unknown = 0
    start = part.start // SCORED_LINES * SCORED_LINES
    lines = file.lines(start)
    while start < part.stop and (chunk := list(itertools.islice(lines, SCORED_LINES))):
        words = [(i, word) for i, line in enumerate(chunk, start) if (word := line.strip())]
        forms = [known_form(word, known).strip() for _, word in words]
        scorable = [form for form in forms if known.issuperset(form)]
        log_likelihood = iter(log_likelihoods(predictor, model.vocabulary, scorable).tolist())
        for (i, word), form in zip(words, forms, strict=True):
            unknown = [ch for ch in form if ch not in known]
            score = float("nan") if unknown else next(log_likelihood)
            if i not in part or not form:
                continue
            yield f"{word}\t{score:.4f}\t{score / (len(form) + 1):.4f}"
            if unknown:
                num_unknown += 1
                if num_unknown <= MAX_REPORTED:
                    say(f"{file.name}, line {i + 1}: {why_unknown(unknown[0])}", sys.stderr)
        start += SCORED_LINES
    if num_unknown > MAX_REPORTED:
        say(f"{file.name}: {num_unknown:,} words have unknown characters", sys.stderr)


def why_unknown(ch: str) -> str:
    """Why a word with this character is not scored."""
    if ch == UNDECODABLE:
        return "it is not utf-8 text"
    return f"{quote(ch)} is not in the vocabulary"
