"""The command ``makemore-sample``: sample new words from a model, or score given words."""

from __future__ import annotations

import ctypes
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from pathlib import Path

import torch
from torch import Generator

from makemore.commands.interactive import answer_beginnings
from makemore.commands.text_output import (
    Cell,
    Row,
    csv_lines,
    jsonl_lines,
    open_output,
    text_lines,
    write_lines,
)
from makemore.core.device import resolve_device
from makemore.core.errors import DataError, MakemoreError, UsageError
from makemore.core.terminal import say
from makemore.core.text import known_form, normalize, plural, quote
from makemore.data.reading import WordFile
from makemore.data.word_list import WordList
from makemore.inference.generation import Accept, Filters, NothingFits, Sample, generate_scored
from makemore.inference.predictor import as_predictor
from makemore.inference.scoring import log_likelihoods
from makemore.inference.selection import NotNear, all_of, novel, of_length, usual_lengths
from makemore.run.model_file import Model
from makemore.run.opened_model import Opened, known_words, open_model
from makemore.run.settings import SampleSettings, flag

SCORED_LINES = 8192
"""Lines of a file whose words are scored at a time."""

MAX_REPEATED = 100_000
"""The number of repeated words in a row after which --unique gives up."""

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
    elif wanted.interactive:
        generator = seeded_generator(wanted.seed)
        accept = wanted_words(wanted, listed_words(opened, wanted))
        answer_beginnings(model, generator, filters, accept)
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


def seeded_generator(seed: int | None) -> Generator:
    """A generator with this seed, or with a new one."""
    generator = Generator()
    return generator.manual_seed(generator.seed() if seed is None else seed)


def words_to_sample(wanted: SampleSettings) -> tuple[int | None, range]:
    """The number of words to sample, and which of them to write.

    The number is None if it depends on how many words are repeated. Raises UsageError on a shard that depends
    on the shards before it.
    """
    number = None if wanted.unique else wanted.samples
    if wanted.shard is None:
        return number, range(wanted.samples if number is None else number)
    part = shard_of(wanted.samples, wanted.shard)
    if wanted.seed is None:
        raise UsageError("--shard needs --seed: without a seed each shard would sample different words")
    if wanted.unique:
        raise UsageError(
            f"--unique{', which --good sets,' if wanted.good else ''} compares all words, --shard samples a"
            " part of them: remove repeated words after joining the parts, for example with awk '!seen[$0]++'"
        )
    return number, part


def listed_words(opened: Opened, wanted: SampleSettings) -> WordList | None:
    """The list that the model was trained on, if it is needed, or is known and of use.

    Raises UsageError or DataError if it is needed and not found.
    """
    if wanted.novel or wanted.not_near is not None or wanted.good:
        return known_words(opened, wanted.data)
    if not is_table(wanted):
        return None
    try:
        return known_words(opened, wanted.data)
    except (DataError, UsageError) as error:
        if wanted.data is not None:
            raise
        say(f"makemore-sample: the column novel is left out: {error}", sys.stderr)
        return None


def wanted_words(wanted: SampleSettings, listed: WordList | None) -> Accept | None:
    """Which words are accepted; None: all."""
    conditions = []
    if wanted.good and listed is not None:
        conditions.append(of_length(good_lengths(wanted, listed)))
    if (wanted.novel or wanted.not_near == 0) and listed is not None:
        conditions.append(novel(listed.word_set()))
    if wanted.not_near and listed is not None:
        conditions.append(NotNear(listed.words, wanted.not_near))
    return all_of(conditions) if conditions else None


def good_lengths(wanted: SampleSettings, listed: WordList) -> range:
    """The lengths of good words: the usual ones of the list, unless flags say otherwise.

    A prefix may make them longer.
    """
    usual, defaults = usual_lengths(listed), SampleSettings()
    longest = max(usual[-1], len(normalize(wanted.prefix)) + usual[0])
    if wanted.max_length != defaults.max_length:
        longest = wanted.max_length
    shortest = min(usual[0], longest) if wanted.min_length == defaults.min_length else wanted.min_length
    return range(shortest, max(shortest, longest) + 1)


def with_flags(message: str) -> str:
    """A message of ``Filters`` with the flags in place of the names of its fields.

    >>> with_flags("min_length must be from 0 to max_length 4")
    '--min-length must be from 0 to --max-length 4'
    """
    for field in fields(Filters):
        message = message.replace(field.name, flag(field.name))
    return message


