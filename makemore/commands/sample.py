"""The command ``makemore-sample``: sample new words from a model, or score given words."""

from __future__ import annotations

import itertools
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path

import torch
from torch import Generator, Tensor

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
from makemore.core.system import keep_freed_memory
from makemore.core.terminal import say
from makemore.core.text import known_form, normalize, plural, quote
from makemore.data.reading import WordFile
from makemore.data.word_list import WordList
from makemore.inference.classification import joint_log_probs, label_probs
from makemore.inference.generation import Accept, Filters, NothingFits, Sample, generate_scored
from makemore.inference.predictor import as_predictor
from makemore.inference.scoring import log_likelihoods
from makemore.inference.selection import NotNear, all_of, novel, of_length, usual_lengths
from makemore.run.label_choice import ChosenLabels, choose_labels, label_lines
from makemore.run.model_file import Model
from makemore.run.opened_model import Opened, known_words, open_model
from makemore.run.settings import SampleSettings, flag

SCORED_LINES = 8192
"""Lines of a file whose words are scored at a time."""

OWN_COLUMNS = ("word", "log_likelihood", "novel")
"""The columns of sampled words besides their labels."""

MAX_REPEATED = 100_000
"""The number of repeated words in a row after which --unique gives up."""

UNDECODABLE = "\N{REPLACEMENT CHARACTER}"
"""Takes the place of bytes that are not utf-8, see ``WordFile.lines``."""

MAX_REPORTED = 10
"""The number of words with unknown characters that are reported one by one."""


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
    if wanted.labels:
        write_labels(model, wanted)
    elif wanted.score is not None:
        write_rows(model, wanted, wanted.score, Scorer(model, wanted))
    elif wanted.classify is not None:
        write_rows(model, wanted, wanted.classify, Classifier(model, wanted))
    elif wanted.interactive:
        generator = seeded_generator(wanted.seed)
        accept = wanted_words(wanted, listed_words(opened, wanted))
        answer_beginnings(model, choose_labels(model, wanted.label), generator, filters, accept)
    elif len(known_form(model.lowered(wanted.prefix), model.vocabulary.stoi)) > wanted.max_length:
        raise UsageError(f"--prefix {wanted.prefix!r} is longer than --max-length {wanted.max_length}")
    else:
        write_words(opened, wanted, filters)


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
    chosen = choose_labels(model, wanted.label)
    samples = generate_scored(
        chosen.network,
        model.vocabulary,
        seeded_generator(wanted.seed),
        number,
        filters,
        prefix=model.lowered(wanted.prefix),
        part=None if number is None else part,
        accept=wanted_words(wanted, listed),
        labels=chosen.labels,
    )
    samples = with_reason(unique(samples) if wanted.unique else samples, len(part), wanted)
    lines = sample_lines(itertools.islice(samples, len(part)), opened.model, wanted, listed, chosen)
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
        asked_for = [kind for kind, asked in kinds.items() if asked]
        if not asked_for:
            asked_for = ["without a blank at its beginning or end"]
        advice = "a higher --max-length" if 2 * error.too_long > error.sampled else "a higher --temperature"
        raise MakemoreError(
            f"{found:,} of {plural(most, 'word')}: none of the last {error.sampled:,} sampled was"
            f" {' and '.join(asked_for)}; {advice} or fewer filters may"
            " help"
        ) from error


def is_table(wanted: SampleSettings) -> bool:
    """Whether the output has columns with names."""
    return wanted.format in ("csv", "jsonl")


