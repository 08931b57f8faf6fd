"""Shards of ``makemore-sample``: joined, they equal the whole output byte for byte.

And its files: compressed or not, written whole or not at all; a broken file gives an error of one line.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Generator

import makemore.commands.sample
from makemore.commands.cli import sample_main, train_main
from makemore.data import reading
from makemore.inference.generation import generate, generate_scored
from makemore.run.model_file import Model

few_examples = settings(
    max_examples=12,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def model_file(word_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model file of a small run."""
    out = tmp_path_factory.mktemp("run") / "out"
    argv = ["--recipe", "lecture", "--n-hidden", "16", "--steps", "300", "--device", "cpu"]
    assert train_main([*argv, "--data", str(word_file), "--out-dir", str(out)]) == 0
    return out / "model.safetensors"


def written(path: Path, *flags: object) -> bytes:
    """The content of the file that the command writes; its exit code is 0."""
    assert sample_main([*map(str, flags), "--output", str(path)]) == 0
    content = path.read_bytes()
    path.unlink()
    return content


def in_shards(path: Path, n: int, flags: Sequence[object]) -> bytes:
    """All shards, joined."""
    return b"".join(written(path, *flags, "--shard", f"{i}/{n}") for i in range(1, n + 1))


@pytest.mark.full
@few_examples
@given(
    number=st.integers(0, 3000),
    n=st.integers(1, 7),
    seed=st.integers(0, 2**63 - 1),
    flags=st.lists(
        st.sampled_from(["--with-score", "--min-length=3", "--top-p=0.8", "--temperature=2", "--prefix=a"]),
        max_size=2,
        unique=True,
    ),
    compressed=st.booleans(),
)
def test_words_in_shards_are_the_words_of_the_whole(
    number: int, n: int, seed: int, flags: list[str], compressed: bool, model_file: Path, tmp_path: Path
) -> None:
    argv = [model_file, "--samples", number, "--seed", seed, *flags]
    whole = written(tmp_path / "whole", *argv)
    assert whole.count(b"\n") == number
    joined = in_shards(tmp_path / ("part.gz" if compressed else "part"), n, argv)
    assert (gzip.decompress(joined) if compressed else joined) == whole


@pytest.mark.parametrize("batch", [1024, 2048])
def test_a_part_is_a_slice_of_the_words_bit_for_bit(batch: int, small_model: Model) -> None:
    """More words than a batch, so that whole batches are skipped; also without a number of words."""
    arguments = (small_model.network, small_model.vocabulary)

    def seeded() -> Generator:
        return Generator().manual_seed(3)

    whole = list(generate_scored(*arguments, seeded(), 5000, batch=batch))
    rng = random.Random(0)
    for _ in range(6):
        part = range(*sorted(rng.choices(range(5001), k=2)))
        expected = whole[part.start : part.stop]
        assert list(generate_scored(*arguments, seeded(), 5000, batch=batch, part=part)) == expected
        endless = generate(*arguments, seeded(), part=part, batch=batch)
        assert list(endless) == [sample.word for sample in expected]


def test_batches_without_words_to_write_are_not_sampled(small_model: Model) -> None:
    sampled = []

    def counted(words: Sequence[str]) -> list[bool]:
        sampled.append(len(words))
        return [True] * len(words)

    generator, part = Generator().manual_seed(1), range(2100, 3000)
    arguments = (small_model.network, small_model.vocabulary, generator, 5000)
    assert len(list(generate(*arguments, part=part, batch=1024, accept=counted))) == 900
    assert sampled == [1024]


@pytest.mark.full
@pytest.mark.parametrize("name", ["words", "words.csv", "words.jsonl.gz"])
def test_accepted_words_in_shards(name: str, model_file: Path, tmp_path: Path) -> None:
    """Also across the words of several seeds. The first shard of a table has the names of the columns."""
    argv = [model_file, "--samples", 2100, "--seed", 4, "--not-near", 1, "--novel", "--max-length", 4]
    whole = written(tmp_path / name, *argv)
    for n in (2, 5):
        joined = in_shards(tmp_path / name, n, argv)
        assert joined == whole or gzip.decompress(joined) == gzip.decompress(whole)


