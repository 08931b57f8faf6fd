"""Several word lists: files, directories, their names as labels, and what is left out."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from makemore.core.errors import DataError
from makemore.data.word_list import WordList, load_words, read_words

GIRLS, BOYS = ["anna", "berta", "clara", "dora"], ["adam", "bert", "carl"]


@pytest.fixture
def lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with two lists, one compressed, besides files that are not lists."""
    directory = tmp_path / "lists"
    (directory / "older").mkdir(parents=True)
    (directory / "older" / "girls.txt").write_text("ida\n")
    (directory / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (directory / "girls.txt.gz").write_bytes(gzip.compress("\n\n".join(GIRLS).encode()))
    (directory / "Jungen.txt").write_text("\n".join(["", *BOYS, " ", "\u200b"]))
    monkeypatch.chdir(tmp_path)
    return directory


def expected(*groups: tuple[str, list[str]]) -> WordList:
    words = [word for _, group in groups for word in group]
    return WordList.of(words, labels={"label": [label for label, group in groups for _ in group]})


def assert_same(words: WordList, other: WordList) -> None:
    assert words.words == other.words
    assert words.fingerprint == other.fingerprint


def test_the_names_of_files_are_labels(lists: Path) -> None:
    words = load_words(["lists/girls.txt.gz", "lists/Jungen.txt"])
    assert_same(words, expected(("girls", GIRLS), ("Jungen", BOYS)))
    assert words.source == "girls.txt.gz, Jungen.txt"
    assert words.notes == ("2 files; the name of a file is the label of its words",)


@pytest.mark.parametrize("path", ["lists", "lists/", Path("lists")])
def test_a_directory_is_its_files_in_the_order_of_their_names(path: str | Path, lists: Path) -> None:
    words = read_words(path)
    assert_same(words, expected(("Jungen", BOYS), ("girls", GIRLS)))
    assert words.source == str(path)
    assert words.notes == (
        f"left out in {path}: 1 nested folder, 1 hidden file",
        "2 files; the name of a file is the label of its words",
    )


def test_files_and_directories_together(lists: Path) -> None:
    Path("more.txt").write_text("eva\nole\n", encoding="utf-8")
    words = read_words(["more.txt", "lists"])
    assert_same(words, expected(("more", ["eva", "ole"]), ("Jungen", BOYS), ("girls", GIRLS)))


def test_files_of_one_name_have_no_labels(lists: Path) -> None:
    words = read_words(["lists/girls.txt.gz", "lists/older/girls.txt", "lists/Jungen.txt"])
    assert_same(words, expected(("girls", [*GIRLS, "ida"]), ("Jungen", BOYS)))
    (lists / "older" / "girls.txt").write_text("ida\neva\n")
    words = read_words(["lists/girls.txt.gz", "lists/older"])
    assert words.labels is None
    assert words.words == [*GIRLS, "ida", "eva"]


def test_tables_have_their_own_labels_or_the_names_of_their_files(lists: Path) -> None:
    Path("us.csv").write_text("name,sex\n" + "".join(f"{name},F\n" for name in GIRLS), encoding="utf-8")
    Path("uk.csv").write_text("sex;name\n" + "".join(f"M;{name}\n" for name in BOYS), encoding="utf-8")
    words = read_words(["us.csv", "uk.csv"], "name")
    assert_same(words, expected(("us", GIRLS), ("uk", BOYS)))
    words = read_words(["us.csv", "uk.csv"], "name", "sex")
    sexes = [*("F" for _ in GIRLS), *("M" for _ in BOYS)]
    assert_same(words, WordList.of(GIRLS + BOYS, labels={"sex": sexes}))
    assert words.notes == ("2 files", "columns: words 'name', labels 'sex'; the first row is a header")


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["lists/Jungen.txt", "lists"], r"the word list .*Jungen\.txt is given twice: give each list once"),
        ([], "no word list is given"),
        (["lists/older/none"], r"cannot read the word list lists/older/none: No such file"),
        (["empty"], r"the directory empty has only 1 nested folder and 1 hidden file: give a directory of"),
        (["lists", "picture"], r"picture/a\.png is a picture"),
    ],
)
def test_lists_that_cannot_be_read(paths: list[str], message: str, lists: Path) -> None:
    Path("empty/folder").mkdir(parents=True)
    Path("empty/.hidden").touch()
    Path("picture").mkdir()
    Path("picture/a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=message):
        read_words(paths)


def test_the_bundled_list_has_no_columns() -> None:
    with pytest.raises(
        DataError, match="the bundled list has no columns to choose: give the path of a table"
    ):
        load_words(label_columns="gender")
