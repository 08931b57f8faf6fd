"""A word list as tensors: vocabulary, split and contexts (lecture cells 2-6).

Symbol 0 starts and stops every word and is shown as ``.``; the characters follow in sorted order from
1 on. An example is a context, the last ``block_size`` symbols padded on the left with 0, and the symbol
that follows it: one for each character of a word and one for its stop.

Departures from the lecture:

* The contexts are not stored. The words of a split lie in one run of symbols, each with its stop, and
  the contexts of a batch are gathered from it when the batch is drawn, by tensor operations. An example
  takes a byte, with up to 255 characters, instead of 72; order and values are the lecture's.
* Words are read piece by piece (``reading.py``) and shuffled without a second copy (``shuffle.py``). None is
  kept as a string: a list may have hundreds of millions.
* Any utf-8 list, one word a line, in any alphabet, also packed or on stdin. A byte-order mark, Windows line
  ends and blanks around a word are dropped, and so are blank lines; duplicates are kept. A ``.`` inside a
  word is a character like any other.
"""

from __future__ import annotations

import hashlib
import os
import sys
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from makemore.errors import DataError
from makemore.reading import named, texts
from makemore.seen import KnownWords, found, hashes, kept
from makemore.shuffle import places, shuffled, stretches

STOP = 0
"""The symbol that starts and stops every word."""

LECTURE_URL = "https://raw.githubusercontent.com/karpathy/makemore/master/names.txt"
LECTURE_SHA256 = "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"
LECTURE_VARIABLE = "MAKEMORE_LECTURE_NAMES"

SHUFFLE_SEED = 42
"""Of the lecture's split."""

SLAB = 2**25
"""Symbols that are read into one piece of memory: so large that it goes back to the system when freed."""


class Vocabulary:
    """The characters of a word list and their symbols: ``stoi`` from character, ``itos`` to it.

    They may be given as text or as words; a line end ends a word and is none of them.

    >>> Vocabulary(["emma", "me"]).encode("me")
    [3, 2]
    """

    def __init__(self, characters: Iterable[str]) -> None:
        self.characters = "".join(sorted(set("".join(characters)) - {"\n"}))
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
        return "".join(self.itos[symbol] for symbol in takewhile(lambda symbol: symbol != STOP, symbols))

    def encode_all(self, words: Sequence[str]) -> Tensor:
        """All words in one run, each followed by its stop: (total characters + words,).

        Of the smallest type that holds the symbols: uint8 with up to 255 characters, int16, or int32.
        """
        text = "\n".join([*words, ""])
        known, points = self._code_points(), _code_points(text)
        table = torch.full((int(torch.cat([known, points]).max()) + 1,), -1, dtype=torch.int32)
        table[known] = torch.arange(len(self), dtype=torch.int32)
        symbols = table[points]
        if (symbols < 0).any() or text.count("\n") > len(words):
            for word in words:
                self.encode(word)
        return symbols.to(symbol_dtype(len(self)))

    def decode_all(self, symbols: Tensor) -> list[str]:
        """All words of one run in which each is followed by its stop; undoes ``encode_all``."""
        points = self._code_points()[symbols.cpu().long()]
        return points.numpy().tobytes().decode("utf-32-le").split("\n")[:-1]

    def _code_points(self) -> Tensor:
        """What each symbol is in text, the stop a line end: (symbols,)."""
        return _code_points("\n" + self.characters)


def _code_points(text: str) -> Tensor:
    # torch takes no empty buffer
    return torch.frombuffer(bytearray(text + "\0", "utf-32-le"), dtype=torch.int32)[:-1]


def symbol_dtype(number: int) -> torch.dtype:
    """The smallest type that holds that many symbols."""
    return torch.uint8 if number <= 2**8 else torch.int16 if number <= 2**15 else torch.int32