def test_unique_words_are_the_different_ones(model_file: Path, tmp_path: Path) -> None:
    argv = [model_file, "--seed", 4, "--novel", "--with-score", "--max-length", 3]
    words = written(tmp_path / "words", *argv, "--samples", 900).splitlines()
    different = list(dict.fromkeys(words))
    assert 100 < len(different) < 900
    unique = written(tmp_path / "words", *argv, "--samples", len(different), "--unique")
    assert [line.split(b"\t")[0] for line in unique.splitlines()] == [
        line.split(b"\t")[0] for line in different
    ]


LINES = ["anna", "", "zoë", "  mia ", "ann\udcff", "a" * 300, "..", "ÿ", "emma\r", "ada\r \ranna", "ada\tb"]


@few_examples
@given(
    lines=st.lists(st.sampled_from(LINES), max_size=60),
    end=st.sampled_from(["", "\n"]),
    mark=st.sampled_from(["", "\ufeff"]),
    n=st.integers(1, 9),
    chunk=st.sampled_from([1, 3, 8, 8192]),
    compressed=st.booleans(),
)
def test_scores_in_shards_are_the_scores_of_the_whole(
    lines: list[str],
    end: str,
    mark: str,
    n: int,
    chunk: int,
    compressed: bool,
    model_file: Path,
    tmp_path: Path,
) -> None:
    content = (mark + "\n".join(lines) + end).encode("utf-8", "surrogateescape")
    words = tmp_path / ("words.txt.gz" if compressed else "words.txt")
    words.write_bytes(gzip.compress(content) if compressed else content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(makemore.commands.sample, "SCORED_LINES", chunk)
        whole = written(tmp_path / "whole", model_file, "--score", words)
        assert gzip.decompress(in_shards(tmp_path / "part.gz", n, [model_file, "--score", words])) == whole
    assert whole.count(b"\n") == sum(bool(word.strip()) for line in lines for word in line.split("\r"))
    assert b"\r" not in whole


def test_shards_report_unknown_characters_by_the_line_of_the_file(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(makemore.commands.sample, "SCORED_LINES", 2)
    words = tmp_path / "words.txt"
    words.write_text("anna\nÿ\n\nmia\nada\nÿ")
    for shard, lines in (("1/2", ["2"]), ("2/2", ["6"])):
        assert sample_main([str(model_file), "--score", str(words), "--shard", shard]) == 0
        assert re.findall(r"words.txt, line (\d): 'ÿ'", capsys.readouterr().err) == lines


def test_scoring_stdin_in_shards(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = tmp_path / "words.txt"
    words.write_text("anna\nmia\nada\n")
    argv = [str(model_file), "--score", "-", "--shard", "2/3"]
    with words.open(encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert sample_main(argv) == 0
    assert capsys.readouterr().out.startswith("mia\t")
    reader, writer = os.pipe()
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        assert sample_main(argv) == 2
        assert capsys.readouterr().err.count("--shard counts the lines first: give a file") == 1
        assert sample_main(argv[:3]) == 0


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--shard", "3/2"], 2, "--shard must be I/N, I from 1 to N, got '3/2'"),
        (["--shard", "0/2"], 2, "--shard must be I/N"),
        (["--shard", "1"], 2, "--shard must be I/N"),
        (["--shard", "1/2"], 2, "--shard needs --seed"),
        (["--shard", "1/2", "--seed", "1", "--unique"], 2, r"awk '!seen\[\$0\]\+\+'"),
        (["--shard", "1/2", "--seed", "1", "--good"], 2, "--unique, which --good sets, compares all words"),
        (["--output", "/nowhere/words.txt"], 1, "cannot write /nowhere/words.txt: No such file"),
        (["--output", "/dev/null"], 2, "cannot write /dev/null: it is not a regular file"),
        (["--output", "/"], 2, "cannot write /: it is not a regular file"),
        (
            ["--output", "/nowhere/words.zst"],
            2,
            r"cannot write /nowhere/words.zst: the only compressed output is .gz",
        ),
        (["--score", "/nowhere/words.gz"], 2, "cannot read the word list /nowhere/words.gz: No such file"),
        (["--score", ""], 2, "cannot read the word list : No such file"),
    ],
)
def test_wrong_flags(
    flags: list[str], code: int, message: str, model_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        ended = sample_main([str(model_file), *flags])
    except SystemExit as stop:
        ended = int(stop.code or 0)
    out, err = capsys.readouterr()
    assert (ended, out) == (code, "")
    assert re.search(message, err)
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(("suffix", "compress"), [("bz2", bz2.compress), ("XZ", lzma.compress)])
def test_words_in_other_compressed_formats_are_scored(
    suffix: str, compress: Callable[[bytes], bytes], model_file: Path, tmp_path: Path
) -> None:
    content = "\n".join(random.Random(1).choices(["anna", "mia", "ada"], k=9000)).encode()
    words, plain = tmp_path / f"words.{suffix}", tmp_path / "words"
    words.write_bytes(compress(content))
    plain.write_bytes(content)
    argv = [model_file, "--shard", "2/2", "--score"]
    assert written(tmp_path / "a", *argv, words) == written(tmp_path / "b", *argv, plain)


def test_a_line_that_is_too_long_is_refused(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a list to train on. A carriage return ends a line."""
    monkeypatch.setattr(reading, "LONGEST_LINE", 8)
    monkeypatch.setattr(reading, "BLOCK", 8)
    words = tmp_path / "words"
    words.write_text("anna\rmia\rada\rmaria\n")
    assert sample_main([str(model_file), "--score", str(words)]) == 0
    assert capsys.readouterr().out.count("\n") == 4
    words.write_text("anna\nannamiaada\n")
    assert sample_main([str(model_file), "--score", str(words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"makemore-sample: line 2 of .*words has more than .* a word list has one .*\n", err)


@pytest.mark.parametrize("fault", ["cut", "changed", "plain"])
def test_a_broken_gzip_file_is_refused(
    fault: str, model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = "\n".join(random.Random(1).choices(["anna", "mia", "ada"], k=9000)).encode()
    changed = bytearray(gzip.compress(content))
    changed[len(changed) // 2] ^= 4
    words, scores = tmp_path / "words.gz", tmp_path / "scores"
    scores.write_text("before")
    broken = {"cut": gzip.compress(content)[:-20], "changed": bytes(changed), "plain": content}
    words.write_bytes(broken[fault])
    assert sample_main([str(model_file), "--score", str(words), "--output", str(scores)]) == 2
    out, err = capsys.readouterr()
    why = (
        r"not compressed: name it \S*words"
        if fault == "plain"
        else "broken or cut short, it cannot be .+: .+"
    )
    assert re.fullmatch(rf"makemore-sample: \S*words\.gz is {why}\n", err)
    assert out == ""
    assert scores.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores", "words.gz"]


@pytest.mark.parametrize("name", ["words.txt", "words.txt.gz"])
def test_a_full_disk(
    name: str,
    model_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert sample_main([str(model_file), "--output", str(tmp_path / name)]) == 1
    assert (
        capsys.readouterr().err
        == f"makemore-sample: cannot write {tmp_path / name}: No space left on device\n"
    )
    assert not list(tmp_path.iterdir())


def test_the_same_words_give_the_same_compressed_bytes(model_file: Path, tmp_path: Path) -> None:
    argv = [model_file, "--seed", 1, "--samples", 50]
    assert written(tmp_path / "a.gz", *argv) == written(tmp_path / "b.gz", *argv)
    assert gzip.decompress(written(tmp_path / "a.GZ", *argv)) == written(tmp_path / "a", *argv)
