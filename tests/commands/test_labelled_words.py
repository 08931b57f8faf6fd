"""Words with labels through the commands: training, resuming, sampling, classifying, scoring, pictures."""

from __future__ import annotations

import csv
import io
import json
import math
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Generator

from makemore.commands.cli import draw_main, sample_main, train_main
from makemore.core.errors import UsageError
from makemore.core.layer import LabelColumn
from makemore.data.word_list import load_words
from makemore.inference.classification import label_probs
from makemore.inference.scoring import log_likelihoods
from makemore.modern.recipe import ModernRecipe
from makemore.modern.trainer import ModernTrainer
from makemore.run.catalog import build_network, network_plan
from makemore.run.label_choice import choose_labels, parse_choice
from makemore.run.model_file import Model, load_model, save_model
from makemore.training.ensemble import Ensemble

SMALL = ["--n-embd", "8", "--n-hidden", "24", "--ensemble", "1", "--context-dropout", "0.2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of words with the labels vowel (a or o, by the word's vowels) and size (long or none)."""
    rng = random.Random(1)
    directory = tmp_path_factory.mktemp("labels")
    with (directory / "words.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["word", "vowel", "size"])
        for _ in range(300):
            vowel = rng.choice("aao")
            syllables = rng.randint(1, 3)
            word = "".join(rng.choice("bdkmnr") + vowel for _ in range(syllables))
            rows.writerow([word, vowel, "long" if syllables == 3 else ""])
    return directory


def table_flags(folder: Path) -> list[str]:
    return ["--data", str(folder / "words.csv"), "--word-column", "word", "--label-column", "vowel", "size"]


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """The directory of a run on the table."""
    out = folder / "run"
    argv = [*table_flags(folder), *SMALL, "--steps", "150", "--out-dir", str(out)]
    assert train_main(argv) == 0
    return out


def sampled(run: Path, *flags: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert sample_main([str(run), "--seed", "3", *flags]) == 0
    return capsys.readouterr().out.splitlines()


def share_of_o(words: list[str]) -> float:
    """The share of the vowels that are an o."""
    text = "".join(words)
    return text.count("o") / (text.count("a") + text.count("o"))


def error_of(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an error, whose exit code is 2."""
    try:
        code = sample_main(argv)
    except SystemExit as stop:
        code = int(stop.code or 0)
    error = capsys.readouterr().err.strip()
    assert code == 2
    assert "\n" not in error
    return error


def test_the_labels_are_learnt_saved_and_listed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = load_model(run)
    assert [column.name for column in model.labels.columns] == ["vowel", "size"]
    assert model.network.labels == model.labels.columns
    assert len(sampled(run, capsys=capsys)) == 20
    assert sample_main([str(run), "--labels"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    counts = {(column, label): int(number) for column, label, number in lines}
    assert counts[("vowel", "a")] + counts[("vowel", "o")] == 300
    assert counts[("size", "long")] + counts[("size", "")] == 300
    assert counts[("vowel", "a")] > counts[("vowel", "o")]


def test_words_of_a_label_are_of_its_kind(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    share = {vowel: share_of_o(sampled(run, "-n", "200", "--label", vowel, capsys=capsys)) for vowel in "ao"}
    assert share["a"] < 0.3
    assert share["o"] > 0.6
    both = sampled(run, "-n", "50", "--label", "vowel=o,size=long", capsys=capsys)
    assert sum(len(word) for word in both) / 50 > 4.5
    assert both == sampled(run, "-n", "50", "--label", "o", "--label", "long", capsys=capsys)


def test_labels_are_drawn_as_in_the_list_and_printed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = sampled(run, "-n", "1000", "--with-label", capsys=capsys)
    words, vowels, sizes = zip(*(line.split("\t") for line in lines), strict=True)
    labels = load_model(run).labels
    expected = {labels.names(i): int(n) / 300 for i, n in enumerate(labels.counts)}
    for names, number in Counter(zip(vowels, sizes, strict=True)).items():
        assert number / 1000 == pytest.approx(expected[names], abs=0.06)
    assert list(words) == sampled(run, "-n", "1000", capsys=capsys)
    rows = list(csv.DictReader(io.StringIO("\n".join(sampled(run, "--format", "csv", capsys=capsys)))))
    assert [(row["word"], row["vowel"], row["size"]) for row in rows] == [
        tuple(line.split("\t")) for line in lines[:20]
    ]
    chosen = [json.loads(line) for line in sampled(run, "--format", "jsonl", "--label", "o", capsys=capsys)]
    assert {row["vowel"] for row in chosen} == {"o"}
    assert {row["size"] for row in chosen} <= {"", "long"}


def test_a_blend_is_between_its_labels(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, both, o = (
        share_of_o(sampled(run, "-n", "200", "--label", choice, capsys=capsys))
        for choice in ("a", "a=0.5,o=0.5", "o")
    )
    assert a + 0.1 < both < o - 0.1


def test_shards_with_labels_are_the_whole(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["-n", "1500", "--with-label", "--with-score"]
    whole = sampled(run, *flags, capsys=capsys)
    parts = [sampled(run, *flags, "--shard", f"{i}/3", capsys=capsys) for i in (1, 2, 3)]
    assert [line for part in parts for line in part] == whole


def test_words_are_classified_by_bayes_rule(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "asked.txt").write_text("bama\nkodo\nnoX\n\n", encoding="utf-8")
    assert sample_main([str(run), "--classify", str(tmp_path / "asked.txt"), "--top", "1"]) == 0
    captured = capsys.readouterr()
    lines = [line.split("\t") for line in captured.out.splitlines()]
    assert [line[0] for line in lines] == ["bama", "kodo", "noX"]
    assert lines[0][1].startswith("a ")
    assert lines[1][1].startswith("o ")
    assert lines[2][1:] == ["nan", "nan"]
    assert "'X' is not in the vocabulary" in captured.err

    model = load_model(run)
    labels, words = model.labels, ["bama", "kodo", "ra"]
    vowel, size = label_probs(model.network, model.vocabulary, words, labels)
    assert vowel.shape == (3, 2)
    torch.testing.assert_close(size, torch.ones(3, 1, dtype=torch.float64))
    joint = torch.stack(
        [
            log_likelihoods(model.network, model.vocabulary, words, labels, row)
            + math.log(int(labels.counts[row]) / 300)
            for row in range(len(labels))
        ],
        dim=1,
    ).exp()
    for label in (1, 2):
        expected = joint[:, labels.rows[:, 0] == label].sum(1) / joint[:, labels.rows[:, 0] > 0].sum(1)
        torch.testing.assert_close(vowel[:, label - 1], expected)

    assert sample_main([str(run), "--score", str(tmp_path / "asked.txt"), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    for row, total in zip(rows[:2], joint.sum(1).log().tolist(), strict=False):
        assert float(row["log_likelihood"]) == pytest.approx(total, abs=1e-3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--label", "u"], "the model has no label 'u'; it has a, o, long"),
        (["--label", "lnog"], "no label 'lnog' (did you mean 'long'?)"),
        (["--label", "vowel=x"], "the model has no label 'x' in its column 'vowel'"),
        (["--label", "a", "--label", "o"], "chooses the column 'vowel' twice"),
        (["--label", "a=-1"], "must be a number from 0 up"),
        (["--labels", "-n", "5"], "--labels samples no words: leave out --samples"),
        (["--top", "2"], "--top is for --classify"),
        (["--classify", "x", "--score", "y"], "--score and --classify do different things"),
    ],
)
def test_wrong_labels_get_one_line(
    run: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in error_of([str(run), *flags], capsys)


def test_a_model_without_labels_has_none_to_choose(capsys: pytest.CaptureFixture[str]) -> None:
    for flags in (["--label", "Irish"], ["--labels"], ["--classify", "x"]):
        assert "without labels" in error_of(["bundled", *flags], capsys) or flags[0] == "--classify"


def test_the_report_and_the_pictures(run: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (run / "confusion-1.png").read_bytes().startswith(b"\x89PNG")
    argv = [*table_flags(folder), *SMALL, "--steps", "150", "--out-dir", str(folder / "again")]
    assert train_main(argv) == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.startswith("vowel "))
    assert float(row.split()[1]) > 90, "the vowel shows in every word"
    assert "(a, long)" in out or "(o, no label)" in out
    argv = ["nodes", str(folder / "nodes.png"), "--model", str(run), "--word", "bada", "--label", "a"]
    assert draw_main(argv) == 0
    with pytest.raises(SystemExit, match="2"):
        draw_main(["nodes", "--network", "wavenet", "--label", "a"])
    assert (
        load_model(folder / "again").network.state_dict().keys()
        == load_model(run).network.state_dict().keys()
    )


def test_a_restored_trainer_ends_in_the_same_bits(folder: Path) -> None:
    data = load_words(folder / "words.csv", "word", ["vowel", "size"]).data(8)
    recipe = ModernRecipe(steps=12, batch_size=64)

    def trainer() -> ModernTrainer:
        generator = Generator().manual_seed(1)
        plan = network_plan("wavenet", n_embd=6, n_hidden=12)
        network = build_network(plan, 2, len(data.vocabulary), generator, data.labels.sizes)
        return ModernTrainer(network.members[0], data, recipe, generator)

    whole = trainer()
    for _ in whole.run(12):
        pass
    first = trainer()
    for _ in first.run(6):
        if first.step == 6:
            break
    state = {name: tensor.clone() for name, tensor in first.state().items()}
    weights = {name: tensor.clone() for name, tensor in first.network.state_dict().items()}
    second = trainer()
    second.network.load_state_dict(weights)
    second.generator.set_state(first.generator.get_state())
    second.restore(6, first.losses, first.evaluations, state)
    for losses in second.run(6):
        assert losses.isfinite().all()
    assert torch.equal(whole.losses, second.losses)
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, second.network.state_dict()[name]), name


@pytest.mark.full
@pytest.mark.parametrize(
    "flags",
    [
        ["--ensemble", "2", "--teachers", "1"],
        ["--recipe", "lecture"],
        ["--engine", "autograd", "--network", "wavenet-paper"],
        ["--engine", "backprop", "--network", "mlp"],
        ["--network", "dropout"],
        ["--consecutive", "4"],
        ["--record-every", "2"],
    ],
)
def test_every_recipe_engine_and_network_takes_labels(
    flags: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    argv = [*table_flags(folder), "--n-embd", "6", "--n-hidden", "12", "--steps", "8", "--ensemble", "1"]
    assert train_main([*argv, "--out-dir", str(out), *flags]) == 0
    assert len(sampled(out, "--label", "o", capsys=capsys)) == 20 or capsys.readouterr()
    model = load_model(out)
    assert isinstance(model.network, Ensemble) == ("--ensemble" in flags)
    assert model.labels is not None
    assert choose_labels(model, ["a"]).names(["long"]) == ["a", "long"]


def test_the_name_of_a_file_is_the_label_of_its_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, vowel in (("anna", "a"), ("otto", "o")):
        words = [f"{c}{vowel}{d}{vowel}" for c in "bdkmnr" for d in "bdkmnr"]
        (tmp_path / f"{name}.txt").write_text("\n".join(words), encoding="utf-8")
    argv = [str(tmp_path), *SMALL, "--steps", "100", "--out-dir", str(tmp_path / "run")]
    assert train_main(argv) == 0
    assert "label: 2 labels: anna 36, otto 36" in capsys.readouterr().out
    anna, otto = (
        share_of_o(sampled(tmp_path / "run", "-n", "100", "--label", name, capsys=capsys))
        for name in ("anna", "otto")
    )
    assert anna + 0.2 < otto


COUNTRY, GENDER = LabelColumn("country", ("Irish", "Korea, South", "M")), LabelColumn("gender", ("F", "M"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Irish", {"country": {"Irish": 1.0}}),
        ("irish", {"country": {"Irish": 1.0}}),
        ("F,Irish", {"gender": {"F": 1.0}, "country": {"Irish": 1.0}}),
        ("Korea, South", {"country": {"Korea, South": 1.0}}),
        ("country=M", {"country": {"M": 1.0}}),
        ("gender=M=0.25,F=0.75", {"gender": {"M": 0.25, "F": 0.75}}),
        ("Irish=2", {"country": {"Irish": 2.0}}),
        ("gender=", {"gender": {"": 1.0}}),
    ],
)
def test_texts_that_choose_labels(text: str, expected: dict[str, dict[str, float]]) -> None:
    assert parse_choice(text, [COUNTRY, GENDER]) == expected


def test_a_label_of_two_columns_needs_its_column() -> None:
    with pytest.raises(UsageError, match=r"several columns have the label 'M' \(country, gender\)"):
        parse_choice("M", [COUNTRY, GENDER])


def test_a_model_needs_the_labels_that_its_network_takes(run: Path, tmp_path: Path) -> None:
    model = load_model(run)
    with pytest.raises(UsageError, match="cannot be saved: the network takes labels"):
        save_model(Model(model.network, model.vocabulary), tmp_path / "model")
