"""What a run tells: header, table of losses, CSV (beyond the lecture)."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from makemore.commands.settings import Settings
from makemore.ensemble import members_of
from makemore.layers import Sequential
from makemore.networks import summary
from makemore.parallel.processes import Processes
from makemore.training import Evaluation, Trainer
from makemore.words import WordList

SPLITS = ("train", "val", "test", "unseen_val", "unseen_test")


def describe(
    settings: Settings, words: WordList, trainer: Trainer, out_dir: Path, processes: Processes
) -> str:
    """The resolved settings and the shapes of the data, for the top of the log."""
    data, run, recipe = trainer.data, settings.run, settings.recipe
    shapes = ", ".join(
        f"{name} ({len(examples):,}, {run.block_size})"
        for name, examples in zip(("train", "val", "test"), data[1:4], strict=True)
    )
    if len(trainer.parts) > 1:
        shapes += f"\neach epoch: one of {len(trainer.parts):,} parts of train, with soft targets of its own"
    if len(trainer.watched) < len(data.val):
        shapes += f"\nval loss during the training: of {len(trainer.watched):,} examples, always the same"
    source = words.source if run.data is not None else Path(words.source).name
    # Names with values in lines that are broken between the pairs alone.
    knobs = recipe.describe().replace(" ", "\xa0").replace(",\xa0", ", ")
    rows = {
        "data": f"{source}: {len(words):,} words, {len(data.vocabulary)} symbols",
        "examples": shapes,
        "network": f"{run.network}, block size {run.block_size}, n_embd {run.n_embd},"
        f" n_hidden {run.n_hidden}"
        + (f", stacks {run.stacks}" if run.stacks > 1 else "")
        + (f", {run.members} members" if run.members > 1 else ""),
        "training": f"{run.recipe} recipe, {recipe.steps:,} steps of {recipe.batch_size:,} examples\n"
        + textwrap.fill(knobs, 90).replace("\xa0", " "),
        "engine": f"{run.engine} on {data.train.symbols.device}, CPU threads {run.threads}"
        + (f", {processes.number} processes ({processes.backend})" if processes.number > 1 else ""),
        "seed": str(run.seed),
        "writes to": str(out_dir),
    }
    if trainer.step:
        rows["resumes"] = f"at step {trainer.step:,}"
    lines = (f"{name:<10}{value}" for name, value in rows.items())
    return "".join(line.replace("\n", "\n" + 10 * " ") + "\n" for line in lines)


def network_summary(network: Sequential, batch_size: int) -> str:
    """The table of the layers; of an ensemble that of its first member, and what all have together."""
    first, *others = members_of(network)
    total = sum(p.numel() for p in network.parameters())
    more = f"\n{1 + len(others)} such networks, {total:,} parameters" if others else ""
    return summary(first, batch_size) + more


def report(losses: Evaluation, trainer: Trainer) -> str:
    """The final losses as a table."""
    judged, examples = len(trainer.judged), len(trainer.data.train)
    part = f"(train: of {judged:,} of the {examples:,} examples)" if judged < examples else ""
    rows = ["loss per character      nats     bits"]
    for split in SPLITS:
        nats = getattr(losses, split)
        rows.append(f"{split.replace('_', ' '):<20} {nats:7.4f}  {nats / math.log(2):7.4f}")
    rows.append("(unseen: words that do not stand in the training split as well)")
    return "\n".join([*rows, *([part] if part else [])])


def losses_csv(losses: Tensor, evaluations: Sequence[Evaluation]) -> str:
    """The loss history as CSV: the batch loss of each step, and the split losses where evaluated.

    A row ``s`` tells of the network after ``s`` updates; the last has no batch any more. The
    digits are enough to read the same float32 back.
    """
    rows = [f"{loss:.9g}," + "," * (len(SPLITS) - 1) for loss in losses.tolist()]
    for e in evaluations:
        known = ["" if (x := getattr(e, name)) is None else f"{x:.6f}" for name in SPLITS]
        batch_loss = f"{losses[e.step].item():.9g}" if e.step < len(losses) else ""
        rows[e.step : e.step + 1] = [",".join([batch_loss, *known])]
    return "\n".join([",".join(["step", "loss", *SPLITS]), *(f"{i},{row}" for i, row in enumerate(rows)), ""])
