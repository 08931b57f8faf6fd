"""Word lists: reading, the lecture's split and contexts, and the bundled and the lecture's list."""

from __future__ import annotations

import hashlib
import itertools
import random
import subprocess
import sys
import unicodedata
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from bad_lists import BAD_LISTS

from makemore.core.errors import DataError
from makemore.data import reading, word_list
from makemore.data.encoding import decode_words, encode_words
from makemore.data.examples import shards, word_offsets
from makemore.data.word_list import LECTURE_VARIABLE, WordList, bundled_path, load_words, read_words
from makemore.lecture.words import Examples, Vocabulary, build_dataset, split_words


def lecture_dataset(words: list[str], stoi: dict[str, int], block_size: int) -> tuple[list, list]:
    """The lecture's build_dataset, which the tensors must equal."""
    X, Y = [], []
    for w in words:
        context = [0] * block_size
        for ix in [stoi[ch] for ch in w] + [0]:
            X.append(context)
            Y.append(ix)
            context = [*context[1:], ix]
    return X, Y


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("block_size", [1, 3, 8, 64])
def test_contexts_are_the_lectures(block_size: int) -> None:
    rng = random.Random(block_size)
    words = ["".join(rng.choices("abcé.漢😀", k=rng.randint(1, 20))) for _ in range(50)]
    vocabulary = Vocabulary("".join(words))
    X, Y = lecture_dataset(words, vocabulary.stoi, block_size)
    examples = Examples(encode_words(vocabulary, words), block_size)
    xs, ys = examples[:]
    assert xs.dtype == ys.dtype == torch.int64
    assert xs.tolist() == X
    assert ys.tolist() == Y
    index = torch.randint(0, len(examples), (4, 6))
    xs, ys = examples[index]
    assert xs.tolist() == [[X[i] for i in row] for row in index.tolist()]
    assert ys.tolist() == [[Y[i] for i in row] for row in index.tolist()]


def indices(n: int) -> list[Any]:
    """What a tensor of n elements can be indexed with, and much that it cannot."""
    numbers = torch.arange(n)
    starts, stops, steps = (None, 0, 2, -2, n + 5), (None, 1, -1, n, n + 5), (None, 2, 3, 0)
    return [
        *(0, 1, -1, n - 1, -n, n, -n - 1),
        *map(numpy.int64, (0, -1, n)),
        torch.tensor(1),
        torch.tensor([-1, 0, -n]),
        torch.tensor([1, 0], dtype=torch.int32),
        torch.tensor([[0, 1], [-1, 0]]),
        torch.tensor([0, -n - 1]),
        [0, -1],
        [0, n],
        [],
        range(1, n),
        (0, 1),
        numpy.array([0, -1]),
        numpy.array([0, 1], dtype=numpy.int32),
        numpy.array([]),
        torch.tensor([], dtype=torch.int64),
        torch.tensor([]),
        torch.tensor([1.0]),
        1.0,
        *(slice(*parts) for parts in itertools.product(starts, stops, steps)),
        slice(0.5, 2),
        numbers % 2 == 0,
        numbers < 0,
        [bool(i % 3) for i in range(n)],
        numpy.arange(n) % 2 == 0,
        torch.ones(n - 1, dtype=torch.bool),
        torch.ones(n + 1, dtype=torch.bool),
        torch.ones(1, dtype=torch.bool),
        torch.ones((n, 1), dtype=torch.bool),
        [True, False],
        numpy.ones(n - 1, dtype=bool),
    ]


@pytest.mark.parametrize("words", [["abc", "", "cab", "b"], ["a"], [""]])
def test_examples_are_indexed_like_a_tensor(words: list[str]) -> None:
    """The same elements, or an error of the same class."""
    examples = Examples(encode_words(Vocabulary("abc"), words), 3)
    xs, ys = examples[:]
    for index in indices(len(examples)):
        try:
            expected = xs[index], ys[index]
        except (IndexError, TypeError, ValueError) as error:
            with pytest.raises(type(error)):
                print(index, examples[index])
            continue
        got = examples[index]
        assert all(value.dtype == torch.int64 for value in got)
        assert all(map(torch.equal, got, expected)), index