def write_words(opened: Opened, wanted: SampleSettings, filters: Filters) -> None:
    """Write new words to stdout as they are sampled, or to a file.

    Raises UsageError if the training list is needed and not found, MakemoreError if too few words are
    accepted, and WriteError.
    """
    model = opened.model
    number, part = words_to_sample(wanted)
    listed = listed_words(opened, wanted)
    samples = generate_scored(
        model.network,
        model.vocabulary,
        seeded_generator(wanted.seed),
        number,
        filters,
        prefix=wanted.prefix,
        part=None if number is None else part,
        accept=wanted_words(wanted, listed),
    )
    samples = with_reason(unique(samples) if wanted.unique else samples, len(part), wanted)
    lines = sample_lines(itertools.islice(samples, len(part)), wanted, listed)
    with open_output(wanted.output) as file:
        write_lines(lines, len(part), file)


def unique(samples: Iterable[Sample]) -> Iterator[Sample]:
    """The samples whose words are not those of earlier ones.

    Raises NothingFits after ``MAX_REPEATED`` repeated words in a row.
    """
    earlier: set[str] = set()
    repeated = 0
    for sample in samples:
        word = normalize(sample.word)
        if word not in earlier:
            earlier.add(word)
            repeated = 0
            yield sample
            continue
        repeated += 1
        if repeated == MAX_REPEATED:
            raise NothingFits(repeated)


def with_reason(samples: Iterable[Sample], most: int, wanted: SampleSettings) -> Iterator[Sample]:
    """The samples. In place of NothingFits, raises MakemoreError that says what was wanted."""
    found = 0
    try:
        for sample in samples:
            found += 1
            yield sample
    except NothingFits as error:
        longest = plural(wanted.max_length, "character")
        kinds = {
            f"at most {longest} long": error.too_long,
            "of a usual length": wanted.good,
            "novel": wanted.novel or wanted.not_near == 0,
            f"more than {plural(wanted.not_near or 0, 'edit')} from every listed word": wanted.not_near,
            "unique": wanted.unique,
        }
        advice = "a higher --max-length" if 2 * error.too_long > error.sampled else "a higher --temperature"
        raise MakemoreError(
            f"{found:,} of {plural(most, 'word')}: none of the last {error.sampled:,} sampled was"
            f" {' and '.join(kind for kind, asked in kinds.items() if asked)}; {advice} or fewer filters may"
            " help"
        ) from error


def is_table(wanted: SampleSettings) -> bool:
    """Whether the output has columns with names."""
    return wanted.format in ("csv", "jsonl")


def sample_lines(samples: Iterable[Sample], wanted: SampleSettings, listed: WordList | None) -> Iterator[str]:
    """The lines to write for some samples."""
    if not is_table(wanted):
        return (f"{word}\t{score:.4f}" if wanted.with_score else word for word, score in samples)
    columns: dict[str, Callable[[Sample], Cell]] = {
        "word": lambda sample: sample.word,
        "log_likelihood": lambda sample: sample.log_likelihood,
    }
    if listed is not None:
        known = listed.word_set()
        columns["novel"] = lambda sample: normalize(sample.word) not in known
    rows = ({name: cell(sample) for name, cell in columns.items()} for sample in samples)
    return lines_of(rows, list(columns), wanted)


def lines_of(rows: Iterable[Row], columns: list[str], wanted: SampleSettings) -> Iterator[str]:
    """The rows in the format that is wanted. Of several shards, the first has the names of the columns."""
    if wanted.format == "csv":
        first = wanted.shard is None or int(wanted.shard.partition("/")[0]) == 1
        return csv_lines(rows, columns, header=first)
    return jsonl_lines(rows) if wanted.format == "jsonl" else text_lines(rows)


def write_scores(model: Model, wanted: SampleSettings, source: str) -> None:
    """Write the log-likelihood of every word of a file, in nats and per character.

    The stop counts as a character, as in the loss. Blank lines are skipped. A word is scored in the form that
    the vocabulary knows and written as it is in the file. One with a character that is not in the vocabulary
    gets nan, or no value in csv and jsonl, and is reported on stderr. Raises UsageError, DataError and
    WriteError.
    """
    with open_output(wanted.output) as target, WordFile(source) as file:
        total = file.num_lines()
        part = range(sys.maxsize if total is None else total)
        if wanted.shard is not None:
            part = shard_of(total or 0, wanted.shard)
            if total is None:
                raise UsageError("--shard counts the lines first: give --score a file, not a pipe")
        columns = ["word", "log_likelihood", "per_character"]
        rows = (dict(zip(columns, cells, strict=True)) for cells in scores(model, file, part))
        write_lines(lines_of(rows, columns, wanted), None if total is None else len(part), target)


def scores(model: Model, file: WordFile, part: range) -> Iterator[tuple[str, float | None, float | None]]:
    """The words of those lines of a file whose numbers are in ``part``, and their scores, None if unknown.

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
            score = None if unknown else next(log_likelihood)
            if i not in part or not form:
                continue
            yield word, score, None if score is None else score / (len(form) + 1)
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
