"""The commands on tables and on several lists: what they read, say, save and read again."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from makemore.commands.cli import page_main, sample_main, train_main
from makemore.commands.train import with_absolute_path
from makemore.core.errors import UsageError
from makemore.data.word_list import read_words
from makemore.run.model_file import MODEL_FILE, Model, Progress, load_model, save_model
from makemore.run.opened_model import Opened, known_words, open_model
from makemore.run.report import describe_labels
from makemore.run.settings import RunSettings, checked

NAMES = ["Anna", "Berta", "Carl", "Dora", "Emil", "Frida", "Gustav", "Hanna", "Ivar", "Jonas", "Karl", "Lea"]
ROWS = [f"{name},{'FM'[i % 2]},{i}\n" for i, name in enumerate(NAMES)]
TINY = ["--network", "mlp", "--n-embd", "2", "--n-hidden", "4", "--steps", "4", "--samples", "2"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a table and two lists of boys and girls, as the current one."""
    monkeypatch.chdir(tmp_path)
    Path("names.csv").write_text("name,sex,births\n" + "".join(ROWS), encoding="utf-8")
    Path("girls.txt").write_text("\n".join(NAMES[::2]), encoding="utf-8")
    Path("boys.txt").write_text("\n".join(NAMES[1::2]), encoding="utf-8")
    return tmp_path


def error_of(capsys: pytest.CaptureFixture[str], code: int) -> str:
    """The error of a command, which is one line."""
    assert code == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    return err.strip()


