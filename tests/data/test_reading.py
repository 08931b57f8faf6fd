"""Word lists: plain, compressed, on stdin, and broken."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from makemore.commands.cli import train_main
from makemore.core.errors import DataError
from makemore.core.progress import DELAY, progress_bar
from makemore.data import membership, reading, shuffle
from makemore.data.reading import BLOCK, WordFile
from makemore.data.word_list import read_words

WORDS = ["anna", "bob", "de la cruz", "Жанна", "王", "zoë", "anna", "j.r."]
LIST = "\n".join(WORDS).encode()


def zstd(content: bytes) -> bytes:
    """Compressed with a checksum, as the command zstd does it."""
    package = pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    compressed: bytes = package.compress(content, options={package.CompressionParameter.checksum_flag: 1})
    return compressed


def blocks(path: Path) -> list[bytes]:
    with WordFile(str(path)) as file:
        return list(file.blocks())


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".ZST": zstd,
}


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_lists_are_decompressed(suffix: str, tmp_path: Path) -> None:
    compress = COMPRESS[suffix]
    path = tmp_path / f"words.txt{suffix}"
    path.write_bytes(compress(LIST[:20]) + compress(LIST[20:]))  # two streams, as cat joins them
    assert read_words(path).words == WORDS


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("fault", ["cut", "changed byte", "more", "changed byte in the second stream"])
def test_broken_compressed_lists_are_refused(suffix: str, fault: str, tmp_path: Path) -> None:
    whole = COMPRESS[suffix](random.Random(0).randbytes(3000).hex().encode())
    changed = whole[:100] + bytes([whole[100] ^ 255]) + whole[101:]
    path = tmp_path / f"words{suffix}"
    broken = {"cut": whole[:-20], "changed byte": changed, "more": whole + LIST}
    broken["changed byte in the second stream"] = COMPRESS[suffix](LIST) + changed
    path.write_bytes(broken[fault])
    with pytest.raises(DataError, match=r"words\.\w+ is broken or cut short, it cannot be decompressed: \S"):
        read_words(path)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_lists_that_are_not_compressed_as_their_names_say(suffix: str, tmp_path: Path) -> None:
    """Browsers decompress what they download, and keep the name."""
    path = tmp_path / f"words{suffix}"
    path.write_bytes(LIST)
    with pytest.raises(DataError, match=rf"words{suffix} is not compressed: name it {tmp_path}/words$"):
        read_words(path)
    others = {
        ".gz": bz2.compress(LIST),
        ".bz2": gzip.compress(LIST),
        ".xz": b"<!doctype html>",
        ".ZST": b"PAR1",
    }
    advice = {
        ".gz": "name it .*gz.bz2",
        ".bz2": "name it .*bz2.gz",
        ".xz": "download",
        ".ZST": "write its words",
    }
    path.write_bytes(others[suffix])
    with pytest.raises(DataError, match=rf"^{path} is an? .*: {advice[suffix]}"):
        read_words(path)


def test_without_zstd_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(reading, "import_module", missing)
    path = tmp_path / "words.zst"
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"pip install backports\.zstd; or pipe the words in: zstd -dc"):
        read_words(path)


def test_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(LIST), encoding="utf-8"))
    words = read_words("-")
    assert (words.words, words.source) == (WORDS, "stdin")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\nb\xff\n"), encoding="utf-8"))
    with pytest.raises(DataError, match="stdin is not a utf-8 word list: line 2 has the byte 0xff"):
        read_words("-")


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64])
def test_blocks_of_any_size_give_the_same_words(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block may end inside a character, inside a line end and inside the byte-order mark."""
    content = "\ufeffanna\r\nbob\r\n\r\n  de la cruz \rЖанна\n王\r\n\ufeffzoë\n\r😀😀\r\r\nx".encode()
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    whole = read_words(path)
    monkeypatch.setattr(reading, "BLOCK", block)
    monkeypatch.setattr(reading, "LONGEST_LINE", 100)
    text = io.StringIO(content.decode("utf-8-sig"), newline=None).read()
    assert b"".join(blocks(path)).decode() == text
    with WordFile(str(path)) as file:
        assert file.num_lines() == len(text.split("\n"))
        assert list(file.lines()) == text.split("\n")
        assert list(file.lines(3)) == text.split("\n")[3:]
    in_blocks = read_words(path)
    assert in_blocks.words == ["anna", "bob", "de la cruz", "Жанна", "王", "zoë", "😀😀", "x"]
    assert in_blocks.words == whole.words
    assert in_blocks.fingerprint == whole.fingerprint


def test_the_line_of_a_bad_byte_is_counted_over_blocks(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(b"anna\n" * 1_000_000 + b"b\xff\n")
    with pytest.raises(DataError, match="line 1,000,001 has the byte 0xff"):
        read_words(path)


def test_the_line_of_a_bad_byte_after_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeffanna\n".encode() + b"\xffb\n")
    with pytest.raises(DataError, match="line 2 has the byte 0xff"):
        read_words(path)


def test_a_signal_while_stdin_is_read_interrupts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    class Interrupting(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            signal.raise_signal(signal.SIGTERM)
            return b""

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Interrupting(), encoding="utf-8"))
    assert train_main(["--data", "-", "--out-dir", str(tmp_path / "run")]) == 143
    assert capsys.readouterr().err == "makemore-train: interrupted\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("before", [0, 5, BLOCK - 3])
