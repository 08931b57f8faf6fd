"""Shards of what ``makemore-sample`` writes: in a row they are the whole, byte for byte, however many.

And files: packed or not, written whole or not at all; what is broken is one line.
"""

from __future__ import annotations

import bz2
import ctypes
import gzip
import io
import lzma
import os
import random
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Generator

import makemore.commands.sample
import makemore.convolution.generation
from makemore.commands.cli import sample_main, train_main
from makemore.commands.lines import number_of_lines, skip_lines
from makemore.commands.sample import keep_freed_memory
from makemore.convolution import generate, generate_scored
from makemore.model_file import Model

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
    """What the command writes into a file, after ending as it should."""
    assert sample_main([*map(str, flags), "--output", str(path)]) == 0
    content = path.read_bytes()
    path.unlink()
    return content


def in_parts(path: Path, n: int, flags: Sequence[object]) -> bytes:
    """The parts in a row."""
    return b"".join(written(path, *flags, "--shard", f"{i}/{n}") for i in range(1, n + 1))


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
    packed=st.booleans(),
)
def test_words_in_parts_are_the_words_of_the_whole(
    number: int, n: int, seed: int, flags: list[str], packed: bool, model_file: Path, tmp_path: Path
) -> None:
    argv = [model_file, "--number", number, "--seed", seed, *flags]
    whole = written(tmp_path / "whole", *argv)
    assert whole.count(b"\n") == number
    parts = in_parts(tmp_path / ("part.gz" if packed else "part"), n, argv)
    assert (gzip.decompress(parts) if packed else parts) == whole


@pytest.mark.parametrize("batch", [1024, 2048])
def test_a_part_is_a_slice_of_the_words_bit_for_bit(batch: int, small_model: Model) -> None:
    """More words than grow together, so that whole batches are passed over; and words without end."""
    arguments = (small_model.network, small_model.vocabulary)

    def seeded() -> Generator:
        return Generator().manual_seed(3)

    whole = list(generate_scored(*arguments, seeded(), 5000, batch=batch))
    drawn = random.Random(0)
    for _ in range(6):
        part = range(*sorted(drawn.choices(range(5001), k=2)))
        expected = whole[part.start : part.stop]
        assert list(generate_scored(*arguments, seeded(), 5000, batch=batch, part=part)) == expected
        endless = generate(*arguments, seeded(), part=part, batch=batch)
        assert list(endless) == [sample.word for sample in expected]


