"""A word list as tensors: vocabulary, split and contexts (lecture cells 2-6).

Symbol 0 starts and stops every word and is shown as ``.``; the characters follow in sorted order from
1 on. An example is a context, the last ``block_size`` symbols padded on the left with 0, and the symbol
that follows it: one for each character of a word and one for its stop.

Departures from the lecture:

* The contexts are not stored. The words of a split lie in one run of symbols, each with its stop, and
  the contexts of a batch are gathered from it when the batch is drawn, by tensor operations. An
  example takes 8 bytes instead of 72; order and values are the lecture's.
* Any utf-8 list, one word a line, in any alphabet. A byte-order mark, Windows line ends and blanks
  around a word are dropped, and so are blank lines; duplicates are kept. A ``.`` inside a word is a
  character like any other.
"""

from __future__ import annotations

import hashlib
import os
import random
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from makemore.errors import DataError

STOP = 0
"""The symbol that starts and stops every word."""

LECTURE_URL = "https://raw.githubusercontent.com/karpathy/makemore/master/names.txt"
LECTURE_SHA256 = "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"
LECTURE_VARIABLE = "MAKEMORE_LECTURE_NAMES"


class Vocabulary:
    """The characters of a word list and their symbols: ``stoi`` from character, ``itos`` to it.

    >>> Vocabulary("emma").encode("me")
    [3, 2]
    """

    def __init__(self, characters: Iterable[str]) -> None:
        self.characters = "".join(sorted(set(characters)))
        self.stoi = {ch: i for i, ch in enumerate(self.characters, start=1)}
        self.itos = {i: ch for ch, i in self.stoi.items()} | {STOP: "."}

    def __len__(self) -> int:
        return len(self.characters) + 1

    def encode(self, word: str) -> list[int]:
        """The symbols of a word. Raises DataError that names a character the vocabulary lacks."""
        for ch in word:
            if ch not in self.stoi:
                raise DataError(f"the character {ch!r} is not in the vocabulary {self.characters[:80]!r}")
        return [self.stoi[ch] for ch in word]

    def decode(self, symbols: Iterable[int]) -> str:
        """The word before the first stop."""
        word = []
        for symbol in symbols:
            if symbol == STOP:
                break
            word.append(self.itos[symbol])
        return "".join(word)

    def encode_all(self, words: Sequence[str]) -> Tensor:
        """All words in one run, each followed by its stop: int32, (total characters + words,)."""
        if not words:
            return torch.empty(0, dtype=torch.int32)
        text = "\n".join([*words, ""])
        points = _code_points(text)
        known = _code_points(self.characters)
        table = torch.full((int(torch.cat([points, known]).max()) + 1,), -1, dtype=torch.int32)
        table[known] = torch.arange(1, len(self), dtype=torch.int32)
        table[ord("\n")] = STOP
        symbols = table[points]
        if (symbols < 0).any() or text.count("\n") > len(words):
            for word in words:
                self.encode(word)
        return symbols

    def decode_all(self, symbols: Tensor) -> list[str]:
        """All words of one run in which each is followed by its stop; undoes ``encode_all``."""
        points = _code_points("\n" + self.characters)[symbols.cpu()]
        text = bytearray(4 * len(points))
        if text:
            torch.frombuffer(text, dtype=torch.int32).copy_(points)
        return text.decode("utf-32-le").split("\n")[:-1]


def _code_points(text: str) -> Tensor:
    return torch.frombuffer(bytearray(text, "utf-32-le"), dtype=torch.int32)