def test_the_suggested_command_reads_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    message = error_of(capsys, train_main([*TINY, "names.csv"]))
    found = re.search(r"for example makemore-train (.*?);", message)
    assert found is not None
    path = str(Path("names.csv").resolve())
    assert found[1] == f"--data {path} --word-column name --label-column sex --count-column births"
    assert not Path("out").exists()
    columns = ["--data", path, "--word-column", "name", "--count-column", "births"]
    assert train_main([*TINY, *columns]) == 0  # without labels


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["names.csv", "--word-column", "nom"],
            "names.csv has no column 'nom'; it has 3 columns: 'name', 'sex'",
        ),
        (["names.csv", "--word-column", "4"], "names.csv has no column number 4; it has 3 columns"),
        (["names.csv", "--label-column", "sex"], "name the column of its words, with --word-column"),
        (
            ["names.csv", "--word-column", "sex", "--count-column", "sex"],
            "the column 'sex' of .* is chosen twice",
        ),
        (
            ["names.csv", "--word-column", "1", "--count-column", "2"],
            "line 2, column 'sex': a count is a whole",
        ),
        (["--word-column", "1"], "the bundled list has no columns to choose"),
        (["girls.txt", "--data", "boys.txt"], "data is given twice, by position and by --data: choose one"),
        (["girls.txt", "--data", "girls.txt"], "data is given twice, by position and by --data: choose one"),
        (["girls.txt", "girls.txt"], r"girls\.txt is given twice: give each list once"),
        (["girls.txt", "--steps", "3", "none.txt"], r"cannot read the word list none\.txt: No such file"),
        (
            ["girls.txt", "names.csv"],
            r"names\.csv looks like a table .* --data \S+girls\.txt \S+names\.csv --word",
        ),
        (["--data=--"], "argument --data: expected one argument"),
    ],
)
def test_lists_and_columns_that_cannot_work(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = train_main([*TINY, *argv])
    except SystemExit as stop:
        code = int(str(stop.code))
    assert re.search(message, error_of(capsys, code))
    assert not Path("out").exists()


def test_a_run_of_a_table_is_resumed_and_its_words_are_known(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = ["--word-column", "1", "--count-column", "births", "--case", "keep"]
    assert train_main([*TINY, "--recipe", "lecture", *columns, "--data", "names.csv"]) == 0
    out = capsys.readouterr().out
    assert (
        f"data      {here}/names.csv: 11 words, 25 symbols\n"
        "          columns: words 'name', counts 'births'; the first row is a header\n"
        "          left out: 1 row with the count 0\n"
        "          66 words in all by their counts\n"
        "examples  train (" in out
    )
    settings = load_model("out").progress.settings
    assert (settings["data"], settings["word_column"]) == ([f"{here}/names.csv"], "1")
    known = known_words(open_model(Path("out"), ""))
    assert (known.words, known.counts is None) == (NAMES[1:], False)
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    resume = ["--resume", "--out-dir", "../out", "--steps", "8"]
    assert train_main(resume) == 0
    assert sample_main(["../out", "--novel", "-n", "2"]) == 0
    assert page_main(["page.html", "--model", "../out"]) == 0
    assert "which words are new" not in capsys.readouterr().err

    message = error_of(capsys, train_main([*resume, "--count-column", "3"]))
    assert "--count-column is births in the run to resume and cannot be changed to 3" in message
    (here / "names.csv").rename("moved.csv")
    message = error_of(capsys, train_main([*resume, "--steps", "9"]))
    assert message.endswith("names.csv is not there any more: give it with --data PATH")
    assert train_main([*resume, "--steps", "9", "--data", "moved.csv"]) == 0
    Path("moved.csv").write_text("name,sex,births\n" + "".join(ROWS).replace(",7", ",8"), encoding="utf-8")
    message = error_of(capsys, train_main([*resume, "--steps", "10"]))
    assert "moved.csv differs from the run's" in message
    message = error_of(capsys, sample_main(["../out", "--novel", "--data", "moved.csv"]))
    assert "moved.csv is not the word list that the model was trained on" in message


def test_several_lists_of_one_name_are_one_list(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        Path(name).mkdir()
    Path("a/names.txt").write_text("\n".join(NAMES[:6]), encoding="utf-8")
    Path("b/names.txt").write_text("\n".join(NAMES[6:]), encoding="utf-8")
    assert train_main([*TINY, "a/names.txt", "--recipe", "lecture", "--case", "keep", "b"]) == 0
    assert "data      names.txt, b: 12 words, 26 symbols\n          2 files\n" in capsys.readouterr().out
    monkeypatch.chdir("/")
    assert known_words(open_model(here / "out", "")).words == NAMES
    Path(here, "b/names.txt").rename(here / "b/more.txt")
    with pytest.raises(UsageError, match="is not the word list that the model was trained on"):
        known_words(open_model(here / "out", ""))
    Path(here, "a/names.txt").unlink()
    with pytest.raises(UsageError, match=r"any more: give it with --data PATH, with all 2 lists of the run$"):
        known_words(open_model(here / "out", ""))


def test_the_labels_of_a_run_are_read_again(small_model: Model) -> None:
    progress = trained_on({"data": ("girls.txt", "boys.txt")})
    words = known_words(Opened(replace(small_model, progress=progress), False, Path()))
    assert words.labels is not None
    assert words.labels.columns[0].values == ("boys", "girls")
    columns = {"data": ("names.csv",), "word_column": "name", "label_column": ("sex",)}
    progress = trained_on(columns)
    words = known_words(Opened(replace(small_model, progress=progress), False, Path()))
    assert words.labels is not None
    assert words.labels.columns[0].values == ("F", "M")
    Path("names.csv").write_text(
        Path("names.csv").read_text(encoding="utf-8").replace("Lea,M", "Lea,F"), encoding="utf-8"
    )
    with pytest.raises(UsageError, match="is not the word list that the model was trained on"):
        known_words(Opened(replace(small_model, progress=progress), False, Path()))


def trained_on(settings: dict[str, Any]) -> Progress:
    """The progress of a run with these settings, as a model file has it."""
    run = RunSettings(**settings)
    words = read_words(run.data or (), run.word_column, run.label_column, run.count_column)
    saved = {name: [*value] if isinstance(value, tuple) else value for name, value in vars(run).items()}
    return Progress(saved, words.fingerprint, False, 0, torch.empty(0), [], torch.Generator().get_state(), {})


def test_a_table_on_stdin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def pipe() -> None:
        stdin = io.TextIOWrapper(io.BytesIO(Path("names.csv").read_bytes()), encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", stdin)

    pipe()
    assert "stdin looks like a table" in error_of(capsys, train_main([*TINY, "-"]))
    pipe()
    assert train_main([*TINY, "-", "--word-column", "name"]) == 0
    pipe()
    assert sample_main(["out", "--novel", "--data", "-"]) == 0
    capsys.readouterr()
    message = error_of(capsys, sample_main(["out", "--novel"]))
    assert "the run's word list was read from stdin: give it again with --data PATH or --data -" in message


def test_the_header_names_the_most_frequent_labels() -> None:
    Path("names.csv").write_text(
        "name,country,first letter\n" + "".join(f"{n},{i % 9 or ''},{n[0]}\n" for i, n in enumerate(NAMES)),
        encoding="utf-8",
    )
    words = read_words("names.csv", "name", ["country", "first letter"])
    assert words.labels is not None
    assert describe_labels(words.labels) == [
        "country: 8 labels: 1 2, 2 2, 3 1, 4 1, 5 1, ..., none 2",
        "first letter: 12 labels: A 1, B 1, C 1, D 1, E 1, ...",
    ]


def test_settings_with_several_texts() -> None:
    assert checked({"data": "words.txt"}).data == ("words.txt",)
    assert checked({"data": ["a", "b"], "label_column": []}).data == ("a", "b")
    assert RunSettings(data=["a"]) == RunSettings(data=("a",))  # type: ignore[arg-type]
    for value in (3, ["a", 3], {"a": 1}):
        with pytest.raises(UsageError, match="--data must be one or more texts, got"):
            checked({"data": value})


def test_the_paths_of_lists_become_absolute(here: Path) -> None:
    Path("link.txt").symlink_to("girls.txt")
    given = with_absolute_path({"data": ["link.txt", ".", "lecture", "-", "none"]})
    assert given["data"] == (f"{here}/link.txt", str(here), "lecture", "-", "none")
    assert with_absolute_path({"seed": 1}) == {"seed": 1}


def test_a_model_file_with_odd_settings_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_main([*TINY, "names.csv", "--word-column", "name"]) == 0
    capsys.readouterr()
    model = load_model("out")
    for name, value in (("data", 3), ("word_column", ["name"]), ("label_column", None), ("data", [1])):
        progress = replace(model.progress, settings={**model.progress.settings, name: value})
        save_model(replace(model, progress=progress), Path("out") / MODEL_FILE)
        error_of(capsys, sample_main(["out", "--novel"]))