def test_batches_without_wanted_words_are_not_drawn(
    small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown = []
    grow = makemore.convolution.generation._grow

    def counted(*args: object) -> object:
        grown.append(args[3])
        return grow(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(makemore.convolution.generation, "_grow", counted)
    generator = Generator().manual_seed(1)
    arguments = (small_model.network, small_model.vocabulary, generator, 5000)
    assert len(list(generate(*arguments, part=range(2100, 3000), batch=1024))) == 900
    assert grown == [1024]


def test_novel_words_in_parts(model_file: Path, tmp_path: Path) -> None:
    """How many are drawn is told, so that each part knows its own; joined, they can be made unique."""
    argv = [model_file, "--draws", 900, "--seed", 4, "--novel", "--with-score", "--max-length", 3]
    whole = written(tmp_path / "words", *argv)
    assert 100 < whole.count(b"\n") < 900
    for n in (2, 5):
        assert in_parts(tmp_path / "part", n, argv) == whole
    unique = written(tmp_path / "words", *argv, "--unique")
    first_ones = dict.fromkeys(whole.splitlines())
    assert unique.splitlines() == list(first_ones)
    assert len(first_ones) < whole.count(b"\n")


LINES = ["anna", "", "zoë", "  mia ", "ann\udcff", "a" * 300, "..", "ÿ", "emma\r", "ada\r \ranna", "ada\tb"]


@few_examples
@given(
    lines=st.lists(st.sampled_from(LINES), max_size=60),
    end=st.sampled_from(["", "\n"]),
    mark=st.sampled_from(["", "\ufeff"]),
    n=st.integers(1, 9),
    chunk=st.sampled_from([1, 3, 8, 8192]),
    packed=st.booleans(),
)
def test_scores_in_parts_are_the_scores_of_the_whole(
    lines: list[str],
    end: str,
    mark: str,
    n: int,
    chunk: int,
    packed: bool,
    model_file: Path,
    tmp_path: Path,
) -> None:
    content = (mark + "\n".join(lines) + end).encode("utf-8", "surrogateescape")
    words = tmp_path / ("words.txt.gz" if packed else "words.txt")
    words.write_bytes(gzip.compress(content) if packed else content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(makemore.commands.sample, "CHUNK", chunk)
        whole = written(tmp_path / "whole", model_file, "--score", words)
        assert gzip.decompress(in_parts(tmp_path / "part.gz", n, [model_file, "--score", words])) == whole
    assert whole.count(b"\n") == sum(bool(word.strip()) for line in lines for word in line.split("\r"))
    assert b"\r" not in whole


def test_parts_report_unknown_characters_by_the_line_of_the_file(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(makemore.commands.sample, "CHUNK", 2)
    words = tmp_path / "words.txt"
    words.write_text("anna\nÿ\n\nmia\nada\nÿ")
    for shard, lines in (("1/2", ["2"]), ("2/2", ["6"])):
        assert sample_main([str(model_file), "--score", str(words), "--shard", shard]) == 0
        assert re.findall(r"words.txt, line (\d): 'ÿ'", capsys.readouterr().err) == lines


def test_scoring_stdin_in_parts(
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
        assert capsys.readouterr().err.count("--shard counts the lines first: give --score a file") == 1
        assert sample_main(argv[:3]) == 0


@pytest.mark.parametrize("size", [1, 7, 8192])
def test_lines_are_counted_and_passed_over(size: int) -> None:
    drawn = random.Random(0)
    for _ in range(100):
        content = b"".join(drawn.choices([b"a", b"\n", b"\r", b"bc"], k=drawn.randrange(30)))
        lines = content.splitlines(keepends=True) if b"\r" not in content else io.BytesIO(content).readlines()
        file = io.BufferedReader(io.BytesIO(content), size)  # type: ignore[arg-type]
        assert number_of_lines(file) == len(lines)
        skipped = drawn.randrange(len(lines) + 2)
        skip_lines(file, skipped)
        assert file.readlines() == lines[skipped:]


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--shard", "3/2"], 2, "--shard must be I/N, I from 1 to N, got '3/2'"),
        (["--shard", "0/2"], 2, "--shard must be I/N"),
        (["--shard", "1"], 2, "--shard must be I/N"),
        (["--shard", "1/2"], 2, "--shard needs --seed"),
        (["--shard", "1/2", "--seed", "1", "--novel"], 2, "--shard with --novel needs --draws"),
        (["--shard", "1/2", "--seed", "1", "--unique", "--draws", "9"], 2, r"awk '!seen\[\$0\]\+\+'"),
        (["--number", "9", "--draws", "9"], 2, "--draws: not allowed with argument -n/--number"),
        (["--output", "/nowhere/words.txt"], 1, "cannot write /nowhere/words.txt: No such file"),
        (["--output", "/dev/null"], 2, "cannot write /dev/null: that is no file"),
        (["--output", "/"], 2, "cannot write /: that is no file"),
        (["--output", "/nowhere/words.zst"], 2, r"cannot write /nowhere/words.zst: lines are packed as .gz"),
        (["--score", "/nowhere/words.gz"], 2, "cannot read /nowhere/words.gz: No such file"),
        (["--score", ""], 2, "cannot read : No such file"),
    ],
)
def test_flags_that_cannot_be(
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


@pytest.mark.parametrize(("ending", "pack"), [("bz2", bz2.compress), ("XZ", lzma.compress)])
def test_words_packed_otherwise_are_scored_too(
    ending: str, pack: Callable[[bytes], bytes], model_file: Path, tmp_path: Path
) -> None:
    content = "\n".join(random.Random(1).choices(["anna", "mia", "ada"], k=9000)).encode()
    words, plain = tmp_path / f"words.{ending}", tmp_path / "words"
    words.write_bytes(pack(content))
    plain.write_bytes(content)
    argv = [model_file, "--shard", "2/2", "--score"]
    assert written(tmp_path / "a", *argv, words) == written(tmp_path / "b", *argv, plain)


def test_a_line_that_is_too_long_is_refused(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a list to train on; lines that a carriage return ends are many."""
    monkeypatch.setattr(makemore.commands.sample, "LONGEST_LINE", 8)
    words = tmp_path / "words"
    words.write_text("anna\rmia\rada\rmaria\n")
    assert sample_main([str(model_file), "--score", str(words)]) == 0
    assert capsys.readouterr().out.count("\n") == 4
    words.write_text("anna\nannamiaada\n")
    assert sample_main([str(model_file), "--score", str(words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"makemore-sample: line 2 of .*words has more than .* a word list has one .*\n", err)


@pytest.mark.parametrize("how", ["cut", "bent", "plain"])
def test_gzip_that_is_broken(
    how: str, model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = "\n".join(random.Random(1).choices(["anna", "mia", "ada"], k=9000)).encode()
    packed = bytearray(gzip.compress(content))
    packed[len(packed) // 2] ^= 4
    words, scores = tmp_path / "words.gz", tmp_path / "scores"
    scores.write_text("before")
    words.write_bytes({"cut": gzip.compress(content)[:-20], "bent": bytes(packed), "plain": content}[how])
    assert sample_main([str(model_file), "--score", str(words), "--output", str(scores)]) == 2
    out, err = capsys.readouterr()
    assert re.fullmatch(r"makemore-sample: \S*words.gz is broken or cut short, it cannot .+\n", err)
    assert out == ""
    assert scores.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores", "words.gz"]


@pytest.mark.parametrize("name", ["words.txt", "words.txt.gz"])
def test_a_disk_that_is_full(
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


def test_the_same_words_are_the_same_packed_bytes(model_file: Path, tmp_path: Path) -> None:
    argv = [model_file, "--seed", 1, "--number", 50]
    assert written(tmp_path / "a.gz", *argv) == written(tmp_path / "b.gz", *argv)
    assert gzip.decompress(written(tmp_path / "a.GZ", *argv)) == written(tmp_path / "a", *argv)


@pytest.mark.parametrize(
    ("largest", "set_to"),
    [(2**31, [(-3, 2**30), (-1, 2**31 - 1)]), (2**25, [(-3, 2**25), (-1, 2**31 - 1)]), (0, [])],
)
def test_memory_is_kept_by_every_glibc(
    largest: int, set_to: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it refuses the one parameter, the other one alone would make sampling slower."""
    done: list[tuple[int, int]] = []

    def mallopt(parameter: int, value: int) -> int:
        if parameter == -3 and value > largest:
            return 0
        done.append((parameter, value))
        return 1

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    keep_freed_memory()
    assert done == set_to
