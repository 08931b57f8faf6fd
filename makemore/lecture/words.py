"""Words as tensors: vocabulary, split and examples (lecture cells 2 to 6).

Symbol 0 starts and stops every word and is shown as ``.``; the characters follow in sorted order from
1 on. An example is a context, the last ``block_size`` symbols padded on the left with 0, and a target, the
symbol that follows: one example for each character of a word and one for its stop.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import takewhile

import torch
from torch import Tensor

from makemore.core.errors import DataError
from makemore.core.indexing import as_positions
from makemore.core.text import quote, quote_all, require_words

STOP = 0
"""The symbol that starts and stops every word."""


class Vocabulary:
    """The characters of some words and their symbols: ``stoi`` from character to symbol, ``itos`` back.

    The characters may be given as a text or as words; line ends are left out.

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
        """The symbols of a word. Raises DataError that names a character missing from the vocabulary."""
        for ch in word:
            if ch not in self.stoi:
                raise DataError(
                    f"the character {quote(ch)} is not in the vocabulary {quote_all(self.characters)}"
                )
        return [self.stoi[ch] for ch in word]

    def decode(self, symbols: Iterable[int]) -> str:
        """The word up to the first stop."""
        return "".join(self.itos[symbol] for symbol in takewhile(lambda symbol: symbol != STOP, symbols))


def split_words(words: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Training, validation and test words: shuffled by seed 42, cut at 80 and 90 percent (cells 4 and 6)."""
    require_words(words, "split_words")
    words = list(words)
    random.Random(42).shuffle(words)
    n1, n2 = int(0.8 * len(words)), int(0.9 * len(words))
    return words[:n1], words[n1:n2], words[n2:]


def build_dataset(words: Iterable[str], vocabulary: Vocabulary, block_size: int = 8) -> tuple[Tensor, Tensor]:
    """Contexts and targets of all examples, int64: (N, block_size) and (N,) (cell 6).

    >>> X, Y = build_dataset(["emma"], Vocabulary("emma"), block_size=3)
    >>> X[:3], Y[:3]
    (tensor([[0, 0, 0],
            [0, 0, 2],
            [0, 2, 3]]), tensor([2, 3, 3]))
    """
    require_words(words, "build_dataset")
    X, Y = [], []
    for word in words:
        context = [STOP] * block_size
        for symbol in [*vocabulary.encode(word), STOP]:
            X.append(context)
            Y.append(symbol)
            context = [*context[1:], symbol]  # crop and append
    return torch.tensor(X), torch.tensor(Y)


class Examples:
    """The examples of ``build_dataset`` without their contexts being stored.

    ``symbols``, (N,), are the symbols of some words, each word followed by its stop. Example i has the target
    ``symbols[i]``; its context is gathered when it is asked for. With up to 255 characters an example takes
    one byte in place of 72. ``characters`` are those of the vocabulary, or None if they are not known.
    """

    def __init__(self, symbols: Tensor, block_size: int, characters: str | None = None) -> None:
        self.symbols = symbols
        self.block_size = block_size
        self.characters = characters

    def __len__(self) -> int:
        return len(self.symbols)

    def __getitem__(self, index: Tensor | Sequence[int] | slice | int) -> tuple[Tensor, Tensor]:
        """Contexts and targets, int64: for an index (...), (..., block_size) and (...).

        The index is what a tensor of one dimension takes: numbers, also from the end, a slice or a mask.
        Raises IndexError on a number out of range and on a mask of another length.

        >>> Examples(torch.tensor([2, 3, 3, 1, 0]), block_size=3)[:3]
        (tensor([[0, 0, 0],
                [0, 0, 2],
                [0, 2, 3]]), tensor([2, 3, 3]))
        """
        index = as_positions(index, len(self), self.symbols.device)
        Y = self.symbols[index].long()  # raises IndexError out of range
        back = torch.arange(-self.block_size, 0, device=index.device)
        window = (index % len(self)).unsqueeze(-1) + back  # (...) -> (..., block_size)
        X = self.symbols[window.clamp(min=0)].long()
        inside = (X != STOP) & (window >= 0)
        X *= inside.flip(-1).cumprod(-1).flip(-1)  # zeros before the start of the word
        return X, Y

    def to(self, device: torch.device | str) -> Examples:
        """The same examples on another device."""
        return Examples(self.symbols.to(device), self.block_size, self.characters)
