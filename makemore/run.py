"""A training run from word list to finished files: what ``makemore-train`` does.

The run goes as in the lecture: seed, network, training with a line every 10,000 steps, losses of the
splits, 20 new words. Beyond it: the model file is written every few seconds, on Ctrl-C and on SIGTERM,
and a run resumed from it ends exactly where an uninterrupted one would have ended.
"""

from __future__ import annotations

import math
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import FrameType
from typing import Any

import filelock
import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from tqdm import tqdm

from makemore.checkpoint import Model, Progress, load_model, save_model
from makemore.errors import Interrupted, ModelFileError, TrainingError, UsageError, WriteError
from makemore.files import replacing
from makemore.layers import Sequential
from makemore.networks import Network, network_plan, summary
from makemore.sampling import sample_word
from makemore.settings import NAMES, Settings
from makemore.training import Evaluation, LectureRecipe, ModernRecipe, ModernTrainer, Trainer
from makemore.words import Data, WordList, load_words

MODEL_FILE = "model.pt"
LOSSES_FILE = "losses.csv"
PICTURE_FILE = "loss.png"
TEACHER_FILE = "teacher-{}.pt"
LOCK_FILE = ".lock"

PROBED = 256
"""Val examples that a network is tried on before it is saved."""

NONSENSE = 1e4
"""A loss that only a network that diverged has, in nats."""

SPLITS = ("train", "val", "test", "unseen_val", "unseen_test")


class Signals:
    """SIGINT and SIGTERM within a ``with`` block.

    The first is kept in ``caught`` while ``deferred`` is set, so that the loop can end where a
    checkpoint is whole; a second one, or one at another time, raises Interrupted at once.
    """

    def __init__(self) -> None:
        self.caught: int | None = None
        self.deferred = False

    def __enter__(self) -> Signals:
        self._before = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.caught is not None or not self.deferred:
            raise Interrupted(signum)
        self.caught = signum