def test_a_line_may_be_as_long_as_a_block(before: int, tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    first = b"a" * max(0, before - 1) + b"\n" * (before > 0)
    path.write_bytes(first + b"b" * BLOCK + b"\nc")
    assert sum(map(len, blocks(path))) == before + BLOCK + 2
    path.write_bytes(first + b"b" * (BLOCK + 1) + b"\nc")
    line = 1 + (before > 0)
    with pytest.raises(
        DataError, match=rf"line {line} of .*words\.txt has more than 1,048,576 bytes: a word"
    ):
        blocks(path)


def test_lines_may_end_in_carriage_returns_alone(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(b"anna\rbob\r" * 300_000)
    assert len(read_words(path)) == 600_000


def test_a_line_of_100_mb_is_refused_at_its_start(tmp_path: Path) -> None:
    path = tmp_path / "words.gz"
    path.write_bytes(100 * gzip.compress(b"a" * 1_000_000))
    with pytest.raises(DataError, match=r"line 1 of .*words\.gz has more than 1,048,576 bytes"):
        read_words(path)


@pytest.mark.parametrize("block", [1, 7, BLOCK])
def test_lines_are_counted_and_skipped(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BLOCK", block)
    rng = random.Random(0)
    path = tmp_path / "words"
    for _ in range(100):
        content = "".join(rng.choices(["a", "\n", "\r", "bc"], k=rng.randrange(30)))
        path.write_bytes(content.encode())
        lines = [line.removesuffix("\n") for line in io.StringIO(content, newline=None)]
        with WordFile(str(path)) as file:
            assert file.num_lines() == len(lines)
            skipped = rng.randrange(len(lines) + 2)
            assert list(file.lines(skipped)) == lines[skipped:]


def test_stdin_starts_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(b"header\nanna\nbob\n")
    with path.open(encoding="utf-8") as stdin:
        stdin.buffer.seek(len("header\n"))
        monkeypatch.setattr(sys, "stdin", stdin)
        with WordFile("-") as file:
            assert file.num_lines() == 2
            assert list(file.lines()) == ["anna", "bob"]


def test_a_pipe_gives_its_lines_as_they_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    with open(reader, encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with WordFile("-") as file:
            assert file.num_lines() is None
            lines = file.lines()
            os.write(writer, b"anna\nbo")
            assert next(lines) == "anna"
            os.write(writer, b"b\nx")
            assert next(lines) == "bob"
            os.close(writer)
            assert list(lines) == ["x"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_compressed_pipe(suffix: str, tmp_path: Path) -> None:
    path, content = tmp_path / f"words{suffix}", COMPRESS[suffix](LIST)
    os.mkfifo(path)
    thread = threading.Thread(target=path.write_bytes, args=[content])
    thread.start()
    with WordFile(str(path)) as file:
        assert file.num_lines() is None
        assert list(file.lines()) == WORDS
    thread.join()


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_list_that_grows_while_it_is_read_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"words.txt{suffix}"
    path.write_bytes((gzip.compress if suffix else bytes)(b"anna\n" * 1_000_000))
    with WordFile(str(path)) as word_file:
        texts = word_file.texts()
        next(texts)
        with path.open("ab") as file:
            file.write(gzip.compress(b"bob\n") if suffix else b"bob\n")
        with pytest.raises(DataError, match="changed while it was read: wait until it is complete"):
            list(texts)


def test_a_file_that_reports_no_size_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files in /proc report 0 bytes."""
    (tmp_path / "empty").touch()
    path, status = tmp_path / "words.txt", (tmp_path / "empty").stat()
    path.write_bytes(b"anna\n" * BLOCK)
    monkeypatch.setattr(os, "fstat", lambda _: status)
    with WordFile(str(path)) as file:
        assert sum(map(len, file.texts())) == 5 * BLOCK


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="the system has no /dev/fd")
def test_a_pipe_of_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The shell passes such a path for --data <(zcat words.gz)."""
    reader, writer = os.pipe()
    os.write(writer, LIST)
    os.close(writer)
    argv = ["--data", f"/dev/fd/{reader}", "--out-dir", str(tmp_path / "run"), "--recipe", "lecture"]
    assert train_main([*argv, "--network", "mlp", "--n-embd", "2", "--n-hidden", "2", "--steps", "2"]) == 0
    os.close(reader)
    assert f"data      /dev/fd/{reader}: 8 words" in capsys.readouterr().out


def test_a_progress_bar_is_shown_within_two_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the steps before training may take nearly ``DELAY`` before its bar is shown."""
    done: list[str] = []
    for module in (reading, shuffle, membership):
        monkeypatch.setattr(
            module, "progress_bar", lambda *about: done.append(about[2]) or progress_bar(*about)
        )
    (tmp_path / "words.txt").write_bytes(LIST)
    read_words(tmp_path / "words.txt").data(8)
    assert done[:2] == ["reading words.txt", "shuffling"]
    assert len(done) * DELAY < 2


def test_a_run_on_stdin_is_resumed_with_the_same_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(*argv: str, words: bytes = LIST) -> tuple[int, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(words), encoding="utf-8"))
        code = train_main(["--out-dir", str(tmp_path / "run"), *argv])
        return code, capsys.readouterr().err

    tiny = ["--network", "mlp", "--n-embd", "2", "--n-hidden", "2", "--recipe", "lecture"]
    assert train(*tiny, "--steps", "2", "--data", "-") == (0, "")
    code, err = train("--resume", "--steps", "4")
    assert (code, err.splitlines()) == (
        2,
        [
            "makemore-train: the run's word list was read from stdin: give it again with --data PATH or"
            " --data -"
        ],
    )
    assert train("--resume", "--steps", "4", "--data", "-", words=LIST[:-1])[0] == 2
    assert train("--resume", "--steps", "4", "--data", "-") == (0, "")
