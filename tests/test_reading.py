"""Word lists plain, packed, on stdin, and broken: what is read, and what is said."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from makemore import reading, seen, shuffle
from makemore.bars import DELAY, bar
from makemore.commands.cli import train_main
from makemore.errors import DataError
from makemore.reading import BLOCK, blocks, texts
from makemore.words import read_words

WORDS = ["anna", "bob", "de la cruz", "Жанна", "王", "zoë", "anna", "j.r."]
LIST = "\n".join(WORDS).encode()


def zstd(content: bytes) -> bytes:
    """With a checksum, as the command zstd writes it."""
    package = pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    packed: bytes = package.compress(content, options={package.CompressionParameter.checksum_flag: 1})
    return packed


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".ZST": zstd,
}


@pytest.mark.parametrize("ending", PACKERS)
def test_packed_lists_are_the_plain_one(ending: str, tmp_path: Path) -> None:
    pack = PACKERS[ending]
    path = tmp_path / f"words.txt{ending}"
    path.write_bytes(pack(LIST[:20]) + pack(LIST[20:]))  # two members, as cat makes them
    assert read_words(path).words == WORDS


@pytest.mark.parametrize("ending", PACKERS)
@pytest.mark.parametrize("what", ["cut", "bent", "plain", "more", "bent second"])
def test_broken_packing_is_one_line(ending: str, what: str, tmp_path: Path) -> None:
    whole = PACKERS[ending](random.Random(0).randbytes(3000).hex().encode())
    bent = whole[:100] + bytes([whole[100] ^ 255]) + whole[101:]
    path = tmp_path / f"words{ending}"
    broken = {"cut": whole[:-20], "bent": bent, "plain": LIST, "more": whole + LIST}
    path.write_bytes((broken | {"bent second": PACKERS[ending](LIST) + bent})[what])
    with pytest.raises(DataError, match=r"words\.\w+ is broken or cut short, it cannot be unpacked: \S"):
        read_words(path)


def test_without_zstd_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(reading, "import_module", missing)
    path = tmp_path / "words.zst"
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"pip install backports\.zstd; or unpack it in front: zstd -dc"):
        read_words(path)


def test_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(LIST)))
    words = read_words("-")
    assert (words.words, words.source) == (WORDS, "stdin")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\nb\xff\n")))
    with pytest.raises(DataError, match="stdin is not a utf-8 word list: line 2 holds the byte 0xff"):
        read_words("-")


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64])
def test_blocks_of_any_size_give_the_same_words(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Characters of many bytes, and Windows line ends, are cut anywhere."""
    content = "\ufeffanna\r\nbob\r\n\r\n  de la cruz \rЖанна\n王\r\n\ufeffzoë\n\r😀😀\r\r\nx".encode()
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    whole = read_words(path)
    monkeypatch.setattr(reading, "BLOCK", block)
    monkeypatch.setattr(reading, "LONGEST_LINE", 100)
    assert b"".join(blocks(str(path))) == content
    pieces = read_words(path)
    assert (
        pieces.words == whole.words == ["anna", "bob", "de la cruz", "Жанна", "王", "\ufeffzoë", "😀😀", "x"]
    )
    assert pieces.fingerprint == whole.fingerprint


def test_the_line_of_a_bad_byte_is_counted_over_blocks(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(b"anna\n" * 1_000_000 + b"b\xff\n")
    with pytest.raises(DataError, match="line 1,000,001 holds the byte 0xff"):
        list(texts(str(path)))


def test_the_bad_byte_behind_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeffanna\n".encode() + b"\xffb\n")
    with pytest.raises(DataError, match="line 2 holds the byte 0xff"):
        list(texts(str(path)))


def test_a_signal_while_a_list_comes_is_no_broken_list(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            signal.raise_signal(signal.SIGTERM)
            return b""

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Slow()))
    assert train_main(["--data", "-", "--out-dir", str(tmp_path / "run")]) == 143
    assert capsys.readouterr().err == "makemore-train: interrupted\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("before", [0, 5, BLOCK - 3])
