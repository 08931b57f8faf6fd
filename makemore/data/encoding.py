"""Encode many words as one tensor of symbols, (N,), each word followed by its stop, and decode them.

Tensor operations do all the work; nothing is computed word by word.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from makemore.core.text import require_words
from makemore.lecture.words import STOP, Vocabulary

SLAB = 2**25
"""Symbols in a slab, a tensor so large that its memory goes back to the system when it is freed."""


def encode_words(vocabulary: Vocabulary, words: Sequence[str]) -> Tensor:
    """The symbols of all words, each word followed by its stop: (characters + words,).

    The dtype is the smallest that holds the symbols: uint8 with up to 255 characters, int16, or int32. Raises
    DataError that names a character missing from the vocabulary.

    >>> encode_words(Vocabulary("emma"), ["em", "ma"])
    tensor([2, 3, 0, 3, 1, 0], dtype=torch.uint8)
    """
    require_words(words, "encode_words")
    text = "\n".join([*words, ""])
    known, points = _symbol_code_points(vocabulary), code_points(text)
    table = torch.full((int(torch.cat([known, points]).max()) + 1,), -1, dtype=torch.int32)
    table[known] = torch.arange(len(vocabulary), dtype=torch.int32)
    symbols = table[points]
    if (symbols < 0).any() or text.count("\n") > len(words):
        for word in words:
            vocabulary.encode(word)  # raises
    return symbols.to(symbol_dtype(len(vocabulary)))


def decode_words(vocabulary: Vocabulary, symbols: Tensor) -> list[str]:
    """The words of symbols, (N,), in which each word is followed by its stop."""
    points = _symbol_code_points(vocabulary)[symbols.cpu().long()]
    return points.numpy().tobytes().decode("utf-32-le").split("\n")[:-1]


def _symbol_code_points(vocabulary: Vocabulary) -> Tensor:
    """The code point of each symbol; for the stop, that of ``\\n``: int32, (symbols,)."""
    return code_points("\n" + vocabulary.characters)


def code_points(text: str) -> Tensor:
    """The Unicode code points of a text: int32, (characters,)."""
    # One more character, since torch.frombuffer refuses an empty buffer.
    return torch.frombuffer(bytearray(text + "\0", "utf-32-le"), dtype=torch.int32)[:-1]


def symbol_dtype(num_symbols: int) -> torch.dtype:
    """The smallest dtype for a vocabulary of ``num_symbols`` symbols."""
    return torch.uint8 if num_symbols <= 2**8 else torch.int16 if num_symbols <= 2**15 else torch.int32


def recoding_table(characters: str, vocabulary: Vocabulary) -> Tensor:
    """The symbols in a vocabulary of characters that are numbered from 1 on, with the stop in front."""
    symbols = [STOP, *vocabulary.encode(characters)]
    return torch.tensor(symbols, dtype=symbol_dtype(len(vocabulary)))


class StreamEncoder:
    """Encode text while it is read, before its vocabulary is known.

    Each character gets the next free code when it first occurs. The codes are kept in slabs.
    """

    def __init__(self) -> None:
        self.characters = ""
        self.slabs: list[Tensor] = []
        self._codes = torch.full((sys.maxunicode + 1,), -1, dtype=torch.int32)
        self._codes[ord("\n")] = STOP
        self._used = 0

    def append(self, text: str) -> None:
        """Encode words, each followed by ``\\n``."""
        points = code_points(text)
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
        """The slabs, the vocabulary, and a table from the codes in the slabs to the vocabulary's symbols."""
        self._end_slab()
        vocabulary = Vocabulary(self.characters)
        return self.slabs, vocabulary, recoding_table(self.characters, vocabulary)