class Examples:
    """The examples of some words, in their order.

    ``symbols`` is the run of symbols, (N,), for N examples: example i is to predict ``symbols[i]``.
    ``offsets``, (N,), is the number of characters between it and the start of its word.
    """

    def __init__(self, symbols: Tensor, block_size: int) -> None:
        self.symbols = symbols
        self.block_size = block_size
        stops = torch.nonzero(symbols == STOP).flatten().int()
        starts = torch.cat([stops.new_zeros(1), stops + 1])[:-1]
        self.offsets = torch.arange(len(symbols), dtype=torch.int32)
        self.offsets -= starts.repeat_interleave(stops + 1 - starts)

    def __len__(self) -> int:
        return len(self.symbols)

    def __getitem__(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Contexts and targets of the examples, int64: (...) -> (..., block_size) and (...).

        >>> words = Vocabulary("emma").encode_all(["emma"])
        >>> Examples(words, 3)[:3]
        (tensor([[0, 0, 0],
                [0, 0, 1],
                [0, 1, 3]]), tensor([1, 3, 3]))
        """
        if isinstance(index, slice):
            index = torch.arange(*index.indices(len(self)), device=self.symbols.device)
        back = torch.arange(-self.block_size, 0, device=index.device)
        window = (index.unsqueeze(-1) + back).clamp_(min=0)  # (...) -> (..., block_size)
        inside = self.offsets[index].unsqueeze(-1) >= -back
        return (self.symbols[window] * inside).long(), self.symbols[index].long()

    def to(self, device: torch.device | str) -> Examples:
        """The same examples on another device."""
        other = Examples.__new__(Examples)
        other.block_size = self.block_size
        other.symbols, other.offsets = self.symbols.to(device), self.offsets.to(device)
        return other


class Data(NamedTuple):
    """A word list made ready for training: its vocabulary and the examples of the three splits.

    ``unseen_val`` and ``unseen_test`` are of those words alone that do not also stand in the training split.
    """

    vocabulary: Vocabulary
    train: Examples
    val: Examples
    test: Examples
    unseen_val: Examples
    unseen_test: Examples

    def to(self, device: torch.device | str) -> Data:
        """The same data with the examples on another device."""
        return Data(self.vocabulary, *(examples.to(device) for examples in self[1:]))


@dataclass(frozen=True)
class WordList:
    """Words as read, where they came from, and the sha256 of the words joined by newlines."""

    words: list[str]
    source: str
    fingerprint: str

    def vocabulary(self) -> Vocabulary:
        """The characters that occur in the words."""
        return Vocabulary("".join(self.words))

    def split(self, seed: int = 42) -> tuple[list[str], list[str], list[str]]:
        """Train, val and test words, shuffled and cut at 80 and 90 percent, as in the lecture."""
        words = list(self.words)
        random.Random(seed).shuffle(words)
        n1, n2 = int(0.8 * len(words)), int(0.9 * len(words))
        return words[:n1], words[n1:n2], words[n2:]

    def data(self, block_size: int) -> Data:
        """Vocabulary and examples of the splits, for contexts of ``block_size`` symbols."""
        vocabulary = self.vocabulary()
        train, val, test = self.split()
        seen = set(train)
        unseen = ([word for word in words if word not in seen] for words in (val, test))
        splits = (Examples(vocabulary.encode_all(words), block_size) for words in (train, val, test, *unseen))
        return Data(vocabulary, *splits)


def read_words(path: str | Path) -> WordList:
    """Read a word list. Raises DataError if the file cannot be read or holds too few words."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the word list {path}: {error.strerror}") from error
    except ValueError as error:  # a NUL character
        raise DataError(f"cannot read the word list {str(path)!r}: {error}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path} is not a utf-8 word list: line {line} holds the byte"
            f" 0x{content[error.start]:02x}; save it as utf-8, one word a line"
        ) from error
    if "\0" in text:
        raise DataError(f"{path} is a binary file, not a word list")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    words = [word for line in lines if (word := line.strip())]
    if len(words) < 6:
        raise DataError(
            f"{path} holds {len(words)} words; 6 is the least that can be split into train, val and test"
        )
    fingerprint = hashlib.sha256("\n".join(words).encode()).hexdigest()
    return WordList(words, str(path), fingerprint)


def load_words(source: str | None = None) -> WordList:
    """The word list of a path, of ``"lecture"``, or the bundled one.

    Raises DataError if it cannot be had.
    """
    if source is None:
        return read_words(bundled_path())
    return read_words(lecture_path() if source == "lecture" else source)


def bundled_path() -> Path:
    """Where ``names.txt`` lies: beside the modules in an installed wheel, above them in a clone."""
    here = Path(__file__).resolve().parent
    installed = here / "names.txt"
    return installed if installed.exists() else here.parent / "names.txt"


def lecture_path() -> Path:
    """Where the lecture's own list lies, checked against its sha256.

    Taken from the path in ``MAKEMORE_LECTURE_NAMES`` if that is set, else downloaded once into the user's
    cache directory. Raises DataError if it is neither there nor to be had, or is another file.
    """
    given = os.environ.get(LECTURE_VARIABLE)
    if given:
        return _checked(Path(given), f"{LECTURE_VARIABLE} is to name the lecture's names.txt")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "makemore"
    path = cache / "lecture-names.txt"
    if not path.exists():
        advice = (
            f"get {LECTURE_URL} by other means and set {LECTURE_VARIABLE} to its path,"
            " or train without --data on the bundled list"
        )
        try:
            with urllib.request.urlopen(LECTURE_URL, timeout=30) as response:
                content = response.read(10_000_000)
            cache.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}.part")
            part.write_bytes(content)
            part.replace(path)
        except OSError as error:
            reason = getattr(error, "reason", None) or error.strerror or error
            raise DataError(f"cannot download the lecture's names.txt ({reason}): {advice}") from error
    return _checked(path, "delete it to download it afresh")


def _checked(path: Path, advice: str) -> Path:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}): {advice}") from error
    if hashlib.sha256(content).hexdigest() != LECTURE_SHA256:
        raise DataError(f"{path} is not the lecture's names.txt (its sha256 differs): {advice}")
    return path