def sample_lines(
    samples: Iterable[Sample],
    model: Model,
    wanted: SampleSettings,
    listed: WordList | None,
    chosen: ChosenLabels,
) -> Iterator[str]:
    """The lines to write for some samples, whose words get the capitals that the network did not learn."""
    columns: dict[str, Callable[[Sample], Cell]] = {"word": lambda sample: model.restored(sample.word)}
    if is_table(wanted) or wanted.with_label:
        for k, name in enumerate(chosen.columns):
            # A list may have a label column of the name that a column of the output has.
            unique = name if name not in OWN_COLUMNS else f"label {name}"
            columns[unique] = partial(label_of, chosen=chosen, column=k)
    if is_table(wanted) or wanted.with_score:
        columns["log_likelihood"] = lambda sample: sample.log_likelihood
    if is_table(wanted) and listed is not None:
        known = listed.word_set()
        columns["novel"] = lambda sample: normalize(sample.word) not in known
    if len(columns) == 1:
        return (model.restored(sample.word) for sample in samples)
    rows = ({name: cell(sample) for name, cell in columns.items()} for sample in samples)
    return lines_of(rows, list(columns), wanted)


def label_of(sample: Sample, chosen: ChosenLabels, column: int) -> str:
    """The label of a sample in one of the model's columns."""
    return chosen.names(sample.labels)[column]


def lines_of(rows: Iterable[Row], columns: list[str], wanted: SampleSettings) -> Iterator[str]:
    """The rows in the format that is wanted. Of several shards, the first has the names of the columns."""
    if wanted.format == "csv":
        first = wanted.shard is None or int(wanted.shard.partition("/")[0]) == 1
        return csv_lines(rows, columns, header=first)
    return jsonl_lines(rows) if wanted.format == "jsonl" else text_lines(rows)


def write_labels(model: Model, wanted: SampleSettings) -> None:
    """Write the labels that a model knows. Raises UsageError if there are none, and WriteError."""
    if model.labels is None:
        raise UsageError("the model was trained on words without labels: there are none to list")
    lines = label_lines(model.labels)
    with open_output(wanted.output) as target:
        write_lines(lines, len(lines), target)


class WordRows(ABC):
    """What is written for the words of a file: some rows for each, with these ``columns``."""

    columns: Sequence[str]

    @abstractmethod
    def rows(self, words: Sequence[str], forms: Sequence[str | None]) -> Iterator[list[Row]]:
        """The rows of each word; its form is the one that the vocabulary knows, None if it knows none."""

    def lines(self, rows: Iterator[list[Row]], wanted: SampleSettings) -> Iterator[str]:
        """The rows as lines of output."""
        return lines_of(itertools.chain.from_iterable(rows), list(self.columns), wanted)


class Scorer(WordRows):
    """The log-likelihood of every word, in nats and per character; the stop counts as a character.

    If labels are not chosen, a word is scored as one whose labels are not known: the sum over all of them.
    """

    columns = ("word", "log_likelihood", "per_character")

    def __init__(self, model: Model, wanted: SampleSettings) -> None:
        chosen = choose_labels(model, wanted.label)
        self.vocabulary, self.labels = model.vocabulary, chosen.labels
        self.predictor = as_predictor(chosen.network)

    def rows(self, words: Sequence[str], forms: Sequence[str | None]) -> Iterator[list[Row]]:
        known = [form for form in forms if form is not None]
        if self.labels is None:
            scores = log_likelihoods(self.predictor, self.vocabulary, known)
        else:
            scores = joint_log_probs(self.predictor, self.vocabulary, known, self.labels).logsumexp(1)
        log_likelihood = iter(scores.tolist())
        for word, form in zip(words, forms, strict=True):
            score = None if form is None else next(log_likelihood)
            each = None if score is None or form is None else score / (len(form) + 1)
            yield [dict(zip(self.columns, (word, score, each), strict=True))]