def test_a_mask_of_another_length_is_refused_by_both_lengths() -> None:
    examples = Examples(torch.arange(7) % 3, 3)
    masks: list[Any] = [torch.ones(5, dtype=torch.bool), [True] * 5, numpy.ones(5, dtype=bool)]
    for mask in masks:
        with pytest.raises(IndexError, match=r"a mask of shape \(5,\) does not fit 7 elements"):
            examples[mask]
    others: list[Any] = [
        None,
        ...,
        True,
        (0, 1),
        [0.5],
        numpy.array([0.5]),
        numpy.array([1], numpy.uint8),
        "a",
    ]
    for other in others:
        with pytest.raises(IndexError, match=r"an index (is a number, numbers, a slice|needs integers) or "):
            examples[other]


def test_examples_are_indexed_backwards_and_by_lists_in_lists() -> None:
    """Which a tensor is not."""
    examples = Examples(encode_words(Vocabulary("abc"), ["abc", "cab", "b"]), 3)
    xs, ys = examples[:]
    rows: Any = [[0, 1], [2, -1]]
    X, Y = examples[rows]
    assert torch.equal(X, xs[torch.tensor(rows)])
    assert torch.equal(Y, ys[torch.tensor(rows)])
    X, Y = examples[::-2]
    assert torch.equal(X, xs.flip(0)[::2])
    assert torch.equal(Y, ys.flip(0)[::2])


def test_no_examples_can_be_indexed_too() -> None:
    examples = Examples(torch.empty(0, dtype=torch.uint8), 3)
    everything: list[Any] = [slice(None), [], torch.ones(0, dtype=torch.bool)]
    for index in everything:
        X, Y = examples[index]
        assert (X.shape, Y.shape, X.dtype, Y.dtype) == ((0, 3), (0,), torch.int64, torch.int64)
    with pytest.raises(IndexError):
        examples[0]


def test_a_data_loader_takes_examples() -> None:
    examples = Examples(encode_words(Vocabulary("abc"), ["abc", "", "cab", "b"]), 3)
    xs, _ = examples[:]
    batches = list(torch.utils.data.DataLoader(examples, batch_size=4))
    assert torch.equal(torch.cat([X for X, _ in batches]), xs)


@pytest.mark.parametrize(("number", "dtype"), [(255, torch.uint8), (256, torch.int16), (40_000, torch.int32)])
def test_symbols_have_the_smallest_dtype(number: int, dtype: torch.dtype) -> None:
    """Also if later characters are too many for the dtype of the first slabs."""
    letters = [chr(0x10000 + i) for i in range(number)]
    words = [*letters[:100], *(letters[i] + letters[0] for i in range(number))]
    words_read = WordList.of(words)
    assert (words_read.symbols.dtype, len(words_read.vocabulary)) == (dtype, number + 1)
    assert words_read.words == words


@pytest.mark.parametrize("max_examples", [1, 7, 30, 1000])
def test_shards_have_whole_words(max_examples: int) -> None:
    rng = random.Random(max_examples)
    words = ["".join(rng.choices("abc", k=rng.choice([1, 2, 5, 200]))) for _ in range(60)]
    vocabulary = Vocabulary("abc")
    examples = Examples(encode_words(vocabulary, words), 3)
    parts = shards(examples, max_examples)
    assert [word for part in parts for word in decode_words(vocabulary, part.symbols)] == words
    longest = max(map(len, words)) + 1
    assert all(0 < len(part) <= max_examples + longest for part in parts)
    assert torch.equal(torch.cat([part[:][0] for part in parts]), examples[:][0])
    offsets = [i for word in words for i in range(len(word) + 1)]
    assert word_offsets(examples.symbols).tolist() == offsets


def test_vocabulary_has_the_stop_first_then_sorted_characters() -> None:
    vocabulary = Vocabulary("emma.")
    assert vocabulary.stoi == {".": 1, "a": 2, "e": 3, "m": 4}
    assert vocabulary.itos == {0: ".", 1: ".", 2: "a", 3: "e", 4: "m"}
    assert len(vocabulary) == 5
    assert vocabulary.decode([*vocabulary.encode("m.e"), 0, 2]) == "m.e"


@pytest.mark.parametrize("given", ["emma\nava\n", ["emma", "ava"], ("emma", "ava\n")])
def test_a_vocabulary_of_text_or_of_words(given: Iterable[str]) -> None:
    """A line end is not a character: it ends a word."""
    vocabulary = Vocabulary(given)
    assert (vocabulary.characters, len(vocabulary)) == ("aemv", 5)
    assert encode_words(vocabulary, ["ava", "me"]).tolist() == [1, 4, 1, 0, 3, 2, 0]


