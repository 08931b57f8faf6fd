"""The formats of ``makemore-sample``, read back by Python's own readers, and ``--good``."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from makemore.commands.cli import sample_main, train_main
from makemore.commands.text_output import csv_lines, jsonl_lines, text_lines
from makemore.data.word_list import read_words
from makemore.inference.selection import NotNear, usual_lengths
from makemore.run.model_file import Model, load_model, save_model


@pytest.fixture(scope="module")
def list_file(word_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list so short that the network learns some of its words by heart."""
    path = tmp_path_factory.mktemp("list") / "words.txt"
    path.write_text("\n".join(read_words(word_file).words[:40]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model_file(list_file: Path) -> Path:
    """The model file of a small run."""
    out = list_file.parent / "out"
    argv = ["--recipe", "lecture", "--n-hidden", "32", "--steps", "1000", "--device", "cpu"]
    assert train_main([*argv, "--data", str(list_file), "--out-dir", str(out)]) == 0
    return out / "model.safetensors"


def sample(*argv: object) -> int:
    try:
        return sample_main([str(arg) for arg in argv])
    except SystemExit as stop:
        return int(stop.code or 0)


def test_the_ending_picks_the_format(
    model_file: Path, list_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [model_file, "--seed", 1, "-n", 300, "--temperature", 0.4]
    assert sample(*argv, "--with-score", "-o", tmp_path / "words.txt") == 0
    text = [line.split("\t") for line in (tmp_path / "words.txt").read_text().splitlines()]
    known = set(read_words(list_file).words)
    assert 0 < sum(word in known for word, _ in text) < 300

    assert sample(*argv, "-o", tmp_path / "words.CSV.gz") == 0
    with gzip.open(tmp_path / "words.CSV.gz", "rt", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [[row["word"], row["log_likelihood"]] for row in rows] == text
    assert [row["novel"] for row in rows] == [str(word not in known).lower() for word, _ in text]

    assert sample(*argv, "-o", tmp_path / "words.jsonl") == 0
    objects = [json.loads(line) for line in (tmp_path / "words.jsonl").read_text().splitlines()]
    assert objects == [
        {"word": word, "log_likelihood": float(score), "novel": word not in known} for word, score in text
    ]
    assert sample(*argv, "-o", tmp_path / "words.csv", "--format", "text") == 0
    assert (tmp_path / "words.csv").read_text().splitlines() == [word for word, _ in text]
    capsys.readouterr()
    assert sample(*argv[:-2], "-n", 0, "--format", "csv") == 0
    assert capsys.readouterr().out == "word,log_likelihood,novel\n"


@pytest.mark.parametrize("name", ["words.xlsx", "words.json", "words.parquet.gz"])
def test_other_tables_are_refused(name: str, model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sample(model_file, "-o", name) == 2
    assert re.search(rf"the output is a \.txt, \.csv or \.jsonl file, not '{name}'", capsys.readouterr().err)


def test_without_the_training_list_a_table_has_no_column_for_novel_words(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = load_model(model_file)
    save_model(Model(opened.network, opened.vocabulary, opened.plan), tmp_path / "alone.safetensors")
    assert sample(tmp_path / "alone.safetensors", "--format", "csv", "-n", 3) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "word,log_likelihood"
    assert err == (
        "makemore-sample: the column novel is left out: the model file does not name a word list: it was"
        " saved without the run it comes from\n"
    )
    assert sample(model_file, "--format", "csv", "--data", "/nowhere/words.txt") == 2
    assert "cannot read the word list /nowhere/words.txt" in capsys.readouterr().err


def test_scores_in_every_format(model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "words").write_text('anna\na"b,ÿ\nmia\n', encoding="utf-8")
    argv = [model_file, "--score", tmp_path / "words"]
    assert sample(*argv) == 0
    text = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert text[1] == ['a"b,ÿ', "nan", "nan"]
    assert sample(*argv, "--format", "csv") == 0
    names, *rows = csv.reader(io.StringIO(capsys.readouterr().out, newline=""))
    assert names == ["word", "log_likelihood", "per_character"]
    assert rows == [text[0], ['a"b,ÿ', "", ""], text[2]]
    assert sample(*argv, "--format", "jsonl") == 0
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert objects[1] == {"word": 'a"b,ÿ', "log_likelihood": None, "per_character": None}
    assert [list(map(str, object.values())) for object in objects[::2]] == [
        [word, str(float(score)), str(float(mean))] for word, score, mean in text[::2]
    ]


cells = st.one_of(st.text(st.characters(exclude_characters="\n\0", exclude_categories=["Cs"])), st.booleans())
rows = st.lists(st.fixed_dictionaries({"word": cells, "other": cells}), max_size=5)


@settings(max_examples=200, derandomize=True, database=None, deadline=None)
@given(rows=rows)
def test_tables_are_read_back_as_they_were(rows: list[Mapping[str, str | bool]]) -> None:
    """Words with quotes, commas, carriage returns and Unicode's other line ends."""
    lines = list(csv_lines(rows, ["word", "other"], header=True))
    read = list(csv.DictReader(io.StringIO("".join(line + "\n" for line in lines), newline="")))
    assert read == [
        {name: str(cell).lower() if isinstance(cell, bool) else cell for name, cell in row.items()}
        for row in rows
    ]
    jsonl = "\n".join(jsonl_lines(rows))
    assert [json.loads(line) for line in jsonl.splitlines()] == rows, "no line end within an object"
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", jsonl), "no control character"


def test_numbers_that_are_unknown_or_not_finite() -> None:
    rows = [{"word": "a", "x": None, "y": float("-inf"), "z": -1.23456}]
    assert list(text_lines(rows)) == ["a\tnan\t-inf\t-1.2346"]
    assert list(csv_lines(rows, list(rows[0]), header=False)) == ["a,,-inf,-1.2346"]
    assert list(jsonl_lines(rows)) == ['{"word": "a", "x": null, "y": null, "z": -1.2346}']


@pytest.mark.full
def test_good_words_are_novel_unique_of_usual_length_and_not_near(
    model_file: Path, list_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = read_words(list_file)
    capsys.readouterr()

    def words(*flags: object) -> list[str]:
        assert sample(model_file, "--seed", 1, "-n", 200, "--good", *flags) == 0
        return capsys.readouterr().out.splitlines()

    good = words()
    assert len(set(good)) == len(good) == 200
    assert all(NotNear(listed.words, 1)(good))
    assert all(len(word) in usual_lengths(listed) for word in good)
    assert good == words("--temperature", 0.7, "--top-p", 0.9, "--novel"), "which it sets anyway"
    hot = words("--temperature", 1.5, "--top-p", 1, "--not-near", 0)
    assert not all(NotNear(listed.words, 1)(hot))
    assert not set(hot) & set(listed.words)
    assert {len(word) for word in words("--min-length", 2, "--max-length", 3, "--top-p", 1)} == {2, 3}
    longer = "marianandriana"  # than any listed word
    assert len(longer) not in usual_lengths(listed)
    long = words("--prefix", longer, "--temperature", 2, "--top-p", 1)
    assert all(word.startswith(longer) for word in long)
    assert sample(model_file, "-n", 1, "--novel", "--not-near", 0, "--prefix", listed.words[0]) == 0
    assert capsys.readouterr().out.strip() != listed.words[0]


def test_a_list_in_which_every_word_is_near(
    model_file: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("rapidfuzz")
    assert sample(model_file, "--not-near", 50, "--max-length", 4) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(
        r"makemore-sample: 0 of 20 words: none of the last [\d,]+ sampled was at most 4 characters long and"
        r" more than 50 edits from every listed word; a higher --max-length or fewer filters may help\n",
        err,
    )
