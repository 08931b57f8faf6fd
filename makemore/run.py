"""A training run from word list to finished files: what ``makemore-train`` does (lecture, whole).

The run goes as in the lecture: seed, network, training with a line every 10,000 steps, losses of the
splits, 20 new words. Beyond it: files that keep the result, and a progress bar.
"""

from __future__ import annotations

import math
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor
from tqdm import tqdm

from makemore.checkpoint import Model, save_model
from makemore.files import replacing
from makemore.networks import Network, summary
from makemore.sampling import sample_word
from makemore.training import Evaluation, Schedule, Trainer, TrainingError
from makemore.words import Data, WordList, load_words

MODEL_FILE = "model.pt"
LOSSES_FILE = "losses.csv"
PICTURE_FILE = "loss.png"


class UsageError(ValueError):
    """Settings that cannot work; the message says which and what to do."""


@dataclass(frozen=True)
class Settings:
    """What a run is to do; see ``makemore-train --help``."""

    data: str | None
    plan: Network
    schedule: Schedule
    seed: int
    device: str
    threads: int
    out_dir: Path
    overwrite: bool
    log_every: int
    eval_every: int
    samples: int


def train(settings: Settings) -> None:
    """Do the run, printing as it goes.

    Raises DataError and UsageError before anything is written, TrainingError, CheckpointError or
    OSError if the run fails.
    """
    started = time.perf_counter()
    torch.set_num_threads(settings.threads)
    device = resolve_device(settings.device)
    words = load_words(settings.data)
    prepare_out_dir(settings.out_dir, settings.overwrite)

    data = words.data(settings.plan.block_size)
    generator = Generator().manual_seed(settings.seed)
    network = settings.plan.build(len(data.vocabulary), generator).to(device)
    trainer = Trainer(network, data.to(device), settings.schedule, generator)
    print(describe(settings, words, data, device))
    print(summary(network, settings.schedule.batch_size), flush=True)
    print()

    train_with_log(trainer, settings.log_every, settings.eval_every)

    final = trainer.evaluate("train", "val", "test")
    print(f"\ntrain {final.train:.4f}   val {final.val:.4f}   test {final.test:.4f}")
    info = {"data": words.source, "fingerprint": words.fingerprint, "loss": asdict(final)}
    written = write_files(
        settings, trainer, Model(settings.plan, data.vocabulary, network, info), words.source
    )

    print(f"\n{settings.samples} new words:" if settings.samples else "")
    for _ in range(settings.samples):
        print(sample_word(network, data.vocabulary, generator))
    seconds = time.perf_counter() - started
    print(f"\n{seconds:.1f} s; wrote " + ", ".join(map(str, written)))


def resolve_device(name: str) -> torch.device:
    """The device of "auto", "cpu", "cuda" or "cuda:n". Raises UsageError on one that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if re.fullmatch(r"cpu|cuda(:\d+)?", name) is None:
        raise UsageError(f"unknown device {name!r}: choose auto, cpu, cuda or cuda:n")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise UsageError(f"device {name} is not there: torch sees {count} CUDA devices; use cpu")
    return device


def prepare_out_dir(out_dir: Path, overwrite: bool) -> None:
    """Make the directory. Raises UsageError if it cannot be written or holds a finished run."""
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the directory {out_dir}: {error.strerror}") from error
    if not os.access(out_dir, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write into the directory {out_dir}: choose another --out-dir")
    if (out_dir / MODEL_FILE).exists() and not overwrite:
        raise UsageError(
            f"{out_dir / MODEL_FILE} is there already: choose another --out-dir, or --overwrite it"
        )


def describe(settings: Settings, words: WordList, data: Data, device: torch.device) -> str:
    """The resolved settings and the shapes of the data, for the top of the log."""
    plan, schedule = settings.plan, settings.schedule
    shapes = ", ".join(
        f"{name} ({len(examples):,}, {plan.block_size})"
        for name, examples in zip(("train", "val", "test"), data[1:], strict=True)
    )
    rows = {
        "data": f"{words.source}: {len(words.words):,} words, {len(data.vocabulary)} symbols",
        "examples": shapes,
        "network": f"{plan.name}, block size {plan.block_size}, n_embd {plan.n_embd},"
        f" n_hidden {plan.n_hidden}",
        "training": f"{schedule.steps:,} steps of {schedule.batch_size:,} examples,"
        f" lr {schedule.lr:g}, from step {schedule.lr_drop:,} on {schedule.lr_final:g}",
        "seed": str(settings.seed),
        "device": str(device),
        "writes to": str(settings.out_dir),
    }
    return "".join(f"{name:<10}{value}\n" for name, value in rows.items())


def train_with_log(trainer: Trainer, log_every: int, eval_every: int) -> None:
    """Run the trainer to its end with the lecture's log lines, and a progress bar on a terminal.

    Raises TrainingError as soon as a loss is seen that is not finite.
    """
    steps = trainer.schedule.steps
    stops = math.gcd(log_every, eval_every)
    with tqdm(total=steps, unit="step", disable=None, leave=False, mininterval=0.5) as bar:
        bar.update(trainer.step)
        for losses in trainer.run(stops):
            start = trainer.step - len(losses)
            for i in range(-(-start // log_every) * log_every, trainer.step, log_every):
                bar.write(f"{i:7d}/{steps:7d}: {losses[i - start].item():.4f}", file=sys.stdout)
                sys.stdout.flush()
            if not losses.isfinite().all():
                bad = int((~losses.isfinite()).nonzero()[0])
                raise TrainingError(
                    f"the loss at step {start + bad} is {losses[bad].item()}: try a lower --lr"
                )
            bar.update(len(losses))
            if trainer.step % eval_every == 0 and trainer.step < steps:
                trainer.evaluate("val")


def write_files(settings: Settings, trainer: Trainer, model: Model, title: str) -> list[Path]:
    """Write model, losses and picture; returns their paths."""
    from makemore.plotting import plot_losses, save_figure

    out_dir = settings.out_dir
    paths = [out_dir / name for name in (MODEL_FILE, LOSSES_FILE, PICTURE_FILE)]
    save_model(model, paths[0])
    with replacing(paths[1]) as file:
        file.write(losses_csv(trainer.losses, trainer.evaluations).encode())
    title = f"{model.plan.name} on {Path(title).name}"
    with replacing(paths[2]) as file:
        save_figure(plot_losses(trainer.losses, trainer.evaluations, settings.schedule, title), file)
    return paths


def losses_csv(losses: Tensor, evaluations: Sequence[Evaluation]) -> str:
    """The loss history as CSV: the batch loss of each step, split losses before the steps that have them.

    A row ``s`` tells of the network after ``s`` updates; the last has no batch any more. The
    digits are enough to read the same float32 back.
    """
    split = {
        e.step: ",".join("" if loss is None else f"{loss:.6f}" for loss in (e.train, e.val, e.test))
        for e in evaluations
    }
    rows = ["step,loss,train,val,test"]
    rows += [f"{i},{loss:.9g},{split.get(i, ',,')}" for i, loss in enumerate(losses.tolist())]
    if len(losses) in split:
        rows.append(f"{len(losses)},,{split[len(losses)]}")
    return "\n".join([*rows, ""])
