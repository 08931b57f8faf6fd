"""The scripts of the studies: their tables and pictures, and that finished runs are not done again."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import few_words
import good_names
import karpathys_split
import long_contexts
import markov
import performance_log
import pytest
import torch
import train_command
from answer import answer

from makemore.core.errors import ModelFileError
from makemore.data.word_list import load_words
from makemore.run.model_file import load_model, save_model
from makemore.training.ensemble import members_of


@pytest.mark.full
def test_the_performance_log_is_written_and_its_runs_are_kept(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--data", str(word_file), "--out-dir", str(tmp_path / "log"), "--seeds", "1", "2"]
    argv += ["--rows", "hierarchical, lecture"]
    argv += ["--flags", "--steps", "20", "--n-hidden", "8", "--samples", "0"]
    assert performance_log.main(argv) == 0
    table = (tmp_path / "log" / "log.md").read_text()
    head, _, *rows = table.splitlines()
    assert [cell.strip() for cell in head.split("|")[1:4]] == ["network, recipe", "parameters", "steps"]
    assert [row.split(" | ")[0] for row in rows] == ["| hierarchical, lecture"]
    assert "1.912 / 2.022" in rows[0]
    assert all("±" in cell for cell in rows[0].split(" | ")[4:9])
    assert (tmp_path / "log" / "log.png").read_bytes().startswith(b"\x89PNG")

    models = sorted((tmp_path / "log").glob("*/model.safetensors"))
    assert len(models) == 2
    before = [path.stat().st_mtime_ns for path in models]
    capsys.readouterr()
    assert performance_log.main(argv) == 0
    assert [path.stat().st_mtime_ns for path in models] == before
    assert capsys.readouterr().out.strip() == table.strip()


def test_an_unknown_row_of_the_log_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        performance_log.main(["--rows", "lstm"])
    assert "there is no row 'lstm': choose from 'mlp, lecture', " in capsys.readouterr().err


def test_the_markov_model_has_probabilities() -> None:
    """They add up to 1 over the listed characters, the stop and one for all others."""
    listed = ["anna", "hannah", "nathan"]
    markov = good_names.Markov(listed, 2)
    for context in ("\n\n", "an", "na", "zz"):
        total = sum(markov.probability(context, ch) for ch in [*"anhtz", "\n"])
        assert total == pytest.approx(1)
    assert markov.nats(listed) < markov.nats(["tathha"]) < markov.nats(["zzzzz"])


@pytest.mark.full
def test_good_names_are_measured(word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [str(tmp_path), str(word_file), "--row=--good", "--row=--max-length 5", "-n", "50"]
    assert good_names.main([*argv, "--train", "--steps", "20", "--n-hidden", "8"]) == 0
    printed = capsys.readouterr().out
    table = [line.split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    assert [row[0] for row in table[1:]] == ["| training half", "| `--good`", "| `--max-length 5`"]
    copies, near, different = table[2][3:6]
    assert (copies, near, different) == ("0.0%", "0.0%", "100.0%")
    assert float(table[3][6].split()[0]) <= 5


@pytest.mark.full
def test_a_stopped_run_is_resumed_and_its_cost_added_up(word_file: Path, tmp_path: Path) -> None:
    """A lecture run can be extended: with its file marked as not finished, it is as if it was stopped."""
    flags = ["--data", word_file, "--recipe", "lecture", "--n-hidden", 8, "--samples", 0]
    first = train_command.train(tmp_path, [*flags, "--steps", 20])
    model = load_model(tmp_path / "model.safetensors")
    assert model.progress is not None
    settings = {**model.progress.settings, "steps": 30}
    progress = replace(model.progress, settings=settings, finished=False)
    save_model(replace(model, progress=progress), tmp_path / "model.safetensors")
    assert train_command.finished(tmp_path) is None
    second = train_command.train(tmp_path, ["--seed", "never used"])
    assert (first.steps, second.steps) == (20, 30)
    assert second.seconds > first.seconds > 0
    assert second.mb >= first.mb > 50
    assert train_command.finished(tmp_path) == second
    (tmp_path / train_command.COST_FILE).unlink()
    assert str(train_command.train(tmp_path, []).seconds) == "nan", "unknown costs are not made up"


def test_a_run_that_fails_ends_the_study(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"exit code 2; see its log\.txt"):
        train_command.train(tmp_path, ["--steps", "no number"])
    assert "argument --steps" in (tmp_path / "log.txt").read_text()


@pytest.mark.full
def test_long_contexts_are_trained_once_and_drawn(
    word_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(long_contexts, "RUNS", [("wavenet", 16), ("wavenet-paper", 8)])
    monkeypatch.setattr(long_contexts, "lines", word_file.read_text(encoding="utf-8").split)
    long_contexts.main([str(tmp_path), "--steps", "3"])
    table = capfd.readouterr().out[-500:].splitlines()[-4:]
    assert [row.split(" | ")[:2] for row in table[2:]] == [["| wavenet", "16"], ["| wavenet-paper", "8"]]
    assert (tmp_path / "long.png").read_bytes().startswith(b"\x89PNG")
    long_contexts.main([str(tmp_path), "--steps", "3"])
    assert capfd.readouterr().out.splitlines() == table, "nothing is trained again"


def test_markov_models_of_a_list(word_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert markov.main(["--data", str(word_file)]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["smoothing", "order", "val", "test"]
    assert len(rows) == 2 * len(markov.ORDERS)
    lowest = [row for row in rows if row.endswith("  lowest val")]
    assert len(lowest) == 1
    assert min(float(row.split()[2]) for row in rows) == float(lowest[0].split()[2])
    assert {row.split()[0] for row in rows} == {"Witten-Bell", "Kneser-Ney"}


def test_short_lists_are_distinct_words_of_every_source(word_file: Path, tmp_path: Path) -> None:
    (tmp_path / "capitals.txt").write_text("\n".join(["Anna", "anna", "Bert", "ANNA", *"CDEFG"]))
    found = dict(few_words.lists([tmp_path, word_file], parts=None))
    assert found["capitals"] == ["Anna", "Bert", *"CDEFG"]
    assert found[word_file.stem] == few_words.distinct(word_file.read_text(encoding="utf-8").split())
    for number in few_words.PARTS:
        assert len(set(found[f"names-{number}"])) == number


@pytest.mark.full
def test_few_words_are_compared(
    word_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fast = ["--steps", 5, "--n-hidden", 8]
    monkeypatch.setattr(few_words, "WAYS", {"one": [*fast, "--ensemble", 1], "now": fast})
    argv = [str(tmp_path), "--lists", str(word_file), "--seeds", "1", "2", "--only", word_file.stem]
    argv += ["--ways", "one", "now"]
    assert few_words.main(argv) == 0
    head, _, row = capsys.readouterr().out.splitlines()
    assert head == "| list | words | Markov | one | less Markov | s | now | less Markov | s |"
    cells = row.strip("| ").split(" | ")
    assert cells[0] == word_file.stem
    assert len(cells) == 9
    assert all(1 < float(cells[i]) < 4 for i in (2, 3, 6))
    assert re.fullmatch(r"[+-]\d\.\d{3} \(\d\.\d{3}\)", cells[7])
    losses = [load_model(tmp_path / f"{word_file.stem}-{seed}" / "now").progress for seed in (1, 2)]
    tests = [progress.evaluations[-1].test for progress in losses if progress is not None]
    assert float(cells[6]) == pytest.approx(sum(test or 0 for test in tests) / 2, abs=6e-4)


@pytest.mark.full
def test_parts_of_a_list_are_tested_on_its_other_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ways = {way: [*flags, "--steps", 5] for way, flags in few_words.WAYS.items()}
    monkeypatch.setattr(few_words, "WAYS", ways)
    argv = [str(tmp_path), "--parts", "60", "--only", "names", "--seeds", "1", "--ways", "now"]
    assert few_words.main([*argv, "start", "start-ensemble", "start-mixed"]) == 0
    head, _, row = capsys.readouterr().out.splitlines()
    cells = row.strip("| ").split(" | ")
    assert len(cells) == len(head.strip("| ").split(" | ")) == 15
    folder = tmp_path / "names-60-1"
    own = (folder / "words.txt").read_text(encoding="utf-8").split()
    assert len(own) == 60
    (case,) = few_words.cases(load_words().words, 60, [1])
    assert case.words == own
    assert len(case.others) == 1200
    assert not set(own) & set(case.others)
    assert {*"".join(case.others)} <= {*"".join(own)}
    for i, way in ((3, "now"), (6, "start"), (9, "start-ensemble"), (12, "start-mixed")):
        assert float(cells[i]) == pytest.approx(few_words.test_loss(folder / way, case.others), abs=6e-4)
        assert 2 < float(cells[i]) < 4
    known = load_words(folder / "words.txt")
    lowest = few_words.markov_loss(known, case.others)
    assert float(cells[2]) == pytest.approx(lowest, abs=6e-4)
    assert lowest <= markov.MarkovModel(known.split()[0], 1, "Witten-Bell", len(known.vocabulary)).loss(
        case.others
    )
    labels = load_model(folder / "start-mixed").labels
    assert labels is not None
    assert labels.columns[0].values == ("bundled", "own")
    assert labels.counts.tolist() == [1000, 60]
    network = load_model(folder / "start-ensemble").network
    assert len(members_of(network)) == 8


@pytest.mark.full
def test_karpathys_split_is_that_of_his_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its lines: ``torch.manual_seed(3407)``, ``rp = torch.randperm(n).tolist()``, test is ``rp[-1000:]``."""
    listed = load_words().words[:3000]
    path = tmp_path / "words.txt"
    path.write_text("\n".join(listed), encoding="utf-8")
    words = load_words(path)
    data = karpathys_split.split_data(words, 8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3407)
        order = torch.randperm(3000).tolist()
    for examples, part in (
        (data.train, order[:1000]),
        (data.val, order[1000:2000]),
        (data.test, order[2000:]),
    ):
        wanted = [words.vocabulary.stoi[ch] if ch else 0 for i in part for ch in [*listed[i], ""]]
        assert examples.symbols.tolist() == wanted

    tiny = ["--steps", "20", "--n-hidden", "8", "--n-embd", "4", "--ensemble", "1"]
    assert karpathys_split.main(["--data", str(path), "--seeds", "1", "2", "--", *tiny]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = [float(re.search(r"test (\d\.\d{4})", line)[1]) for line in lines if line.startswith("seed")]  # type: ignore[index]
    assert 1 < found[0] < 3.4
    assert found[0] != found[1]
    assert float(lines[-2].split()[1]) == pytest.approx(sum(found) / 2, abs=2e-4)
    with pytest.raises(ModelFileError, match="no-such-model"):
        karpathys_split.main(["--data", str(path), "--", *tiny, "--distil-from", "no-such-model"])


def test_an_error_of_a_script_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        answer(lambda: karpathys_split.main(["--data", "no-such-list"]))
    message = capsys.readouterr().err
    assert message.endswith(": cannot read the word list no-such-list: No such file or directory\n")
    assert message.count("\n") == 1
    assert ended.value.code == 2


def test_the_exit_code_of_a_script_without_errors() -> None:
    with pytest.raises(SystemExit) as ended:
        answer(lambda: 3)
    assert ended.value.code == 3