@pytest.mark.parametrize("words", [["ab", "xb"], ["a\nb"]])
def test_unknown_characters_are_named(words: list[str]) -> None:
    with pytest.raises(DataError, match=r"character ('x'|U\+000A LINE FEED) is not in the vocabulary 'ab'"):
        encode_words(Vocabulary("ab"), words)


def test_reading_keeps_words_as_they_are(tmp_path: Path) -> None:
    content = "\ufeffanna\r\nanna\r\n\r\n  bob \r\nde la cruz\rj.r.\nЖанна\n王\n".encode()
    words = read_words(write(tmp_path / "words.txt", content))
    assert words.words == ["anna", "anna", "bob", "de la cruz", "j.r.", "Жанна", "王"]
    assert words.fingerprint == hashlib.sha256("\n".join(words.words).encode()).hexdigest()


NFC = ["Zoé", "Noël", "Anaïs", "Chloé", "Léa", "Inès", "Éloïse", "anna", "x\u0302y"]
NFD = [unicodedata.normalize("NFD", word) for word in NFC]


def test_words_have_one_form(tmp_path: Path) -> None:
    """A list in NFD, as of a Mac's file names, gives what the same list in NFC gives."""
    composed, decomposed = (
        read_words(write(tmp_path / name, "\n".join(words))) for name, words in (("c", NFC), ("d", NFD))
    )
    assert decomposed.words == composed.words == WordList.of(NFD).words == NFC
    assert decomposed.vocabulary.characters == composed.vocabulary.characters
    assert (
        decomposed.fingerprint == composed.fingerprint == hashlib.sha256("\n".join(NFC).encode()).hexdigest()
    )
    assert torch.equal(decomposed.symbols, composed.symbols)
    assert composed.changes == (0, 0, "")
    assert decomposed.changes == (7, 0, "")
    assert composed.changes.describe() == []
    assert decomposed.changes.describe() == ["7 words brought into Unicode's composed form (NFC)"]
    for word in NFC + NFD:
        assert word in decomposed.word_set()
    assert "Zo\u200be" not in decomposed.word_set()
    train = composed.split()[0]
    assert composed.number_in_training([unicodedata.normalize("NFD", word) for word in train]) == len(train)
    assert composed.number_in_training(["Zoe", "王", *train[:1] * 2]) == 1


def test_invisible_characters_are_dropped_and_counted(tmp_path: Path) -> None:
    """Such as the byte-order marks of files that were joined by cat."""
    lines = [
        "\ufeffanna",
        "\ufeffberta",
        "cla\u00adra",
        "do\u200bra",
        "\u200e\u200f",
        "em\x1bma\x7f",
        "a\x0cb",
        "frida",
    ]
    words = read_words(write(tmp_path / "words.txt", "\n".join(lines)))
    assert words.words == ["anna", "berta", "clara", "dora", "emma", "a b", "frida"]
    assert words.vocabulary.characters == " abcdefilmnort"
    assert words.changes == (0, 7, "\x1b\x7f\xad\u200b\u200e\u200f\ufeff"), "the first mark is no character"
    assert words.changes.describe() == [
        "7 invisible characters dropped: U+001B ESCAPE, U+007F, U+00AD SOFT HYPHEN, U+200B ZERO WIDTH SPACE,"
        " U+200E LEFT-TO-RIGHT MARK, ..."
    ]
    assert words.fingerprint == hashlib.sha256("\n".join(words.words).encode()).hexdigest()
    assert WordList.of([line.removeprefix("\ufeff") for line in lines]).words == words.words


def test_the_form_does_not_depend_on_the_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "words.txt", "\n".join([*NFD, "so\u00adfa", "\ufeffx"] * 20))
    whole = read_words(path)
    monkeypatch.setattr(reading, "BLOCK", 7)
    monkeypatch.setattr(reading, "LONGEST_LINE", 100)
    in_blocks = read_words(path)
    assert (in_blocks.fingerprint, in_blocks.changes) == (whole.fingerprint, whole.changes)
    assert whole.changes == (7 * 20, 40, "\xad\ufeff")


@pytest.mark.parametrize("words", ["emma olivia", b"emma"])
def test_one_text_in_place_of_words_is_refused(words: Any) -> None:
    data = WordList.of(["emma"] * 6)
    for take in (
        WordList.of,
        lambda words: encode_words(data.vocabulary, words),
        data.number_in_training,
        split_words,
        lambda words: build_dataset(words, data.vocabulary),
    ):
        with pytest.raises(
            TypeError, match=r"needs a list of words, not one text: give it text\.split\(\) or \["
        ):
            take(words)


