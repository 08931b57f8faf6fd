"""Soft targets: distributions over the symbols in place of one symbol."""

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore.core.unique_rows import unique_rows
from makemore.data.examples import LabelledExamples, word_offsets
from makemore.lecture.words import STOP, Examples


class SoftTargets:
    """Rows of a context and the distribution of the symbols that follow it anywhere in the examples.

    With labels, contexts are equal if their labels are, too.
    A context that occurs c times has c / ``examples_per_row`` rows, rounded up. The weight of a row is the
    number of its examples, divided by the mean over all rows. The distributions are stored as distinct
    pairs of context and symbol with their shares: at most one pair for each example.
    """

    def __init__(self, examples: Examples, vocab_size: int, examples_per_row: int = 4) -> None:
        self.examples = examples
        self.vocab_size = vocab_size
        index = torch.arange(len(examples), device=examples.symbols.device)
        offsets = word_offsets(examples.symbols)
        columns = []
        for lag in range(examples.block_size, 0, -1):
            before = examples.symbols[: max(0, len(index) - lag)]
            column = F.pad(before, (len(index) - len(before), 0), value=STOP)
            columns.append(column.masked_fill_(offsets < lag, STOP))
        sizes = [vocab_size] * len(columns)
        if isinstance(examples, LabelledExamples):
            columns, sizes = [examples.row, *columns], [len(examples.labels), *sizes]
        columns[0] = columns[0].long()
        # The distinct context of each example, (N,).
        _, contexts, _ = unique_rows(columns, sizes)
        pairs, counts = torch.unique(contexts * vocab_size + examples.symbols, return_counts=True)
        pair_contexts = pairs // vocab_size
        totals = torch.bincount(contexts)
        self.symbols = pairs % vocab_size
        self.shares = counts / totals[pair_contexts]  # (pairs,)
        self.lengths = torch.bincount(pair_contexts)  # symbols that follow each context
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.example = index.new_full(totals.shape, len(index)).scatter_reduce(0, contexts, index, "amin")
        rows = (totals + examples_per_row - 1) // examples_per_row
        self.context = torch.arange(len(rows), device=rows.device).repeat_interleave(rows)  # (rows,)
        self.weights = totals / rows * (len(self.context) / len(index))  # of a context's rows
        self.totals = totals
        self.prior: Tensor | None = None

    def __len__(self) -> int:
        return len(self.context)

    def mix(self, prior: Tensor, pseudocount: float) -> None:
        """Mix the target of each distinct context with a prior distribution, (distinct contexts, vocab_size).

        The prior counts as ``pseudocount`` examples, so it matters for rare contexts and not for common ones.
        """
        own = self.totals / (self.totals + pseudocount)
        self.prior = prior * (1 - own).unsqueeze(1)
        self.shares = self.shares * own.repeat_interleave(self.lengths)

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Contexts and weighted distributions of some rows.

        They are (..., block_size) int64 and (..., vocab_size) float32 for an index (...).

        >>> from makemore.data.encoding import encode_words
        >>> from makemore.lecture.words import Vocabulary
        >>> rows = SoftTargets(Examples(encode_words(Vocabulary("ab"), ["ab", "b"]), 2), 3)
        >>> rows[torch.arange(len(rows))]
        (tensor([[0, 0],
                [0, 1],
                [0, 2],
                [1, 2]]), tensor([[0.0000, 0.8000, 0.8000],
                [0.0000, 0.0000, 0.8000],
                [0.8000, 0.0000, 0.0000],
                [0.8000, 0.0000, 0.0000]]))
        """
        contexts = self.context.index_select(0, index.flatten())  # in half the time of self.context[index]
        lengths = self.lengths.index_select(0, contexts)
        rows = torch.arange(len(contexts), device=contexts.device).repeat_interleave(lengths)  # of each pair
        skipped = self.starts.index_select(0, contexts) - (lengths.cumsum(0) - lengths)
        pairs = torch.arange(len(rows), device=contexts.device).add_(skipped.index_select(0, rows))
        places = rows.mul_(self.vocab_size).add_(self.symbols.index_select(0, pairs))
        Y = torch.zeros(len(contexts) * self.vocab_size, device=contexts.device)
        Y.scatter_(0, places, self.shares.index_select(0, pairs))
        Y = Y.view(-1, self.vocab_size)
        if self.prior is not None:
            Y += self.prior.index_select(0, contexts)
        Y *= self.weights.index_select(0, contexts).unsqueeze(1)
        X = self.examples[self.example.index_select(0, contexts)][0]
        return X.view(*index.shape, -1), Y.view(*index.shape, -1)
