"""The commands: what they print and write, and that every error is one line and an exit code."""

from __future__ import annotations

import csv
import math
import random
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import torch
from bad_lists import BAD_LISTS, OTHER_FILES, PAGE, POINTER, saved

import makemore.pictures.figures
from makemore.commands.cli import draw_main, sample_main, train_main
from makemore.commands.sample import unique
from makemore.data.word_list import read_words
from makemore.inference.generation import Sample
from makemore.lecture.evaluation import split_loss
from makemore.lecture.sampling import sample_word
from makemore.modern import recipe as modern_recipe
from makemore.run.catalog import NETWORKS, PICTURES, network_plan
from makemore.run.model_file import load_model
from makemore.run.report import SPLITS
from makemore.training.ensemble import members_of
from makemore.training.recipe import LectureRecipe
from makemore.training.trainer import Trainer

SMALL = [
    "--recipe",
    "lecture",
    "--engine",
    "autograd",
    "--network",
    "hierarchical",
    "--n-hidden",
    "16",
    "--n-embd",
    "4",
    "--device",
    "cpu",
]


@pytest.fixture(scope="module")
def finished(word_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished small run."""
    out = tmp_path_factory.mktemp("run") / "out"
    assert train([*SMALL, "--data", word_file, "--steps", "200", "--out-dir", out]) == 0
    return out


def train(argv: list[object]) -> int:
    try:
        return train_main([str(arg) for arg in argv])
    except SystemExit as stop:
        return int(stop.code or 0)


def sample(argv: list[object]) -> int:
    try:
        return sample_main([str(arg) for arg in argv])
    except SystemExit as stop:
        return int(stop.code or 0)


def draw(argv: list[object]) -> int:
    try:
        return draw_main([str(arg) for arg in argv])
    except SystemExit as stop:
        return int(stop.code or 0)


def refused(capsys: pytest.CaptureFixture[str], code: int, expected: int, message: str) -> None:
    out, err = capsys.readouterr()
    assert code == expected
    assert re.search(message, err), err
    assert len(err.splitlines()) == 1, err
    assert "Traceback" not in out + err


def test_training_prints_and_writes_the_run(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out"
    argv = [*SMALL, "--data", word_file, "--steps", "200", "--log-every", "50", "--eval-every", "80"]
    assert train([*argv, "--lr-drop", "120", "--samples", "5", "--out-dir", out]) == 0
    printed, err = capsys.readouterr()
    assert err == "", "no progress bar where there is no terminal"

    words = read_words(word_file)
    data = words.data(8)
    plan = network_plan("hierarchical", None, 4, 16)
    generator = torch.Generator().manual_seed(42)
    network = plan.build(len(data.vocabulary), generator)
    run = Trainer(network, data, LectureRecipe(steps=200, lr_drop=120), generator)
    val = {}
    for losses in run.run(40):
        assert len(losses) == 40
        val[run.step] = split_loss(run.network, data.val)
    lines = [f"{i:7d}/{200:7d}: {run.losses[i].item():.4f}" for i in (0, 50, 100, 150)]
    assert "\n".join(lines) in printed
    final = [split_loss(run.network, examples) for examples in data[1:6]]
    for split, nats in zip(SPLITS, final, strict=True):
        assert f"{split.replace('_', ' '):<20} {nats:7.4f}  {nats / math.log(2):7.4f}\n" in printed
    new = [sample_word(run.network, data.vocabulary, generator) for _ in range(5)]
    assert "5 new words:\n" + "\n".join(new) + "\n" in printed
    assert f"train ({len(data.train):,}, 8)" in printed
    assert str(out / "loss.png") in printed

    assert {path.name for path in out.glob("[!.]*")} == {"model.safetensors", "losses.csv", "loss.png"}
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((out / "losses.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == list(range(201))
    assert torch.equal(torch.tensor([float(row["loss"]) for row in rows[:200]]), run.losses)
    assert {int(r["step"]): float(r["val"]) for r in rows if r["val"]} == pytest.approx(
        {80: val[80], 160: val[160], 200: final[1]}, abs=1e-6
    )
    assert [float(rows[200][split]) for split in SPLITS] == pytest.approx(final, abs=1e-6)
    assert rows[200]["loss"] == ""


def test_no_word_at_the_end_of_a_run_is_empty(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nearly untrained, the network stops one word in 27 at once."""
    argv = [*SMALL, "--data", word_file, "--steps", "1", "--samples", "150", "--out-dir", tmp_path]
    assert train(argv) == 0
    printed = capsys.readouterr().out
    words = printed.partition("150 new words:\n")[2].partition("\n(")[0].split("\n")
    assert len(words) == 150
    assert all(words)


def test_sampling_prints_words_and_nothing_else(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = finished / "model.safetensors"
    assert sample([model, "--samples", "30", "--seed", "7"]) == 0
    first = capsys.readouterr()
    assert first.err == ""
    assert len(first.out.splitlines()) == 30
    assert sample([model, "--samples", "30", "--seed", "7"]) == 0
    assert capsys.readouterr().out == first.out
    assert sample([model, "--samples", "30", "--seed", "8"]) == 0
    assert capsys.readouterr().out != first.out
    assert sample([model, "-n", "5", "--prefix", "ab", "--temperature", "0", "--max-length", "99"]) == 0
    words = capsys.readouterr().out.splitlines()
    assert len(words) == 5
    assert len(set(words)) == 1
    assert words[0].startswith("ab")
    assert sample([model, "-n", "0"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.full
@pytest.mark.parametrize(
    ("closed", "flags", "code", "message"),
    [
        (">&-", "--samples 1", 0, ""),
        ("<&-", "--novel --data -", 2, "makemore-sample: stdin has 0 words; at least 6"),
    ],
)
def test_a_closed_stream_is_like_an_empty_one(
    closed: str, flags: str, code: int, message: str, finished: Path
) -> None:
    command = f'"$0" -m makemore sample "$1" {flags} {closed}'
    argv = ["sh", "-c", command, sys.executable, str(finished / "model.safetensors")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == bool(message)


def test_every_filter_and_score(
    finished: Path, word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [finished / "model.safetensors", "-n", "200", "--seed", "3", "--unique", "--novel", "--with-score"]
    assert sample([*argv, "--prefix", "ma", "--min-length", "4", "--max-length", "6", "--top-p", "0.95"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    words = [word for word, _ in rows]
    assert len(set(words)) == 200
    assert not set(words) & set(read_words(word_file).words)
    assert all(word.startswith("ma") and 4 <= len(word) <= 6 for word in words)

    (tmp_path / "words.txt").write_text("\n".join([*words[:9], "ünknown", "", *words[9:]]))
    assert sample([finished / "model.safetensors", "--score", tmp_path / "words.txt"]) == 0
    out, err = capsys.readouterr()
    scored = [line.split("\t") for line in out.splitlines()]
    assert scored.pop(9) == ["ünknown", "nan", "nan"]
    assert err == f"{tmp_path / 'words.txt'}, line 10: 'ü' is not in the vocabulary\n"
    assert [word for word, _, _ in scored] == words
    for (word, nats, mean), (_, drawn) in zip(scored, rows, strict=True):
        assert float(nats) == pytest.approx(float(drawn), abs=2e-4)
        assert float(mean) == pytest.approx(float(nats) / (len(word) + 1), abs=1e-4)


NFC = ["Zoé", "Noël", "Anaïs", "Chloé", "Léa", "Inès", "Éloïse", "Maëlys", "Renée", "Théo", "Désirée", "Loïc"]


def decomposed(text: str) -> str:
    return unicodedata.normalize("NFD", text)


@pytest.fixture(scope="module")
def french(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run on names in NFD, like file names of a Mac, from two files joined by cat."""
    path = tmp_path_factory.mktemp("french")
    lines = ["\ufeff" + decomposed("\n".join(NFC[:6])), "\ufeff" + decomposed("\n".join(NFC[6:]))]
    (path / "names.txt").write_text("\n".join(lines), encoding="utf-8")
    argv = [
        *SMALL,
        "--data",
        path / "names.txt",
        "--case",
        "keep",
        "--steps",
        "30",
        "--samples",
        "1",
        "--out-dir",
        path / "out",
    ]
    assert train(argv) == 0
    return path / "out"


def test_words_meet_in_any_unicode_form(
    french: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = french / "model.safetensors"
    assert "é" in load_model(model).vocabulary.characters
    assert "\u0301" not in load_model(model).vocabulary.characters
    for prefix in ("Zoé", "Zoe\u0301", "Zo\u200bé"):
        assert sample([model, "--prefix", prefix, "-n", "3", "--seed", "1"]) == 0
        out, err = capsys.readouterr()
        assert (out.count("Zoé"), err) == (3, "")
    # A prefix has the length of its composed form.
    assert sample([model, "--prefix", decomposed("Zoé"), "-n", "1", "--max-length", "3"]) == 0
    capsys.readouterr()

    scores = {}
    for form, words in {"NFC": NFC, "NFD": [*map(decomposed, NFC)]}.items():
        (tmp_path / form).write_text("\n".join(words), encoding="utf-8")
        assert sample([model, "--score", tmp_path / form]) == 0
        out, err = capsys.readouterr()
        rows = [line.split("\t") for line in out.splitlines()]
        assert ([row[0] for row in rows], err) == (words, ""), "words are written as they are in the file"
        scores[form] = [row[1:] for row in rows]
    assert scores["NFC"] == scores["NFD"]
    assert draw(["probabilities", tmp_path / "a.png", "--model", model, "--word", decomposed("Zoé")]) == 0


def test_repeated_words_are_known_in_any_unicode_form() -> None:
    """A network might sample a word in another form: --unique compares in one form."""
    words = ["Zoe\u0301", "Zoé", "neu", "Nee\u0308", "Neë", "neu", "le"]
    found = unique(Sample(word, -1.0) for word in words)
    assert [sample.word for sample in found] == ["Zoe\u0301", "neu", "Nee\u0308", "le"]


def test_the_header_says_what_was_changed_in_the_list(
    french: Path, word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(["--resume", "--steps", "40", "--out-dir", french]) == 0
    data = f"data      {french.parent / 'names.txt'}: 12 words, 27 symbols\n"
    changes = (
        "          12 words brought into Unicode's composed form (NFC)\n"
        "          1 invisible character dropped: U+FEFF ZERO WIDTH NO-BREAK SPACE\n"
    )
    assert data + changes + "examples" in capsys.readouterr().out
    assert train([*SMALL, "--data", word_file, "--steps", "1", "--samples", "1", "--out-dir", tmp_path]) == 0
    out = capsys.readouterr().out
    assert "400 words, 27 symbols\nexamples" in out
    assert "lecture recipe, 1 step of 32 examples" in out
    assert "\n1 new word:\n" in out
    assert re.search(r"\n\((0 of them are|1 of them is) in the training split\)\n", out)


def test_characters_that_cannot_be_seen_are_named(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = finished / "model.safetensors"
    refused(
        capsys, sample([model, "--prefix", "x\u0302"]), 2, "character U\\+0302 COMBINING CIRCUMFLEX ACCENT is"
    )
    refused(
        capsys, sample([model, "--prefix", "a\u200db"]), 2, "the character U\\+200D ZERO WIDTH JOINER is not"
    )
    (tmp_path / "words").write_bytes("ab\u200d\na\u0302\n\u200b\n".encode() + b"b\xff\nab\n")
    assert sample([model, "--score", tmp_path / "words"]) == 0
    out, err = capsys.readouterr()
    assert [line.split("\t")[1] == "nan" for line in out.splitlines()] == [True, True, True, False]
    assert err.splitlines() == [
        f"{tmp_path / 'words'}, line 1: U+200D ZERO WIDTH JOINER is not in the vocabulary",
        f"{tmp_path / 'words'}, line 2: 'â' is not in the vocabulary",
        f"{tmp_path / 'words'}, line 4: it is not utf-8 text",
    ]


@pytest.mark.parametrize("kind", ["gzip", "utf-16-le", "xlsx", "html", "safetensors"])
def test_files_to_score_that_are_not_lists(
    kind: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, what = OTHER_FILES[kind]
    (tmp_path / "words.txt").write_bytes(content)
    argv = [finished / "model.safetensors", "--score", tmp_path / "words.txt"]
    refused(capsys, sample(argv), 2, rf"words\.txt {what}")


def test_too_few_words_to_be_unique(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("makemore.commands.sample.MAX_REPEATED", 2000)
    code = sample([finished / "model.safetensors", "-n", "9999", "--unique", "--max-length", "1"])
    out, err = capsys.readouterr()
    assert code == 1
    assert re.search(r"^makemore-sample: \d+ of 9,999 words: none of the last 2,000 sampled was unique", err)
    words = out.splitlines()
    assert len(set(words)) == len(words) == int(err.split()[1])


def test_novel_needs_the_list_of_the_training(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.txt"
    other.write_text("\n".join("abcdefgh"))
    refused(
        capsys,
        sample([finished / "model.safetensors", "--novel", "--data", other]),
        2,
        "is not the word list that the model was trained on",
    )


@pytest.mark.full
def test_the_network_without_a_convolution_samples_and_scores_too(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--network", "hierarchical-bug", "--n-hidden", "8", "--data", word_file, "--steps", "30"]
    assert train([*argv, "--out-dir", tmp_path, "--samples", "0"]) == 0
    capsys.readouterr()
    assert sample([tmp_path / "model.safetensors", "-n", "4", "--with-score", "--seed", "1"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    (tmp_path / "words.txt").write_text("\n".join(word for word, _ in rows))
    assert sample([tmp_path / "model.safetensors", "--score", tmp_path / "words.txt"]) == 0
    again = [line.split("\t")[:2] for line in capsys.readouterr().out.splitlines()]
    assert again == rows


def test_modern_recipe_end_to_end(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(["--data", word_file, "--n-hidden", "32", "--steps", "120", "--out-dir", tmp_path]) == 0
    printed = capsys.readouterr().out
    assert "modern recipe, 120 steps of 128 examples" in printed
    assert re.search(r"^ {5}60/ {4}120: \d\.\d{4} {3}val \d\.\d{4}$", printed, re.MULTILINE)
    unseen = float(re.search(r"unseen val +(\d\.\d+)", printed)[1])
    assert 2.0 < unseen < 3.0
    assert re.search(r"^\(\d+ of them are in the training split\)$", printed, re.MULTILINE)


@pytest.mark.full
def test_millions_of_words_get_a_wider_network(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the width is given, or the steps are few."""
    monkeypatch.setattr(modern_recipe, "WIDE_NETWORK_EXAMPLES", 1000)
    printed = []
    for flags in ([], ["--steps", "20"], ["--n-hidden", "12"]):
        argv = ["--data", word_file, "--network", "mlp", "--effort", "quick", *flags]
        assert train([*argv, "--overwrite", "--out-dir", tmp_path]) == 0
        printed.append(re.findall(r"n_hidden (\d+)", capsys.readouterr().out))
    assert printed == [["400"], ["200"], ["12"]]
    assert load_model(tmp_path / "model.safetensors").plan.n_hidden == 12


def test_few_words_train_several_networks(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--data", word_file, "--steps", "2", "--n-hidden", "8", "--samples", "0"]
    for name, flags, members in [("default", [], 8), ("one", ["--ensemble", "1"], 1)]:
        assert train([*argv, *flags, "--out-dir", tmp_path / name]) == 0
        assert (f", {members} members\n" in capsys.readouterr().out) == (members > 1)
        model = load_model(tmp_path / name)
        assert len(members_of(model.network)) == members
        assert model.progress is not None
        assert model.progress.settings["ensemble"] == members


@pytest.mark.full
def test_an_ensemble_end_to_end(word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The losses printed at the end and the scores are those of the mean."""
    argv = [
        "--data",
        word_file,
        "--n-hidden",
        "16",
        "--steps",
        "60",
        "--ensemble",
        "3",
        "--out-dir",
        tmp_path,
    ]
    assert train(argv) == 0
    printed = capsys.readouterr().out
    assert "n_embd 24, n_hidden 16, 3 members" in printed
    parameters = 27 * 24 + 48 * 16 + 2 * 32 * 16 + 3 * 32 + 16 * 27 + 27
    assert f"3 such networks, {3 * parameters:,} parameters" in printed
    model, splits = tmp_path / "model.safetensors", read_words(word_file).split()
    members = members_of(load_model(model).network)
    X, Y = read_words(word_file).data(8).val[:]
    mean = torch.stack([network(X).softmax(1) for network in members]).mean(0)
    val = -mean.log().gather(1, Y.unsqueeze(1)).mean().item()
    assert float(re.search(r"^val +(\d\.\d+)", printed, re.MULTILINE)[1]) == pytest.approx(val, abs=1e-4)
    (tmp_path / "val.txt").write_text("\n".join(splits[1]))
    assert sample([model, "--score", tmp_path / "val.txt"]) == 0
    scores = [float(line.split("\t")[1]) for line in capsys.readouterr().out.splitlines()]
    assert -sum(scores) / len(X) == pytest.approx(val, abs=1e-4)
    assert sample([model, "-n", "7", "--novel", "--unique", "--with-score", "--prefix", "an"]) == 0
    assert len(re.findall(r"^an\w*\t-\d", capsys.readouterr().out, re.MULTILINE)) == 7
    assert draw([tmp_path / "nodes.png", "--model", model]) == 0


def test_model_file_is_enough(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = tmp_path / "elsewhere.pt"
    alone.write_bytes((finished / "model.safetensors").read_bytes())
    assert sample([alone, "-n", "3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps", "0"], "--steps: must be a whole number from 1 to"),
        (["--steps", "-5"], "--steps: must be"),
        (["--steps", "many"], "--steps: must be.*'many'"),
        (["--batch-size", "1"], "--batch-size: must be a whole number from 2"),
        (["--recipe", "classic"], "--recipe: invalid choice: 'classic'"),
        (["--engine", "magic"], "--engine: invalid choice"),
        (["--recipe", "lecture", "--context-dropout", "0.1"], "the lecture recipe has no --context-dropout"),
        (["--teachers", "2", "--targets", "hard"], "teachers need soft targets"),
        (["--lr-drop", "10"], "the modern recipe has no --lr-drop"),
        (["--lr", "nan"], "--lr: must be a number"),
        (["--lr", "-1"], "--lr: must be"),
        (["--seed", "-1"], "--seed: must be"),
        (["--network", "lstm"], "unknown network 'lstm': choose from mlp, mlp-8"),
        (["--network", "wavenet", "--block-size", "6"], "power of two from 2 up.*got 6"),
        (["--block-size", "0"], "--block-size: must be"),
        (["--device", "cuda:99"], "device cuda:99 does not exist"),
        (["--device", "tpu"], "unknown device 'tpu': choose auto, cpu, cuda"),
        (["--device", "mps"], "device mps is not supported.*: use cpu"),
        (["--speed", "9"], "unrecognized arguments: --speed"),
        (["--data", "/nowhere/words.txt"], "cannot read the word list /nowhere/words.txt: No such file"),
        (["--data", 300 * "a"], "cannot read the word list a+: File name too long"),
    ],
)
def test_train_refuses_bad_flags(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = train([*flags, "--out-dir", tmp_path / "out"])
    refused(capsys, code, 2, message)
    assert not (tmp_path / "out").exists()


def test_a_traceback_is_printed_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAKEMORE_TRACEBACK", "1")
    assert sample([tmp_path / "none"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == f"makemore-sample: cannot read {tmp_path / 'none'}: No such file or directory"


def test_cuda_is_refused_if_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is CUDA here")
    refused(
        capsys,
        train(["--device", "cuda", "--out-dir", tmp_path]),
        2,
        "device cuda does not exist: torch finds 0 CUDA devices",
    )


@pytest.mark.parametrize(("content", "message"), BAD_LISTS)
def test_train_refuses_bad_lists(
    content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    refused(capsys, train(["--data", path, "--out-dir", tmp_path / "out"]), 2, f"words.txt .*({message})")


def test_train_refuses_a_used_directory(
    finished: Path, word_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "model.safetensors").read_bytes()
    argv = [*SMALL, "--data", word_file, "--steps", "10", "--out-dir", finished]
    refused(
        capsys,
        train(argv),
        2,
        r"model\.safetensors already exists: --overwrite it, or choose",
    )
    assert (finished / "model.safetensors").read_bytes() == before


def test_overwrite(word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*SMALL, "--data", word_file, "--steps", "10", "--out-dir", tmp_path]
    assert train(argv) == 0
    before = (tmp_path / "model.safetensors").read_bytes()
    assert train([*argv, "--seed", "1", "--overwrite"]) == 0
    assert (tmp_path / "model.safetensors").read_bytes() != before


def test_train_refuses_a_directory_it_cannot_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    refused(capsys, train(["--out-dir", tmp_path / "file"]), 2, "cannot create the directory .*file")
    refused(capsys, train(["--out-dir", "/proc/makemore"]), 2, "cannot (create|write to) the directory")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--samples", "-1"], "--samples: must be"),
        (["--temperature", "-1"], "--temperature: must be"),
        (["--temperature", "hot"], "--temperature: must be.*'hot'"),
        (["--top-k", "0"], "--top-k: must be"),
        (["--max-length", "0"], "--max-length: must be"),
        (["--prefix", "aé"], "the character 'é' is not in the vocabulary"),
        (["--prefix", "abcde", "--max-length", "4"], "--prefix 'abcde' is longer than --max-length 4"),
        (["--min-length", "5", "--max-length", "4"], "--min-length must be from 0 to --max-length 4, got 5"),
        (["--top-p", "0"], "--top-p must be above 0"),
        (["--top-p", "1.5"], "--top-p: must be"),
        (["--score", "/nowhere/words.txt"], "cannot read the word list /nowhere/words.txt: No such file"),
        (["--score", "words.txt", "--novel"], "--score samples no words: leave out --novel"),
        (["--score", "words.txt", "--seed", "0", "--samples", "5"], "leave out --samples, --seed"),
        (["--novel", "--data", "/nowhere/words.txt"], "cannot read the word list /nowhere"),
        (["--device", "tpu"], "unknown device 'tpu'"),
    ],
)
def test_sample_refuses_bad_flags(
    flags: list[str], message: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, sample([finished / "model.safetensors", *flags]), 2, message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read .*model\\.safetensors: No such file"),
        (b"", "is not a makemore model file: it is empty"),
        (b"PK\x03\x04", "is not a makemore model file: it is a zip file; unpack it"),
        (b"emma\nava\n", "is not a makemore model file: it is a text file"),
        (random.Random(2).randbytes(999), "is not a makemore model file, or it is damaged"),
        (POINTER, "is not a makemore model file: it is a Git LFS pointer; get the file with git lfs pull"),
        (saved({"format": "makemore model"}), "was written by a pre-release of makemore; train it again"),
        (saved({"weight": torch.ones(3)}), "is not a makemore model file: it is a PyTorch file"),
        (PAGE.encode(), "is not a makemore model file: it is an HTML page; download the file itself"),
    ],
)
def test_sample_refuses_files_that_are_not_models(
    content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.safetensors"
    if content is not None:
        path.write_bytes(content)
    refused(capsys, sample([path]), 2, f"model\\.safetensors.* {message}" if content is not None else message)


def test_divergence_is_noticed(word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*SMALL, "--data", word_file, "--steps", "500", "--lr", "1e30", "--out-dir", tmp_path]
    code = train(argv)
    refused(capsys, code, 1, r"diverged: at step \d+ the (loss|network) is .*try a lower --lr")


def test_a_teacher_that_diverges_at_its_last_step_is_noticed(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All its losses are finite, but its weights are not, and a file of such weights would be refused."""
    tiny = ["--n-embd", "4", "--n-hidden", "8", "--data", word_file, "--out-dir", tmp_path]
    code = train([*tiny, "--steps", "8", "--teachers", "1", "--lr", "1e30"])
    refused(capsys, code, 1, r"diverged: at step 2 teacher 1 is not finite; try a lower --lr than 1e\+30")


def test_help_names_every_network(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "10000")  # else a name may be broken at its hyphen
    assert train(["--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    (names,) = re.findall(r"--network NAME (mlp: .*?) \(default: wavenet\) --block-size", text)
    assert names == "; ".join(f"{plan.name}: {plan.help}" for plan in NETWORKS.values())
    assert all(plan.help for plan in NETWORKS.values())


@pytest.mark.full
@pytest.mark.parametrize(
    "name", [r"le $\foo$.txt", "_^{}$$.txt", "words\udcff.txt", "日本語.txt", "a\nb.txt"]
)
def test_any_file_name_can_be_in_the_title_of_the_picture(
    name: str, word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(word_file.read_bytes())
    argv = [*SMALL, "--data", tmp_path / name, "--steps", "5", "--out-dir", tmp_path / "out"]
    assert train(argv) == 0
    assert capsys.readouterr().err == ""
    assert (tmp_path / "out" / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_survives_a_picture_that_fails(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("no\nroom")

    def check(message: str) -> None:
        out, err = capsys.readouterr()
        assert len(err.splitlines()) == 1
        assert f"makemore-train: cannot write {tmp_path / 'loss.png'}: {message}\n" == err
        assert "3 new words:" in out
        assert out.splitlines()[-3] == f"wrote {tmp_path / 'model.safetensors'}, {tmp_path / 'losses.csv'}"
        progress = load_model(tmp_path / "model.safetensors").progress
        assert progress is not None
        assert progress.finished

    argv = [*SMALL, "--data", word_file, "--samples", "3", "--out-dir", tmp_path]
    with monkeypatch.context() as patch:
        patch.setattr(makemore.pictures.figures, "save_figure", fail)
        assert train([*argv, "--steps", "5"]) == 0
    check("no room")
    (tmp_path / "loss.png" / "full").mkdir(parents=True)
    assert train(["--resume", "--steps", "8", "--out-dir", tmp_path]) == 0
    check("it is not a regular file")
    refused(capsys, train([*argv, "--steps", "5", "--overwrite"]), 2, "loss.png is a directory: choose")


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--network", "mlp"], 0, "wrote "),
        (["--network", "wavenet", "--word", "$x_日\udcff"], 0, "wrote "),
        (["--network", "wavenet", "--word", ""], 0, "wrote "),
        (["--network", "lstm"], 2, "makemore-draw: unknown network 'lstm': choose from mlp"),
        (["--model", "none"], 2, "makemore-draw: cannot read none: No such file"),
        (["--model", "none", "--network", "mlp"], 2, "--model and --network both name a network: choose one"),
    ],
)
def test_drawing(
    flags: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "nodes.png"
    assert draw([picture, *flags]) == code
    out, err = capsys.readouterr()
    assert message in out + err
    assert len((out + err).splitlines()) == 1
    assert picture.exists() == (code == 0)


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["activation"], 2, "unknown picture 'activation': choose from nodes, tree, probabilities"),
        (["nodes", "a.jpg"], 2, "a picture is a .png, .svg or .pdf file, not 'a.jpg'"),
        (["activation", "a.png"], 2, "unknown picture 'activation': choose from nodes"),
        (
            ["tree", "--network", "mlp"],
            2,
            "--network is for nodes only; tree needs a trained network, by --model",
        ),
        (["tree", "--model", "MODEL", "--word", "a!"], 2, "the character '!' is not in the vocabulary"),
        (["probabilities", "--model", "MODEL", "--word", "a" * 201], 2, "201 characters cannot be drawn"),
        (["gradients", "--model", "MODEL"], 2, "No such file or directory; makemore-train --record-every 10"),
        (["tree", "--model", "MODEL"], 0, "wrote tree.png"),
        (["embedding", "deep/a.png", "--model", "MODEL"], 1, "cannot write deep/a.png: No such file"),
    ],
)
def test_pictures_of_a_trained_network(
    argv: list[str],
    code: int,
    message: str,
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert draw([str(finished / "model.safetensors") if arg == "MODEL" else arg for arg in argv]) == code
    out, err = capsys.readouterr()
    assert message in out + err
    assert len((out + err).splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == (["tree.png"] if code == 0 else [])


def test_a_picture_of_the_bundled_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert draw(["probabilities", "--word", "zoe"]) == 0
    out, err = capsys.readouterr()
    assert out == "wrote probabilities.png\n"
    assert err.startswith("makemore-draw: there is no run in out/, so this is the bundled network")


@pytest.mark.full
def test_all_pictures_of_a_run_that_recorded_its_gradients(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = ["--network", "mlp", "--block-size", "2", "--n-embd", "3", "--n-hidden", "4", "--samples", "0"]
    argv = [*tiny, "--data", word_file, "--steps", "6", "--record-every", "2", "--out-dir", tmp_path]
    assert train(argv) == 0
    assert f"{tmp_path / 'loss.png'}, {tmp_path / 'gradients.csv'}\n" in capsys.readouterr().out
    assert draw(["all", tmp_path / "all", "--model", tmp_path / "model.safetensors"]) == 0
    written = [f"wrote {tmp_path / 'all' / name}.png" for name in PICTURES]
    assert capsys.readouterr().out.splitlines() == written
    assert all((tmp_path / "all" / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in PICTURES)
    assert draw(["gradients", tmp_path / "of-the-folder.png", "--model", tmp_path]) == 0
    by_file = (tmp_path / "all" / "gradients.png").read_bytes()
    assert (tmp_path / "of-the-folder.png").read_bytes() == by_file
    assert train([*argv[:-4], "--overwrite", "--out-dir", tmp_path]) == 0
    assert not (tmp_path / "gradients.csv").exists()


@pytest.mark.full
def test_drawing_the_network_of_a_model_file(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [str(tmp_path / "a.png"), "--model", str(finished / "model.safetensors")]
    assert draw_main(argv) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    for ending, start in (("svg", b"<?xml"), ("PDF", b"%PDF")):
        assert draw_main([str(tmp_path / f"a.{ending}"), *argv[1:]]) == 0
        assert (tmp_path / f"a.{ending}").read_bytes().startswith(start)
    assert draw_main(["nodes", *argv[1:], str(tmp_path / "b.png")]) == 0, "flags in between"
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "a.png").read_bytes()
    assert draw_main([str(tmp_path / "none" / "a.png")]) == 1
    assert "makemore-draw: cannot write" in capsys.readouterr().err
