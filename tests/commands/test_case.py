"""Capitals that a rule gives are not learnt, and every command knows it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from forged_files import content_of, forged

from makemore.commands.cli import draw_main, page_main, sample_main, train_main
from makemore.core.errors import ModelFileError
from makemore.data.capitals import Capitals
from makemore.data.word_list import load_words
from makemore.run.model_file import Model, load_model, model_bytes, read_model

TOWNS = [*(f"{name.capitalize()}-on-Sea" for name in load_words().words[:20]), "Castle Hythe", "Upper Wick"]
FAST = ["--steps", "40", "--n-hidden", "16", "--ensemble", "1", "--samples", "10"]


@pytest.fixture
def towns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """The directory of a run on a list with capitals, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("towns.txt").write_text("\n".join(TOWNS), encoding="utf-8")
    assert train_main([*FAST, "--data", "towns.txt"]) == 0
    return tmp_path


def has_the_rules_capitals(word: str) -> bool:
    rule = Capitals(after=" -", small=("on",))
    return rule.restore(rule.lower(word)) == word


@pytest.mark.full
def test_training_and_sampling(towns: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = capsys.readouterr().out
    assert "capitals  the first letter, and after a blank or '-'; small: on: put back after sampling" in out
    words = out.split("10 new words:\n")[1].splitlines()[:10]
    assert all(map(has_the_rules_capitals, words))
    assert any(word != word.lower() for word in words)

    assert sample_main(["--samples", "50", "--seed", "1", "--prefix", "upper w", "--novel", "--unique"]) == 0
    sampled = capsys.readouterr().out.splitlines()
    assert len(sampled) == 50
    assert all(map(has_the_rules_capitals, sampled))
    assert all(word.startswith("Upper W") for word in sampled)
    assert "Upper Wick" not in sampled

    Path("asked.txt").write_text("Castle Hythe\nCASTLE HYTHE\ncastle hythe\n", encoding="utf-8")
    assert sample_main(["--score", "asked.txt"]) == 0
    scored = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [word for word, *_ in scored] == ["Castle Hythe", "CASTLE HYTHE", "castle hythe"]
    assert len({score for _, score, _ in scored}) == 1
    assert "nan" not in scored[0]

    assert draw_main(["tree", "tree.png", "--word", "Castle"]) == 0


def test_a_resumed_run_and_a_moved_list_know_the_rule(
    towns: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("towns.txt").rename("moved.txt")
    capsys.readouterr()
    assert sample_main(["--samples", "3", "--novel", "--data", "moved.txt"]) == 0
    assert all(map(has_the_rules_capitals, capsys.readouterr().out.splitlines()))
    assert train_main(["--resume", "--data", "moved.txt", "--case", "keep"]) == 2
    assert "--case is auto in the run to resume" in capsys.readouterr().err


def test_keep_learns_capitals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "towns.txt", tmp_path / "out"
    path.write_text("\n".join(TOWNS))
    assert train_main([*FAST, "--data", str(path), "--out-dir", str(out), "--case", "keep"]) == 0
    assert "\ncapitals " not in capsys.readouterr().out
    model = load_model(out)
    assert model.capitals is None
    assert {"U", "W", "S"} <= set(model.vocabulary.characters)


def test_a_list_with_capitals_in_no_order_is_learnt_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "words.txt"
    path.write_text("\n".join(["iPad", "eBay", "jQuery", "Anna", "LaTeX", "NaN", "PhD", "gRPC"]))
    assert train_main([*FAST, "--data", str(path), "--out-dir", str(tmp_path / "out")]) == 0
    assert "capitals  learnt: no rule gives those of the words" in capsys.readouterr().out


def test_the_page_has_the_rule(towns: Path) -> None:
    assert page_main([]) == 0
    content = json.loads(
        Path("page.html").read_text(encoding="utf-8").split('id="content">')[1].split("</script>")[0]
    )
    capitals = content["capitals"]
    assert (capitals["everywhere"], capitals["after"], capitals["small"]) == (False, " -", ["on"])
    assert capitals["of"]["a"] == "A"
    assert content["words"]["number"] == len(set(TOWNS))


@pytest.mark.parametrize("rule", [Capitals(), Capitals(everywhere=True), Capitals(after=" -", small=("on",))])
def test_a_model_file_has_the_rule(small_model: Model, rule: Capitals) -> None:
    whole = model_bytes(replace(small_model, capitals=rule))
    assert read_model(whole, "file").capitals == rule
    assert read_model(model_bytes(small_model), "file").capitals is None


@pytest.mark.parametrize(
    "change",
    [
        {"everywhere": 1},
        {"after": None},
        {"small": "on"},
        {"small": [1]},
        {"more": 1},
    ],
)
def test_an_invalid_rule_is_refused(small_model: Model, change: dict[str, object]) -> None:
    content = content_of(model_bytes(replace(small_model, capitals=Capitals(after="-"))))
    content["capitals"].update(change)
    with pytest.raises(ModelFileError, match="file has"):
        read_model(forged(content), "file")