class Classifier(WordRows):
    """The labels that fit every word best, and how probable each is."""

    columns = ("word", "column", "rank", "label", "probability")

    def __init__(self, model: Model, wanted: SampleSettings) -> None:
        if model.labels is None:
            raise UsageError(
                "the model was trained on words without labels: --classify needs one with labels"
            )
        self.vocabulary, self.labels, self.top = model.vocabulary, model.labels, wanted.top
        self.predictor = as_predictor(model.network)

    def rows(self, words: Sequence[str], forms: Sequence[str | None]) -> Iterator[list[Row]]:
        known = [form for form in forms if form is not None]
        probs = iter(zip(*label_probs(self.predictor, self.vocabulary, known, self.labels), strict=True))
        for word, form in zip(words, forms, strict=True):
            each = None if form is None else next(probs)
            yield [row for k in range(len(self.labels.columns)) for row in self._of_column(word, each, k)]

    def _of_column(self, word: str, each: Sequence[Tensor] | None, k: int) -> Iterator[Row]:
        column = self.labels.columns[k]
        if each is None:
            yield dict(zip(self.columns, (word, column.name, None, None, None), strict=True))
            return
        best = each[k].sort(descending=True, stable=True)
        shares = zip(best.values[: self.top].tolist(), best.indices.tolist(), strict=False)
        for rank, (prob, label) in enumerate(shares, start=1):
            yield dict(zip(self.columns, (word, column.name, rank, column.values[label], prob), strict=True))

    def lines(self, rows: Iterator[list[Row]], wanted: SampleSettings) -> Iterator[str]:
        """In text, the labels of a word are in its line."""
        if is_table(wanted):
            return super().lines(rows, wanted)
        return ("\t".join([str(of_word[0]["word"]), *map(self._text, of_word)]) for of_word in rows)

    @staticmethod
    def _text(row: Row) -> str:
        return (
            "nan" if row["label"] is None else f"{row['label']} {100 * float(row['probability'] or 0):.1f} %"
        )


def write_rows(model: Model, wanted: SampleSettings, source: str, kind: WordRows) -> None:
    """Write the rows of all words of a file.

    Blank lines are skipped. A word is read in the form that the vocabulary knows, without capitals if the
    network did not learn them, and written as it is in the file. One with a character that is not in the
    vocabulary gets nan, or no value in csv and jsonl, and is reported on stderr. Raises UsageError, DataError
    and WriteError.
    """
    with open_output(wanted.output) as target, WordFile(source) as file:
        total = file.num_lines()
        part = range(sys.maxsize if total is None else total)
        if wanted.shard is not None:
            part = shard_of(total or 0, wanted.shard)
            if total is None:
                raise UsageError("--shard counts the lines first: give a file, not a pipe")
        lines = kind.lines(rows_of_file(model, file, part, kind), wanted)
        write_lines(lines, None if total is None else len(part), target)


def rows_of_file(model: Model, file: WordFile, part: range, kind: WordRows) -> Iterator[list[Row]]:
    """The rows of the words on those lines of a file whose numbers are in ``part``.

    Words are read in chunks of ``SCORED_LINES`` lines, counted from the start of the file for every part. So
    a word's score has the same bits whatever the part, although a BLAS may add in an order that depends on
    the number of words.
    """
    known = set(model.vocabulary.characters)
    num_unknown = 0
    start = part.start // SCORED_LINES * SCORED_LINES
    lines = file.lines(start)
    while start < part.stop and (chunk := list(itertools.islice(lines, SCORED_LINES))):
        numbered = [(i, word) for i, line in enumerate(chunk, start) if (word := line.strip())]
        words = [word for _, word in numbered]
        forms = [known_form(model.lowered(word), known).strip() for word in words]
        unknown = [next((ch for ch in form if ch not in known), "") for form in forms]
        scorable = [None if ch else form for form, ch in zip(forms, unknown, strict=True)]
        for (i, _), form, ch, rows in zip(numbered, forms, unknown, kind.rows(words, scorable), strict=True):
            if i not in part or not form:
                continue
            yield rows
            if ch:
                num_unknown += 1
                if num_unknown <= MAX_REPORTED:
                    say(f"{file.name}, line {i + 1}: {why_unknown(ch)}", sys.stderr)
        start += SCORED_LINES
    if num_unknown > MAX_REPORTED:
        say(f"{file.name}: {num_unknown:,} words have unknown characters", sys.stderr)


def why_unknown(ch: str) -> str:
    """Why a word with this character is not scored."""
    if ch == UNDECODABLE:
        return "it is not utf-8 text"
    return f"{quote(ch)} is not in the vocabulary"