def train(given: Mapping[str, Any], out_dir: Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """Do a run, printing as it goes: ``given`` are the settings that are not to have their defaults.

    With ``resume`` the run in ``out_dir`` goes on; with ``overwrite`` a finished one is replaced. Raises
    DataError, UsageError and ModelFileError before anything is written; TrainingError, WriteError or
    Interrupted if the run cannot go on.
    """
    started = time.perf_counter()
    with Signals() as signals:
        if resume:
            if not (out_dir / MODEL_FILE).exists():
                raise UsageError(f"there is no run to resume in {out_dir}: leave out --resume to start one")
        else:
            settings, words, trainer, model = new_run(given)
            make_directory(out_dir)
        with locked(out_dir):
            if resume:
                settings, words, trainer, model = resumed_run(given, out_dir)
            else:
                make_room(out_dir, overwrite)
            saver = Saver(out_dir, settings, words, trainer, model)
            saver.save()
            try:
                print(describe(settings, words, trainer, out_dir))
                print(summary(trainer.network, trainer.recipe.batch_size), flush=True)
                print()
                if settings.teachers:
                    teach(trainer, settings, saver)
                train_with_log(trainer, settings, saver, signals)
                saver.save()
                finish(trainer, settings, saver)
                print(f"\n{time.perf_counter() - started:.1f} s", flush=True)
            except Interrupted as stop:
                raise Interrupted(stop.signum, f"interrupted; {saver.how_to_go_on()}") from stop
            except OSError as error:
                reason = error.strerror or error
                raise WriteError(f"cannot write the output: {reason}; {saver.how_to_go_on()}") from error


def make_directory(out_dir: Path) -> None:
    """Make the directory. Raises UsageError if it cannot be made or written into."""
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the directory {out_dir}: {error.strerror}") from error
    if not os.access(out_dir, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write into the directory {out_dir}: choose another --out-dir")


@contextmanager
def locked(out_dir: Path) -> Iterator[None]:
    """Keep other runs out. Raises UsageError while one lives; a killed one holds no lock."""
    try:
        with filelock.FileLock(out_dir / LOCK_FILE, timeout=0):
            yield
    except filelock.Timeout as error:
        raise UsageError(f"another run is writing into {out_dir}: choose another --out-dir") from error


def make_room(out_dir: Path, overwrite: bool) -> None:
    """Clear the way for a new run. Raises UsageError if there is one, unless it is to be overwritten."""
    target = out_dir / MODEL_FILE
    if target.exists() and not overwrite:
        try:
            progress = load_model(target).progress
            how = "--resume to go on with it, " if progress and not progress.finished else ""
        except ModelFileError:
            how = ""
        raise UsageError(f"{target} is there already: {how}--overwrite it, or choose another --out-dir")
    for name in (LOSSES_FILE, PICTURE_FILE):
        (out_dir / name).unlink(missing_ok=True)


def new_run(given: Mapping[str, Any]) -> tuple[Settings, WordList, Trainer, Model]:
    """Settings, words, a fresh trainer and its model."""
    settings = Settings(**given)
    if settings.data not in (None, "lecture"):
        settings = replace(settings, data=str(Path(str(settings.data)).resolve()))
    plan = network_plan(settings.network, settings.block_size, settings.n_embd, settings.n_hidden)
    torch.set_num_threads(settings.threads)
    device = resolve_device(settings.device)
    words = load_words(settings.data)
    data = words.data(plan.block_size)
    settings = resolved(settings, plan, len(data.train))
    generator = Generator().manual_seed(settings.seed)
    network = plan.build(len(data.vocabulary), generator).to(device)
    trainer = make_trainer(settings, network, data.to(device), generator)
    return settings, words, trainer, Model(plan, data.vocabulary, network)


def resumed_run(given: Mapping[str, Any], out_dir: Path) -> tuple[Settings, WordList, Trainer, Model]:
    """Settings, words, a trainer that stands where the run stood, and its model."""
    path = out_dir / MODEL_FILE
    model = load_model(path)
    progress = model.progress
    if progress is None:
        raise UsageError(f"{path} holds a network alone, without the run it comes from")
    if set(progress.settings) != set(NAMES) or Settings(**progress.settings).missing:
        raise ModelFileError(f"{path} is damaged: its settings cannot be")
    settings = Settings(**progress.settings).changed(given)
    assert settings.steps is not None
    if progress.finished and settings.recipe == "modern":
        raise UsageError(f"the run in {out_dir} is finished: the modern recipe ends where it ends")
    if settings.steps < progress.step or (settings.steps == progress.step and progress.finished):
        state = "finished at" if progress.finished else "already at"
        raise UsageError(f"the run in {out_dir} is {state} step {progress.step:,}: give it more --steps")
    torch.set_num_threads(settings.threads)
    device = resolve_device(settings.device)
    words = load_words(settings.data)
    if words.fingerprint != progress.fingerprint:
        raise UsageError(
            f"the words of {words.source} are not those the run began with; to go on it needs the same list,"
            " for other words start a new run"
        )
    generator = Generator()
    generator.set_state(progress.generator)
    data = words.data(model.plan.block_size)
    trainer = make_trainer(settings, model.network.to(device), data.to(device), generator)
    try:
        trainer.restore(progress.step, progress.losses, progress.evaluations, progress.state)
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ModelFileError(f"{path} is damaged: its state cannot be") from error
    return settings, words, trainer, model


def resolved(settings: Settings, plan: Network, examples: int) -> Settings:
    """The settings with every default filled in, for a list with that many training examples."""
    settings = replace(settings, block_size=plan.block_size, n_embd=plan.n_embd, n_hidden=plan.n_hidden)
    values = {name: value for name, value in asdict(settings).items() if value is not None}
    if settings.recipe == "lecture":
        steps = values.get("steps", LectureRecipe.steps)
        lr = values.get("lr", LectureRecipe.lr)
        defaults = {
            "steps": steps,
            "batch_size": LectureRecipe.batch_size,
            "lr": lr,
            "lr_final": lr / 10,
            "lr_drop": steps * 3 // 4,
        }
    else:
        own = {field.name: values[field.name] for field in fields(ModernRecipe) if field.name in values}
        defaults = asdict(ModernRecipe.for_examples(examples, **own))
        defaults["targets"] = "soft" if defaults.pop("soft_targets") else "hard"
        steps = defaults["steps"]
    log_every = max(1, min(10_000, steps // 20))
    defaults |= {"log_every": log_every, "eval_every": values.get("log_every", log_every)}
    return replace(settings, **(defaults | values))


def make_trainer(settings: Settings, network: Sequential, data: Data, generator: Generator) -> Trainer:
    """The trainer that resolved settings ask for."""
    values = asdict(settings)
    if settings.recipe == "lecture":
        lecture = LectureRecipe(**{field.name: values[field.name] for field in fields(LectureRecipe)})
        return Trainer(network, data, lecture, generator, settings.engine)
    values["soft_targets"] = settings.targets == "soft"
    modern = ModernRecipe(**{field.name: values[field.name] for field in fields(ModernRecipe)})
    return ModernTrainer(network, data, modern, generator, settings.engine)


def resolve_device(name: str) -> torch.device:
    """The device of "auto", "cpu", "cuda" or "cuda:n". Raises UsageError on one that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if re.fullmatch(r"cpu|cuda(:\d{1,3})?", name) is None:
        raise UsageError(f"unknown device {name!r}: choose auto, cpu, cuda or cuda:n")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise UsageError(f"device {name} is not there: torch sees {count} CUDA devices; use cpu")
    return device


def describe(settings: Settings, words: WordList, trainer: Trainer, out_dir: Path) -> str:
    """The resolved settings and the shapes of the data, for the top of the log."""
    data = trainer.data
    shapes = ", ".join(
        f"{name} ({len(examples):,}, {settings.block_size})"
        for name, examples in zip(("train", "val", "test"), data[1:4], strict=True)
    )
    training = f"{settings.recipe} recipe, {settings.steps:,} steps of {settings.batch_size:,} examples"
    if settings.recipe == "lecture":
        rates = f"SGD, lr {settings.lr:g}, from step {settings.lr_drop:,} on {settings.lr_final:g}"
    else:
        rates = (
            f"Muon lr {settings.lr:g}, AdamW lr {settings.lr_other:g}, one cycle;"
            f" weight decay {settings.weight_decay:g}, drop {settings.drop:g}, {settings.targets} targets"
        )
        if settings.teachers:
            rates += f", {settings.teachers} teachers"
    rows = {
        "data": f"{words.source}: {len(words.words):,} words, {len(data.vocabulary)} symbols",
        "examples": shapes,
        "network": f"{settings.network}, block size {settings.block_size},"
        f" n_embd {settings.n_embd}, n_hidden {settings.n_hidden}",
        "training": training,
        "": rates,
        "engine": f"{settings.engine} on {data.train.symbols.device}, CPU threads {settings.threads}",
        "seed": str(settings.seed),
        "writes to": str(out_dir),
    }
    if trainer.step:
        rows["resumes"] = f"at step {trainer.step:,}"
    return "".join(f"{name:<10}{value}\n" for name, value in rows.items())


class Saver:
    """Writes the model file of a run, and says how to go on from it."""

    def __init__(
        self, out_dir: Path, settings: Settings, words: WordList, trainer: Trainer, model: Model
    ) -> None:
        self.out_dir = out_dir
        self.settings = settings
        self.words = words
        self.trainer = trainer
        self.model = model
        self.saved_step = trainer.step
        self._due = 0.0

    def save(self, finished: bool = False) -> None:
        """Write the model file. Raises TrainingError, and leaves the old one, if the network is no good."""
        trainer = self.trainer
        X, Y = trainer.data.val[:PROBED]
        with trainer.network.evaluating() as network:
            probe = F.cross_entropy(network(X), Y).item()
        if not probe < NONSENSE:
            raise TrainingError(self.diverged(trainer.step, f"the val loss is {probe:.3g}"))
        progress = progress_of(trainer, asdict(self.settings), self.words, finished)
        save_model(replace(self.model, progress=progress), self.out_dir / MODEL_FILE)
        self.saved_step = trainer.step
        self._due = time.monotonic() + self.settings.save_every

    def save_if_due(self) -> None:
        """Write the model file if the last one is older than it should be."""
        if time.monotonic() >= self._due:
            self.save()

    def how_to_go_on(self) -> str:
        """Which step is on disk, and the command that goes on from there."""
        return (
            f"step {self.saved_step:,} is saved; go on with: makemore-train --resume --out-dir {self.out_dir}"
        )

    def diverged(self, step: int, what: str) -> str:
        """The message of a run that diverged."""
        advice = f"try a lower --lr than {self.settings.lr:g} with --overwrite"
        kept = f"{MODEL_FILE} holds step {self.saved_step:,}"
        return f"the training diverged: at step {step} {what}; {advice} ({kept})"


def progress_of(trainer: Trainer, settings: Mapping[str, Any], words: WordList, finished: bool) -> Progress:
    """Where a trainer stands, for the model file."""
    return Progress(
        settings=settings,
        fingerprint=words.fingerprint,
        finished=finished,
        step=trainer.step,
        losses=trainer.losses,
        evaluations=trainer.evaluations,
        generator=trainer.generator.get_state(),
        state={} if finished else trainer.state(),
    )


def teach(trainer: Trainer, settings: Settings, saver: Saver) -> None:
    """Train the teachers of a run, or read those that are there, and let the trainer learn from them.

    Each has a file of its own beside the model file, and a seed that follows from the run's.
    """
    assert isinstance(trainer, ModernTrainer)
    assert settings.teachers is not None
    recipe, plan, data = trainer.recipe.teacher(), saver.model.plan, trainer.data
    stops = max(1, recipe.steps // 8)
    teachers = []
    for i in range(1, settings.teachers + 1):
        path = saver.out_dir / TEACHER_FILE.format(i)
        wanted = {
            **asdict(recipe),
            "plan": asdict(plan),
            "words": saver.words.fingerprint,
            "i": i,
            "seed": settings.seed,
        }
        done = load_model(path) if path.exists() else None
        if done is None or done.progress is None or dict(done.progress.settings) != wanted:
            generator = Generator().manual_seed(settings.seed % 2**40 * 1000 + i)
            network = plan.build(len(data.vocabulary), generator).to(data.train.symbols.device)
            teacher = ModernTrainer(network, data, recipe, generator, settings.engine)
            with tqdm(total=recipe.steps, unit="step", disable=None, leave=False, desc=f"teacher {i}") as bar:
                for losses in teacher.run(stops):
                    bar.update(len(losses))
                    if teacher.step % stops == 0:
                        teacher.evaluate("val")
            if not teacher.losses.isfinite().all():
                raise TrainingError(saver.diverged(teacher.step, f"teacher {i} is not finite"))
            teacher.finish()
            progress = progress_of(teacher, wanted, saver.words, finished=True)
            progress = replace(progress, evaluations=[teacher.evaluate("val")])
            done = Model(plan, data.vocabulary, network, progress)
            save_model(done, path)
        assert done.progress is not None
        print(f"teacher {i} of {settings.teachers}: val {done.progress.evaluations[-1].val:.4f}", flush=True)
        teachers.append(done.network.to(data.train.symbols.device))
    trainer.learn_from(teachers)
    print()


def train_with_log(trainer: Trainer, settings: Settings, saver: Saver, signals: Signals) -> None:
    """Run the trainer to its end, or until a signal is caught; the lecture's log lines, and a progress bar.

    The model file is written whenever it is due. Raises TrainingError as soon as a loss is seen that is
    not finite, and Interrupted after a signal, once the steps under way are saved.
    """
    steps, log_every, eval_every = settings.steps, settings.log_every, settings.eval_every
    assert steps is not None
    assert log_every is not None
    assert eval_every is not None
    show_val = settings.recipe == "modern"  # the lecture's lines stay the lecture's
    signals.deferred = True
    with tqdm(
        total=steps, initial=trainer.step, unit="step", disable=None, leave=False, mininterval=0.5
    ) as bar:
        for losses in trainer.run(math.gcd(log_every, eval_every)):
            start = trainer.step - len(losses)
            if not losses.isfinite().all():
                bad = int((~losses.isfinite()).nonzero()[0])
                raise TrainingError(saver.diverged(start + bad, f"the loss is {losses[bad].item()}"))
            for i in range(-(-start // log_every) * log_every, trainer.step, log_every):
                line = f"{i:7d}/{steps:7d}: {losses[i - start].item():.4f}"
                last = trainer.evaluations[-1] if trainer.evaluations else None
                if show_val and last is not None and last.step == i:
                    line += f"   val {last.val:.4f}"
                bar.write(line, file=sys.stdout)
                sys.stdout.flush()
            bar.update(len(losses))
            if trainer.step % eval_every == 0 and trainer.step < steps:
                trainer.evaluate("val")
            if signals.caught is not None:
                saver.save()
                raise Interrupted(signals.caught)
            saver.save_if_due()
    signals.deferred = False


def finish(trainer: Trainer, settings: Settings, saver: Saver) -> None:
    """Evaluate, write losses and picture, print new words, and only then call the run finished.

    A run killed in between is not finished, and does all of this again when it is resumed.
    """
    from makemore.plotting import plot_losses, save_figure

    trainer.finish()
    print("\n" + report(trainer.evaluate(*SPLITS)))
    with replacing(saver.out_dir / LOSSES_FILE) as file:
        file.write(losses_csv(trainer.losses, trainer.evaluations).encode())
    title = f"{settings.network} on {Path(saver.words.source).name}, {settings.recipe} recipe"
    with replacing(saver.out_dir / PICTURE_FILE) as file:
        save_figure(plot_losses(trainer.losses, trainer.evaluations, trainer.recipe, title), file)

    # From a copy of the generator: a run that goes on later is to draw the batches it would have drawn.
    generator = trainer.generator.clone_state()
    if settings.samples:
        print(f"\n{settings.samples} new words:")
        new = [
            sample_word(trainer.network, saver.model.vocabulary, generator) for _ in range(settings.samples)
        ]
        print("\n".join(new))
        known = len(set(saver.words.split()[0]).intersection(new))
        print(f"({known} of them stand in the training split)")
    sys.stdout.flush()
    saver.save(finished=True)
    written = ", ".join(str(saver.out_dir / name) for name in (MODEL_FILE, LOSSES_FILE, PICTURE_FILE))
    print(f"\nwrote {written}")


def report(losses: Evaluation) -> str:
    """The final losses as a table."""
    rows = ["loss per character      nats     bits"]
    for split in SPLITS:
        nats = getattr(losses, split)
        rows.append(f"{split.replace('_', ' '):<20} {nats:7.4f}  {nats / math.log(2):7.4f}")
    return "\n".join([*rows, "(unseen: words that do not stand in the training split as well)"])


def losses_csv(losses: Tensor, evaluations: Sequence[Evaluation]) -> str:
    """The loss history as CSV: the batch loss of each step, and the split losses where evaluated.

    A row ``s`` tells of the network after ``s`` updates; the last has no batch any more. The
    digits are enough to read the same float32 back.
    """
    split = {
        e.step: ",".join("" if (x := getattr(e, name)) is None else f"{x:.6f}" for name in SPLITS)
        for e in evaluations
    }
    none = "," * (len(SPLITS) - 1)
    rows = [",".join(["step", "loss", *SPLITS])]
    rows += [f"{i},{loss:.9g},{split.get(i, none)}" for i, loss in enumerate(losses.tolist())]
    if len(losses) in split:
        rows.append(f"{len(losses)},,{split[len(losses)]}")
    return "\n".join([*rows, ""])
