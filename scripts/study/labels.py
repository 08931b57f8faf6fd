"""Measure what labels are worth: losses and accuracies of networks with and without them, and of RNNs.

    python scripts/study/labels.py languages/                  # a file for each label; an hour on one core
    python scripts/study/labels.py languages/ --seeds 1 --ensemble 1

The words of each file are written in small letters, each once, and the name of the file is their label. All
rows have the lecture's split. "right" is the share of words whose label is the most probable one, "balanced"
the mean of that share over the labels. A network that generates words finds labels by Bayes' rule.

The RNNs are those of PyTorch's tutorials on names: ``torch.nn.RNN`` with 128 hidden units that reads one-hot
characters. One is given the label with each character and predicts the next one, the other predicts the label
after the last character. They are trained with Adam on batches of 64 words for up to 40 epochs, and the epoch
with the lowest val loss is kept.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from answer import answer
from torch import Generator, Tensor, nn

from makemore.backprop.windows import WindowsEngine
from makemore.core.layer import Layer
from makemore.data.encoding import decode_words
from makemore.data.examples import LabelledExamples
from makemore.data.word_list import Data, WordList
from makemore.inference.classification import confusions
from makemore.lecture.layers import Linear, Sequential
from makemore.lecture.words import STOP, Examples
from makemore.modern.recipe import ModernRecipe
from makemore.modern.trainer import ModernTrainer
from makemore.paper.layers import LabelledEmbedding
from makemore.run.catalog import build_network, network_plan
from makemore.training.engine import AutogradEngine, MakeEngine
from makemore.training.ensemble import EnsembleEngine, members_of

BATCH_WORDS, EPOCHS, HIDDEN, LR = 64, 40, 128, 0.002
"""The training of the RNNs."""


class Row(NamedTuple):
    """What a contestant reaches with one seed. The loss is in nats a character; accuracies may not exist."""

    val: float
    test: float
    right: float | None
    balanced: float | None
    seconds: float
    parameters: int


def read(paths: Sequence[Path]) -> WordList:
    """The words of files or of directories of files, in small letters, with the files' names as labels."""
    files = [file for path in paths for file in (sorted(path.glob("*.txt")) if path.is_dir() else [path])]
    words, labels = [], []
    for file in files:
        own = sorted({line.strip().lower() for line in file.read_text(encoding="utf-8").splitlines()} - {""})
        words += own
        labels += [file.stem] * len(own)
    return WordList.of(words, "words", {"label": labels})


def without_labels(words: WordList) -> WordList:
    """The same words without labels."""
    return WordList.of(words.words)


def in_each_layer(network: Sequential, sizes: Sequence[int]) -> Sequential:
    """The network with the labels added in each layer too, as V h of the paper's equation: a row a label."""
    first, *others = network.layers
    assert isinstance(first, LabelledEmbedding)
    condition = Condition(first)
    layers: list[Layer] = [condition]
    for layer in others[:-1]:
        layers.append(layer)
        if isinstance(layer, Linear):
            layers.append(AddLabels(condition, layer.weight.shape[1], sum(sizes)))
    wrapped = Sequential([*layers, others[-1]])
    wrapped.block_size = network.block_size
    for p in wrapped.parameters():
        p.requires_grad = True
    return wrapped


class Condition(LabelledEmbedding):
    """A LabelledEmbedding that keeps the rows of the last batch's labels for the layers after it."""

    takes_labels = True
    pointwise = True

    def __init__(self, layer: LabelledEmbedding) -> None:
        self.weight, self.label_weight = layer.weight, layer.label_weight
        self.label_sizes = layer.label_sizes

    def split(self, IX: Tensor) -> tuple[Tensor, Tensor]:
        self.rows, symbols = super().split(IX)
        return self.rows, symbols


class AddLabels(Layer):
    """Adds a row of its own table for each label of the context."""

    PARAMETERS = ("table",)

    def __init__(self, condition: Condition, channels: int, labels: int) -> None:
        self._condition = (condition,)  # in a tuple of its own, since the first layer has it already
        self.table = torch.zeros(labels, channels)

    def named_children(self):  # type: ignore[no-untyped-def]
        return iter(())

    def __call__(self, x: Tensor) -> Tensor:
        rows: Tensor = self.table[self._condition[0].rows].sum(1)  # (B, K) -> (B, C)
        self.out = x + (rows if x.ndim == 2 else rows.unsqueeze(1))
        return self.out


