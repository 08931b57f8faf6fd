"""The texts of a run: header, table of losses, CSV."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from makemore.core.layer import Layer
from makemore.core.text import plural, shortened
from makemore.data.capitals import has_capitals
from makemore.data.labels import Labels
from makemore.data.word_list import WordList
from makemore.inference.classification import Confusion
from makemore.pictures.summary import summary
from makemore.run.settings import Settings
from makemore.training.ensemble import members_of
from makemore.training.evaluation import Evaluation
from makemore.training.processes import Processes
from makemore.training.trainer import Trainer

MAX_LABELS = 5
"""The number of labels of a column that the header of a run names."""

SPLITS = ("train", "val", "test", "unseen_val", "unseen_test")


def describe(
    settings: Settings, words: WordList, trainer: Trainer, out_dir: Path, processes: Processes
) -> str:
    """The header of a run: its settings, the shapes of its data, and how its engine computes."""
    data, run, recipe = trainer.data, settings.run, settings.recipe
    shapes = ", ".join(
        f"{name} ({len(examples):,}, {run.block_size})"
        for name, examples in zip(("train", "val", "test"), data[1:4], strict=True)
    )
    if len(trainer.shards) > 1:
        shapes += f"\neach epoch: one of {len(trainer.shards):,} shards of train, with its own soft targets"
    if len(trainer.val_subset) < len(data.val):
        shapes += f"\nval loss during the training: on {len(trainer.val_subset):,} examples, always the same"
    source = words.source if run.data is not None else Path(words.source).name
    how = trainer.engine.describe(recipe.batch_size, run.block_size or 0)
    # Lines are broken between settings only, not between the name and the value of one.
    knobs = recipe.describe().replace(" ", "\xa0").replace(",\xa0", ", ")
    rows = {
        "data": "\n".join(
            [
                f"{source}: {len(words):,} words, {len(data.vocabulary):,} symbols",
                *words.notes,
                *words.changes.describe(),
            ]
        ),
        **({} if data.labels is None else {"labels": "\n".join(describe_labels(data.labels))}),
        **({"capitals": note} if run.case == "auto" and (note := capitals_note(words)) else {}),
        "examples": shapes,
        "network": f"{run.network}, block size {run.block_size}, n_embd {run.n_embd},"
        f" n_hidden {run.n_hidden}"
        + (f", stacks {run.stacks}" if run.stacks > 1 else "")
        + (f", dropout {run.dropout:g}" if run.dropout else "")
        + (f", {run.ensemble} members" if (run.ensemble or 1) > 1 else ""),
        "training": f"{run.recipe} recipe, {plural(recipe.steps, 'step')} of {recipe.batch_size:,} examples\n"
        + textwrap.fill(knobs, 90).replace("\xa0", " "),
        "engine": f"{run.engine} on {data.train.symbols.device}, CPU threads {run.threads}"
        + (f", {processes.world_size} processes ({processes.backend})" if processes.world_size > 1 else "")
        + (f"\n{how}" if how else ""),
        "seed": str(run.seed),
        "writes to": str(out_dir),
    }
    if trainer.step:
        rows["resumes"] = f"at step {trainer.step:,}"
    lines = (f"{name:<10}{value}" for name, value in rows.items())
    return "".join(line.replace("\n", "\n" + 10 * " ") + "\n" for line in lines)


def describe_labels(labels: Labels) -> list[str]:
    """The most frequent labels of each column, in a line of text."""
    lines = []
    for k, column in enumerate(labels.columns):
        without, *others = labels.numbers_of_words(k)
        most = sorted(zip(others, column.values, strict=True), key=lambda each: (-each[0], each[1]))
        texts = [f"{shortened(text)} {number:,}" for number, text in most[:MAX_LABELS]]
        texts += ["..."] * (len(others) > MAX_LABELS) + [f"none {without:,}"] * (without > 0)
        lines.append(f"{shortened(column.name)}: {plural(len(others), 'label')}: {', '.join(texts)}")
    return lines


def capitals_note(words: WordList) -> str:
    """What becomes of the capitals of a list that was read with the case "auto"; "" if it has none."""
    if words.found is not None:
        return words.found.describe()
    return "learnt: no rule gives those of the words" if has_capitals(words.vocabulary.characters) else ""


def network_summary(network: Layer, batch_size: int) -> str:
    """The table of the layers; for an ensemble that of its first member, and the total of all."""
    first, *others = members_of(network)
    total = sum(p.numel() for p in network.parameters())
    more = f"\n{1 + len(others)} such networks, {total:,} parameters" if others else ""
    return summary(first, batch_size) + more


def report(losses: Evaluation, trainer: Trainer) -> str:
    """The final losses as a table."""
    train_subset, examples = len(trainer.train_subset), len(trainer.data.train)
    part = f"(train: on {train_subset:,} of {examples:,} examples)" if train_subset < examples else ""
    rows = ["loss per character      nats     bits"]
    for split in SPLITS:
        nats = getattr(losses, split)
        rows.append(f"{split.replace('_', ' '):<20} {nats:7.4f}  {nats / math.log(2):7.4f}")
    rows.append("(unseen: only words that are not also in the training split)")
    return "\n".join([*rows, *([part] if part else [])])


def report_confusions(found: Sequence[Confusion]) -> str:
    """How often the network finds the right label of val words, by column."""
    rows = ["label of val words   right  balanced  most frequent label    words"]
    for each in found:
        shares = (each.accuracy, each.balanced_accuracy, each.most_frequent)
        right, balanced, frequent = (f"{100 * share:.1f} %" for share in shares)
        rows.append(f"{each.column[:18]:<18}{right:>8}  {balanced:>8}  {frequent:>19}  {each.words:7,}")
    return "\n".join(rows)


def losses_csv(losses: Tensor, evaluations: Sequence[Evaluation]) -> str:
    """The loss history as CSV: the batch loss of each step, and the losses of the splits where evaluated.

    Row ``s`` is about the network after ``s`` steps, so the last row has no batch loss. There are enough
    digits to read the same float32 back.
    """
    rows = [f"{loss:.9g}," + "," * (len(SPLITS) - 1) for loss in losses.tolist()]
    for e in evaluations:
        known = ["" if (x := getattr(e, name)) is None else f"{x:.6f}" for name in SPLITS]
        batch_loss = f"{losses[e.step].item():.9g}" if e.step < len(losses) else ""
        rows[e.step : e.step + 1] = [",".join([batch_loss, *known])]
    return "\n".join([",".join(["step", "loss", *SPLITS]), *(f"{i},{row}" for i, row in enumerate(rows)), ""])
