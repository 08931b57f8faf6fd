"""Tables of words: labels, counts, quotes and separators of every kind, and tables that are broken."""

from __future__ import annotations

import csv
import io
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from makemore.core.errors import DataError
from makemore.core.layer import LabelColumn
from makemore.data import labels, tables, word_list
from makemore.data.word_list import WordList, load_words, read_words

NAMES = ["Anna", "Berta", "Carl", "Dora", "Emil", "Frida", "Gustav", "Hanna"]
GENDERS = ["F", "F", "M", "F", "M", "F", "M", "F"]
COUNTRIES = ["DE", "DE", "SE", "AT", "", "SE", "DE", ""]
BIRTHS = [3, 1, 2, 1, 4, 1, 1, 2]
TABLE = [
    ["name", "gender", "country", "births"],
    *([n, g, c, str(b)] for n, g, c, b in zip(NAMES, GENDERS, COUNTRIES, BIRTHS, strict=True)),
]


def text_of(rows: list[list[str]], separator: str = ",", end: str = "\n") -> str:
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=separator, lineterminator=end).writerows(rows)
    return file.getvalue()


def write(tmp_path: Path, content: str | bytes, name: str = "table.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def label_texts(words: WordList, column: str) -> list[str]:
    """The label of each word, in the order of the list."""
    assert words.labels is not None
    assert words.row is not None
    i = [each.name for each in words.labels.columns].index(column)
    texts = [words.labels.names(row)[i] for row in words.row.tolist()]
    return in_list_order(words, texts)


def in_list_order(words: WordList, values: list[Any]) -> list[Any]:
    positions = word_list.shuffle_positions(len(words), word_list.SHUFFLE_SEED)
    return [values[position] for position in positions.tolist()]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_columns_by_name(separator: str, end: str, mark: str, tmp_path: Path) -> None:
    path = write(tmp_path, mark + text_of(TABLE, separator, end))
    words = read_words(path, "name", ["gender", "country"], "births")
    assert words.words == NAMES
    assert label_texts(words, "gender") == GENDERS
    assert label_texts(words, "country") == COUNTRIES
    assert words.counts is not None
    assert in_list_order(words, words.counts.tolist()) == BIRTHS
    assert words.notes == (
        "columns: words 'name', labels 'gender', 'country', counts 'births'; the first row is a header",
        "15 words in all by their counts",
    )


@pytest.mark.parametrize("header", [False, True])
def test_columns_by_number(header: bool, tmp_path: Path) -> None:
    path = write(tmp_path, text_of(TABLE[not header :]))
    words = read_words(path, 1, [2, 3])
    assert words.words == NAMES
    names = ("gender", "country") if header else ("column 2", "column 3")
    assert words.labels is not None
    assert tuple(column.name for column in words.labels.columns) == names
    assert label_texts(words, names[0]) == GENDERS
    other = "the first row is a header" if header else "without a header"
    assert words.notes[0].endswith(f"; {other}")


@pytest.mark.parametrize(
    ("first", "is_header"),
    [
        (["Name", "Zahl"], True),
        (["vorname", "anzahl"], True),  # text over numbers
        (["Adam", "7"], False),
        (["name", "7"], False),
        (["vorname", ""], False),
        (["Adam", "1,200"], False),
    ],
)
def test_a_header_is_found_by_what_is_in_it(first: list[str], is_header: bool, tmp_path: Path) -> None:
    rows = [first, *([name, str(n)] for name, n in zip(NAMES, BIRTHS, strict=True))]
    words = read_words(write(tmp_path, text_of(rows)), 1)
    assert words.words == ([] if is_header else [first[0]]) + NAMES


@pytest.mark.parametrize("word_column", ["2020", "3", 3])
def test_a_number_is_a_position_or_else_a_name(word_column: str | int, tmp_path: Path) -> None:
    rows = [["rank", "n", "2020"], *(["1", "2", name] for name in NAMES)]
    assert read_words(write(tmp_path, text_of(rows)), word_column).words == NAMES


def test_quotes_commas_and_line_ends_in_words_and_labels(tmp_path: Path) -> None:
    given = [
        ["Smith, Hanna", "a,b"],
        ['Jim "Bob"', 'so "called"'],
        ["Anna\nMaria", "two\nlines"],
        ["  Ivar ", " a,b "],
        ["Zoe\u0301", "caf\u00e9"],
        ["Zoé", "cafe\u0301"],
        ["sof\u00ada", "x\u200by"],
        ["Jonas", "xy"],
    ]
    words = read_words(write(tmp_path, text_of([["word", "kind"], *given])), "word", "kind")
    assert words.words == [
        "Smith, Hanna", 'Jim "Bob"', "Anna Maria", "Ivar", "Zoé", "Zoé", "sofa", "Jonas",
    ]  # fmt: skip
    assert label_texts(words, "kind") == [
        "a,b",
        'so "called"',
        "two lines",
        "a,b",
        "café",
        "café",
        "xy",
        "xy",
    ]


def test_rows_without_a_word_and_with_the_count_0_are_left_out(tmp_path: Path) -> None:
    rows = [*TABLE, ["", "F", "DE", "9"], [" ", "M", "", "9"], ["Ida", "F", "NO", "0"]]
    content = text_of(rows).replace("\nCarl", "\n\n  \n,,,\nCarl")
    words = read_words(write(tmp_path, content), "name", ["gender", "country"], "births")
    assert words.words == NAMES
    assert words.labels is not None
    assert words.labels.columns[1].values == ("AT", "DE", "SE")
    assert words.notes[1:3] == ("left out: 3 rows without a word", "left out: 1 row with the count 0")
    assert label_texts(words, "gender") == GENDERS


def test_words_of_invisible_characters_are_left_out_with_their_labels(tmp_path: Path) -> None:
    rows = [*TABLE[:3], ["\u200b", "M", "SE", "5"], *TABLE[3:]]
    words = read_words(write(tmp_path, text_of(rows)), "name", "gender", "births")
    assert words.words == NAMES
    assert label_texts(words, "gender") == GENDERS
    assert words.counts is not None
    assert in_list_order(words, words.counts.tolist()) == BIRTHS


def test_further_empty_columns_are_no_fault(tmp_path: Path) -> None:
    content = text_of(TABLE).replace("SE,2", "SE,2,,")
    assert read_words(write(tmp_path, content), "name", "gender").words == NAMES


BROKEN: dict[str, tuple[str, dict[str, Any], str]] = {
    "no such name": (
        text_of(TABLE),
        {"word_column": "Name"},
        "table.csv has no column 'Name' (did you mean 'name'?); it has 4 columns: 'name', 'gender',"
        " 'country', 'births'",
    ),
    "no header": (
        text_of(TABLE[1:]),
        {"word_column": "nom"},
        "no column 'nom'; it has 4 columns: 'Anna', 'F'",
    ),
    "number out of range": (
        text_of(TABLE),
        {"word_column": 5},
        "no column number 5; it has 4 columns: 'name'",
    ),
    "label 0": (
        text_of(TABLE),
        {"word_column": 1, "label_columns": 0},
        "has no column number 0; it has 4 columns",
    ),
    "two columns of a name": (
        text_of([["name", "sex", "sex"], *([n, g, g] for n, g in zip(NAMES, GENDERS, strict=True))]),
        {"word_column": "name", "label_columns": "sex"},
        "table.csv has 2 columns 'sex': choose by number, 2 and 3",
    ),
    "chosen twice": (
        text_of(TABLE),
        {"word_column": "name", "label_columns": ["gender", 2]},
        "the column 'gender' of table.csv is chosen twice: choose it once",
    ),
    "words as labels": (
        text_of(TABLE),
        {"word_column": "name", "label_columns": "1"},
        "the column 'name' of table.csv is chosen twice",
    ),
    "no word column": (
        text_of(TABLE),
        {"label_columns": "gender"},
        "labels and counts are read from a table: name the column of its words, with --word-column",
    ),
    "too many columns": (
        text_of(TABLE) + "Smith, Ida,F,DE,5\n",
        {"word_column": "name"},
        "table.csv, line 10: the row has 5 columns, the first row has 4: put quotation marks around a text"
        " with commas in it",
    ),
    "too few columns": (
        text_of(TABLE).replace("Carl,M,SE,2", '"Ca\nrl",M\nCarl,M'),
        {"word_column": "name"},
        "table.csv, line 4: the row has 2 columns, the first row has 4",
    ),
    "mixed separators": (
        text_of(TABLE[:6]) + text_of(TABLE[6:], ";"),
        {"word_column": "name"},
        "table.csv, line 7: the row has 1 column, the first row has 4",
    ),
    "quote not closed": (
        text_of(TABLE).replace("Carl", '"Carl'),
        {"word_column": "name"},
        "table.csv, line 4: a quotation mark is opened and not closed",
    ),
    "quote not closed in the first row": (
        '"' + text_of(TABLE),
        {"word_column": "name"},
        "table.csv, line 1: a quotation mark is opened and not closed",
    ),
    "text after a quote": (
        text_of(TABLE).replace("Carl", '"Carl" Emil'),
        {"word_column": "name"},
        "table.csv, line 4: text follows a closing quotation mark",
    ),
    "long field": (
        text_of(TABLE).replace("Carl", 200_000 * "x"),
        {"word_column": "name"},
        "table.csv, line 4: a field has more than 131,072 characters",
    ),
    "long line": (
        text_of(TABLE).replace("Carl", 2**21 * "x"),
        {"word_column": "name"},
        "line 4 of table.csv",
    ),
    "NUL": (
        text_of(TABLE).replace("Carl", "Ca\0rl"),
        {"word_column": "name"},
        "table.csv is a binary file, not a word list: line 4 has a NUL byte",
    ),
    "only a header": (
        "name,gender,country\n",
        {"word_column": "name"},
        "table.csv has only a header, no rows: 'name', 'gender', 'country'",
    ),
    "empty": ("", {"word_column": "name"}, "table.csv has 0 words; at least 6"),
    "empty word column": (
        text_of([["a", "b"], *([name, ""] for name in NAMES)]),
        {"word_column": "b"},
        "table.csv has 0 words; at least 6 are needed for train, val and test: it is empty (8 rows without a"
        " word left out)",
    ),
    "empty label column": (
        text_of([["a", "b"], *([name, ""] for name in NAMES)]),
        {"word_column": "a", "label_columns": "b"},
        "the column 'b' has no labels: all its fields are empty",
    ),
    "count of text": (
        text_of(TABLE).replace(",4\n", ",4.0\n"),
        {"word_column": "name", "count_column": "births"},
        "line 6, column 'births': a count is a whole number from 0 to 1,000,000,000,000, not '4.0'",
    ),
    "negative count": (
        text_of(TABLE[1:]).replace(",4\n", ",-4\n"),
        {"word_column": 1, "count_column": 4},
        "table.csv, line 5, column 4: a count is a whole number from 0 to 1,000,000,000,000, not '-4'",
    ),
    "empty count": (
        text_of(TABLE).replace(",4\n", ",\n"),
        {"word_column": "name", "count_column": "births"},
        "line 6, column 'births': a count is a whole number from 0 to 1,000,000,000,000, not ''",
    ),
    "count of many digits": (
        text_of(TABLE).replace(",4\n", f",{'9' * 9999}\n"),
        {"word_column": "name", "count_column": "births"},
        "line 6, column 'births': a count is a whole number from 0 to 1,000,000,000,000, not '999",
    ),
    "many columns with long names": (
        text_of([[f"{i} " + 999 * "x" for i in range(999)]]),
        {"word_column": "a" * 99},
        " xxx",
    ),
    "large count": (
        text_of(TABLE).replace(",4\n", f",{10**13}\n"),
        {"word_column": "name", "count_column": "births"},
        "a whole number from 0 to 1,000,000,000,000, not '10000000000000'",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_tables_and_wrong_columns_are_one_clear_line(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, columns, message = BROKEN[fault]
    write(tmp_path, content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        read_words("table.csv", **columns)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 600


def test_digits_of_other_scripts_are_no_count(tmp_path: Path) -> None:
    content = text_of(TABLE).replace(",4\n", ",٤\n")
    with pytest.raises(DataError, match="line 6, column 'births'"):
        read_words(write(tmp_path, content), "name", count_column="births")


def test_one_label_a_word_and_too_many_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [["word", "id"], *([f"w{i}", f"label {i}"] for i in range(5000))]
    path = write(tmp_path, text_of(rows))
    words = read_words(path, "word", "id")
    assert label_texts(words, "id") == [row[1] for row in rows[1:]]
    assert words.data(4).labels is words.labels
    monkeypatch.setattr(labels, "MAX_LABELS", 4999)
    with pytest.raises(DataError, match=r"line 5,001: the column 'id' has more than 4,999 different labels"):
        read_words(path, "word", "id")
    monkeypatch.setattr(labels, "MAX_LABELS", 5000)
    assert len(read_words(path, "word", "id")) == 5000
    monkeypatch.setattr(labels, "MAX_COMBINATIONS", 4999)
    with pytest.raises(DataError, match=r"the columns 'id' have more than 4,999 different combinations"):
        read_words(path, "word", "id")


@pytest.mark.parametrize("rows_at_a_time", [1, 3, 1000])
def test_a_table_gives_the_same_as_the_words_from_python(
    rows_at_a_time: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "ROWS_AT_A_TIME", rows_at_a_time)
    monkeypatch.setattr(labels, "MAX_COMBINATIONS", 20)  # so that the known texts are forgotten at times
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdé", k=rng.randint(1, 6))) for _ in range(300)]
    gender = rng.choices(["F", "M", ""], k=300)
    country = rng.choices(["DE", "SE", " Côte d'Ivoire", ""], k=300)
    rows = [list(row) for row in zip(country, words, gender, strict=True)]
    path = write(tmp_path, text_of([["country", "word", "gender"], *rows]))
    read = read_words(path, "word", ["gender", "country"])
    given = WordList.of(words, labels={"gender": gender, "country": country})
    assert read.fingerprint == given.fingerprint
    for a, b in zip(read.data(3), given.data(3), strict=True):
        if hasattr(a, "symbols"):
            assert all(map(torch.equal, a[:], b[:]))
    assert read.labels is not None
    assert given.labels is not None
    assert torch.equal(read.labels.counts, given.labels.counts)


def test_a_counted_word_has_the_examples_of_so_many_lines_in_its_split(tmp_path: Path) -> None:
    words = read_words(write(tmp_path, text_of(TABLE)), "name", "gender", "births")
    data, plain = words.data(3), words.encoded_by(words.vocabulary)
    count_of = dict(zip(NAMES, BIRTHS, strict=True))
    gender_of = dict(zip(NAMES, GENDERS, strict=True))
    assert data.labels is not None
    for split, distinct in zip((data.train, data.val, data.test), plain.split(), strict=True):
        X, Y = split[:]
        got: Counter[str] = Counter()
        start = 0
        for stop in (Y == 0).nonzero().flatten().tolist():
            word = data.vocabulary.decode(Y[start:stop].tolist())
            assert data.labels.columns[0].text(int(X[start, 0])) == gender_of[word]
            assert bool((X[start : stop + 1, 0] == X[start, 0]).all())
            got[word] += 1
            start = stop + 1
        assert got == {word: count_of[word] for word in distinct}
    assert len(data.unseen_val) == len(data.val)
    counts = {data.labels.names(i)[0]: int(n) for i, n in enumerate(data.labels.counts)}
    assert counts == {"F": 8, "M": 7}
    without = read_words(write(tmp_path, text_of(TABLE)), "name", count_column="births").data(3)
    assert torch.equal(without.train.symbols, data.train.symbols)
    assert without.labels is None


def test_large_counts_are_scaled_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_list, "MAX_TOTAL", 100)
    births = [10**12, 10**11, 3 * 10**11, 1, 1, 5, 0, 6 * 10**11]
    rows = [[name, str(n)] for name, n in zip(NAMES, births, strict=True)]
    words = read_words(write(tmp_path, text_of(rows)), 1, count_column=2)
    assert words.counts is not None
    assert in_list_order(words, words.counts.tolist()) == [50, 5, 15, 1, 1, 1, 30]
    assert words.notes[-1] == (
        "2,000,000,000,007 words in all by their counts, scaled down to 103, each to at least 1"
    )


def test_the_fingerprint_is_that_of_words_labels_and_counts(tmp_path: Path) -> None:
    path = write(tmp_path, text_of(TABLE))
    columns: list[dict[str, Any]] = [
        {},
        {"label_columns": "gender"},
        {"label_columns": "country"},
        {"count_column": "births"},
        {"label_columns": "gender", "count_column": "births"},
    ]
    prints = [read_words(path, "name", **each).fingerprint for each in columns]
    assert len({*prints, read_words(path, 0).fingerprint}) == 6
    assert prints == [read_words(path, 1, **each).fingerprint for each in columns]
    assert prints[0] == WordList.of(NAMES).fingerprint
    assert prints[3] == WordList.of(NAMES, counts=BIRTHS).fingerprint
    more = text_of(TABLE).replace(",4\n", ",5\n")
    assert read_words(write(tmp_path, more), "name", count_column=4).fingerprint != prints[3]


def test_labels_without_columns_are_none() -> None:
    assert WordList.of(NAMES, labels={}).labels is None


@pytest.mark.parametrize("counts", [BIRTHS[:-1], [*BIRTHS[:-1], 0], [*BIRTHS[:-1], 1.5]])
def test_counts_from_python_that_do_not_fit_are_refused(counts: list[Any]) -> None:
    with pytest.raises(DataError, match="counts are whole numbers from 1 to 1,000,000,000,000, one for each"):
        WordList.of(NAMES, counts=counts)


LOOKS = "looks like a table of"
SUGGESTED: dict[str, tuple[str, str, str]] = {
    "csv with a header": (
        text_of(TABLE),
        "words.txt",
        "4 columns separated by commas ('name', 'gender', 'country', 'births'): name the columns to read,"
        " for example makemore-train --data words.txt --word-column name --label-column gender country"
        " --count-column births; if its lines are the words as they are, say --word-column 0",
    ),
    "without a header": (
        text_of(TABLE[1:], ";"),
        "words.txt",
        "4 columns separated by semicolons: name the columns to read, for example makemore-train --data"
        " words.txt --word-column 1 --label-column 2 3 --count-column 4; if",
    ),
    "a blank in a name": (
        text_of([["first name", "sex", "sex"], *([n, g, g] for n, g in zip(NAMES, GENDERS, strict=True))]),
        "words.txt",
        "--word-column 'first name' --label-column 2 3; if",
    ),
    "frequencies": (
        "".join(f"{n}\t{1000 // i}\n" for i, n in enumerate(NAMES, 1)),
        "words.txt",
        "2 columns separated by tabs: name the columns to read, for example makemore-train --data words.txt"
        " --word-column 1 --count-column 2; if",
    ),
    "ranks": (
        "".join(f"{i}\t{n}\n" for i, n in enumerate(NAMES, 1)),
        "words.txt",
        "--data words.txt --word-column 2; if",
    ),
    "a ragged row": (text_of(TABLE) + 3 * text_of(TABLE[1:]) + "a,b\n", "words.txt", LOOKS),
    "a short csv": (text_of(TABLE[:4]), "my words.CSV", "--data 'my words.CSV' --word-column name"),
    "a csv of one column": (
        "name\n" + "\n".join(NAMES) + "\n",
        "words.csv",
        "of one column ('name'): name the",
    ),
    "words in quotes": (
        "".join(f'"{name}"\n' for name in NAMES),
        "words.txt",
        "of one column: name the columns to read, for example makemore-train --data words.txt"
        " --word-column 1; if",
    ),
    "columns of many kinds": (
        text_of(
            [
                [str(2020), "-n", "", "x" * 99, "Stadt", "5"],
                *([n, g, c, g, c, c] for n, g, c in zip(NAMES, GENDERS, COUNTRIES, strict=True)),
            ]
        ),
        "words.txt",
        "--data words.txt --word-column 1 --label-column 2 3 4; if",
    ),
    "a csv of full names": ("".join(f"Smith, {name}\n" for name in NAMES), "words.csv", LOOKS),
}


@pytest.mark.parametrize("kind", SUGGESTED)
def test_a_list_that_looks_like_a_table_is_refused_with_a_command_that_reads_it(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, name, message = SUGGESTED[kind]
    write(tmp_path, content, name)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=LOOKS) as caught:
        load_words(name)
    assert message in str(caught.value)
    if content.count("\n") >= word_list.LEAST_WORDS:
        assert load_words(name, word_column=0).words == content.split("\n")[:-1]


def test_the_suggestion_has_all_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "\n".join(NAMES), "a.txt")
    write(tmp_path, text_of(TABLE), "b.csv")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"b\.csv looks like .* --data a\.txt b\.csv --word-column name"):
        load_words(["a.txt", "b.csv"])


@pytest.mark.parametrize(
    "lines",
    [
        NAMES,
        [f"Smith, {name}" for name in NAMES],
        [*NAMES, "Saint-Jean, Marie", "a,b", "c,d,e", "x;y", 'the "one"', '"quoted', "tab\tin it"],
        ["2,4-dinitrophenol", "1,2,3-trinitrobenzene", "phenol", "benzene", "1-propanol", "toluene"],
        ["a,b", "c,d", "e,f", "g,h", "i", "j,k", "l"],
        ["Oh, no, never, ever", "so, it goes", "well, well", "one", "two, three", "four, five, six"],
    ],
)
def test_ordinary_lists_are_not_taken_for_tables(lines: list[str], tmp_path: Path) -> None:
    assert read_words(write(tmp_path, "\n".join(lines), "words.txt")).words == lines


def test_a_table_on_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in ({"word_column": "name", "label_columns": "gender"}, {}):
        stdin = io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbf" + text_of(TABLE).encode()), encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", stdin)
        if columns:
            words = read_words("-", **columns)  # type: ignore[arg-type]
            assert label_texts(words, "gender") == GENDERS
        else:
            with pytest.raises(
                DataError, match=r"^stdin looks like .* makemore-train --data - --word-column"
            ):
                read_words("-")


def test_the_labels_of_a_model() -> None:
    words = WordList.of(NAMES, labels={"gender": GENDERS, "country": COUNTRIES})
    columns = (LabelColumn("country", ("AT", "CH", "DE", "SE")), LabelColumn("age", ("old",)),
               LabelColumn("gender", ("D", "F", "M")))  # fmt: skip
    data = words.data(3, words.vocabulary, columns)
    assert data.labels is not None
    assert data.labels.columns == columns
    own = words.data(3)
    assert own.labels is not None
    for split, expected in zip(data[1:4], own[1:4], strict=True):
        (X, Y), (X0, Y0) = split[:], expected[:]
        assert torch.equal(X[:, 3:], X0[:, 2:])
        assert torch.equal(Y, Y0)
        for labels_, old in zip(X[:, :3].tolist(), X0[:, :2].tolist(), strict=True):
            texts = [column.text(i) for column, i in zip(columns, labels_, strict=True)]
            gender, country = (c.text(i) for c, i in zip(own.labels.columns, old, strict=True))
            assert texts == [country, "", gender]
    assert data.labels.rows.tolist() == sorted(data.labels.rows.tolist())
    assert int(data.labels.counts.sum()) == len(NAMES)


def test_a_list_without_labels_has_the_label_0_for_a_model_with_some() -> None:
    columns = (LabelColumn("gender", ("F", "M")),)
    for words in (WordList.of(NAMES), WordList.of(NAMES, counts=BIRTHS)):
        data = words.data(3, labels=columns)
        assert data.labels is not None
        assert data.labels.rows.tolist() == [[0]]
        X, _ = data.train[:]
        assert not X[:, 0].any()
        assert torch.equal(X[:, 1:], words.data(3).train[:][0])
    labelled = WordList.of(NAMES, labels={"gender": GENDERS})
    assert torch.equal(labelled.data(3, labels=()).train[:][0], WordList.of(NAMES).data(3).train[:][0])


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            LabelColumn("Gender", ("F", "M")),
            "words has labels in the column 'gender', which the model does not have; its columns: 'Gender'"
            " (did you mean 'Gender'?)",
        ),
        (
            LabelColumn("gender", ("f", "m")),
            "words has labels in the column 'gender' that the model does not know: 'F' (did you mean 'f'?),"
            " 'M' (did you mean 'm'?)",
        ),
    ],
)
def test_labels_that_a_model_does_not_know_are_named_with_the_nearest(
    column: LabelColumn, message: str
) -> None:
    with pytest.raises(DataError) as caught:
        WordList.of(NAMES, labels={"gender": GENDERS}).data(3, labels=(column,))
    assert str(caught.value) == message


def test_many_unknown_labels_are_not_all_named() -> None:
    words = WordList.of(NAMES, labels={"name": NAMES})
    with pytest.raises(DataError, match=r"'Anna', 'Berta', 'Carl' and 5 more$"):
        words.data(3, labels=(LabelColumn("name", ("x",)),))