def test_a_line_may_be_as_long_as_a_block(before: int, tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    first = b"a" * max(0, before - 1) + b"\n" * (before > 0)
    path.write_bytes(first + b"b" * BLOCK + b"\nc")
    assert sum(map(len, blocks(str(path)))) == before + BLOCK + 2
    path.write_bytes(first + b"b" * (BLOCK + 1) + b"\nc")
    line = 1 + (before > 0)
    with pytest.raises(
        DataError, match=rf"line {line} of .*words\.txt has more than 1,048,576 bytes: a word"
    ):
        list(blocks(str(path)))


def test_lines_may_end_in_carriage_returns_alone(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(b"anna\rbob\r" * 300_000)
    assert len(read_words(path)) == 600_000


def test_a_line_of_100_mb_is_refused_at_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "words.gz"
    path.write_bytes(100 * gzip.compress(b"a" * 1_000_000))
    with pytest.raises(DataError, match=r"line 1 of .*words\.gz has more than 1,048,576 bytes"):
        read_words(path)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_list_that_grows_while_it_is_read(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"words.txt{ending}"
    path.write_bytes((gzip.compress if ending else bytes)(b"anna\n" * 1_000_000))
    read = texts(str(path))
    next(read)
    with path.open("ab") as file:
        file.write(gzip.compress(b"bob\n") if ending else b"bob\n")
    with pytest.raises(DataError, match="changed while it was read: wait until it is whole"):
        list(read)


def test_a_file_that_tells_no_size_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those in /proc."""
    (tmp_path / "empty").touch()
    path, status = tmp_path / "words.txt", (tmp_path / "empty").stat()
    path.write_bytes(b"anna\n" * BLOCK)
    monkeypatch.setattr(os, "fstat", lambda _: status)
    assert sum(map(len, texts(str(path)))) == 5 * BLOCK


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="the system has no /dev/fd")
def test_a_pipe_of_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in --data <(zcat words.gz)."""
    reader, writer = os.pipe()
    os.write(writer, LIST)
    os.close(writer)
    argv = ["--data", f"/dev/fd/{reader}", "--out-dir", str(tmp_path / "run"), "--recipe", "lecture"]
    assert train_main([*argv, "--network", "mlp", "--n-embd", "2", "--n-hidden", "2", "--steps", "2"]) == 0
    os.close(reader)
    assert f"data      /dev/fd/{reader}: 8 words" in capsys.readouterr().out


def test_nobody_waits_two_seconds_without_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the things that are done one after the other may take nearly ``DELAY`` unseen."""
    done: list[str] = []
    for module in (reading, shuffle, seen):
        monkeypatch.setattr(module, "bar", lambda *about: done.append(about[2]) or bar(*about))
    (tmp_path / "words.txt").write_bytes(LIST)
    read_words(tmp_path / "words.txt").data(8)
    assert done[:2] == ["reading words.txt", "shuffling"]
    assert len(done) * DELAY < 2


def test_a_run_on_stdin_is_resumed_with_the_words_given_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(*argv: str, words: bytes = LIST) -> tuple[int, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(words)))
        code = train_main(["--out-dir", str(tmp_path / "run"), *argv])
        return code, capsys.readouterr().err

    tiny = ["--network", "mlp", "--n-embd", "2", "--n-hidden", "2", "--recipe", "lecture"]
    assert train(*tiny, "--steps", "2", "--data", "-") == (0, "")
    code, said = train("--resume", "--steps", "4")
    assert (code, said.splitlines()) == (
        2,
        ["makemore-train: the words of the run came on stdin: give them again, by --data PATH or --data -"],
    )
    assert train("--resume", "--steps", "4", "--data", "-", words=LIST[:-1])[0] == 2
    assert train("--resume", "--steps", "4", "--data", "-") == (0, "")