@pytest.mark.parametrize("count", [6, 7, 9, 10, 11, 100])
def test_every_split_has_words(count: int) -> None:
    words = WordList.of([f"w{i}" for i in range(count)])
    assert all(len(split) > 0 for split in words.split())
    assert sorted(itertools.chain(*words.split())) == sorted(words.words)


@pytest.mark.parametrize(("content", "message"), BAD_LISTS)
def test_files_that_are_not_word_lists_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_words(write(tmp_path / "words.txt", content))


def test_missing_files_and_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        load_words(str(tmp_path / "none.txt"))
    with pytest.raises(
        DataError, match=r"the directory .* has no files: give a directory of word lists, or the files$"
    ):
        load_words(str(tmp_path))


@pytest.mark.full
def test_a_million_words_need_little_memory(tmp_path: Path, peak_memory: str) -> None:
    """Measured in a separate process: it reads, shuffles and splits 14 MB of words in less than 200 MB."""
    rng = random.Random(0)
    names = read_words(bundled_path()).words
    big = tmp_path / "big.txt"
    big.write_text("\n".join(rng.choice(names) + rng.choice(names) for _ in range(1_000_000)))
    code = (
        "import sys\n"
        "from makemore.data.word_list import load_words\n"
        "before = used(); data = load_words(sys.argv[1]).data(8)\n"
        "print(sum(map(len, data[1:4])), used() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", peak_memory + code, big], capture_output=True, text=True, check=True
    )
    examples, megabytes = map(int, done.stdout.split())
    assert examples == len(big.read_text()) + 1
    assert megabytes < 200


def test_lecture_shapes_and_first_contexts(lecture_words: WordList) -> None:
    """Lecture cells 2-6: the printed shapes, and the first words after the shuffle."""
    assert len(lecture_words.words) == 32_033
    assert max(map(len, lecture_words.words)) == 15
    train, val, test = lecture_words.split()
    assert train[:2] == ["yuheng", "diondre"]
    data = lecture_words.data(8)
    assert len(data.vocabulary) == 27
    assert [len(examples) for examples in data[1:4]] == [182_625, 22_655, 22_866]
    for words, examples in zip((train, val, test), data[1:4], strict=True):
        X, Y = lecture_dataset(words, data.vocabulary.stoi, 8)
        xs, ys = examples[:]
        assert torch.equal(xs, torch.tensor(X))
        assert torch.equal(ys, torch.tensor(Y))
    seen = set(train)
    assert [sum(word not in seen for word in words) for words in (val, test)] == [2_779, 2_827]
    assert [int((examples.symbols == 0).sum()) for examples in data[4:6]] == [2_779, 2_827]


@pytest.fixture
def lecture_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A file that replaces the lecture's list, with its sha256 and a URL."""
    content = "\n".join(["emma", "olivia", "ava", "isabella", "sophia", "mia"]).encode()
    monkeypatch.setattr(word_list, "LECTURE_SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(LECTURE_VARIABLE, raising=False)
    source = write(tmp_path / "served.txt", content)
    monkeypatch.setattr(word_list, "LECTURE_URL", source.as_uri())
    return content


def test_lecture_list_is_downloaded_once_and_checked(
    lecture_like: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_words("lecture").words[0] == "emma"
    monkeypatch.setattr(urllib.request, "urlopen", None)
    assert load_words("lecture").words[-1] == "mia"
    (cached,) = (tmp_path / "cache" / "makemore").iterdir()
    cached.write_bytes(lecture_like + b"x")
    with pytest.raises(DataError, match=r"sha256 differs.*delete it"):
        load_words("lecture")


def test_lecture_list_from_the_environment(
    lecture_like: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", None)
    path = write(tmp_path / "given.txt", lecture_like)
    monkeypatch.setenv(LECTURE_VARIABLE, str(path))
    assert len(load_words("lecture").words) == 6
    write(path, lecture_like + b"\nextra")
    with pytest.raises(DataError, match=rf"sha256 differs.*{LECTURE_VARIABLE}"):
        load_words("lecture")
    path.unlink()
    with pytest.raises(DataError, match=rf"No such file.*{LECTURE_VARIABLE}"):
        load_words("lecture")


def test_a_failed_download_says_what_to_do(
    lecture_like: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_list, "LECTURE_URL", (tmp_path / "nothing").as_uri())
    with pytest.raises(DataError, match=rf"cannot download .*set {LECTURE_VARIABLE}"):
        load_words("lecture")
    assert not list(tmp_path.glob("cache/makemore/*"))