def train(words: WordList, seed: int, members: int = 1, everywhere: bool = False) -> Row:
    """A network of the default plan, or an ensemble, trained by the default recipe.

    With ``everywhere`` the labels are added in each layer, too, and the network is trained by autograd.
    """
    started = time.process_time()
    data = words.data(8)
    recipe = ModernRecipe.for_examples(len(data.train))
    generator = Generator().manual_seed(seed)
    sizes = () if data.labels is None else data.labels.sizes
    network = build_network(
        network_plan(), members if members > 1 else None, len(data.vocabulary), generator, sizes
    )
    make_engine: MakeEngine = WindowsEngine
    if everywhere:
        assert isinstance(network, Sequential)
        network, make_engine = in_each_layer(network, sizes), AutogradEngine
    if members > 1:
        make_engine = partial(EnsembleEngine, make_engine=WindowsEngine)
    trainer = ModernTrainer(network, data, recipe, generator, make_engine)
    eval_every = max(1, recipe.steps // 20)
    for _ in trainer.run(eval_every):
        if trainer.step % eval_every == 0:
            trainer.evaluate("val")
    trainer.finish()
    losses = trainer.evaluate("val", "test")
    right = balanced = None
    if data.labels is not None:
        assert isinstance(data.val, LabelledExamples)
        val_words, rows = words_and_rows(data.val, data)
        confusion = confusions(network, data.vocabulary, val_words, rows, data.labels)[0]
        right, balanced = confusion.accuracy, confusion.balanced_accuracy
    assert losses.val is not None
    assert losses.test is not None
    parameters = sum(p.numel() for member in members_of(network) for p in member.parameters())
    return Row(losses.val, losses.test, right, balanced, time.process_time() - started, parameters)


def words_and_rows(examples: LabelledExamples, data: Data) -> tuple[list[str], Tensor]:
    """The words of some examples, and the combination of labels of each."""
    return decode_words(data.vocabulary, examples.symbols), examples.row[examples.symbols == STOP]


class CharacterRNN(nn.Module):
    """``torch.nn.RNN`` on one-hot characters, with one-hot labels beside each if ``labels`` is above 0."""

    def __init__(self, symbols: int, labels: int, outputs: int) -> None:
        super().__init__()
        self.symbols, self.labels = symbols, labels
        self.rnn = nn.RNN(symbols + labels, HIDDEN, batch_first=True)
        self.output = nn.Linear(HIDDEN, outputs)

    def forward(self, symbols: Tensor, labels: Tensor) -> Tensor:
        """Outputs at every position: (B, L) and (B,) -> (B, L, outputs)."""
        x = F.one_hot(symbols, self.symbols).float()
        if self.labels:
            each = F.one_hot(labels, self.labels).float().unsqueeze(1).expand(-1, x.shape[1], -1)
            x = torch.cat([x, each], dim=2)
        out: Tensor = self.output(self.rnn(x)[0])
        return out


class Padded(NamedTuple):
    """Words of a split as rows: the stop, then the characters, then padding; and their lengths and labels."""

    symbols: Tensor
    lengths: Tensor
    labels: Tensor

    @classmethod
    def of(cls, examples: Examples) -> Padded:
        assert isinstance(examples, LabelledExamples)
        ends = (examples.symbols == STOP).nonzero().flatten()
        lengths = torch.diff(ends, prepend=torch.tensor([-1]))
        rows = torch.split(examples.symbols.long(), lengths.tolist())
        symbols = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
        labels = examples.rows[examples.row[ends].long(), 0] - 1
        return cls(F.pad(symbols, (1, 0)), lengths, labels)  # the stop that starts each word

    def take(self, index: Tensor) -> Padded:
        """The words with these numbers."""
        longest = int(self.lengths[index].max()) + 1
        return Padded(self.symbols[index, :longest], self.lengths[index], self.labels[index])


def word_losses(model: CharacterRNN, batch: Padded, labels: Tensor) -> Tensor:
    """The negative log-likelihood of each word with a label: (B,)."""
    logits = model(batch.symbols[:, :-1], labels)
    losses = F.cross_entropy(logits.transpose(1, 2), batch.symbols[:, 1:], reduction="none")
    inside = torch.arange(losses.shape[1]) < batch.lengths.unsqueeze(1)
    return (losses * inside).sum(1)


def label_logits(model: CharacterRNN, batch: Padded) -> Tensor:
    """The logits of the labels after the last character of each word: (B, labels)."""
    logits = model(batch.symbols, batch.labels)
    last: Tensor = logits[torch.arange(len(batch.lengths)), batch.lengths - 1]
    return last


def fit(model: CharacterRNN, train: Padded, val: Padded, loss: Callable[[Padded], Tensor], seed: int) -> None:
    """Train for some epochs, and keep the one with the lowest mean loss of the val words."""
    generator = Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    best, best_loss = copy.deepcopy(model.state_dict()), float("inf")
    for _ in range(EPOCHS):
        for index in torch.split(torch.randperm(len(train.lengths), generator=generator), BATCH_WORDS):
            optimizer.zero_grad()
            torch.autograd.backward(loss(train.take(index)).mean())
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        with torch.no_grad():
            val_loss = float(loss(val).mean())
        if val_loss < best_loss:
            best, best_loss = copy.deepcopy(model.state_dict()), val_loss
    model.load_state_dict(best)


def train_rnns(words: WordList, seed: int) -> dict[str, Row]:
    """Both RNNs: the one that predicts characters, and the one that predicts labels."""
    data = words.data(8)
    assert data.labels is not None
    V, labels = len(data.vocabulary), len(data.labels.columns[0].values)
    train, val, test = map(Padded.of, (data.train, data.val, data.test))
    rows = {}
    torch.manual_seed(seed)
    started = time.process_time()
    model = CharacterRNN(V, labels, V)
    per_character = float(train.lengths.double().mean())
    fit(model, train, val, lambda batch: word_losses(model, batch, batch.labels) / per_character, seed)
    prior = torch.bincount(train.labels, minlength=labels).double()
    with torch.no_grad():
        val_loss, test_loss = (
            float(word_losses(model, split, split.labels).sum() / split.lengths.sum())
            for split in (val, test)
        )
        each = [word_losses(model, val, torch.full_like(val.labels, label)) for label in range(labels)]
        chosen = ((prior / prior.sum()).log() - torch.stack(each, 1)).argmax(1)
    seconds, size = time.process_time() - started, sum(p.numel() for p in model.parameters())
    rows["RNN that predicts characters"] = Row(
        val_loss, test_loss, *accuracies(chosen, val.labels), seconds, size
    )
    started = time.process_time()
    model = CharacterRNN(V, 0, labels)
    fit(
        model,
        train,
        val,
        lambda batch: F.cross_entropy(label_logits(model, batch), batch.labels, reduction="none"),
        seed,
    )
    with torch.no_grad():
        chosen = label_logits(model, val).argmax(1)
    seconds, size = time.process_time() - started, sum(p.numel() for p in model.parameters())
    nan = float("nan")
    rows["RNN that predicts labels"] = Row(nan, nan, *accuracies(chosen, val.labels), seconds, size)
    return rows


def accuracies(chosen: Tensor, right: Tensor) -> tuple[float, float]:
    """The share of right labels, and the mean of that share over the labels."""
    found = (chosen == right).double()
    each = [float(found[right == label].mean()) for label in torch.unique(right).tolist()]
    return float(found.mean()), statistics.mean(each)


def table(results: dict[str, list[Row]]) -> str:
    """The results as a table in Markdown: means over the seeds, and the largest distance from them."""
    text = [
        "| | parameters | val | test | right | balanced | processor seconds |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, rows in results.items():
        val, test = (spread([getattr(row, split) for row in rows], 4) for split in ("val", "test"))
        right, balanced = (
            spread([100 * share for row in rows if (share := getattr(row, kind)) is not None], 1)
            for kind in ("right", "balanced")
        )
        seconds = statistics.mean(row.seconds for row in rows)
        text.append(
            f"| {name} | {rows[0].parameters:,} | {val} | {test} | {right} | {balanced} | {seconds:.0f} |"
        )
    return "\n".join(text)


def spread(values: Sequence[float], digits: int) -> str:
    """Mean and largest distance from it; "" without values."""
    if not values or any(value != value for value in values):
        return ""
    mean = statistics.mean(values)
    most = max(abs(value - mean) for value in values)
    return f"{mean:.{digits}f}" + (f" ± {most:.{digits}f}" if len(values) > 1 else "")


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("paths", type=Path, nargs="+", help="files, or directories of .txt files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], metavar="N", help="default: 1 2 3")
    parser.add_argument("--ensemble", type=int, default=4, metavar="N", help="networks averaged; default: 4")
    parser.add_argument(
        "--in-each-layer", action="store_true", help="also add the labels in each layer, by autograd"
    )
    parser.add_argument("--without-rnns", action="store_true", help="leave out the RNNs")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    words = read(args.paths)
    assert words.labels is not None
    results: dict[str, list[Row]] = {}
    for seed in args.seeds:
        found = {
            "without labels": train(without_labels(words), seed),
            "labels": train(words, seed),
        }
        if args.in_each_layer:
            found["labels in each layer"] = train(words, seed, everywhere=True)
        if args.ensemble > 1:
            found[f"labels, {args.ensemble} networks"] = train(words, seed, args.ensemble)
        if not args.without_rnns:
            found |= train_rnns(words, seed)
        for name, row in found.items():
            results.setdefault(name, []).append(row)
    print(f"{len(words):,} words with {len(words.labels):,} labels, split by the lecture's seed")
    print(table(results))
    return 0


if __name__ == "__main__":
    answer(main)