class Examples:
    """The examples of some words, in their order.

    ``symbols`` is the run of symbols, (N,), for N examples: example i is to predict ``symbols[i]``. Where its
    word starts is seen from the stops.
    """

    def __init__(self, symbols: Tensor, block_size: int) -> None:
        self.symbols = symbols
        self.block_size = block_size

    def __len__(self) -> int:
        return len(self.symbols)

    def __getitem__(self, index: Tensor | Sequence[int] | slice | int) -> tuple[Tensor, Tensor]:
        """Contexts and targets of the examples, int64: (...) -> (..., block_size) and (...).

        Examples are chosen as in a tensor of one dimension: by number, also from the end, slice or mask.

        >>> words = Vocabulary("emma").encode_all(["emma"])
        >>> Examples(words, 3)[:3]
        (tensor([[0, 0, 0],
                [0, 0, 2],
                [0, 2, 3]]), tensor([2, 3, 3]))
        """
        if isinstance(index, slice):
            index = torch.arange(*index.indices(len(self)), device=self.symbols.device)
        index = torch.as_tensor(index, device=self.symbols.device)
        if index.dtype == torch.bool:
            index = index.nonzero().squeeze(1)
        back = torch.arange(-self.block_size, 0, device=index.device)
        window = (index % len(self)).unsqueeze(-1) + back  # (...) -> (..., block_size)
        X = self.symbols[window.clamp(min=0)].long()
        inside = (X != STOP) & (window >= 0)
        X *= inside.flip(-1).cumprod(-1).flip(-1)  # from the start of the word on
        return X, self.symbols[index].long()

    def offsets(self) -> Tensor:
        """The number of characters between each example's target and the start of its word: int64, (N,)."""
        index = torch.arange(len(self), device=self.symbols.device)
        starts = torch.zeros_like(index)
        starts[1:] = (self.symbols[:-1] == STOP) * index[1:]
        return index - starts.cummax(0).values

    def parts(self, most: int) -> list[Examples]:
        """The examples in parts of whole words, alike in size and of some ``most`` examples at most."""
        number = max(1, -(-len(self) // most))
        # A cut is moved to the end of the word there: it has the first length of what lies from it on.
        lasts = [len(self) * i // number - 1 for i in range(1, number)]
        cuts = {last + int(next(stretches(self.symbols[last:]))[1][0]) for last in lasts} - {len(self)}
        return [Examples(run, self.block_size) for run in self.symbols.tensor_split(sorted(cuts))]

    def to(self, device: torch.device | str) -> Examples:
        """The same examples on another device."""
        return Examples(self.symbols.to(device), self.block_size)


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
    """A list of words as read: in the lecture's shuffled order, in one run of symbols, each with its stop.

    ``cuts`` are the numbers of symbols in front of val and of test, ``source`` is where the words came from,
    ``fingerprint`` the sha256 of the words joined by newlines.
    """

    vocabulary: Vocabulary
    symbols: Tensor
    cuts: tuple[int, int]
    number: int
    source: str
    fingerprint: str

    @classmethod
    def of(cls, words: Sequence[str], source: str = "words") -> WordList:
        """The list that a file with these lines is. Raises DataError on fewer than 6 words."""
        return _word_list(["\n".join(words)], source)

    def __len__(self) -> int:
        return self.number

    @property
    def words(self) -> list[str]:
        """The words as strings, in the list's order, made when asked for."""
        words = self.vocabulary.decode_all(self.symbols)
        return [words[place] for place in places(self.number, SHUFFLE_SEED).tolist()]

    def split(self) -> tuple[list[str], list[str], list[str]]:
        """Train, val and test words as strings: shuffled and cut at 80 and 90 percent, as in the lecture."""
        train, val, test = map(self.vocabulary.decode_all, self._runs())
        return train, val, test

    def data(self, block_size: int) -> Data:
        """Vocabulary and examples of the splits, for contexts of ``block_size`` symbols."""
        train, val, test = self._runs()
        bits = torch.cat([*hashes(self.symbols[self.cuts[0] :], "looking at val and test words")])
        seen = found(bits, train).tensor_split([int((val == STOP).sum())])
        unseen = (kept(run, ~mask) for run, mask in zip((val, test), seen, strict=True))
        runs = (train, val, test, *unseen)
        return Data(self.vocabulary, *(Examples(run, block_size) for run in runs))

    def known(self) -> KnownWords:
        """What tells of a word whether it stands in the list."""
        return KnownWords(self.symbols, self.vocabulary.stoi)

    def number_in_training(self, words: Iterable[str]) -> int:
        """How many of some words, each counted once, stand in the training split."""
        run = self.vocabulary.encode_all([*dict.fromkeys(words)])
        bits = torch.cat([*hashes(run, ""), torch.empty(0, dtype=torch.int64)])
        return int(found(bits, self._runs()[0]).sum())

    def _runs(self) -> tuple[Tensor, ...]:
        return self.symbols.tensor_split(self.cuts)


class _Encoder:
    """Makes symbols of text as it comes: the characters are numbered in the order in which they come."""

    def __init__(self) -> None:
        self.characters = ""
        self.slabs: list[Tensor] = []
        self._codes = torch.full((sys.maxunicode + 1,), -1, dtype=torch.int32)
        self._codes[ord("\n")] = STOP
        self._used = 0

    def append(self, text: str) -> None:
        """The symbols of some words, each with a newline behind it."""
        points = _code_points(text)
        codes = self._codes[points]
        if (codes < 0).any():
            new = torch.unique(points[codes < 0])
            self._codes[new] = torch.arange(len(new), dtype=torch.int32) + len(self.characters) + 1
            self.characters += "".join(map(chr, new.tolist()))
            codes = self._codes[points]
        dtype = symbol_dtype(len(self.characters) + 1)
        room = len(self.slabs[-1]) - self._used if self.slabs and self.slabs[-1].dtype == dtype else 0
        if room < len(codes):
            self._end_slab()
            self.slabs.append(torch.empty(max(SLAB, len(codes)), dtype=dtype))
        self.slabs[-1][self._used : self._used + len(codes)] = codes
        self._used += len(codes)

    def _end_slab(self) -> None:
        if self.slabs:
            self.slabs[-1] = self.slabs[-1][: self._used]
        self._used = 0

    def end(self) -> tuple[list[Tensor], Vocabulary, Tensor]:
        """The slabs, the vocabulary, and a table that makes its symbols of the codes in the slabs."""
        self._end_slab()
        vocabulary = Vocabulary(self.characters)
        symbols = [STOP, *vocabulary.encode(self.characters)]
        return self.slabs, vocabulary, torch.tensor(symbols, dtype=symbol_dtype(len(symbols)))


def _word_list(pieces: Iterable[str], source: str) -> WordList:
    """The list in some pieces of text, which end at line ends."""
    encoder, digest, number = _Encoder(), hashlib.sha256(), 0
    for piece in pieces:
        lines = piece.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        words = [word for line in lines if (word := line.strip())]
        if words:
            text = "\n".join(words)
            digest.update(("\n" * (number > 0) + text).encode())
            encoder.append(text + "\n")
            number += len(words)
    if number < 6:
        raise DataError(
            f"{source} holds {number} words; 6 is the least that can be split into train, val and test"
        )
    slabs, vocabulary, table = encoder.end()
    n1, n2 = int(0.8 * number), int(0.9 * number)
    symbols, (cut1, cut2) = shuffled(slabs, number, SHUFFLE_SEED, table, (n1, n2))
    return WordList(vocabulary, symbols, (cut1, cut2), number, source, digest.hexdigest())


def read_words(path: str | Path) -> WordList:
    """Read a word list, unpacked if its name ends in .gz, .bz2, .xz or .zst; ``-`` is stdin.

    Raises DataError if it cannot be read, is no text, or holds too few words.
    """
    return _word_list(texts(str(path)), named(str(path)))


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
